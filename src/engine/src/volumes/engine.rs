//! Volumes as front ends see them, and as durable containers use them.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci::{ContainerId, Digest};

use super::{GiveRequest, VolumeProblem};
use crate::blocking::Purpose;
use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::happenings::{Action, Subject};
use crate::model::{
    ContainerMount, LOCAL_DRIVER, PrunedVolumes, ResolvedMount, ResolvedSource, VolumeConfig, VolumeMount,
    VolumePruneFilter, VolumeStatus, VolumeUsage,
};

/// How long counting the files of one volume may take.
const COUNTING: Duration = Duration::from_secs(30);

impl Engine {
    /// Makes a volume. One of this name and driver is given back as it is.
    pub async fn create_volume(&self, config: VolumeConfig) -> Result<VolumeStatus> {
        let shared = Arc::clone(self.shared());
        let work = move || {
            let (record, made) = shared.volumes.create(&config)?;
            if made {
                tracing::info!(volume = record.name, "volume made");
                tell(&shared, &record.name, &record.driver, Action::Create);
            }
            shared.volumes.get(&record.name).ok_or_else(|| {
                VolumeProblem::NotFound(record.name.clone()).error("make a volume that somebody removes")
            })
        };
        self.shared().blocking.run(Purpose::Lifecycle, work).await?
    }

    /// A volume by its name.
    pub fn volume(&self, name: &str) -> Result<VolumeStatus> {
        let found = self.shared().volumes.get(name);
        found.ok_or_else(|| VolumeProblem::NotFound(name.to_owned()).error("find a volume"))
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        self.shared().volumes.list()
    }

    /// What a volume takes on disk, and how many containers use it.
    pub async fn volume_usage(&self, name: &str) -> Result<VolumeUsage> {
        let status = self.volume(name)?;
        let references = status.containers.len();
        if status.driver != LOCAL_DRIVER || !status.options.is_empty() {
            return Ok(VolumeUsage { bytes: None, references });
        }
        let work = move || usage(&status);
        let bytes = self.shared().blocking.run(Purpose::Reading, work).await??;
        Ok(VolumeUsage { bytes: Some(bytes), references })
    }

    /// Removes a volume with its files, unless a container uses it. `force` takes one that is not there for removed.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let (shared, name) = (Arc::clone(self.shared()), name.to_owned());
        let work = move || match shared.volumes.remove(&name) {
            Ok(record) => {
                tracing::info!(volume = name, "volume removed");
                tell(&shared, &record.name, &record.driver, Action::Destroy);
                Ok(())
            }
            Err(error) if force && error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        self.shared().blocking.run(Purpose::Lifecycle, work).await?
    }

    /// Removes volumes that no container uses.
    pub async fn prune_volumes(&self, filter: VolumePruneFilter) -> Result<PrunedVolumes> {
        let shared = Arc::clone(self.shared());
        let work = move || prune(&shared, &filter);
        self.shared().blocking.run(Purpose::Lifecycle, work).await
    }

    /// What a durable container is given of files; nothing if there is none of this id.
    pub fn given_mounts(&self, id: &ContainerId) -> Arc<Vec<ResolvedMount>> {
        self.shared().volumes.given(id)
    }
}

fn usage(status: &VolumeStatus) -> Result<u64> {
    let failed = |error| Error::io(format!("count the files of volume {}", status.name), error);
    let root = sys::tree::open_root(&status.mountpoint).map_err(failed)?;
    let counted = sys::tree::usage(root.as_fd(), Instant::now() + COUNTING).map_err(failed)?;
    if !counted.complete {
        tracing::warn!(volume = status.name, "a volume has so many files that not all were counted");
    }
    Ok(counted.bytes)
}

fn prune(shared: &Shared, filter: &VolumePruneFilter) -> PrunedVolumes {
    let mut pruned = PrunedVolumes::default();
    for status in shared.volumes.list().into_iter().filter(|status| fits(filter, status)) {
        let counted = status.options.is_empty() && status.driver == LOCAL_DRIVER;
        let bytes = if counted { usage(&status).unwrap_or(0) } else { 0 };
        match shared.volumes.remove(&status.name) {
            Ok(record) => {
                tell(shared, &record.name, &record.driver, Action::Destroy);
                pruned.bytes += bytes;
                pruned.names.push(record.name);
            }
            // It came into use, or somebody was faster.
            Err(error) if matches!(error.kind(), ErrorKind::FailedPrecondition | ErrorKind::NotFound) => {}
            Err(error) => {
                tracing::warn!(volume = status.name, error = error.chain(), "a volume could not be pruned");
            }
        }
    }
    pruned
}

fn fits(filter: &VolumePruneFilter, status: &VolumeStatus) -> bool {
    let has = |label: &String| match label.split_once('=') {
        Some((key, value)) => status.labels.get(key).is_some_and(|found| found == value),
        None => status.labels.contains_key(label),
    };
    status.containers.is_empty()
        && (filter.all || status.anonymous)
        && filter.labels.iter().all(has)
        && !filter.not_labels.iter().any(has)
}

fn tell(shared: &Shared, name: &str, driver: &str, action: Action) {
    let subject = Subject::Volume { name: name.to_owned(), driver: driver.to_owned() };
    shared.happenings.publish(subject, action);
}

/// Gives a durable container its files, before its creation is told. Blocks.
pub(crate) fn give_volumes(
    shared: &Shared,
    container: &ContainerId,
    image: &Digest,
    maps: Option<&storage::IdMaps>,
    mounts: &[VolumeMount],
    image_volumes: &[String],
) -> Result<Vec<ResolvedMount>> {
    let request = GiveRequest { container, image, maps, mounts, image_volumes };
    let given = shared.volumes.give(&shared.storage, &request)?;
    for made in &given.made {
        tell(shared, &made.name, &made.driver, Action::Create);
    }
    Ok(given.mounts)
}

/// How a run of a durable container is given its files: volumes are mounted. Blocks.
pub(crate) fn mount_volumes(shared: &Shared, id: &ContainerId) -> Result<Vec<ContainerMount>> {
    let mounts = shared.volumes.mount(id).inspect_err(|_| {
        if let Err(error) = shared.volumes.unmount(id) {
            tracing::warn!(container = %id, error = error.chain(), "a volume stays mounted");
        }
    })?;
    for given in shared.volumes.given(id).iter() {
        if let ResolvedSource::Volume { name, driver, .. } = &given.source {
            let action = Action::Mount {
                container: id.to_string(),
                destination: given.destination.to_string_lossy().into_owned(),
                writable: !given.readonly,
            };
            tell(shared, name, driver, action);
        }
    }
    Ok(mounts)
}

/// Says that a run of a durable container has ended: volumes that were mounted for it alone are unmounted. Blocks.
pub(crate) fn unmount_volumes(shared: &Shared, id: &ContainerId) -> Result<()> {
    for given in shared.volumes.given(id).iter() {
        if let ResolvedSource::Volume { name, driver, .. } = &given.source {
            tell(shared, name, driver, Action::Unmount { container: id.to_string() });
        }
    }
    shared.volumes.unmount(id)
}

/// Takes back what a durable container was given, before its record goes; `own` removes the volumes that were made
/// for it alone. Blocks.
pub(crate) fn release_volumes(shared: &Shared, id: &ContainerId, own: bool) -> Result<()> {
    for gone in shared.volumes.take_back(id, own)? {
        tell(shared, &gone.name, &gone.driver, Action::Destroy);
    }
    Ok(())
}

/// After a start of the daemon: these containers run. Blocks.
pub(crate) fn resume_volumes(shared: &Shared, running: &BTreeSet<ContainerId>) {
    shared.volumes.resume(running);
}
