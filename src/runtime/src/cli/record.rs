//! What is kept about a container, and what the kernel knows of it.
//!
//! `ROOT/ID/state.json` names the process by id and start time; a record whose process is gone tells of a
//! stopped container. While a container waits to be started its socket `start.sock` is there.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci::runtime::{Spec, State};
use serde::{Deserialize, Serialize};
use sys::cgroup::{Cgroup, Layout};

/// Name of the socket on which a created container waits.
pub(super) const START_SOCKET: &str = "start.sock";

/// The directory given with `--root`.
#[derive(Debug, Clone)]
pub(super) struct Root(PathBuf);

/// A container, as it was created.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Version of this format.
    pub(super) version: u32,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) pid: u32,
    /// With the id it names the process for good.
    pub(super) start_time: u64,
    pub(super) created_ns: i64,
    pub(super) annotations: Option<HashMap<String, String>>,
    pub(super) cgroup: String,
    /// Whether it has a session keyring of its own.
    #[serde(default)]
    pub(super) keyring: bool,
}

/// What a container does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

impl Root {
    pub(super) fn new(path: &Path) -> Root {
        Root(path.to_owned())
    }

    /// The directory of a container, whose id is checked.
    pub(super) fn directory(&self, id: &str) -> Result<PathBuf> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id.is_empty() || id.len() > 255 || id.starts_with('.') || !id.chars().all(fine) {
            bail!("{id:?} is no container id: letters, digits and _+-. only");
        }
        Ok(self.0.join(id))
    }

    /// Makes the directory of a new container.
    pub(super) fn reserve(&self, id: &str) -> Result<PathBuf> {
        let directory = self.directory(id)?;
        sys::fs::ensure_directories(&self.0, 0o700).with_context(|| format!("make {}", self.0.display()))?;
        match std::fs::create_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                bail!("container with id {id} exists already")
            }
            other => other.with_context(|| format!("make {}", directory.display()))?,
        }
        Ok(directory)
    }

    pub(super) fn load(&self, id: &str) -> Result<Record> {
        let path = self.directory(id)?.join("state.json");
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("container {id} does not exist")
            }
            other => other.with_context(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }

    pub(super) fn all(&self) -> Result<Vec<Record>> {
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("list {}", self.0.display()))?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let name = entry.with_context(|| format!("list {}", self.0.display()))?.file_name();
            // One that is just being created or deleted has no record.
            records.extend(name.to_str().and_then(|id| self.load(id).ok()));
        }
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }

    pub(super) fn save(&self, record: &Record, spec: &Spec) -> Result<()> {
        let directory = self.directory(&record.id)?;
        for (name, content) in
            [("config.json", serde_json::to_vec(spec)?), ("state.json", serde_json::to_vec(record)?)]
        {
            let path = directory.join(name);
            sys::fs::write_volatile(&path, &content, 0o600)
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// The specification the container was created with, whatever has become of the bundle.
    pub(super) fn spec(&self, id: &str) -> Result<Spec> {
        read_spec(&self.directory(id)?.join("config.json"))
    }

    pub(super) fn forget(&self, id: &str) -> Result<()> {
        let directory = self.directory(id)?;
        sys::fs::remove_tree(&directory).with_context(|| format!("remove {}", directory.display()))
    }

    pub(super) fn start_socket(&self, id: &str) -> Result<PathBuf> {
        Ok(self.directory(id)?.join(START_SOCKET))
    }

    pub(super) fn status(&self, record: &Record) -> Result<Status> {
        if record.process()?.is_none() {
            return Ok(Status::Stopped);
        }
        if self.start_socket(&record.id)?.try_exists().unwrap_or(false) {
            return Ok(Status::Created);
        }
        Ok(if record.is_frozen() { Status::Paused } else { Status::Running })
    }

    /// The state as the specification wants it, with what runc adds.
    pub(super) fn state(&self, record: &Record) -> Result<serde_json::Value> {
        let status = self.status(record)?;
        let mut state = serde_json::to_value(self.hook_state(record, status.word()))?;
        if let Some(object) = state.as_object_mut() {
            object.insert("status".into(), status.word().into());
            object.insert("pid".into(), if status == Status::Stopped { 0.into() } else { record.pid.into() });
            object.insert("rootfs".into(), record.rootfs.to_string_lossy().into());
            object.insert("created".into(), timestamp(record.created_ns).into());
            object.insert("owner".into(), "".into());
        }
        Ok(state)
    }

    /// The state a hook reads.
    pub(super) fn hook_state(&self, record: &Record, status: &str) -> serde_json::Value {
        let mut state = serde_json::to_value(State::default()).unwrap_or_default();
        if let Some(object) = state.as_object_mut() {
            object.insert("ociVersion".into(), "1.2.1".into());
            object.insert("id".into(), record.id.as_str().into());
            object.insert("status".into(), status.into());
            object.insert("pid".into(), record.pid.into());
            object.insert("bundle".into(), record.bundle.to_string_lossy().into());
            object.insert(
                "annotations".into(),
                serde_json::json!(record.annotations.clone().unwrap_or_default()),
            );
        }
        state
    }
}

impl Record {
    /// The name of the container's session keyring.
    pub(super) fn keyring_name(id: &str) -> String {
        format!("_ses.{id}")
    }

    /// The process, if it still is the one that was created and has not ended.
    pub(super) fn process(&self) -> Result<Option<OwnedFd>> {
        let pidfd = match sys::pidfd::open(self.pid) {
            Ok(pidfd) => pidfd,
            Err(_) => return Ok(None),
        };
        if sys::pidfd::start_time(self.pid).ok() != Some(self.start_time) {
            return Ok(None);
        }
        use std::os::fd::AsFd;
        let runs = sys::pidfd::is_running(pidfd.as_fd()).context("ask for the state of the process")?;
        Ok(runs.then_some(pidfd))
    }

    /// The process, which must be there.
    pub(super) fn running(&self) -> Result<OwnedFd> {
        self.process()?.with_context(|| format!("container {} does not run", self.id))
    }

    pub(super) fn group(&self) -> Result<Cgroup> {
        layout()?.open(&self.cgroup).context("find the cgroup")
    }

    fn is_frozen(&self) -> bool {
        let Ok(group) = self.group() else { return false };
        group.dirs().iter().any(|directory| {
            let reads = |file: &str, value: &str| {
                std::fs::read_to_string(directory.join(file)).is_ok_and(|text| text.trim() == value)
            };
            reads("freezer.state", "FROZEN") || reads("cgroup.freeze", "1")
        })
    }
}

pub(super) fn layout() -> Result<Layout> {
    Layout::detect(Path::new("/sys/fs/cgroup"), Path::new("/proc")).context("look for cgroups")
}

pub(super) fn read_spec(path: &Path) -> Result<Spec> {
    serde_json::from_value(read_json(path)?).with_context(|| format!("parse {}", path.display()))
}

/// A specification of a caller: what is not honoured is refused, what is unknown is told.
pub(super) fn read_new_spec(path: &Path) -> Result<Spec> {
    let parse = || format!("parse {}", path.display());
    let mut json = read_json(path)?;
    runtime::correct_names(&mut json);
    let unknown = runtime::check_members(&json).with_context(|| format!("check {}", path.display()))?;
    tell_unknown(path, &unknown);
    serde_json::from_value(json).with_context(parse)
}

/// Warns of members that the specification of the runtime does not know; it wants them ignored.
pub(super) fn tell_unknown(path: &Path, unknown: &[String]) {
    if !unknown.is_empty() {
        eprintln!("berth-runtime: warning: {}: ignored: {}", path.display(), unknown.join(", "));
    }
}

pub(super) fn read_json(path: &Path) -> Result<serde_json::Value> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    serde_json::from_reader(std::io::BufReader::new(file))
        .with_context(|| format!("parse {}", path.display()))
}

/// RFC 3339 in UTC.
pub(super) fn timestamp(ns: i64) -> String {
    let (seconds, fraction) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 1 March of year 0, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(timestamp(1_767_225_599_000_000_000), "2025-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn ids_cannot_leave_the_root() {
        let root = Root::new(Path::new("/run/x"));
        for id in ["", "..", ".", "a/b", "../x", "a\0b", ".hidden"] {
            root.directory(id).unwrap_err();
        }
        assert_eq!(root.directory("a-b_c.1+").unwrap(), Path::new("/run/x/a-b_c.1+"));
    }
}
