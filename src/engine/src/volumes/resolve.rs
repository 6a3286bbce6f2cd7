//! Giving a container its files: volumes are made and filled, names found, and all of it written down.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, PoisonError};

use oci::{ContainerId, Digest};

use super::mount::check_bind;
use super::record::VolumeRecord;
use super::{Volumes, record};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{LOCAL_DRIVER, ResolvedMount, ResolvedSource, VolumeConfig, VolumeMount, VolumeSource};
use crate::sandbox::storage_error;

/// Who is given what.
#[derive(Debug)]
pub(crate) struct GiveRequest<'a> {
    pub(crate) container: &'a ContainerId,
    /// Its image: empty volumes are filled with what it has in their place.
    pub(crate) image: &'a Digest,
    /// The maps of its user namespace, if it has one of its own: new volumes are owned accordingly.
    pub(crate) maps: Option<&'a storage::IdMaps>,
    /// What was asked for; a later mount replaces an earlier one at the same place.
    pub(crate) mounts: &'a [VolumeMount],
    /// Where the image says that data is kept: an anonymous volume each, unless something else is asked for there.
    pub(crate) image_volumes: &'a [String],
}

/// What was made on the way.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) mounts: Vec<ResolvedMount>,
    /// Volumes that were made.
    pub(crate) made: Vec<VolumeRecord>,
}

impl Volumes {
    /// Gives a container its files. Done already, it is told what it has. A failure gives it nothing, and removes the
    /// anonymous volumes that were made for it.
    pub(crate) fn give(&self, store: &storage::Store, request: &GiveRequest<'_>) -> Result<Given> {
        let id = request.container;
        if let Some(known) = self.state().given.get(id) {
            return Ok(Given { mounts: known.as_ref().clone(), made: Vec::new() });
        }
        let mut given = Given::default();
        let outcome = self.find_all(store, request, &mut given).and_then(|()| {
            record::write_mounts(&self.containers, id, &given.mounts)
                .map_err(|error| Error::io(format!("write what container {} is given", id.short()), error))
        });
        {
            let mut state = self.state();
            state.giving.remove(id);
            if outcome.is_ok() {
                state.given.insert(id.clone(), Arc::new(given.mounts.clone()));
            }
        }
        if let Err(error) = outcome {
            for mount in &given.mounts {
                if let ResolvedSource::Volume { name, own: true, .. } = &mount.source
                    && let Err(error) = self.remove(name)
                {
                    tracing::warn!(volume = name, error = error.chain(), "an anonymous volume stays");
                }
            }
            return Err(error);
        }
        Ok(given)
    }

    /// Takes back what a container was given: `own` removes the anonymous volumes that were made for it, which
    /// are told.
    pub(crate) fn take_back(&self, id: &ContainerId, own: bool) -> Result<Vec<VolumeRecord>> {
        let mut outcome = self.unmount(id);
        let given = self.state().given.remove(id).unwrap_or_default();
        let mut removed = Vec::new();
        for mount in given.iter().filter(|_| own) {
            let ResolvedSource::Volume { name, own: true, .. } = &mount.source else { continue };
            match self.remove(name) {
                Ok(record) => removed.push(record),
                // Another container was given it from this one; or somebody was faster.
                Err(error) if matches!(error.kind(), ErrorKind::FailedPrecondition | ErrorKind::NotFound) => {
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome.map(|()| removed)
    }

    fn find_all(&self, store: &storage::Store, request: &GiveRequest<'_>, given: &mut Given) -> Result<()> {
        let image_mount = VolumeMount::default();
        let mut asked: BTreeMap<PathBuf, Asked<'_>> = BTreeMap::new();
        for mount in request.mounts {
            if let VolumeSource::Container { id, readonly } = &mount.source {
                let other: ContainerId = id.parse().map_err(|error| {
                    Error::caused_by(ErrorKind::InvalidArgument, "take volumes from a container", error)
                })?;
                for mut shared in self.given(&other).iter().cloned() {
                    shared.readonly |= *readonly || mount.readonly;
                    if let ResolvedSource::Volume { own, .. } = &mut shared.source {
                        *own = false;
                    }
                    asked.insert(shared.destination.clone(), Asked::Shared(shared));
                }
                continue;
            }
            let destination = checked_destination(&mount.destination)?;
            asked.insert(destination, Asked::New(mount));
        }
        for place in request.image_volumes {
            let destination = checked_destination(Path::new(place))?;
            asked.entry(destination).or_insert(Asked::New(&image_mount));
        }
        let mut view = View { store, image: request.image, mounted: None };
        for (destination, asked) in asked {
            match asked {
                Asked::Shared(shared) => {
                    if let ResolvedSource::Volume { name, .. } = &shared.source {
                        self.claim(request.container, name);
                    }
                    given.mounts.push(shared);
                }
                Asked::New(mount) => self.find(request, mount, destination, &mut view, given)?,
            }
        }
        Ok(())
    }

    fn find(
        &self,
        request: &GiveRequest<'_>,
        mount: &VolumeMount,
        destination: PathBuf,
        view: &mut View<'_>,
        given: &mut Given,
    ) -> Result<()> {
        let mut resolved = ResolvedMount {
            destination,
            source: ResolvedSource::Tmpfs { size_bytes: None, mode: None, options: Vec::new() },
            readonly: mount.readonly,
            selinux_relabel: mount.selinux_relabel,
        };
        resolved.source = match &mount.source {
            VolumeSource::Volume { .. } => return self.find_volume(request, mount, resolved, view, given),
            VolumeSource::Bind(bind) => {
                check_bind(bind)?;
                ResolvedSource::Bind(bind.clone())
            }
            VolumeSource::Tmpfs { size_bytes, mode, options } => {
                ResolvedSource::Tmpfs { size_bytes: *size_bytes, mode: *mode, options: options.clone() }
            }
            VolumeSource::Image { reference, sub_path } => {
                view.store
                    .find_image(reference)
                    .map_err(|error| storage_error(format!("find image {reference} to mount"), error))?;
                resolved.readonly = true;
                ResolvedSource::Image { reference: reference.clone(), sub_path: sub_path.clone() }
            }
            VolumeSource::Container { .. } => {
                return Err(Error::internal("a container's mounts were not found"));
            }
        };
        given.mounts.push(resolved);
        Ok(())
    }

    fn find_volume(
        &self,
        request: &GiveRequest<'_>,
        mount: &VolumeMount,
        mut resolved: ResolvedMount,
        view: &mut View<'_>,
        given: &mut Given,
    ) -> Result<()> {
        let VolumeSource::Volume { name, driver, options, labels, sub_path, nocopy } = &mount.source else {
            return Err(Error::internal("not a volume"));
        };
        checked_sub_path(sub_path)?;
        // An existing volume is used whatever its driver, unless one is asked for.
        let known = self.get(name).filter(|_| driver.is_empty()).map(|known| known.driver);
        let config = VolumeConfig {
            name: name.clone(),
            driver: known.unwrap_or_else(|| driver.clone()),
            options: options.clone(),
            labels: labels.clone(),
        };
        let mut record = self.record_of(&config)?;
        let (record, made) = {
            let gate = self.gate(&record.name);
            let _held = gate.lock().unwrap_or_else(PoisonError::into_inner);
            let ensured = self.ensure(&mut record)?;
            self.claim(request.container, &record.name);
            ensured
        };
        if made {
            given.made.push(record.clone());
        }
        resolved.source = ResolvedSource::Volume {
            name: record.name.clone(),
            driver: record.driver.clone(),
            sub_path: sub_path.clone(),
            own: record.anonymous && made,
        };
        let destination = resolved.destination.clone();
        // From here on a failure removes what was made.
        given.mounts.push(resolved);
        if !*nocopy && sub_path.is_empty() && record.driver == LOCAL_DRIVER {
            self.fill(request, &Filling { name: &record.name, destination: &destination, made }, view)?;
        }
        Ok(())
    }

    /// Says that a container is about to use a volume, so that nobody removes it.
    fn claim(&self, id: &ContainerId, name: &str) {
        self.state().giving.entry(id.clone()).or_default().insert(name.to_owned());
    }

    /// Fills an empty volume with what the image has in its place.
    fn fill(&self, request: &GiveRequest<'_>, filling: &Filling<'_>, view: &mut View<'_>) -> Result<()> {
        let data = self.mount_volume(request.container, filling.name)?;
        let filled = self.fill_mounted(request, filling, &data, view);
        // What is mounted by now is this volume, if any.
        filled.and(self.unmount(request.container))
    }

    fn fill_mounted(
        &self,
        request: &GiveRequest<'_>,
        filling: &Filling<'_>,
        data: &Path,
        view: &mut View<'_>,
    ) -> Result<()> {
        let Filling { name, destination, made } = *filling;
        let failed = |error| {
            let place = destination.display();
            Error::io(format!("fill volume {name} with what the image has at {place}"), error)
        };
        // Two containers may be made at once: one of them fills it.
        let gate = self.gate(name);
        let _held = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let target = sys::tree::open_root(data).map_err(failed)?;
        if !sys::tree::list(target.as_fd()).map_err(failed)?.is_empty() {
            return Ok(());
        }
        let owner = |uid, gid| request.maps.map_or((uid, gid), |maps| maps.outside(uid, gid));
        let Some(source) = view.directory(destination)? else {
            if made && request.maps.is_some() {
                let (uid, gid) = owner(0, 0);
                sys::tree::set_owner_fd(target.as_fd(), uid, gid).map_err(failed)?;
            }
            return Ok(());
        };
        sys::tree::copy_contents(source.as_fd(), target.as_fd(), &owner).map_err(failed)?;
        sys::tree::sync_file_system(target.as_fd()).map_err(failed)
    }
}

/// A volume that is to be filled.
struct Filling<'a> {
    name: &'a str,
    destination: &'a Path,
    made: bool,
}

enum Asked<'a> {
    New(&'a VolumeMount),
    Shared(ResolvedMount),
}

/// The image's files, mounted when they are looked into first.
struct View<'a> {
    store: &'a storage::Store,
    image: &'a Digest,
    mounted: Option<OwnedFd>,
}

impl View<'_> {
    /// The directory at a path of the image, if there is one. Links stay within the image.
    fn directory(&mut self, path: &Path) -> Result<Option<OwnedFd>> {
        let root = match &self.mounted {
            Some(root) => root,
            None => {
                let view = self.store.view(self.image, storage::ViewOptions::default());
                let view =
                    view.map_err(|error| storage_error(format!("look into image {}", self.image), error))?;
                self.mounted.insert(view.into())
            }
        };
        use sys::path::OFlags;
        match sys::path::open_in_root(root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(found) => Ok(Some(found)),
            Err(error) => match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(Error::io(format!("look into image {} at {}", self.image, path.display()), error)),
            },
        }
    }
}

/// A destination without `.` and needless slashes.
fn checked_destination(path: &Path) -> Result<PathBuf> {
    let text = path.display();
    if !path.is_absolute() {
        return Err(Error::invalid(format!("mount destination {text} is not absolute")));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(format!("mount destination {text} contains \"..\"")));
    }
    let clean: PathBuf = path.components().collect();
    if clean == Path::new("/") {
        return Err(Error::invalid("mount destination / is the container's root"));
    }
    Ok(clean)
}

fn checked_sub_path(path: &str) -> Result<()> {
    let bad = |part: Component<'_>| !matches!(part, Component::Normal(_) | Component::CurDir);
    if Path::new(path).components().any(bad) {
        return Err(Error::invalid(format!(
            "sub path {path:?} of a volume is not relative, or contains \"..\""
        )));
    }
    Ok(())
}
