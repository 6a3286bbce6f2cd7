//! Control groups, v1, v2 and hybrid: create, limit, join, read, remove.
//!
//! A [`Layout`] says which hierarchy holds which controller. A [`Cgroup`] is one path in all of them: on v1
//! one directory per hierarchy (the named `systemd` one too, so that the host's tools see the processes),
//! on v2 one, on hybrid hosts both; there the v2 directory has few controllers but brings `cgroup.kill`,
//! pressure and device programs.
//!
//! What a host cannot do is [`Error::Unsupported`], never ignored: ask [`Layout::has`] first when a missing
//! controller shall be tolerated. [`Cgroup::apply`] restores what it changed when a later write fails.
//!
//! Roots are parameters, so that tests can hand in a temporary directory with files in the place of the
//! kernel's.

#[allow(unsafe_code)]
mod bpf;
mod device;
mod files;
mod group;
mod kill;
mod layout;
mod limits;
mod path;
mod plan;
mod plan_io;
mod plan_v1;
mod plan_v2;
mod reader;
mod rest;
mod source;
mod stats;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use bpf::v2_device_program;
pub use device::{Access, DevicePolicy, DeviceRule, Kind};
pub use group::Cgroup;
pub use kill::kill_directory;
pub use layout::{Controller, Driver, Layout, Version};
pub use limits::Limits;
pub use path::{slice_path, systemd_path};
pub use reader::{Detail, Reader};
pub use stats::{Cpu, Device, Hugetlb, Io, Memory, Pids, Pressure, PressureLine, Pressures, Stats};

/// Why a control group could not be made, changed or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no such controller, or its kernel lacks the file that the field needs.
    #[error("cgroup controller {controller} on this host cannot set {field}")]
    Unsupported {
        /// Name of the controller.
        controller: &'static str,
        /// The field of the OCI resources, or a file of `unified`.
        field: String,
    },
    /// A value that means nothing.
    #[error("cgroup: {field} cannot be {value:?}")]
    Invalid {
        /// The field of the OCI resources, or what else was given.
        field: String,
        /// Its value.
        value: String,
    },
    /// The new memory limit is below what is in use.
    #[error("memory limit of {limit} bytes is below the {usage} in use")]
    BelowUsage {
        /// The limit asked for.
        limit: u64,
        /// Bytes in use.
        usage: u64,
    },
    /// The kernel refused a value.
    #[error("write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// A file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory could not be made.
    #[error("create cgroup {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory could not be removed.
    #[error("remove cgroup {}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A device program could not be loaded or attached.
    #[error("{operation} device program of cgroup {}", path.display())]
    DeviceProgram {
        /// The step.
        operation: &'static str,
        /// The group.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Processes were still there after they had been killed many times.
    #[error("{count} processes of cgroup {} survive SIGKILL", path.display())]
    Survivors {
        /// The group.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// The group did not freeze or thaw in time.
    #[error("cgroup {} does not reach freezer state {state}", path.display())]
    Freezer {
        /// The group.
        path: PathBuf,
        /// The state wanted.
        state: &'static str,
    },
}
