//! Facts of the host.

use std::io;

/// The node's name, as uname(2) gives it in this process' UTS namespace.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// This process' limits of open files, soft and hard.
///
/// # Errors
/// Never on Linux, but the interface allows for it.
pub fn open_file_limits() -> io::Result<(u64, u64)> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Ok((limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX)))
}

/// The numbers in a `st_rdev`, major and minor.
#[must_use]
pub fn device_numbers(rdev: u64) -> (u32, u32) {
    (rustix::fs::major(rdev), rustix::fs::minor(rdev))
}

/// The kernel's release, as `6.12.1`.
#[must_use]
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The machine's hardware name, as `x86_64`.
#[must_use]
pub fn machine() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

/// How many ticks there are in a second of the times in `/proc/pid/stat`.
#[must_use]
pub fn clock_ticks() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

/// Bytes of a page of memory.
#[must_use]
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Time since the machine booted, suspension included, in nanoseconds.
#[must_use]
pub fn uptime_ns() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}
