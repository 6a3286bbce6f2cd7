//! The stream of events.

use std::sync::Arc;
use std::time::Duration;

use engine::{Action, Happening, HealthState, Subject};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::http::{ApiError, Call, Filters, Gone, Out, Reply, Result};
use crate::{shape, text};

const FILTERS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Events from now on, until `until` or the client's end.
pub(crate) fn stream(app: Arc<App>, call: &Call) -> Result<Reply> {
    let filters = Filters::of(&call.params, &FILTERS)?;
    let now = text::now_ns();
    let moment = |name: &str| match call.params.get(name) {
        "" => Ok(None),
        given => text::moment(given, now)
            .map(Some)
            .ok_or_else(|| ApiError::bad(format!("invalid value for {name}: {given:?} is no point in time"))),
    };
    let (since, until) = (moment("since")?, moment("until")?);
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(ApiError::bad(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            call.params.get("since"),
            call.params.get("until")
        )));
    }
    // Subscribed before the headers are out: a client that has them misses nothing.
    let (past, mut events) = app.engine.happenings(since);
    let stop = app.stop.clone();
    Ok(Reply::stream("application/json", move |out| async move {
        let kept = past.iter().filter(|event| until.is_none_or(|until| event.at_ns <= until));
        for event in kept {
            if send(&out, event, &filters).await.is_err() {
                return;
            }
        }
        let left = until.map_or(Duration::MAX, |until| {
            Duration::from_nanos(u64::try_from(until.saturating_sub(now)).unwrap_or(0))
        });
        let end = async {
            if left == Duration::MAX { std::future::pending().await } else { tokio::time::sleep(left).await }
        };
        tokio::pin!(end);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = &mut end => return,
                () = stop.cancelled() => return,
            };
            match event {
                Some(Ok(event)) => {
                    if send(&out, &event, &filters).await.is_err() {
                        return;
                    }
                }
                Some(Err(missed)) => tracing::warn!(missed, "a Docker client is too slow for the events"),
                None => return,
            }
        }
    }))
}

async fn send(out: &Out, event: &Happening, filters: &Filters) -> std::result::Result<(), Gone> {
    match document(event) {
        Some(mut document) if selected(&document, filters) => {
            shape::event(&mut document);
            out.json(&document, "\n").await
        }
        _ => Ok(()),
    }
}

/// An event; `None` for what Docker has no word for.
fn document(event: &Happening) -> Option<Value> {
    let mut attributes = Map::new();
    let (kind, id) = match &event.subject {
        Subject::Container { id, name, image, labels } => {
            attributes.extend(labels.iter().map(|(key, value)| (key.clone(), json!(value))));
            attributes.insert("image".into(), json!(image));
            attributes.insert("name".into(), json!(name));
            ("container", id.to_string())
        }
        Subject::Image { id, name, labels } => {
            attributes.extend(labels.iter().map(|(key, value)| (key.clone(), json!(value))));
            if !name.is_empty() {
                attributes.insert("name".into(), json!(name));
            }
            ("image", if name.is_empty() { id.clone() } else { name.clone() })
        }
        Subject::Network { id, name, driver } => {
            attributes.insert("name".into(), json!(name));
            attributes.insert("type".into(), json!(driver));
            ("network", id.clone())
        }
        Subject::Volume { name, driver } => {
            attributes.insert("driver".into(), json!(driver));
            ("volume", name.clone())
        }
        _ => return None,
    };
    let action = action(&event.action, &mut attributes)?;
    Some(json!({
        "Type": kind, "Action": action, "scope": "local",
        "Actor": {"ID": id, "Attributes": attributes},
        "time": event.at_ns / 1_000_000_000, "timeNano": event.at_ns,
    }))
}

/// An action's word, and what it adds to the attributes.
fn action(action: &Action, attributes: &mut Map<String, Value>) -> Option<String> {
    let mut put = |key: &str, value: &dyn ToString| {
        attributes.insert(key.to_owned(), json!(value.to_string()));
    };
    let word = match action {
        Action::Create => "create",
        Action::Start => "start",
        Action::Die { exit_code } => {
            put("exitCode", exit_code);
            "die"
        }
        Action::Kill { signal } => {
            put("signal", signal);
            "kill"
        }
        Action::Stop => "stop",
        Action::Restart => "restart",
        Action::Pause => "pause",
        Action::Unpause => "unpause",
        Action::Rename { old_name } => {
            put("oldName", &format!("/{old_name}"));
            "rename"
        }
        Action::Update => "update",
        Action::Destroy => "destroy",
        Action::Oom => "oom",
        Action::Attach => "attach",
        Action::Detach => "detach",
        Action::Resize { rows, columns } => {
            put("height", rows);
            put("width", columns);
            "resize"
        }
        Action::ExecCreate { exec, command } => {
            put("execID", exec);
            return Some(format!("exec_create: {command}"));
        }
        Action::ExecStart { exec, command } => {
            put("execID", exec);
            return Some(format!("exec_start: {command}"));
        }
        Action::ExecDetach { exec } => {
            put("execID", exec);
            "exec_detach"
        }
        Action::ExecDie { exec, exit_code } => {
            put("execID", exec);
            put("exitCode", exit_code);
            "exec_die"
        }
        Action::Health(state) => {
            return Some(match state {
                HealthState::Starting => "health_status: starting".to_owned(),
                HealthState::Healthy => "health_status: healthy".to_owned(),
                HealthState::Unhealthy => "health_status: unhealthy".to_owned(),
            });
        }
        Action::Top => "top",
        Action::ArchivePath => "archive-path",
        Action::ExtractToDir => "extract-to-dir",
        Action::Export => "export",
        Action::Commit { image } => {
            put("imageID", image);
            "commit"
        }
        Action::Connect { container } => {
            put("container", container);
            "connect"
        }
        Action::Disconnect { container } => {
            put("container", container);
            "disconnect"
        }
        Action::Mount { container, destination, writable } => {
            put("container", container);
            put("destination", destination);
            put("read/write", writable);
            "mount"
        }
        Action::Unmount { container } => {
            put("container", container);
            "unmount"
        }
        Action::Pull => "pull",
        Action::Push => "push",
        Action::Tag => "tag",
        Action::Untag => "untag",
        Action::Delete => "delete",
        Action::Load => "load",
        Action::Import => "import",
        Action::Save => "save",
        Action::Prune { reclaimed_bytes } => {
            put("reclaimed", reclaimed_bytes);
            "prune"
        }
        _ => return None,
    };
    Some(word.to_owned())
}

/// Whether an event is one of those asked for.
fn selected(event: &Value, filters: &Filters) -> bool {
    let (kind, action) =
        (event["Type"].as_str().unwrap_or_default(), event["Action"].as_str().unwrap_or_default());
    let attribute = |name: &str| event["Actor"]["Attributes"][name].as_str();
    let id = event["Actor"]["ID"].as_str().unwrap_or_default();
    let object = |key: &str| {
        let fits = |wanted: &str| {
            kind == key
                && (id == wanted
                    || id.starts_with(wanted)
                    || attribute("name") == Some(wanted.trim_start_matches('/')))
        };
        filters.any(key, fits)
    };
    filters.any("type", |wanted| wanted == kind)
        // `exec_start: sh` and `health_status: healthy` are asked for by their first word.
        && filters.any("event", |wanted| action == wanted || action.split(':').next() == Some(wanted))
        && filters.any("scope", |wanted| wanted == "local")
        && filters.any("image", |wanted| match kind {
            "image" => id == wanted || attribute("name") == Some(wanted),
            _ => attribute("image") == Some(wanted),
        })
        && ["container", "network", "volume", "daemon", "plugin", "service", "node", "secret", "config"].iter().all(|key| object(key))
        && filters.labels(attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn happenings_become_events() {
        let event = Happening {
            sequence: 1,
            at_ns: 1_700_000_000_000_000_005,
            subject: Subject::Container {
                id: "c".repeat(64).parse().unwrap(),
                name: "web".into(),
                image: "nginx".into(),
                labels: std::sync::Arc::new([("app".to_owned(), "x".to_owned())].into()),
            },
            action: Action::Die { exit_code: 137 },
        };
        let expected = json!({
            "Type": "container", "Action": "die", "scope": "local", "time": 1_700_000_000, "timeNano": 1_700_000_000_000_000_005_i64,
            "Actor": {"ID": "c".repeat(64), "Attributes": {"app": "x", "image": "nginx", "name": "web", "exitCode": "137"}},
        });
        assert_eq!(document(&event).unwrap(), expected);
        let exec = Action::ExecStart { exec: "e".into(), command: "sh -c x".into() };
        let event = Happening { action: exec, ..event };
        assert_eq!(document(&event).unwrap()["Action"], "exec_start: sh -c x");
    }

    #[test]
    fn filters_select() {
        let event = json!({
            "Type": "container", "Action": "health_status: healthy",
            "Actor": {"ID": "abcdef", "Attributes": {"name": "web", "image": "nginx", "app": "x"}},
        });
        let fits = |text| selected(&event, &Filters::parse(text).unwrap());
        assert!(
            fits("{}") && fits(r#"{"type":["container","image"]}"#) && fits(r#"{"event":["health_status"]}"#)
        );
        assert!(
            fits(r#"{"container":["abc"]}"#)
                && fits(r#"{"container":["/web"]}"#)
                && fits(r#"{"image":["nginx"]}"#)
        );
        assert!(fits(r#"{"label":["app=x"]}"#) && !fits(r#"{"label":["app=y"]}"#));
        assert!(
            !fits(r#"{"event":["die"]}"#)
                && !fits(r#"{"network":["web"]}"#)
                && !fits(r#"{"container":["db"]}"#)
        );
    }
}
