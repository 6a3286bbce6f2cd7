//! What belongs to clusters of Docker's own kind, and to managed plugins: there are none on this node.

use http::{Method, StatusCode};

use crate::http::{ApiError, Call, Filters, Reply, Result};

/// Clients look for the first sentence.
const NO_MANAGER: &str = "This node is not a swarm manager. Berth runs under Kubernetes: use its API (kubectl) for workloads over several nodes, secrets and configurations.";

/// Nodes, services, tasks, secrets, configs, and the swarm itself.
pub(crate) fn route(kind: &str, rest: &str, method: &Method) -> Result<Reply> {
    let parts: Vec<&str> = rest.split('/').collect();
    let known = matches!(
        (kind, parts.as_slice(), method.as_str()),
        ("swarm", [""] | ["unlockkey"], "GET")
            | ("swarm", ["init" | "join" | "leave" | "update" | "unlock"], "POST")
            | ("nodes" | "services" | "tasks" | "secrets" | "configs", [""] | [_], "GET")
            | ("services" | "tasks", [_, "logs"], "GET")
            | ("services" | "secrets" | "configs", ["create"], "POST")
            | ("nodes" | "services" | "secrets" | "configs", [_, "update"], "POST")
            | ("nodes" | "services" | "secrets" | "configs", [_], "DELETE")
    );
    if known {
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, NO_MANAGER))
    } else {
        Err(ApiError::page_not_found())
    }
}

/// Managed plugins. Volume plugins of the first kind, which are found by their sockets, are no objects of the API.
pub(crate) fn plugins(rest: &str, call: &Call) -> Result<Reply> {
    let unsupported = || {
        ApiError::not_implemented(
            "this daemon runs no managed plugins: run the plugin as a container or a service of the host that listens in /run/docker/plugins",
        )
    };
    match (call.method.as_str(), rest) {
        ("GET", "") => {
            Filters::of(&call.params, &["capability", "enabled"])?;
            Ok(Reply::json(&serde_json::json!([])))
        }
        ("GET", "privileges") | ("POST", "pull" | "create") => Err(unsupported()),
        ("GET", name) => match crate::app::named(name, "json") {
            Some(name) => Err(no_plugin(name)),
            None => Err(ApiError::page_not_found()),
        },
        ("DELETE", name) => Err(no_plugin(name)),
        ("POST", name) => {
            let operations = ["enable", "disable", "upgrade", "push", "set"];
            match operations.iter().find_map(|operation| crate::app::named(name, operation)) {
                Some(name) => Err(no_plugin(name)),
                None => Err(ApiError::page_not_found()),
            }
        }
        _ => Err(ApiError::page_not_found()),
    }
}

fn no_plugin(name: &str) -> ApiError {
    ApiError::not_found(format!("plugin \"{name}\" not found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_swarm() {
        let status = |kind, rest, method| match route(kind, rest, &method) {
            Err(error) => (error.status().as_u16(), error.message().to_owned()),
            Ok(_) => (200, String::new()),
        };
        let (code, text) = status("services", "", Method::GET);
        assert_eq!(code, 503);
        assert!(text.starts_with("This node is not a swarm manager.") && text.contains("Kubernetes"));
        assert_eq!(status("swarm", "init", Method::POST).0, 503);
        assert_eq!(status("tasks", "x/logs", Method::GET).0, 503);
        assert_eq!(status("tasks", "x", Method::DELETE), (404, "page not found".to_owned()));
        assert_eq!(status("swarm", "init", Method::GET).0, 404);
    }
}
