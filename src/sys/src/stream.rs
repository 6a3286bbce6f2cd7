//! Reading, writing and readiness of descriptors that are streams: pipes, sockets, terminals.

use std::io;
use std::os::fd::AsFd;

/// Makes reads and writes return at once instead of waiting, or the other way round. This is a property of the
/// open file, which duplicates share.
///
/// # Errors
/// fcntl(2) failed.
pub fn set_nonblocking(fd: impl AsFd, nonblocking: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(&fd)?;
    flags.set(rustix::fs::OFlags::NONBLOCK, nonblocking);
    rustix::fs::fcntl_setfl(&fd, flags)?;
    Ok(())
}

/// Reads once.
///
/// # Errors
/// read(2) failed; `WouldBlock` when there is nothing yet.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut *buffer))?)
}

/// Writes once.
///
/// # Errors
/// write(2) failed; `WouldBlock` when there is no room yet.
pub fn write(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::write(&fd, bytes))?)
}
