//! Volumes that are file systems of their own: mounted for the first container, unmounted after the last.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use oci::ContainerId;

use super::record::VolumeRecord;
use super::{VolumeProblem, Volumes, local, plugin, record};
use crate::error::{Error, Result};
use crate::model::{
    BindSource, ContainerMount, LOCAL_DRIVER, MountSource, Propagation, ResolvedMount, ResolvedSource,
};

impl Volumes {
    /// Makes what a container is given usable, and tells how it is mounted in a run. What was mounted stays until
    /// [`Volumes::unmount`], also when this fails half-way.
    pub(crate) fn mount(&self, id: &ContainerId) -> Result<Vec<ContainerMount>> {
        self.mount_as(id, id)
    }

    /// The same for somebody else, who says when it is not used any more.
    pub(crate) fn mount_as(&self, id: &ContainerId, user: &ContainerId) -> Result<Vec<ContainerMount>> {
        self.given(id).iter().map(|given| self.mount_one(user, given)).collect()
    }

    fn mount_one(&self, id: &ContainerId, given: &ResolvedMount) -> Result<ContainerMount> {
        let mut mount = ContainerMount {
            destination: given.destination.clone(),
            source: MountSource::Tmpfs { options: Vec::new() },
            readonly: given.readonly,
            recursive_readonly: false,
            non_recursive: false,
            propagation: Propagation::Private,
            id_maps: None,
            selinux_relabel: given.selinux_relabel,
            options: Vec::new(),
        };
        mount.source = match &given.source {
            ResolvedSource::Volume { name, sub_path, .. } => {
                let data = self.mount_volume(id, name)?;
                match sub_path.is_empty() {
                    true => MountSource::Host(data),
                    false => MountSource::Within { directory: data, sub_path: sub_path.into() },
                }
            }
            ResolvedSource::Bind(bind) => {
                mount.propagation = bind.propagation;
                mount.non_recursive = bind.non_recursive;
                mount.recursive_readonly = given.readonly
                    && bind.recursive_readonly
                    && !bind.non_recursive
                    && bind.propagation == Propagation::Private;
                check_bind(bind)?;
                MountSource::Host(bind.path.clone())
            }
            ResolvedSource::Tmpfs { size_bytes, mode, options } => {
                MountSource::Tmpfs { options: tmpfs_options(*size_bytes, *mode, options) }
            }
            ResolvedSource::Image { reference, sub_path } => {
                mount.readonly = true;
                MountSource::Image { image: reference.clone(), sub_path: sub_path.clone() }
            }
        };
        Ok(mount)
    }

    /// Mounts a volume for a container, if it is to be mounted and is not; where its files are.
    pub(super) fn mount_volume(&self, id: &ContainerId, name: &str) -> Result<PathBuf> {
        let what = || format!("mount volume {name}");
        let gate = self.gate(name);
        let _held = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.state().volumes.get(name).cloned();
        let record = record.ok_or_else(|| VolumeProblem::NotFound(name.to_owned()).error(what()))?;
        if record.driver != LOCAL_DRIVER {
            return self.mount_by_plugin(id, &record);
        }
        let data = record::data(&self.root, name);
        let mounted = local::parse(&record.options).map_err(|problem| problem.error(what()))?;
        let Some(mounted) = mounted else { return Ok(data) };
        if !is_mounted(&data)? {
            mounted.mount(name, &data)?;
            tracing::info!(volume = name, "volume mounted");
        }
        self.state().mounted.entry(name.to_owned()).or_default().insert(id.clone());
        Ok(data)
    }

    /// Has a plugin mount a volume. Each user is told to it once.
    fn mount_by_plugin(&self, id: &ContainerId, record: &VolumeRecord) -> Result<PathBuf> {
        let name = &record.name;
        let known = {
            let state = self.state();
            let uses = state.mounted.get(name).is_some_and(|users| users.contains(id));
            state.places.get(name).filter(|_| uses).cloned()
        };
        if let Some(place) = known {
            return Ok(place);
        }
        let place = plugin::Driver::find(&self.plugins, &record.driver)?.mount(name, id.as_str())?;
        let mut state = self.state();
        state.mounted.entry(name.clone()).or_default().insert(id.clone());
        state.places.insert(name.clone(), place.clone());
        Ok(place)
    }

    /// Says that a container does not run any more: what was mounted for it alone is unmounted.
    pub(crate) fn unmount(&self, id: &ContainerId) -> Result<()> {
        let names: Vec<String> = {
            let state = self.state();
            state
                .mounted
                .iter()
                .filter(|(_, users)| users.contains(id))
                .map(|(name, _)| name.clone())
                .collect()
        };
        let mut outcome = Ok(());
        for name in names {
            outcome = outcome.and(self.unmount_volume(id, &name));
        }
        outcome
    }

    fn unmount_volume(&self, id: &ContainerId, name: &str) -> Result<()> {
        let gate = self.gate(name);
        let _held = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let driver = self.state().volumes.get(name).map(|record| record.driver.clone());
        let plugin = driver.filter(|driver| driver != LOCAL_DRIVER);
        if let Some(driver) = &plugin {
            // It stays a user until the plugin knows that it is none: a failure can be tried again.
            plugin::Driver::find(&self.plugins, driver)?.unmount(name, id.as_str())?;
        }
        {
            let mut state = self.state();
            let Some(users) = state.mounted.get_mut(name) else { return Ok(()) };
            users.remove(id);
            if !users.is_empty() {
                return Ok(());
            }
            state.mounted.remove(name);
            state.places.remove(name);
        }
        if plugin.is_some() { Ok(()) } else { self.unmount_stray(name) }
    }

    /// Unmounts whatever is mounted where a volume's files are. Its gate is held, and nobody uses it.
    pub(super) fn unmount_stray(&self, name: &str) -> Result<()> {
        let data = record::data(&self.root, name);
        while is_mounted(&data)? {
            sys::mount::umount_detach(&data)
                .map_err(|error| Error::io(format!("unmount volume {name}"), error))?;
        }
        Ok(())
    }

    /// After a start of the daemon: `running` containers have their volumes mounted; what else is mounted is left
    /// over, and unmounted.
    pub(crate) fn resume(&self, running: &BTreeSet<ContainerId>) {
        let names: Vec<String> = {
            let mut state = self.state();
            for id in running {
                let Some(given) = state.given.get(id).cloned() else { continue };
                for mount in given.iter() {
                    let ResolvedSource::Volume { name, .. } = &mount.source else { continue };
                    let counted = |v: &VolumeRecord| !v.options.is_empty() || v.driver != LOCAL_DRIVER;
                    let has_options = state.volumes.get(name).is_some_and(counted);
                    if has_options {
                        state.mounted.entry(name.clone()).or_default().insert(id.clone());
                    }
                }
            }
            let unused = |name: &&String| !state.mounted.contains_key(*name);
            let mountable =
                |record: &VolumeRecord| !record.options.is_empty() && record.driver == LOCAL_DRIVER;
            let with_options = state.volumes.iter().filter(|(_, record)| mountable(record));
            with_options.map(|(name, _)| name).filter(unused).cloned().collect()
        };
        for name in names {
            if let Err(error) = self.unmount_stray(&name) {
                tracing::warn!(
                    volume = name,
                    error = error.chain(),
                    "a volume that nobody uses stays mounted"
                );
            }
        }
    }
}

/// Makes the source of a bind, or says that it is missing.
pub(super) fn check_bind(bind: &BindSource) -> Result<()> {
    let what = || format!("bind {}", bind.path.display());
    if !bind.path.is_absolute() {
        return Err(Error::invalid(format!("bind source {} is not absolute", bind.path.display())));
    }
    match std::fs::metadata(&bind.path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && bind.create => {
            std::fs::create_dir_all(&bind.path).map_err(|error| Error::io(what(), error))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(VolumeProblem::NoSource(bind.path.clone()).error(what()))
        }
        Err(error) => Err(Error::io(what(), error)),
    }
}

fn tmpfs_options(size_bytes: Option<u64>, mode: Option<u32>, options: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    all.extend(size_bytes.map(|size| format!("size={size}")));
    all.extend(mode.map(|mode| format!("mode={mode:o}")));
    all.extend(options.iter().cloned());
    all
}

fn is_mounted(path: &Path) -> Result<bool> {
    let table = sys::proc::MountInfo::read(Path::new("/proc/self/mountinfo"))
        .map_err(|error| Error::io("read the mount table", error))?;
    // The table has paths without links.
    let real = match std::fs::canonicalize(path.parent().unwrap_or(path)) {
        Ok(parent) => parent.join(path.file_name().unwrap_or_default()),
        Err(_) => path.to_owned(),
    };
    Ok(table.iter().any(|mount| mount.mount_point == real))
}
