//! What is written about a sandbox, so that a daemon that starts again knows what it owns.
//!
//! One file per sandbox below the state directory, replaced as a whole by the task that owns the sandbox:
//! with the intent before an effect, and with the result after it. The state directory dies with the boot,
//! so nothing is synced; the boot id in each record tells a stale one apart where it did survive.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use oci::{ContainerId, Digest, SandboxId};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{
    BoundPort, ContainerConfig, ContainerState, EndpointStatus, IpAddress, ResolvedUser, SandboxConfig,
};

/// Version of the form below.
pub(crate) const VERSION: u32 = 1;

/// Largest record that is read.
const MAX_BYTES: u64 = 64 << 20;

/// How far a sandbox got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Kernel objects of it may exist.
    Starting,
    /// It is up.
    Ready,
    /// It is being taken down: kernel objects of it may exist.
    Stopping,
    /// It is down; nothing of it is left in the kernel.
    Stopped,
}

/// A sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) version: u32,
    pub(crate) boot_id: String,
    pub(crate) id: SandboxId,
    pub(crate) config: SandboxConfig,
    pub(crate) phase: Phase,
    pub(crate) created_at_ns: i64,
    /// The host name its containers see.
    pub(crate) hostname: String,
    /// Whether it has namespaces of its own, which the keeper holds under its id.
    pub(crate) has_namespaces: bool,
    /// Name of the network it is, or may be, attached to.
    #[serde(default)]
    pub(crate) network: Option<String>,
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddress>,
    /// Attachments to user networks that are, or may be, made.
    #[serde(default)]
    pub(crate) endpoints: Vec<EndpointStatus>,
    #[serde(default)]
    pub(crate) bound_ports: Vec<BoundPort>,
    #[serde(default)]
    pub(crate) containers: Vec<ContainerRecord>,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) config: ContainerConfig,
    pub(crate) created_at_ns: i64,
    pub(crate) image_id: Digest,
    pub(crate) image_ref: String,
    pub(crate) user: ResolvedUser,
    pub(crate) home: String,
    pub(crate) stop_signal: i32,
    pub(crate) log_path: String,
    /// Below each hierarchy's root.
    pub(crate) cgroup_path: String,
    #[serde(default)]
    pub(crate) mounted_images: BTreeMap<PathBuf, Digest>,
    pub(crate) state: ContainerState,
    /// Set before the keeper is asked to start it.
    #[serde(default)]
    pub(crate) start_asked: bool,
    /// OOM kills that were counted before its cgroup went away.
    #[serde(default)]
    pub(crate) oom_kills: u64,
}

impl SandboxRecord {
    pub(crate) fn container(&self, id: &ContainerId) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.id == *id)
    }

    pub(crate) fn container_mut(&mut self, id: &ContainerId) -> Option<&mut ContainerRecord> {
        self.containers.iter_mut().find(|c| c.id == *id)
    }

    /// As [`Self::write`], with an error that names the sandbox.
    pub(crate) fn store(&self, dir: &Path) -> Result<()> {
        let what = || format!("write the record of sandbox {}", self.id.short());
        self.write(dir).map_err(|error| Error::io(what(), error))
    }

    /// Writes the record of a sandbox whose directory exists.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        sys::fs::write_volatile(&dir.join("record.json"), &bytes, 0o600)
    }

    /// Reads the record of a sandbox.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let path = dir.join("record.json");
        let size = std::fs::metadata(&path)?.len();
        if size > MAX_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the record is larger than any Berth writes",
            ));
        }
        let record: Self = serde_json::from_slice(&std::fs::read(&path)?)?;
        if record.version != VERSION {
            let text = format!("the record has version {}, this release reads {VERSION}", record.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the first release; every later one must read it.
    const V1: &str = r#"{
        "version": 1, "boot_id": "b", "id": "s1", "phase": "Ready", "created_at_ns": 7, "hostname": "h",
        "has_namespaces": true, "network": "berth", "addresses": [{"ip": "10.88.0.2", "prefix_len": 16}],
        "config": {"metadata": {"name": "p", "uid": "u", "namespace": "n", "attempt": 1},
                   "namespaces": {"network": "Sandbox", "pid": "Container", "ipc": "Host"}},
        "containers": [{
            "id": "c1", "created_at_ns": 8, "image_ref": "r", "home": "/", "stop_signal": 15,
            "image_id": "sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "user": {"uid": 1, "gid": 2, "groups": [2]}, "log_path": "/l", "cgroup_path": "/berth/c1",
            "config": {"key": {"name": "c", "attempt": 0}, "image": "i"}, "start_asked": true,
            "state": {"Running": {"pid": 9, "start_time": 10, "started_at_ns": 11}}
        }]
    }"#;

    #[test]
    fn records_of_the_first_release_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("record.json"), V1).unwrap();
        let record = SandboxRecord::read(dir.path()).unwrap();
        assert_eq!(record.phase, Phase::Ready);
        let running = ContainerState::Running { pid: 9, start_time: 10, started_at_ns: 11 };
        assert_eq!(record.containers[0].state, running);
        record.write(dir.path()).unwrap();
        let again = SandboxRecord::read(dir.path()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&record).unwrap());
    }

    #[test]
    fn records_of_a_later_release_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("record.json"), V1.replace("\"version\": 1", "\"version\": 2"))
            .unwrap();
        assert!(SandboxRecord::read(dir.path()).unwrap_err().to_string().contains("version 2"));
        std::fs::write(dir.path().join("record.json"), "{").unwrap();
        assert!(SandboxRecord::read(dir.path()).is_err());
    }
}
