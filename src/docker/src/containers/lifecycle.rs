//! Starting, stopping and removing.

use std::sync::Arc;

use engine::{DurableProblem, RemoveDurable, Started, Stopped, WaitFor};
use http::StatusCode;
use serde_json::{Value, json};

use super::{create, signal, target};
use crate::app::App;
use crate::http::{ApiError, Call, Filters, Reply, Result};
use crate::text;

/// The exit code of a container that could not be started, by the reason.
pub(super) fn start_code(reason: &str) -> i32 {
    let has = |part: &str| reason.to_lowercase().contains(part);
    if has("executable file not found") || has("no such file or directory") || has("not a directory") {
        127
    } else if has("permission denied") || has("is a directory") {
        126
    } else {
        128
    }
}

pub(super) async fn start(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    if call.params.find("checkpoint").is_some_and(|name| !name.is_empty()) {
        return Err(ApiError::not_implemented("starting from a checkpoint is not part of this release"));
    }
    let container = target::own(app, reference, "start")?;
    match app.engine.start_durable(container.id.as_str()).await {
        Ok(Started::Now) => Ok(Reply::no_content()),
        Ok(Started::AlreadyRunning) => Ok(Reply::empty(StatusCode::NOT_MODIFIED)),
        Err(error) => {
            let answer = ApiError::from(error);
            // Clients tell what is wrong with the command from the rest by status and words.
            if start_code(answer.message()) != 128 {
                return Err(ApiError::bad(in_small_letters(answer.message())));
            }
            Err(answer)
        }
    }
}

/// The kernel's words as clients look for them.
fn in_small_letters(message: &str) -> String {
    message
        .replace("No such file or directory", "no such file or directory")
        .replace("Permission denied", "permission denied")
        .replace("Not a directory", "not a directory")
}

/// Signal and time of a stop or restart.
fn how(call: &Call) -> Result<(Option<i32>, Option<std::time::Duration>)> {
    let signal = match call.params.get("signal") {
        "" => None,
        text => Some(signal::parse(text)?),
    };
    Ok((signal, call.params.number::<i64>("t")?.map(create::grace)))
}

pub(super) async fn stop(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    let (signal, grace) = how(call)?;
    let container = target::own(app, reference, "stop")?;
    match app.engine.stop_durable(container.id.as_str(), signal, grace).await? {
        Stopped::Now => Ok(Reply::no_content()),
        Stopped::AlreadyStopped => Ok(Reply::empty(StatusCode::NOT_MODIFIED)),
    }
}

pub(super) async fn restart(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    let (signal, grace) = how(call)?;
    let container = target::own(app, reference, "restart")?;
    app.engine.restart_durable(container.id.as_str(), signal, grace).await?;
    Ok(Reply::no_content())
}

pub(super) async fn kill(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    let signal = match call.params.get("signal") {
        "" => 9,
        text => signal::parse(text)?,
    };
    let container = target::own(app, reference, "kill")?;
    match app.engine.kill_durable(container.id.as_str(), signal).await {
        Ok(()) => Ok(Reply::no_content()),
        Err(error) if matches!(error.cause(), Some(DurableProblem::NotRunning(_))) => {
            Err(ApiError::conflict(format!(
                "cannot kill container: {reference}: container {} is not running",
                container.id
            )))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn remove(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    if call.params.flag("link") {
        return Err(ApiError::bad("links are names of a network: disconnect the container from it instead"));
    }
    let container = target::own(app, reference, "remove")?;
    let how = RemoveDurable { force: call.params.flag("force"), volumes: call.params.flag("v") };
    match app.engine.remove_durable(container.id.as_str(), how).await {
        Ok(()) => Ok(Reply::no_content()),
        Err(error) if matches!(error.cause(), Some(DurableProblem::Running(_))) => {
            Err(ApiError::conflict(format!(
                "cannot remove container \"{reference}\": container is running: stop the container before removing or force remove"
            )))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn wait(app: &Arc<App>, call: &Call, reference: &str) -> Result<Reply> {
    let until = match call.params.get("condition") {
        "" | "not-running" => WaitFor::NotRunning,
        "next-exit" => WaitFor::NextExit,
        "removed" => WaitFor::Removed,
        other => return Err(ApiError::bad(format!("invalid condition: \"{other}\""))),
    };
    let container = target::own(app, reference, "wait for")?;
    // Registered before the headers are out: a client that has them misses no exit.
    let wait = app.engine.wait_durable(container.id.as_str(), until)?;
    let stop = app.stop.clone();
    Ok(Reply::stream("application/json", move |out| async move {
        let outcome = tokio::select! {
            outcome = wait => outcome,
            () = stop.cancelled() => return,
        };
        let mut answer = json!({"StatusCode": outcome.code});
        if let Some(error) = outcome.error {
            answer["Error"] = json!({"Message": error});
        }
        // A client that has gone wants no answer.
        drop(out.json(&answer, "\n").await);
    }))
}

pub(super) async fn prune(app: &App, call: &Call) -> Result<Reply> {
    let filters = Filters::of(&call.params, &["label", "label!", "until"])?;
    let before = match filters.get("until") {
        [] => i64::MAX,
        [until] => text::moment(until, text::now_ns())
            .ok_or_else(|| ApiError::bad(format!("invalid filter 'until={until}'")))?,
        _ => return Err(ApiError::bad("more than one until filter specified")),
    };
    let (mut gone, mut bytes) = (Vec::new(), 0);
    for container in app.engine.durables() {
        let labels = &container.config.container.labels;
        let at_rest = !container.is_running() && container.phase != engine::DurablePhase::Restarting;
        if !at_rest
            || container.created_at_ns >= before
            || !filters.labels(|key| labels.get(key).map(String::as_str))
        {
            continue;
        }
        let size = app.engine.container_stats(container.id.as_str()).await;
        match app.engine.remove_durable(container.id.as_str(), RemoveDurable::default()).await {
            Ok(()) => {
                bytes += size.map_or(0, |stats| stats.filesystem.used_bytes);
                gone.push(container.id.to_string());
            }
            // It was started, or removed, in between.
            Err(error) => tracing::debug!(container = %container.id, error = error.chain(), "not pruned"),
        }
    }
    let deleted = if gone.is_empty() { Value::Null } else { json!(gone) };
    Ok(Reply::json(&json!({"ContainersDeleted": deleted, "SpaceReclaimed": bytes})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_starts_have_codes() {
        assert_eq!(start_code("exec: \"x\": executable file not found in $PATH"), 127);
        assert_eq!(start_code("execute /x: Permission denied (os error 13)"), 126);
        assert_eq!(start_code("out of memory"), 128);
        assert_eq!(
            in_small_letters("execute /x: No such file or directory"),
            "execute /x: no such file or directory"
        );
    }
}
