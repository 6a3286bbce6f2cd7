//! Containers.

mod attach;
mod body;
mod change;
mod create;
mod detach;
mod document;
mod exec;
pub(crate) mod files;
mod keys;
mod lifecycle;
mod limits;
mod list;
mod logs;
mod mounts;
mod names;
mod networking;
mod security;
mod session;
mod signal;
mod stats;
mod target;
mod top;

use std::sync::Arc;

use crate::app::App;
use crate::http::{ApiError, Call, Reply, Result};

pub(crate) use exec::route as route_exec;
pub(crate) use target::{Target, own};

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
        ("POST", reference, "pause") => change::pause(&app, reference).await,
        ("POST", reference, "unpause") => change::unpause(&app, reference).await,
        ("POST", reference, "rename") => change::rename(&app, &call, reference).await,
        ("POST", reference, "resize") => change::resize(&app, &call, reference),
        ("POST", reference, "update") => change::update(&app, call, reference).await,
        ("POST", reference, "attach") => attach::attach(app, call, reference).await,
        ("POST", reference, "exec") => exec::create(&app, call, reference).await,
        ("GET", reference, "logs") => logs::logs(app, &call, reference).await,
        ("GET", reference, "top") => top::top(&app, &call, reference).await,
        ("HEAD", reference, "archive") => files::stat(&app, &call, reference).await,
        ("GET", reference, "archive") => files::get(&app, &call, reference).await,
        ("PUT", reference, "archive") => files::put(&app, call, reference).await,
        ("GET", reference, "changes") => files::changes(&app, reference).await,
        ("GET", reference, "export") => files::export(&app, reference).await,
        ("GET", _, "attach/ws") => {
            target::find(&app, reference)?;
            Err(ApiError::not_implemented(format!("{operation} of containers is not part of this release")))
        }
        _ => Err(ApiError::page_not_found()),
    }
}
