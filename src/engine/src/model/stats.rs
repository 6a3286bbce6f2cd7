//! Statistics, read when asked for.

use oci::{ContainerId, SandboxId};

/// Counters of a network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// Its name in the sandbox.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Packets dropped on receive.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Transmit errors.
    pub tx_errors: u64,
    /// Packets dropped on transmit.
    pub tx_dropped: u64,
}

/// Use of a container's writable layer, and the file system it is on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilesystemStats {
    /// A directory on the file system.
    pub mountpoint: String,
    /// Bytes of the writable layer.
    pub used_bytes: u64,
    /// Inodes of the writable layer.
    pub inodes_used: u64,
    /// Size of the file system.
    pub capacity_bytes: u64,
    /// Bytes free to users.
    pub available_bytes: u64,
    /// Inodes of the file system.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// What the processes of a container hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessStats {
    /// Processes.
    pub processes: u64,
    /// Open descriptors.
    pub file_descriptors: u64,
    /// Open sockets.
    pub sockets: u64,
    /// Threads.
    pub threads: u64,
    /// Soft limit of open files of the first process.
    pub nofile_soft_limit: Option<u64>,
}

/// How closely processes are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// They are counted.
    Counts,
    /// Descriptors, threads and limits of each are read, too, which takes a few file operations per process
    /// and one per descriptor.
    Processes,
}

/// Statistics of a container.
#[derive(Debug, Clone)]
pub struct ContainerStats {
    /// Its id.
    pub id: ContainerId,
    /// When they were read, nanoseconds since the Unix epoch.
    pub observed_at_ns: i64,
    /// The cgroup's; `None` when it does not run.
    pub cgroup: Option<sys::cgroup::Stats>,
    /// CPU use over the time since the last reading, in billionths of a CPU.
    pub usage_nano_cores: Option<u64>,
    /// The writable layer.
    pub filesystem: FilesystemStats,
    /// What its processes hold; looked at one by one, and `None` unless that was asked for.
    pub processes: Option<ProcessStats>,
    /// When it started, nanoseconds since the Unix epoch; 0 when it has not.
    pub started_at_ns: i64,
}

/// Statistics of a sandbox.
#[derive(Debug, Clone)]
pub struct SandboxStats {
    /// Its id.
    pub id: SandboxId,
    /// When they were read, nanoseconds since the Unix epoch.
    pub observed_at_ns: i64,
    /// The parent cgroup's, where the sandbox has one of its own.
    pub cgroup: Option<sys::cgroup::Stats>,
    /// CPU use over the time since the last reading, in billionths of a CPU.
    pub usage_nano_cores: Option<u64>,
    /// Its interfaces, the primary one first.
    pub interfaces: Vec<InterfaceStats>,
    /// Processes of all its containers.
    pub processes: u64,
    /// Its running containers'.
    pub containers: Vec<ContainerStats>,
}
