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

use crate::model::{ContainerConfig, ContainerState, IpAddress, ResolvedUser, SandboxConfig};

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
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the record is larger than any Berth writes"));
        }
        let record: Self = serde_json::from_slice(&std::fs::read(&path)?)?;
        if record.version != VERSION {
            let text = format!("the record has version {}, this release reads {VERSION}", record.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(record)
    }
}
