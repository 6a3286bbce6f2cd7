//! Durable containers: those that outlive their runs, the daemon and the boot.

use std::sync::Arc;
use std::time::Duration;

use oci::{ContainerId, Digest, SandboxId};
use serde::{Deserialize, Serialize};

use super::{
    BoundPort, ContainerConfig, EndpointStatus, ExitRecord, IpAddress, Resources, SandboxConfig, VolumeMount,
};

/// What a front end asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DurableConfig {
    /// Unique among durable containers: a letter or digit, then at least one more of `a-zA-Z0-9_.-`.
    pub name: String,
    /// Image, process, mounts, limits, privileges. Its key and log are the engine's to fill in.
    pub container: ContainerConfig,
    /// Namespaces and networks of each run. Its metadata and the container's names are the engine's to fill in.
    #[serde(default)]
    pub sandbox: SandboxConfig,
    /// Namespaces of other containers to use.
    #[serde(default)]
    pub join: JoinModes,
    /// What to do when it ends, and when the daemon starts.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Whether it is removed when it ends, or could not be started.
    #[serde(default)]
    pub auto_remove: bool,
    /// Where its output goes.
    #[serde(default)]
    pub log: LogConfig,
    /// How it is told whether it does its work.
    #[serde(default)]
    pub health: Option<HealthConfig>,
    /// How long it has to end when it is stopped; `None` is 10 seconds.
    #[serde(default)]
    pub stop_timeout: Option<Duration>,
    /// Whether a built-in init is process 1 of its PID namespace.
    #[serde(default)]
    pub init: bool,
    /// Volumes, binds, memory and images that it is given, besides the mounts of `container`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeMount>,
    /// The front end's own words: kept and given back, never read by the engine.
    #[serde(default)]
    pub extra: serde_json::Value,
}

/// Containers whose namespaces are used: an id, an unambiguous beginning of one, or a name. Looked up at each
/// start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JoinModes {
    /// Network, host name and `/etc/hosts`.
    pub network: Option<String>,
    /// Processes.
    pub pid: Option<String>,
    /// Shared memory and message queues.
    pub ipc: Option<String>,
}

/// What to do when a container ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Start it again, and start it with the daemon after a reboot.
    Always,
    /// As `Always`, unless it was stopped by hand.
    UnlessStopped,
    /// Start it again if it failed.
    OnFailure {
        /// How often in a row; 0 is without limit.
        max: u32,
    },
}

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogConfig {
    /// A JSON object per line.
    JsonFile {
        /// Size at which a new file is begun; `None` never does.
        max_bytes: Option<u64>,
        /// How many files are kept, the current one included.
        max_files: u32,
    },
    /// A form of the engine's own that takes less room.
    Local {
        /// Size at which a new file is begun; `None` never does.
        max_bytes: Option<u64>,
        /// How many files are kept, the current one included.
        max_files: u32,
    },
    /// Nowhere.
    None,
}

impl Default for LogConfig {
    /// Bounded: 5 files of 20 MiB.
    fn default() -> Self {
        Self::JsonFile { max_bytes: Some(20 << 20), max_files: 5 }
    }
}

/// How a container is asked whether it does its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthConfig {
    /// The probe.
    pub test: HealthTest,
    /// From the end of one probe to the next.
    pub interval: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
    /// How long after a start failures do not count.
    pub start_period: Duration,
    /// [`HealthConfig::interval`] during the start period.
    pub start_interval: Duration,
    /// How many failures in a row make it unhealthy; at least 1.
    pub retries: u32,
}

/// A probe of health: healthy if it exits with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthTest {
    /// Program and arguments.
    Exec(Vec<String>),
    /// A line for the image's shell.
    Shell(String),
}

/// What probes came to so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The verdict.
    pub state: HealthState,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last probes, oldest first.
    pub log: Vec<HealthProbe>,
}

/// A verdict on health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum HealthState {
    /// No verdict yet.
    #[default]
    Starting,
    /// It does its work.
    Healthy,
    /// It does not.
    Unhealthy,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthProbe {
    /// Nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
    /// Nanoseconds since the Unix epoch.
    pub ended_at_ns: i64,
    /// Exit code; -1 if it did not come to one.
    pub exit_code: i32,
    /// The beginning of what it wrote, or why it could not be run.
    pub output: String,
}

/// Where a durable container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DurablePhase {
    /// Made, never started.
    Created,
    /// It runs.
    Running,
    /// It runs, but gets no CPU.
    Paused,
    /// It ended, and is started again in a moment.
    Restarting,
    /// It ended, or could not be started.
    Exited,
    /// It is being removed.
    Removing,
    /// It could not be removed wholly; removing it again tries again.
    Dead,
}

/// A run of a durable container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInfo {
    /// The sandbox made for it.
    pub sandbox: SandboxId,
    /// Pid of its first process in the host.
    pub pid: u32,
    /// Nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
    /// The host name it sees.
    pub hostname: String,
    /// Attachments to networks.
    pub endpoints: Vec<EndpointStatus>,
    /// Addresses, the primary one first.
    pub addresses: Vec<IpAddress>,
    /// Published ports.
    pub bound_ports: Vec<BoundPort>,
    /// Path of its cgroup, below each hierarchy's root.
    pub cgroup_path: String,
    /// Directory with the files it sees as `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
    pub files: std::path::PathBuf,
}

/// A moment's view of a durable container.
#[derive(Debug, Clone)]
pub struct DurableStatus {
    /// Its id, the same over all runs.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// As asked for, with later changes.
    pub config: Arc<DurableConfig>,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// Id of its image: the digest of the image's configuration.
    pub image_id: Digest,
    /// Where it is in its life.
    pub phase: DurablePhase,
    /// Its run, while it runs.
    pub run: Option<RunInfo>,
    /// How its last run ended, if one has.
    pub last_exit: Option<ExitRecord>,
    /// How often its policy has started it again since it was started by hand.
    pub restart_count: u32,
    /// What probes of its health came to; `None` without probes.
    pub health: Option<Health>,
    /// Absolute path of its log; empty without one.
    pub log_path: String,
    /// Why it could not be started; empty if it could.
    pub error: String,
    /// Whether it was stopped by hand, so that `UnlessStopped` leaves it alone.
    pub manually_stopped: bool,
}

impl DurableStatus {
    /// Whether it has a process.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.phase, DurablePhase::Running | DurablePhase::Paused)
    }
}

/// A durable container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedDurable {
    /// Its id.
    pub id: ContainerId,
    /// What the host cannot do of what was asked for, and is left out.
    pub warnings: Vec<String>,
}

/// What a start came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It runs now.
    Now,
    /// It did already.
    AlreadyRunning,
}

/// What a stop came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It has ended now.
    Now,
    /// It did not run.
    AlreadyStopped,
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveDurable {
    /// Whether one that runs is killed; else it is refused.
    pub force: bool,
    /// Whether volumes that were made for it alone go, too.
    pub volumes: bool,
}

/// What to change of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DurableUpdate {
    /// Limits to change; what is not set stays.
    pub resources: Resources,
    /// Another policy.
    pub restart: Option<RestartPolicy>,
    /// Other words of the front end.
    pub extra: Option<serde_json::Value>,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// That it does not run; done at once if it does not.
    NotRunning,
    /// The next end of a run.
    NextExit,
    /// That it is gone.
    Removed,
}

/// What a wait came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitOutcome {
    /// Exit code of the last run; 0 if there was none.
    pub code: i32,
    /// Why what was waited for failed.
    pub error: Option<String>,
}
