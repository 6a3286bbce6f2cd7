//! Who may use an image that is there already: kubelet checks the credentials of pods.

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::{PASSWORD, Registry, USER};
use serde_json::{Value, json};

use super::scene::*;

pub(crate) const LAST: [(&str, Work); 1] =
    [("credentials of pulls, and images pulled without them", credentials)];

const AUTH: &str = "a3ViZWxldDpzZWNyZXQ=";

fn of_image(name: &str, image: &str, policy: &str) -> Value {
    pod(
        name,
        json!({"containers": [with(shell("main", WAIT), json!({"image": image, "imagePullPolicy": policy}))]}),
    )
}

fn credentials(s: &mut Scene) -> Result<()> {
    let dir = s.lab.work().join("private");
    std::fs::create_dir_all(&dir)?;
    let private = s.registry.private(&dir)?;
    let pulled = format!("{}/k8s-staging-cri-tools/test-image-tags:1", private.address());
    let preloaded = format!("{}/k8s-staging-cri-tools/test-image-1:latest", private.address());
    refused_without(s, &pulled)?;
    pulled_with(s, &private, &pulled)?;
    preload(s, &preloaded)?;
    // What somebody else brought is everybody's, unless kubelet is told otherwise.
    s.kubelet.put(&of_image("preloaded", &preloaded, "IfNotPresent"))?;
    s.ready("preloaded")?;
    s.end("preloaded")?;
    verified(s, &pulled, &preloaded)?;
    let policy = json!({"imagePullCredentialsVerificationPolicy": "NeverVerifyPreloadedImages"});
    s.kubelet.reconfigure(policy, &[])
}

fn refused_without(s: &mut Scene, image: &str) -> Result<()> {
    s.kubelet.put(&of_image("private", image, "IfNotPresent"))?;
    s.container("private", "main", "is refused", |status| {
        status["state"]["waiting"]["reason"] == "ImagePullBackOff"
    })?;
    Ok(())
}

/// The node's own credentials, in the file where kubelet looks for them.
fn pulled_with(s: &mut Scene, private: &Registry, image: &str) -> Result<()> {
    let file = s.kubelet.root().join("config.json");
    std::fs::write(&file, json!({"auths": {private.address(): {"auth": AUTH}}}).to_string())?;
    // It reads them once in a while, and at its start.
    s.kubelet.reconfigure(json!({}), &[])?;
    let pod = s.ready("private")?;
    let id = container_status(&pod, "main")?["imageID"].as_str().context("no image id")?.to_owned();
    let records = s.kubelet.root().join("image_manager/pulled");
    let mut found = String::new();
    for entry in std::fs::read_dir(&records).with_context(|| format!("read {}", records.display()))? {
        found.push_str(&std::fs::read_to_string(entry?.path())?);
    }
    // The record is found again only if pulling, listing and status name the image alike.
    let request = cri::ImageStatusRequest {
        image: Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() }),
        verbose: false,
    };
    let status = s.node.client.image_status(request)?.image.context("the image is not there")?;
    ensure!(found.contains(&format!("\"{}\"", status.id)), "no record of {} ({id}): {found}", status.id);
    std::fs::remove_file(&file)?;
    Ok(())
}

fn preload(s: &Scene, image: &str) -> Result<()> {
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() }),
        auth: Some(cri::AuthConfig {
            username: USER.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    s.node.client.pull_image(request)?;
    Ok(())
}

/// When everything is verified, an image that kubelet did not pull must be pulled, and that needs credentials.
fn verified(s: &mut Scene, pulled: &str, preloaded: &str) -> Result<()> {
    s.kubelet.reconfigure(json!({"imagePullCredentialsVerificationPolicy": "AlwaysVerify"}), &[])?;
    s.kubelet.put(&of_image("recorded", pulled, "Never"))?;
    s.kubelet.put(&of_image("unrecorded", preloaded, "Never"))?;
    s.kubelet.put(&of_image("unrecorded-pull", preloaded, "IfNotPresent"))?;
    s.ready("recorded")?;
    s.container("unrecorded", "main", "is refused", |status| {
        status["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    })?;
    s.container("unrecorded-pull", "main", "is refused", |status| {
        status["state"]["waiting"]["reason"] == "ImagePullBackOff"
    })?;
    for name in ["private", "recorded", "unrecorded", "unrecorded-pull"] {
        s.kubelet.take(name)?;
    }
    Ok(())
}
