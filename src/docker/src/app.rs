//! Which handler a path belongs to.
//!
//! The first part of a path names the kind of object; the rest is matched in the module of that kind. Names of
//! images, networks and plugins may have slashes, and reach us as they are.

use std::sync::Arc;

use engine::Engine;
use http::Method;
use tokio_util::sync::CancellationToken;

use crate::http::{ApiError, Call, Handler, Reply, Result};
use crate::server::Options;
use crate::{containers, images, networks, swarm, system, volumes};

/// What handlers work with.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) options: Options,
    /// Fires when streams have to end.
    pub(crate) stop: CancellationToken,
}

impl App {
    pub(crate) fn new(engine: Engine, options: Options, stop: CancellationToken) -> Self {
        Self { engine, options, stop }
    }
}

impl Handler for App {
    fn answer(self: Arc<Self>, call: Call) -> std::pin::Pin<Box<dyn Future<Output = Result<Reply>> + Send>> {
        Box::pin(async move { dispatch(self, call).await })
    }
}

/// Finds the handler. Kinds without any state of their own are answered right here.
async fn dispatch(app: Arc<App>, call: Call) -> Result<Reply> {
    let path = call.path.clone();
    let (kind, rest) = path.split_once('/').unwrap_or((&path, ""));
    if call.method == Method::OPTIONS {
        return Ok(Reply::empty(http::StatusCode::OK));
    }
    match kind {
        "_ping" | "version" | "info" | "auth" | "events" | "system" => {
            Box::pin(system::route(app, call)).await
        }
        "images" | "distribution" | "commit" => Box::pin(images::route(app, call, rest)).await,
        "exec" => Box::pin(containers::route_exec(app, call, rest)).await,
        "containers" => Box::pin(containers::route(app, call, rest)).await,
        "networks" => Box::pin(networks::route(app, call, rest)).await,
        "volumes" => Box::pin(volumes::route(app, call, rest)).await,
        "swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs" => {
            swarm::route(kind, rest, &call.method)
        }
        "plugins" => swarm::plugins(rest, &call),
        "build" | "session" | "grpc" => Err(ApiError::not_implemented(
            "this daemon does not build images: build with buildx's docker-container driver or another builder, push the image, and pull it here",
        )),
        _ => Err(ApiError::page_not_found()),
    }
}

/// A name that may have slashes, between the kind and the operation.
pub(crate) fn named<'a>(rest: &'a str, operation: &str) -> Option<&'a str> {
    rest.strip_suffix(operation)?.strip_suffix('/').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_slashes() {
        assert_eq!(
            named("docker.io/library/busybox:latest/json", "json"),
            Some("docker.io/library/busybox:latest")
        );
        assert_eq!(named("a/json/json", "json"), Some("a/json"));
        assert_eq!(named("json", "json"), None);
        assert_eq!(named("/json", "json"), None);
        assert_eq!(named("a/history", "json"), None);
    }
}
