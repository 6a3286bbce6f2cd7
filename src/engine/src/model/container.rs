//! Containers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use keeper::protocol::IdMaps;
use oci::{ContainerId, Digest, SandboxId};
use serde::{Deserialize, Serialize};

use super::{Resources, Security, TerminalSize};

/// What names a container within its sandbox; two requests with the same key are the same request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerKey {
    /// Name.
    pub name: String,
    /// How often it was tried.
    pub attempt: u32,
}

/// What a front end asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Its name.
    pub key: ContainerKey,
    /// The image: an id or a reference.
    pub image: String,
    /// The image as the user wrote it, for status.
    #[serde(default)]
    pub user_image: String,
    /// Replaces the image's entry point.
    #[serde(default)]
    pub command: Vec<String>,
    /// Replaces the image's command.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment; values are bytes and need not be UTF-8.
    #[serde(default)]
    pub env: Vec<(String, Vec<u8>)>,
    /// Working directory; empty means the image's.
    #[serde(default)]
    pub working_dir: String,
    /// Mounts.
    #[serde(default)]
    pub mounts: Vec<ContainerMount>,
    /// Devices.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Devices by their qualified name in the Container Device Interface.
    #[serde(default)]
    pub cdi_devices: Vec<String>,
    /// For selection.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// For anybody.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Log file, relative to the sandbox' log directory; empty drops output.
    #[serde(default)]
    pub log_path: String,
    /// The form of the log.
    #[serde(default)]
    pub log: LogSettings,
    /// Whether standard input is kept open for attach.
    #[serde(default)]
    pub stdin: bool,
    /// Whether standard input closes when the first attached client leaves.
    #[serde(default)]
    pub stdin_once: bool,
    /// Whether it has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Size of the terminal at first.
    #[serde(default)]
    pub terminal_size: Option<TerminalSize>,
    /// Signal that stops it; `None` means the image's, else SIGTERM.
    #[serde(default)]
    pub stop_signal: Option<i32>,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// Limits of its processes, over the node's.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Who it is and what it may do.
    #[serde(default)]
    pub security: Security,
    /// The durable container this is a run of: it has its id, and its file system stays when the run is removed.
    #[serde(default)]
    pub durable: Option<ContainerId>,
}

pub use keeper::protocol::LogFormat;

/// The form of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    /// Of its lines.
    pub format: LogFormat,
    /// Size at which a new file is begun; `None` leaves that to the client.
    pub max_bytes: Option<u64>,
    /// How many files are kept, the current one included.
    pub max_files: Option<u32>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Cri, max_bytes: None, max_files: None }
    }
}

/// A limit of each process (getrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which one, in lower case without `RLIMIT_`: `nofile`.
    pub name: String,
    /// The limit in force; `u64::MAX` is none.
    pub soft: u64,
    /// How far it can be raised.
    pub hard: u64,
}

/// Where a mount's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host; links in it are followed. Made as a directory when it is missing.
    Host(PathBuf),
    /// An image, read-only.
    Image {
        /// Id or reference of the image.
        image: String,
        /// A directory in it; empty means its root.
        sub_path: String,
    },
    /// What lies at a path in a directory of the host. It is found when the container starts, and links in the
    /// path cannot lead out of the directory, whoever writes there meanwhile.
    Within {
        /// The directory.
        directory: PathBuf,
        /// The path in it.
        sub_path: PathBuf,
    },
    /// Memory.
    Tmpfs {
        /// Options of the file system and of the mount, as mount(8) has them.
        options: Vec<String>,
    },
}

/// How mounts and unmounts cross between host and container (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host to the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMount {
    /// Where it appears; absolute.
    pub destination: PathBuf,
    /// What appears.
    pub source: MountSource,
    /// Whether it is read-only.
    #[serde(default)]
    pub readonly: bool,
    /// Whether the mounts below it are read-only, too.
    #[serde(default)]
    pub recursive_readonly: bool,
    /// Whether the mounts below the source are left out.
    #[serde(default)]
    pub non_recursive: bool,
    /// Propagation.
    #[serde(default)]
    pub propagation: Propagation,
    /// Maps the owners of files by these.
    #[serde(default)]
    pub id_maps: Option<IdMaps>,
    /// Whether to give the source the container's SELinux label.
    #[serde(default)]
    pub selinux_relabel: bool,
    /// More options: `noexec`, `nodev`, `nosuid`.
    #[serde(default)]
    pub options: Vec<String>,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its path, or a directory of devices.
    pub host_path: PathBuf,
    /// Where it appears.
    pub container_path: PathBuf,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// Who a container's first process is, after the image's files were read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its first process runs.
    Running {
        /// Pid in the host.
        pid: u32,
        /// Field 22 of `/proc/pid/stat`.
        start_time: u64,
        /// Nanoseconds since the Unix epoch.
        started_at_ns: i64,
    },
    /// Its first process ended, or it could not be started.
    Exited(ExitRecord),
}

/// How and why a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code, 128 + signal if a signal ended it.
    pub code: i32,
    /// Why.
    pub reason: ExitReason,
    /// A sentence for people; empty if there is nothing to add.
    #[serde(default)]
    pub message: String,
    /// When it started, nanoseconds since the Unix epoch; 0 if it never did.
    pub started_at_ns: i64,
    /// When it ended, nanoseconds since the Unix epoch.
    pub finished_at_ns: i64,
}

/// Why a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// By itself, with code 0.
    Completed,
    /// By itself with another code, or by a signal.
    Error,
    /// The kernel killed a process of it for want of memory.
    OomKilled,
    /// It could not be started.
    StartError,
    /// It ended while nobody watched.
    Unknown,
}

/// A moment's view of a container.
#[derive(Debug, Clone)]
pub struct ContainerStatus {
    /// Its id.
    pub id: ContainerId,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// As asked for, with resources as last updated.
    pub config: ContainerConfig,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// Id of its image: the digest of the image's configuration.
    pub image_id: Digest,
    /// A `name@digest` or the id, for people who look for what runs.
    pub image_ref: String,
    /// Absolute path of the log; empty without one.
    pub log_path: String,
    /// Who its first process is.
    pub user: ResolvedUser,
    /// The signal that stops it.
    pub stop_signal: i32,
    /// Ids of images mounted, by destination.
    pub mounted_images: BTreeMap<PathBuf, Digest>,
    /// Path of its cgroup, below each hierarchy's root.
    pub cgroup_path: String,
}
