//! Volumes: directories that outlive containers, and what durable containers are given of files.
//!
//! ```text
//! <root>/volumes/<name>/volume.json   what was asked for; without it there is no volume
//! <root>/volumes/<name>/_data         its files, or where they are mounted
//! <root>/containers/<id>/mounts.json  what a container is given, found once and the same in all its runs
//! ```
//!
//! Who uses a volume says the second kind of record: it is written before a container's creation is told, and goes
//! with the container. A volume's *gate* is held while it is made, removed, mounted or given to a container, so that
//! none of these meets another; a server that does not answer holds up its own volume alone.

mod engine;
mod local;
mod mount;
mod plugin;
mod problem;
mod record;
mod resolve;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::ContainerId;

pub(crate) use engine::{give_volumes, mount_volumes, release_volumes, resume_volumes, unmount_volumes};
pub use problem::VolumeProblem;
use record::VolumeRecord;

use crate::error::{Error, Result};
use crate::model::{LOCAL_DRIVER, ResolvedMount, ResolvedSource, VolumeConfig, VolumeStatus};

pub(crate) use resolve::GiveRequest;

/// Names are file names.
const MAX_NAME: usize = 255;

/// All volumes, and who uses them. Its calls block.
#[derive(Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    containers: PathBuf,
    plugins: plugin::Directories,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    volumes: BTreeMap<String, VolumeRecord>,
    /// What each container is given.
    given: HashMap<ContainerId, Arc<Vec<ResolvedMount>>>,
    /// Containers that volumes are being given to.
    giving: HashMap<ContainerId, BTreeSet<String>>,
    /// Containers for which each volume is mounted.
    mounted: HashMap<String, BTreeSet<ContainerId>>,
    /// Where plugins have mounted volumes.
    places: HashMap<String, PathBuf>,
    gates: HashMap<String, Arc<Mutex<()>>>,
}

impl Volumes {
    /// Reads what there is below `root`, and sweeps what was not made or not removed to the end.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let containers = root.join("containers");
        let root = root.join("volumes");
        let failed = |path: &Path, error| Error::io(format!("read {}", path.display()), error);
        for (dir, mode) in [(&root, 0o711), (&containers, 0o700)] {
            sys::fs::ensure_directory(dir, mode).map_err(|error| failed(dir, error))?;
        }
        let mut state = State::default();
        for path in entries(&root).map_err(|error| failed(&root, error))? {
            match VolumeRecord::read(&path) {
                Ok(Some(record)) => drop(state.volumes.insert(record.name.clone(), record)),
                Ok(None) => {
                    tracing::info!(path = %path.display(), "a volume that was not made or not removed to the end is removed");
                    if let Err(error) = sys::fs::remove_tree(&path) {
                        tracing::warn!(path = %path.display(), %error, "it could not be removed");
                    }
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the record of a volume cannot be read; it is not served, and its files stay");
                }
            }
        }
        for path in entries(&containers).map_err(|error| failed(&containers, error))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(id) = name.parse::<ContainerId>() else { continue };
            match record::read_mounts(&path) {
                Ok(Some(mounts)) => drop(state.given.insert(id, Arc::new(mounts))),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(container = %id, %error, "what a container is given of files cannot be read; it cannot be started");
                }
            }
        }
        let plugins = plugin::Directories::default();
        Ok(Self { root, containers, plugins, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock under which a volume of this name is made, removed, mounted or given away.
    fn gate(&self, name: &str) -> Arc<Mutex<()>> {
        let mut state = self.state();
        // Nobody else holds or waits for a gate that only the map has.
        state.gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        Arc::clone(state.gates.entry(name.to_owned()).or_default())
    }

    /// Makes a volume; one of this name and driver is the one. Tells whether it was made.
    pub(super) fn create(&self, config: &VolumeConfig) -> Result<(VolumeRecord, bool)> {
        let mut record = self.record_of(config)?;
        let gate = self.gate(&record.name);
        let _held = gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.ensure(&mut record)
    }

    /// The record that a request stands for, if it can be one.
    fn record_of(&self, config: &VolumeConfig) -> Result<VolumeRecord> {
        let what = || format!("make volume {:?}", config.name);
        let driver = if config.driver.is_empty() { LOCAL_DRIVER } else { &config.driver };
        let anonymous = config.name.is_empty();
        let name = if anonymous { random_name()? } else { config.name.clone() };
        check_name(&name).map_err(|problem| problem.error(what()))?;
        if driver == LOCAL_DRIVER {
            local::parse(&config.options).map_err(|problem| problem.error(what()))?;
        }
        let mut record = VolumeRecord::new(name, driver.to_owned());
        record.options.clone_from(&config.options);
        record.labels.clone_from(&config.labels);
        record.anonymous = anonymous;
        Ok(record)
    }

    /// Makes the volume unless it is there. Its gate is held.
    fn ensure(&self, record: &mut VolumeRecord) -> Result<(VolumeRecord, bool)> {
        if let Some(known) = self.state().volumes.get(&record.name) {
            if known.driver != record.driver {
                let problem =
                    VolumeProblem::OtherDriver { name: known.name.clone(), driver: known.driver.clone() };
                return Err(problem.error(format!("make volume {}", known.name)));
            }
            return Ok((known.clone(), false));
        }
        if record.driver != LOCAL_DRIVER {
            let driver = plugin::Driver::find(&self.plugins, &record.driver)?;
            driver.create(&record.name, &record.options)?;
            record.scope = driver.scope();
        }
        record
            .create(&self.root)
            .map_err(|error| Error::io(format!("make volume {}", record.name), error))?;
        self.state().volumes.insert(record.name.clone(), record.clone());
        Ok((record.clone(), true))
    }

    /// Removes a volume that no container uses.
    pub(super) fn remove(&self, name: &str) -> Result<VolumeRecord> {
        let what = || format!("remove volume {name}");
        let gate = self.gate(name);
        let _held = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let record = {
            let state = self.state();
            let record = state.volumes.get(name).cloned();
            let record = record.ok_or_else(|| VolumeProblem::NotFound(name.to_owned()).error(what()))?;
            let containers = state.users(name);
            if !containers.is_empty() {
                let name = name.to_owned();
                return Err(VolumeProblem::InUse { name, containers }.error(what()));
            }
            record
        };
        if record.driver == LOCAL_DRIVER {
            self.unmount_stray(name)?;
        } else {
            plugin::Driver::find(&self.plugins, &record.driver)?.remove(name)?;
        }
        VolumeRecord::remove(&self.root, name).map_err(|error| Error::io(what(), error))?;
        self.state().volumes.remove(name);
        Ok(record)
    }

    pub(super) fn get(&self, name: &str) -> Option<VolumeStatus> {
        let state = self.state();
        state.volumes.get(name).map(|record| self.status(&state, record))
    }

    pub(super) fn list(&self) -> Vec<VolumeStatus> {
        let state = self.state();
        state.volumes.values().map(|record| self.status(&state, record)).collect()
    }

    /// What a container is given; nothing if it was given nothing.
    pub(crate) fn given(&self, id: &ContainerId) -> Arc<Vec<ResolvedMount>> {
        self.state().given.get(id).cloned().unwrap_or_default()
    }

    fn status(&self, state: &State, record: &VolumeRecord) -> VolumeStatus {
        VolumeStatus {
            name: record.name.clone(),
            driver: record.driver.clone(),
            mountpoint: match record.driver == LOCAL_DRIVER {
                true => record::data(&self.root, &record.name),
                false => state.places.get(&record.name).cloned().unwrap_or_default(),
            },
            created_at_ns: record.created_at_ns,
            options: record.options.clone(),
            labels: record.labels.clone(),
            anonymous: record.anonymous,
            scope: record.scope,
            containers: state.users(&record.name),
        }
    }
}

impl State {
    /// Ids of the containers that use a volume, or are about to.
    fn users(&self, name: &str) -> Vec<String> {
        let uses = |mount: &ResolvedMount| matches!(&mount.source, ResolvedSource::Volume { name: used, .. } if used == name);
        let given = self.given.iter().filter(|(_, mounts)| mounts.iter().any(uses)).map(|(id, _)| id);
        let giving = self.giving.iter().filter(|(_, names)| names.contains(name)).map(|(id, _)| id);
        let mounted = self.mounted.get(name).into_iter().flatten();
        let all: BTreeSet<&ContainerId> = given.chain(giving).chain(mounted).collect();
        all.into_iter().map(ToString::to_string).collect()
    }
}

fn entries(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

fn random_name() -> Result<String> {
    let bytes = sys::fs::random_bytes::<32>().map_err(|error| Error::io("name a volume", error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn check_name(name: &str) -> std::result::Result<(), VolumeProblem> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if starts_well && (2..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) {
        Ok(())
    } else {
        Err(VolumeProblem::BadName(name.chars().take(300).collect()))
    }
}
