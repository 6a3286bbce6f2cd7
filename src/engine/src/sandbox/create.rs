//! Creating a container: everything that can be found wrong with a request is found here, before it starts.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use oci::ContainerId;
use tokio::sync::watch;
use tracing::Instrument;

use super::prepare::{self, Prepared};
use super::task::Task;
use crate::blocking::Purpose;
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::model::{ContainerConfig, ContainerState, MountSource};
use crate::names::{Progress, enter};
use crate::record::{ContainerRecord, Phase};
use crate::traces::step;

const SIGTERM: i32 = 15;

impl Task {
    /// Creates a container and tells `progress`.
    pub(super) async fn create(
        &mut self,
        config: ContainerConfig,
        progress: watch::Sender<Progress<ContainerId>>,
    ) {
        let started = std::time::Instant::now();
        let outcome = self.try_create(config, &progress).await;
        self.shared.metrics.container_creates.ended(started, &outcome);
        if let Err(error) = &outcome {
            tracing::debug!(error = error.chain(), "container could not be created");
        }
        progress.send_modify(|p| p.outcome = Some(outcome));
    }

    async fn try_create(
        &mut self,
        config: ContainerConfig,
        progress: &watch::Sender<Progress<ContainerId>>,
    ) -> Result<ContainerId> {
        if self.record.phase != Phase::Ready {
            return Err(Error::precondition(format!("sandbox {} is not ready", self.record.id.short())));
        }
        check(&config)?;
        let id = self.new_container_id(&config)?;
        enter(progress, "find the images");
        let image = self.image_of(&config).await?;
        let mut mounted_images = BTreeMap::new();
        for mount in &config.mounts {
            if let MountSource::Image { image, .. } = &mount.source {
                let found = self.shared.images.find(image).await?;
                mounted_images.insert(mount.destination.clone(), found.id.clone());
            }
        }
        let image_ref = image.digests.first().map_or_else(|| image.id.to_string(), ToString::to_string);
        let image_signal = image.config.config().as_ref().and_then(|c| c.stop_signal().clone());
        let record = ContainerRecord {
            id: id.clone(),
            created_at_ns: sys::fs::now_ns(),
            image_id: image.id.clone(),
            image_ref,
            user: Default::default(),
            home: String::new(),
            stop_signal: stop_signal(&config, image_signal.as_deref())?,
            log_path: log_path(&self.record.config.log_directory, &config.log_path)?,
            cgroup_path: self.shared.cgroup_path(&self.record.config.cgroup_parent, id.as_str()),
            mounted_images,
            state: ContainerState::Created,
            start_asked: false,
            oom_kills: 0,
            config,
        };
        self.record.containers.push(record);
        enter(progress, "prepare the root file system");
        let prepared = self.prepare(&id, image).instrument(step!("prepare the root file system"));
        if let Err(error) = prepared.await {
            self.rootfs.remove(&id);
            self.forget_container(&id).await;
            return Err(error);
        }
        self.shared.index_container(&id, &self.record.id);
        self.announce(EventKind::Created, Some(&id));
        Ok(id)
    }

    /// A run of a durable container has that one's id.
    fn new_container_id(&self, config: &ContainerConfig) -> Result<ContainerId> {
        if config.durable != self.record.config.durable {
            return Err(Error::internal("a run's sandbox and container are of different durable containers"));
        }
        if let Some(id) = &config.durable {
            return match self.record.container(id) {
                None => Ok(id.clone()),
                Some(_) => Err(Error::internal(format!("the run of container {} has begun", id.short()))),
            };
        }
        let random = sys::fs::random_bytes().map_err(|error| Error::io("make a container id", error))?;
        Ok(ContainerId::from_random(random))
    }

    /// A durable container names its image by id, and keeps what it needs of it when the image is removed.
    async fn image_of(&self, config: &ContainerConfig) -> Result<crate::model::ImageInfo> {
        match (&config.durable, config.image.parse()) {
            (Some(_), Ok(id)) => self.shared.images.stored(&id),
            _ => self.shared.images.find(&config.image).await,
        }
    }

    /// Writes the intent, prepares, and writes the result: one job.
    async fn prepare(&mut self, id: &ContainerId, image: crate::model::ImageInfo) -> Result<()> {
        let input = self.prepare_input(id, image)?;
        let (mut intent, dir, of) = (self.record.clone(), self.dir.clone(), id.clone());
        let work = move || {
            intent.store(&dir)?;
            let prepared = prepare::prepare(&input)?;
            if let Some(container) = intent.container_mut(&of) {
                container.user = prepared.user.clone();
                container.home.clone_from(&prepared.home);
            }
            intent.store(&dir)?;
            Ok::<_, Error>(prepared)
        };
        let Prepared { rootfs, user, home } = self.shared.blocking.run(Purpose::Lifecycle, work).await??;
        let record = self.container(id)?;
        record.user = user;
        record.home = home;
        self.rootfs.insert(id.clone(), rootfs);
        Ok(())
    }

    /// Removes what a container that could not be made left behind.
    async fn forget_container(&mut self, id: &ContainerId) {
        let (shared, dir, id_of) = (self.shared.clone(), self.container_dir(id), id.clone());
        let is_durable = self.record.config.durable.is_some();
        let work = move || {
            if let Err(error) = sys::fs::remove_tree(&dir) {
                tracing::warn!(%error, "the container's directory could not be removed");
            }
            if is_durable {
                return Ok(());
            }
            shared.storage.remove(&id_of).map(|trash| shared.images.empty(trash))
        };
        if let Ok(Err(error)) = self.shared.blocking.run(Purpose::Lifecycle, work).await {
            tracing::warn!(%error, "the container's snapshot could not be removed");
        }
        self.record.containers.retain(|c| c.id != *id);
        self.persist_or_warn().await;
    }

    pub(super) fn container_dir(&self, id: &ContainerId) -> std::path::PathBuf {
        self.dir.join("containers").join(id)
    }
}

/// Checks that need neither image nor host.
pub(crate) fn check(config: &ContainerConfig) -> Result<()> {
    for mount in &config.mounts {
        let destination = mount.destination.display();
        if !mount.destination.is_absolute() {
            return Err(Error::invalid(format!("mount destination {destination} is not absolute")));
        }
        if mount.destination.components().any(|c| c == Component::ParentDir) {
            return Err(Error::invalid(format!("mount destination {destination} contains \"..\"")));
        }
        if mount.recursive_readonly && !mount.readonly {
            return Err(Error::invalid(format!(
                "mount {destination} asks for recursive read-only without being read-only"
            )));
        }
        if mount.recursive_readonly && mount.propagation != crate::model::Propagation::Private {
            return Err(Error::invalid(format!(
                "mount {destination} asks for recursive read-only, which needs private propagation"
            )));
        }
        if matches!(mount.source, MountSource::Image { .. }) && !mount.readonly {
            return Err(Error::invalid(format!("image mount {destination} must be read-only")));
        }
        if let MountSource::Tmpfs { options } = &mount.source
            && let Some(option) = options.iter().find(|option| option.contains([',', '\0']))
        {
            return Err(Error::invalid(format!("mount {destination} has the malformed option {option:?}")));
        }
        let known = ["noexec", "nodev", "nosuid", "exec", "dev", "suid"];
        if let Some(option) = mount.options.iter().find(|o| !known.contains(&o.as_str())) {
            return Err(Error::invalid(format!("mount {destination} has the unknown option {option:?}")));
        }
    }
    for (name, value) in &config.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains(&0) {
            return Err(Error::invalid(format!("environment variable {name:?} is malformed")));
        }
    }
    Ok(())
}

fn stop_signal(config: &ContainerConfig, of_image: Option<&str>) -> Result<i32> {
    match (config.stop_signal, of_image) {
        (Some(signal), _) => Ok(signal),
        (None, Some(name)) if !name.is_empty() => sys::signal::number(name)
            .ok_or_else(|| Error::invalid(format!("the image's stop signal {name:?} is unknown"))),
        (None, _) => Ok(SIGTERM),
    }
}

/// A log path stays in the sandbox' log directory.
fn log_path(directory: &str, path: &str) -> Result<String> {
    if path.is_empty() || directory.is_empty() {
        return Ok(String::new());
    }
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if !plain || path.len() > 4096 || path.contains('\0') {
        return Err(Error::invalid(format!(
            "log path {:?} is not a plain path below the log directory",
            path.chars().take(120).collect::<String>()
        )));
    }
    Ok(Path::new(directory).join(path).to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_paths_stay_in_their_directory() {
        assert_eq!(log_path("/var/log/pods/a", "c/0.log").unwrap(), "/var/log/pods/a/c/0.log");
        assert_eq!(log_path("", "c/0.log").unwrap(), "");
        for bad in ["../x", "/etc/passwd", "a/../../x", "a\0b", &"a/".repeat(3000)] {
            assert!(log_path("/var/log", bad).is_err(), "{bad:?}");
        }
    }
}
