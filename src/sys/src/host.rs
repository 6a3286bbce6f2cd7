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
