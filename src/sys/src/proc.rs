//! Readers for procfs.
//!
//! Each takes the root of procfs as a parameter. They read and parse, they never change anything; processes
//! may end at any moment, so sums over several processes leave out those that are gone.

mod mounts;
mod net;
mod process;
mod system;
#[cfg(test)]
mod tests;

pub use mounts::MountInfo;
pub use net::{NetDevice, net_devices};
pub use process::{
    CgroupEntry, ProcessStat, Ulimit, Usage, cgroups, open_files, process_stat, start_time, ulimits, usage,
};
pub use system::{MemoryInfo, boot_time_ns, clock_ticks_per_second, memory_info, online_cpus, ticks_to_ns};

use std::io;

/// An error that says which line of which kind of file made no sense.
fn malformed(what: &str, line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected {what}: {line:?}"))
}
