//! Volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{VolumeConfig, VolumePruneFilter, VolumeScope, VolumeStatus};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::{ApiError, ApiVersion, Call, Filters, Reply, Result};
use crate::networks::null_is_empty;
use crate::text;

/// Before it, pruning meant volumes with a name, too.
const ALL_IS_ASKED_FOR: ApiVersion = ApiVersion::v1(42);

/// What to make.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Create {
    #[serde(deserialize_with = "null_is_empty")]
    name: String,
    #[serde(deserialize_with = "null_is_empty")]
    driver: String,
    #[serde(deserialize_with = "null_is_empty")]
    driver_opts: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    labels: BTreeMap<String, String>,
    cluster_volume_spec: Option<Value>,
}

pub(crate) async fn route(app: Arc<App>, call: Call, rest: &str) -> Result<Reply> {
    match (call.method.as_str(), rest) {
        ("GET", "") => list(&app, &call),
        ("POST", "create") => create(&app, call).await,
        ("POST", "prune") => prune(&app, &call).await,
        ("GET", name) => Ok(Reply::json(&describe(&app.engine.volume(name)?))),
        ("DELETE", name) if !name.is_empty() => {
            app.engine.remove_volume(name, call.params.flag("force")).await?;
            Ok(Reply::no_content())
        }
        ("PUT", _) => Err(no_cluster()),
        _ => Err(ApiError::page_not_found()),
    }
}

fn no_cluster() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "this node is not a swarm manager: volumes of a cluster are Kubernetes' persistent volumes here",
    )
}

fn describe(volume: &VolumeStatus) -> Value {
    let none_is_null = |map: &BTreeMap<String, String>| if map.is_empty() { Value::Null } else { json!(map) };
    let scope = match volume.scope {
        VolumeScope::Local => "local",
        VolumeScope::Global => "global",
    };
    json!({
        "CreatedAt": text::rfc3339(volume.created_at_ns),
        "Driver": volume.driver,
        "Labels": none_is_null(&volume.labels),
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": none_is_null(&volume.options),
        "Scope": scope,
    })
}

/// All of them with what they take, and how many containers use each.
pub(crate) async fn with_usage(app: &App) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for volume in app.engine.volumes() {
        // One that was removed meanwhile takes nothing.
        let Ok(usage) = app.engine.volume_usage(&volume.name).await else { continue };
        let bytes = usage.bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1);
        let mut document = describe(&volume);
        document["UsageData"] = json!({"Size": bytes, "RefCount": usage.references});
        all.push(document);
    }
    Ok(all)
}

fn list(app: &App, call: &Call) -> Result<Reply> {
    let filters = Filters::of(&call.params, &["dangling", "driver", "label", "name"])?;
    let dangling = filters.truth("dangling")?;
    let all = app.engine.volumes();
    let chosen = all.iter().filter(|volume| {
        dangling.is_none_or(|wanted| volume.containers.is_empty() == wanted)
            && filters.any("driver", |driver| driver == volume.driver)
            && filters.name("name", &volume.name)
            && filters.labels(|key| volume.labels.get(key).map(String::as_str))
    });
    let documents: Vec<Value> = chosen.map(describe).collect();
    Ok(Reply::json(&json!({"Volumes": documents, "Warnings": null})))
}

async fn create(app: &App, mut call: Call) -> Result<Reply> {
    let asked: Create = call.json().await?;
    if asked.cluster_volume_spec.is_some() {
        return Err(no_cluster());
    }
    let config = VolumeConfig {
        name: asked.name,
        driver: asked.driver,
        options: asked.driver_opts,
        labels: asked.labels,
    };
    let made = app.engine.create_volume(config).await?;
    Ok(Reply::json_with(StatusCode::CREATED, &describe(&made)))
}

async fn prune(app: &App, call: &Call) -> Result<Reply> {
    let filters = Filters::of(&call.params, &["all", "label", "label!"])?;
    let all = filters.truth("all")?.unwrap_or(call.version < ALL_IS_ASKED_FOR);
    let filter = VolumePruneFilter {
        all,
        labels: filters.get("label").to_vec(),
        not_labels: filters.get("label!").to_vec(),
    };
    let pruned = app.engine.prune_volumes(filter).await?;
    let names = if pruned.names.is_empty() { Value::Null } else { json!(pruned.names) };
    Ok(Reply::json(&json!({"VolumesDeleted": names, "SpaceReclaimed": pruned.bytes})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_described_as_docker_does() {
        let volume = VolumeStatus {
            name: "data".to_owned(),
            driver: "local".to_owned(),
            mountpoint: "/v/data/_data".into(),
            created_at_ns: 1_700_000_000_000_000_000,
            options: BTreeMap::new(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            anonymous: false,
            scope: VolumeScope::Local,
            containers: Vec::new(),
        };
        let expected = json!({
            "CreatedAt": "2023-11-14T22:13:20Z", "Driver": "local", "Labels": {"a": "b"}, "Mountpoint": "/v/data/_data",
            "Name": "data", "Options": null, "Scope": "local",
        });
        assert_eq!(describe(&volume), expected);
    }
}
