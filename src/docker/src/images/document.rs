//! An image in full, and how it came to be.

use engine::ImageInfo;
use oci::Reference;
use serde_json::{Value, json};

use super::find;
use crate::app::App;
use crate::http::{Call, Reply, Result};
use crate::{shape, text};

/// When an image was made, in seconds since the epoch.
pub(super) fn created(image: &ImageInfo) -> i64 {
    image.config.created().as_deref().map_or(0, text::unix_seconds)
}

pub(super) async fn inspect(app: &App, call: &Call, name: &str) -> Result<Reply> {
    let image = find(app, name).await?;
    let document = app.engine.image_document(&image.id).await?;
    let layers = app.engine.image_layers(&image.id);
    let size: u64 = layers.iter().map(|(_, bytes)| bytes).sum();
    let mut inspect = describe(&image, &document, size);
    shape::image_inspect(&mut inspect, call.version);
    Ok(Reply::json(&inspect))
}

fn describe(image: &ImageInfo, document: &Value, size: u64) -> Value {
    let text = |key: &str| document[key].as_str().unwrap_or_default();
    let created = document["created"].as_str().unwrap_or(text::NEVER);
    let mut inspect = json!({
        "Id": image.id.as_str(),
        "RepoTags": image.tags.iter().map(Reference::familiar).collect::<Vec<_>>(),
        "RepoDigests": image.digests.iter().map(Reference::familiar).collect::<Vec<_>>(),
        "Parent": "",
        "Comment": text("comment"),
        "Created": created,
        "Container": text("container"),
        "ContainerConfig": null,
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": config(&document["config"]),
        "Architecture": text("architecture"),
        "Os": text("os"),
        "Size": size,
        "GraphDriver": {"Name": "overlay2", "Data": null},
        "RootFS": {"Type": "layers", "Layers": document["rootfs"]["diff_ids"]},
        "Metadata": {"LastTagTime": text::NEVER},
    });
    for (key, from) in [("Variant", "variant"), ("OsVersion", "os.version")] {
        if !text(from).is_empty() {
            inspect[key] = document[from].clone();
        }
    }
    inspect
}

/// The configuration of an image's containers, with the keys that clients expect even when they are empty.
pub(crate) fn config(own: &Value) -> Value {
    let text = |key: &str| json!(own[key].as_str().unwrap_or_default());
    let mut config = json!({
        "User": text("User"),
        "Env": own["Env"],
        "Cmd": own["Cmd"],
        "Volumes": own["Volumes"],
        "WorkingDir": text("WorkingDir"),
        "Entrypoint": own["Entrypoint"],
        "OnBuild": own["OnBuild"],
        "Labels": own["Labels"],
    });
    for key in ["ExposedPorts", "Healthcheck", "ArgsEscaped", "StopSignal", "Shell", "NetworkDisabled"] {
        if !own[key].is_null() {
            config[key] = own[key].clone();
        }
    }
    config
}

pub(super) async fn history(app: &App, name: &str) -> Result<Reply> {
    let image = find(app, name).await?;
    let document = app.engine.image_document(&image.id).await?;
    let sizes: Vec<u64> = app.engine.image_layers(&image.id).into_iter().map(|(_, bytes)| bytes).collect();
    Ok(Reply::json(&steps(&image, &document, &sizes)))
}

/// The steps an image was made in, the last one first.
fn steps(image: &ImageInfo, document: &Value, sizes: &[u64]) -> Value {
    let mut sizes = sizes.iter();
    let steps = document["history"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut all: Vec<Value> = steps
        .iter()
        .map(|step| {
            let empty = step["empty_layer"].as_bool().unwrap_or_default();
            let size = if empty { 0 } else { sizes.next().copied().unwrap_or_default() };
            let text = |key: &str| step[key].as_str().unwrap_or_default();
            json!({
                "Id": "<missing>", "Created": text::unix_seconds(text("created")), "CreatedBy": text("created_by"),
                "Tags": null, "Size": size, "Comment": text("comment"),
            })
        })
        .collect();
    // An image that does not tell its steps has at least its layers.
    for size in sizes {
        all.push(json!({
            "Id": "<missing>", "Created": 0, "CreatedBy": "", "Tags": null, "Size": size, "Comment": "",
        }));
    }
    all.reverse();
    if let Some(last) = all.first_mut() {
        last["Id"] = json!(image.id.as_str());
        if !image.tags.is_empty() {
            last["Tags"] = json!(image.tags.iter().map(Reference::familiar).collect::<Vec<_>>());
        }
    }
    Value::Array(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageInfo {
        let config =
            json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        ImageInfo {
            id: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
            tags: vec!["busybox:1".parse().unwrap()],
            digests: vec![format!("busybox@sha256:{}", "b".repeat(64)).parse().unwrap()],
            size_bytes: 1,
            user: String::new(),
            pinned: false,
            config: serde_json::from_value(config).unwrap(),
        }
    }

    #[test]
    fn steps_have_the_sizes_of_their_layers() {
        let document = json!({"history": [
            {"created": "2023-11-14T22:13:20Z", "created_by": "ADD"},
            {"created": "2023-11-14T22:13:21Z", "created_by": "ENV", "empty_layer": true},
            {"created_by": "RUN", "comment": "c"},
        ]});
        let steps = steps(&image(), &document, &[10, 20]);
        let row = |n: usize| (steps[n]["CreatedBy"].as_str().unwrap(), steps[n]["Size"].as_u64().unwrap());
        assert_eq!((row(0), row(1), row(2)), (("RUN", 20), ("ENV", 0), ("ADD", 10)));
        assert_eq!(steps[0]["Tags"], json!(["busybox:1"]));
        assert_eq!((&steps[0]["Id"], &steps[2]["Id"]), (&json!(image().id.as_str()), &json!("<missing>")));
        assert_eq!(steps[2]["Created"], 1_700_000_000);
    }

    #[test]
    fn images_without_history_show_their_layers() {
        assert_eq!(steps(&image(), &json!({}), &[1, 2]).as_array().unwrap().len(), 2);
    }

    #[test]
    fn documents_keep_what_they_are_given() {
        let document = json!({
            "created": "2023-11-14T22:13:20Z", "architecture": "arm64", "variant": "v8", "os": "linux",
            "config": {"Cmd": ["sh"], "Healthcheck": {"Test": ["CMD", "true"]}, "Shell": ["/bin/bash"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:x"]},
        });
        let inspect = describe(&image(), &document, 7);
        assert_eq!(inspect["RepoTags"], json!(["busybox:1"]));
        assert_eq!((&inspect["Variant"], &inspect["Size"]), (&json!("v8"), &json!(7)));
        assert_eq!(inspect["Config"]["Healthcheck"]["Test"][1], "true");
        assert_eq!((&inspect["Config"]["Env"], &inspect["Config"]["User"]), (&Value::Null, &json!("")));
        assert_eq!(inspect["RootFS"]["Layers"], json!(["sha256:x"]));
    }
}
