//! The root file system of a container, as the container has it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::{ContainerId, Digest};

use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::model::{ContainerConfig, ContainerMount, MountSource, UserNamespace};
use crate::sandbox::{LiveContainer, storage_error, to_storage_maps};

/// A container whose files are asked for.
pub(super) struct Subject {
    pub(super) shared: Arc<Shared>,
    pub(super) id: ContainerId,
    pub(super) image: Digest,
    pub(super) config: ContainerConfig,
    pub(super) maps: Option<storage::IdMaps>,
    live: Option<Arc<LiveContainer>>,
}

/// Its root directory.
pub(super) struct View {
    pub(super) root: OwnedFd,
    /// Keeps the mounts of one that does not run.
    _namespace: Option<OwnedFd>,
    /// Says that its volumes are not used any more.
    _volumes: Option<Volumes>,
}

struct Volumes {
    shared: Arc<Shared>,
    user: ContainerId,
}

impl Drop for Volumes {
    fn drop(&mut self) {
        if let Err(error) = self.shared.volumes.unmount(&self.user) {
            tracing::warn!(error = error.chain(), "a volume stays mounted");
        }
    }
}

impl Subject {
    /// A durable container by id or name, or a container of a pod by id.
    pub(super) fn find(engine: &Engine, reference: &str) -> Result<Self> {
        let shared = Arc::clone(engine.shared());
        let maps = |user: Option<&UserNamespace>| user.map(|user| to_storage_maps(&user.maps));
        let durable = match engine.durable(reference) {
            Ok(status) => Some(status),
            Err(error) => {
                if engine.find_container(reference)?.is_none() {
                    return Err(error);
                }
                None
            }
        };
        if let Some(status) = durable {
            return Ok(Self {
                live: engine.live_container(&status.id).ok(),
                shared,
                id: status.id.clone(),
                image: status.image_id.clone(),
                config: status.config.container.clone(),
                maps: maps(status.config.sandbox.namespaces.user.as_ref()),
            });
        }
        let status = engine.container_status(reference)?;
        let sandbox = engine.sandbox_status(status.sandbox.as_str())?;
        Ok(Self {
            live: engine.live_container(&status.id).ok(),
            shared,
            id: status.id,
            image: status.image_id,
            config: status.config,
            maps: maps(sandbox.config.namespaces.user.as_ref()),
        })
    }

    /// Opens its root directory. Blocks.
    pub(super) fn view(&self) -> Result<View> {
        match &self.live {
            Some(live) => self.running(live),
            None => self.mounted(),
        }
    }

    /// Its snapshot: what it wrote, and on what.
    pub(super) fn snapshot(&self) -> Result<storage::Snapshot> {
        let snapshot = self.shared.storage.snapshot(&self.id);
        snapshot
            .ok_or_else(|| Error::precondition(format!("container {} has no file system", self.id.short())))
    }

    /// The root file system alone, without what is mounted in it; read-only. Blocks.
    pub(super) fn bare(&self) -> Result<OwnedFd> {
        let Some(live) = &self.live else {
            let mount = self.mount_snapshot(true)?;
            return readable(mount.as_fd()).map_err(|error| Error::io("open a root file system", error));
        };
        let root = self.running(live)?.root;
        let failed =
            |error| Error::io(format!("copy the root mount of container {}", self.id.short()), error);
        let namespace = sys::ns::open_of(live.pid, sys::ns::Kind::Mount).map_err(failed)?;
        // open_tree(2) copies from the mount namespace of its caller alone.
        let copy = || sys::mount::clone_tree(root.as_fd(), Path::new(""), false);
        let copy = sys::ns::in_mount_namespace(namespace.as_fd(), copy).and_then(|copy| copy);
        copy.and_then(|copy| readable(copy.as_fd())).map_err(failed)
    }

    /// What its root file system lies on: its image. Blocks.
    pub(super) fn base(&self) -> Result<OwnedFd> {
        let what = || format!("mount the image of container {}", self.id.short());
        let base =
            self.shared.storage.base(&self.snapshot()?).map_err(|error| storage_error(what(), error))?;
        readable(base.as_fd()).map_err(|error| Error::io(what(), error))
    }

    fn running(&self, live: &LiveContainer) -> Result<View> {
        let what = || format!("open the root directory of container {}", self.id.short());
        let path = PathBuf::from(format!("/proc/{}/root", live.pid));
        let root = sys::tree::open_root_of_process(&path).map_err(|error| Error::io(what(), error))?;
        // The number was that process' own if it still runs.
        if !sys::pidfd::is_running(live.pidfd.as_fd()).map_err(|error| Error::io(what(), error))? {
            return Err(Error::precondition(format!("container {} has just ended", self.id.short())));
        }
        Ok(View { root, _namespace: None, _volumes: None })
    }

    fn mount_snapshot(&self, readonly: bool) -> Result<OwnedFd> {
        if self.maps.is_some() {
            return Err(Error::unsupported(format!(
                "container {} has a user namespace of its own, in which its files are seen while it runs only; start it",
                self.id.short()
            )));
        }
        let options = storage::MountOptions { readonly, user_namespace: None };
        let mounted = self.shared.storage.mount(&self.snapshot()?, options).map_err(|error| {
            storage_error(format!("mount the root file system of container {}", self.id.short()), error)
        });
        Ok(mounted?.into())
    }

    fn mounted(&self) -> Result<View> {
        let snapshot = self.mount_snapshot(self.config.security.readonly_rootfs)?;
        // Not the container itself: it may start and end meanwhile.
        let random =
            sys::fs::random_bytes().map_err(|error| Error::io("name who looks into volumes", error))?;
        let volumes = Volumes { shared: Arc::clone(&self.shared), user: ContainerId::from_random(random) };
        let mut mounts = self.config.mounts.clone();
        mounts.extend(self.shared.volumes.mount_as(&self.id, &volumes.user)?);
        mounts.sort_by_key(|mount| mount.destination.components().count());
        let mut sources = Vec::new();
        for mount in &mounts {
            if let Some(source) = self.source(mount)? {
                sources.push((mount, source));
            }
        }
        let place = self.shared.config.state.join("view");
        let failed = |error| Error::io(format!("mount the files of container {}", self.id.short()), error);
        sys::fs::ensure_directory(&place, 0o700).map_err(failed)?;
        let work = || {
            sys::mount::attach_at(snapshot.as_fd(), &place)?;
            let root = sys::tree::open_root(&place)?;
            for (mount, source) in &sources {
                let Some(target) = target(&root, &mount.destination, source)? else { continue };
                sys::mount::attach(source.as_fd(), target.as_fd())?;
            }
            Ok(root)
        };
        let (namespace, root) = sys::ns::with_private_mounts(work).map_err(failed)?;
        Ok(View { root, _namespace: Some(namespace), _volumes: Some(volumes) })
    }

    /// What is mounted, attached nowhere yet; nothing for memory, which is empty.
    fn source(&self, mount: &ContainerMount) -> Result<Option<OwnedFd>> {
        match &mount.source {
            MountSource::Host(path) => {
                let (parent, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
                crate::sandbox::mount_within(mount, parent, Path::new(name)).map(Some)
            }
            MountSource::Within { directory, sub_path } => {
                crate::sandbox::mount_within(mount, directory, sub_path).map(Some)
            }
            MountSource::Image { image, sub_path } => {
                let found = self.shared.storage.find_image(image);
                let found = found.map_err(|error| storage_error(format!("find image {image}"), error))?;
                crate::sandbox::view_image(&self.shared, &found.id, mount, sub_path, None).map(Some)
            }
            MountSource::Tmpfs { .. } => Ok(None),
        }
    }
}

/// The root of a mount as a directory that can be read; it keeps the mount.
fn readable(mount: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    use sys::path::OFlags;
    sys::path::open_in_root(mount, Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Where something is mounted; made if it is a directory's place and missing.
fn target(root: &OwnedFd, path: &Path, source: &OwnedFd) -> std::io::Result<Option<OwnedFd>> {
    if sys::tree::stat_fd(source.as_fd())?.kind == sys::tree::Kind::Directory {
        return match sys::path::mkdir_all_in_root(root.as_fd(), path, 0o755) {
            // A read-only root without a place for it.
            Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(None),
            other => other.map(Some),
        };
    }
    match sys::path::open_in_root(root.as_fd(), path, sys::path::OFlags::PATH) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
