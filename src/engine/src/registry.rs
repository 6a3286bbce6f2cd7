//! Images and registries: pushing, asking, logging in; and images that nobody uses.

use std::collections::HashSet;
use std::sync::Arc;

use oci::{Digest, Platform, Reference};
use tokio::sync::watch;

use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::happenings::{Action, Subject};
use crate::images::{PullProgress, find_error, registry_error};
use crate::model::{ImageInfo, MountSource, ResolvedSource};
use crate::sandbox::storage_error;

pub use image::Descriptor;

/// What a registry has under a name.
#[derive(Debug, Clone)]
pub struct DistributionInfo {
    /// The manifest or index that is named.
    pub descriptor: Descriptor,
    /// Platforms that it has images for.
    pub platforms: Vec<Platform>,
}

/// What pruning images came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedImages {
    /// Names that are gone.
    pub names: Vec<Reference>,
    /// Images that are gone.
    pub images: Vec<Digest>,
    /// What their blobs and layers took.
    pub bytes: u64,
}

impl Engine {
    /// Pushes an image to the registry that one of its names stands for. `progress` is told how far it is. Dropping
    /// the future does not stop the push.
    pub async fn push_image(
        &self,
        name: &Reference,
        auth: Option<image::ScopedAuth>,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<Descriptor> {
        let name = name.clone().with_default_tag();
        let shared = Arc::clone(self.shared());
        let text = name.to_string();
        let image = shared.storage.find_image(&text).map_err(|error| find_error(&text, error))?;
        let target = image.manifests.last().cloned();
        let target =
            target.ok_or_else(|| Error::precondition(format!("image {name} has no manifest to push")))?;
        let mount_from = image.names.iter().filter(|other| other.domain() == name.domain());
        let request = image::PushRequest {
            reference: name.clone(),
            auth,
            store: Arc::clone(shared.storage.content()),
            target,
            mount_from: mount_from.filter(|other| other.path() != name.path()).cloned().collect(),
        };
        let work = async move {
            let mut push = shared.images.client().push(request);
            let pushed = match progress {
                None => push.wait().await,
                Some(report) => {
                    let mut source = push.progress();
                    loop {
                        tokio::select! {
                            outcome = push.wait() => break outcome,
                            changed = source.changed() => match changed {
                                Ok(()) => drop(report.send_replace(source.borrow_and_update().clone())),
                                Err(_) => break push.wait().await,
                            },
                        }
                    }
                }
            };
            let pushed = pushed.map_err(|error| registry_error(format!("push image {name}"), error))?;
            tracing::info!(image = %name, digest = %pushed.digest, "image pushed");
            let subject =
                Subject::Image { id: image.id.to_string(), name: name.familiar(), labels: Arc::default() };
            shared.happenings.publish(subject, Action::Push);
            Ok(pushed)
        };
        let done = self.shared().tracker.spawn(work).await;
        done.map_err(|error| Error::caused_by(ErrorKind::Internal, "the push broke off", error))?
    }

    /// What a registry has under a name, without pulling it.
    pub async fn inspect_distribution(
        &self,
        name: &Reference,
        auth: Option<image::ScopedAuth>,
    ) -> Result<DistributionInfo> {
        let name = name.clone().with_default_tag();
        let what = || format!("ask for image {name}");
        let failed = |error| registry_error(what(), error);
        let client = self.shared().images.client();
        let document = client.manifest(&name, auth.as_ref()).await.map_err(failed)?;
        let index: serde_json::Value = serde_json::from_slice(&document.bytes)
            .map_err(|error| Error::caused_by(ErrorKind::FailedPrecondition, what(), error))?;
        let entries = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut platforms: Vec<Platform> = entries
            .iter()
            .filter_map(|entry| serde_json::from_value(entry["platform"].clone()).ok())
            .collect();
        // What is attached to images stands for no platform.
        platforms.retain(|platform| platform.os != "unknown");
        if entries.is_empty() {
            platforms.push(Platform::host());
        }
        Ok(DistributionInfo { descriptor: document.descriptor, platforms })
    }

    /// Checks credentials with a registry (`host[:port]`).
    pub async fn check_auth(&self, host: &str, auth: &image::ScopedAuth) -> Result<()> {
        let checked = self.shared().images.client().check_auth(host, auth).await;
        checked.map_err(|error| registry_error(format!("log in to {host}"), error))
    }

    /// Removes images that no container uses and that fit: those without a tag, or with `all` every one.
    pub async fn prune_images(
        &self,
        all: bool,
        fits: impl Fn(&ImageInfo) -> bool + Send + 'static,
    ) -> Result<PrunedImages> {
        let used = self.used_images();
        let shared = Arc::clone(self.shared());
        let work = move || {
            let mut pruned = PrunedImages::default();
            let candidates = shared.images.list().into_iter();
            let unused = candidates.filter(|image| !used.contains(&image.id) && !image.pinned);
            for image in unused.filter(|image| (all || image.tags.is_empty()) && fits(image)) {
                let layers =
                    shared.storage.image(&image.id).map_or(0, |found| found.unpacked_bytes(&shared.storage));
                let removal = shared
                    .storage
                    .remove_image(&image.id)
                    .map_err(|error| storage_error(format!("remove image {}", image.id), error))?;
                shared.images.empty(removal.trash);
                pruned.bytes += image.size_bytes + if removal.layers.is_empty() { 0 } else { layers };
                pruned.names.extend(removal.names);
                pruned.images.extend(removal.image);
            }
            Ok(pruned)
        };
        self.shared().blocking.run(Purpose::Images, work).await?
    }

    /// Images that containers are made of or are given, whether or not they run.
    fn used_images(&self) -> HashSet<Digest> {
        let mut used = HashSet::new();
        let find = |text: &str| self.shared().storage.find_image(text).ok().map(|image| image.id);
        for status in self.durables() {
            used.insert(status.image_id.clone());
            for given in self.given_mounts(&status.id).iter() {
                if let ResolvedSource::Image { reference, .. } = &given.source {
                    used.extend(find(reference));
                }
            }
            for mount in &status.config.container.mounts {
                if let MountSource::Image { image, .. } = &mount.source {
                    used.extend(find(image));
                }
            }
        }
        for sandbox in self.sandboxes() {
            for container in &sandbox.containers {
                used.insert(container.image_id.clone());
                used.extend(container.mounted_images.values().cloned());
            }
        }
        used
    }
}
