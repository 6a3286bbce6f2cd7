//! Containers.

mod body;
mod create;
mod document;
mod keys;
mod lifecycle;
mod limits;
mod list;
mod mounts;
mod names;
mod networking;
mod security;
mod signal;
mod stats;
mod target;

use std::sync::Arc;

use crate::app::App;
use crate::http::{ApiError, Call, Reply, Result};

pub(crate) use target::Target;

/// All containers: those of Docker's own kind and those of pods.
pub(crate) fn all(app: &App) -> Vec<Target> {
    target::all(app)
}

pub(crate) use list::summary;

pub(crate) async fn route(app: Arc<App>, call: Call, rest: &str) -> Result<Reply> {
    let (reference, operation) = rest.split_once('/').unwrap_or((rest, ""));
    match (call.method.as_str(), reference, operation) {
        ("GET", "json", "") => list::list(&app, &call).await,
        ("POST", "create", "") => create::create(&app, call).await,
        ("POST", "prune", "") => lifecycle::prune(&app, &call).await,
        ("DELETE", reference, "") if !reference.is_empty() => lifecycle::remove(&app, &call, reference).await,
        ("GET", reference, "json") => document::inspect(&app, &call, reference).await,
        ("POST", reference, "start") => lifecycle::start(&app, &call, reference).await,
        ("POST", reference, "stop") => lifecycle::stop(&app, &call, reference).await,
        ("POST", reference, "restart") => lifecycle::restart(&app, &call, reference).await,
        ("POST", reference, "kill") => lifecycle::kill(&app, &call, reference).await,
        ("GET", reference, "stats") => stats::stats(app, &call, reference).await,
        ("POST", reference, "wait") => lifecycle::wait(&app, &call, reference),
        ("GET", _, "top" | "logs" | "changes" | "export" | "attach/ws")
        | ("POST", _, "resize" | "update" | "rename" | "pause" | "unpause" | "attach" | "exec")
        | ("HEAD" | "GET" | "PUT", _, "archive") => {
            target::find(&app, reference)?;
            Err(ApiError::not_implemented(format!("{operation} of containers is not part of this release")))
        }
        _ => Err(ApiError::page_not_found()),
    }
}
