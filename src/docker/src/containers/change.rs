//! Changing a container: its name, limits, networks, terminal, and whether it gets CPU.

use engine::{DurableUpdate, TerminalSize};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Limits, Restart};
use super::{create, keys, limits, target};
use crate::app::App;
use crate::http::{ApiError, Call, Reply, Result};

pub(super) async fn pause(app: &App, reference: &str) -> Result<Reply> {
    let container = target::own(app, reference, "pause")?;
    app.engine.pause_durable(container.id.as_str()).await?;
    Ok(Reply::no_content())
}

pub(super) async fn unpause(app: &App, reference: &str) -> Result<Reply> {
    let container = target::own(app, reference, "unpause")?;
    app.engine.unpause_durable(container.id.as_str()).await?;
    Ok(Reply::no_content())
}

pub(super) async fn rename(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    let name = call.params.get("name").trim_start_matches('/');
    if name.is_empty() {
        return Err(ApiError::bad("Neither old nor new names may be empty"));
    }
    let container = target::own(app, reference, "rename")?;
    if container.name == name {
        return Err(ApiError::bad("Renaming a container with the same name as its current name"));
    }
    app.engine.rename_durable(container.id.as_str(), name).await?;
    Ok(Reply::no_content())
}

/// Height and width of a terminal.
pub(super) fn terminal_size(call: &Call) -> Result<TerminalSize> {
    let number = |key: &str, what: &str| {
        let text = call.params.get(key);
        let number: Option<u32> = text.parse().ok();
        number
            .map(|number| u16::try_from(number).unwrap_or(u16::MAX))
            .ok_or_else(|| ApiError::bad(format!("invalid resize {what} {text:?}: it must be a number")))
    };
    Ok(TerminalSize { rows: number("h", "height")?, columns: number("w", "width")? })
}

pub(super) fn resize(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    let size = terminal_size(call)?;
    match target::find(app, reference)? {
        target::Target::Own(status) => app.engine.resize_durable(status.id.as_str(), size)?,
        target::Target::Pod(_, status) => app.engine.resize_container(&status.id, size)?,
    }
    Ok(Reply::empty(http::StatusCode::OK))
}

/// What to change.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Update {
    #[serde(flatten)]
    limits: Limits,
    restart_policy: Option<Restart>,
}

pub(super) async fn update(app: &App, mut call: Call, reference: &str) -> Result<Reply> {
    let raw: Value = call.json().await?;
    let mut warnings = keys::check_update(&raw)?;
    let asked: Update = serde_json::from_value(raw.clone())
        .map_err(|error| ApiError::bad(format!("invalid JSON: {error}")))?;
    let container = target::own(app, reference, "update")?;
    let node = app.engine.node_info().await?;
    let resources = limits::convert(&asked.limits, None, &node, &mut warnings)?;
    let restart = match asked.restart_policy.filter(|policy| !policy.name.is_empty()) {
        Some(policy) => Some(create::restart_policy(&policy.name, policy.maximum_retry_count)?),
        None => None,
    };
    if restart.is_some() && container.config.auto_remove {
        return Err(ApiError::bad(
            "Restart policy cannot be updated because AutoRemove is enabled for the container",
        ));
    }
    let mut words = container.config.extra.clone();
    for (key, value) in raw.as_object().into_iter().flatten() {
        if !keys::is_empty(value) {
            words["HostConfig"][key] = value.clone();
        }
    }
    let update = DurableUpdate { resources, restart, extra: Some(words) };
    app.engine.update_durable(container.id.as_str(), update).await?;
    Ok(Reply::json(&json!({"Warnings": if warnings.is_empty() { Value::Null } else { json!(warnings) }})))
}
