//! The stream of events.

use std::sync::Arc;
use std::time::Duration;

use engine::{ContainerState, Event, EventKind};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::http::{ApiError, Call, Filters, Out, Reply, Result};
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
    let mut events = app.engine.subscribe();
    let stop = app.stop.clone();
    Ok(Reply::stream("application/json", move |out| async move {
        let left = until
            .map_or(Duration::MAX, |until| Duration::from_nanos(u64::try_from(until - now).unwrap_or(0)));
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

async fn send(out: &Out, event: &Event, filters: &Filters) -> std::result::Result<(), crate::http::Gone> {
    match document(event) {
        Some(mut document) if selected(&document, filters) => {
            shape::event(&mut document);
            out.json(&document, "\n").await
        }
        _ => Ok(()),
    }
}

/// An event of a pod's container. What happens to the pod itself has no word here.
fn document(event: &Event) -> Option<Value> {
    let id = event.container.as_ref()?;
    let container = event.status.containers.iter().find(|one| one.id == *id);
    let action = match event.kind {
        EventKind::Created => "create",
        EventKind::Started => "start",
        EventKind::Stopped => "die",
        EventKind::Deleted => "destroy",
    };
    let mut attributes = Map::new();
    if let Some(container) = container {
        let labels = container.config.labels.iter().map(|(key, value)| (key.clone(), json!(value)));
        attributes.extend(labels);
        attributes.insert("image".into(), json!(container.config.user_image));
        attributes.insert("name".into(), json!(container.config.key.name));
        if let (EventKind::Stopped, ContainerState::Exited(exit)) = (event.kind, &container.state) {
            attributes.insert("exitCode".into(), json!(exit.code.to_string()));
        }
    }
    Some(json!({
        "Type": "container", "Action": action, "scope": "local",
        "Actor": {"ID": id.as_str(), "Attributes": attributes},
        "time": event.at_ns / 1_000_000_000, "timeNano": event.at_ns,
    }))
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
