//! Pipes and the descriptor flags that go with them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::FdFlags;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// A new pipe: reading and writing end.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// Sets or clears `O_NONBLOCK` on the open file description, which duplicates share.
pub fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let old = fcntl_getfl(fd)?;
    let new = if nonblocking { old | OFlags::NONBLOCK } else { old - OFlags::NONBLOCK };
    if new != old {
        fcntl_setfl(fd, new)?;
    }
    Ok(())
}

/// Sets or clears close-on-exec. Clear it only right before an exec that is to keep the descriptor.
pub fn set_cloexec(fd: BorrowedFd<'_>, cloexec: bool) -> io::Result<()> {
    let flags = if cloexec { FdFlags::CLOEXEC } else { FdFlags::empty() };
    Ok(rustix::io::fcntl_setfd(fd, flags)?)
}

/// How many bytes the pipe holds.
pub fn capacity(fd: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(fcntl_getpipe_size(fd)?)
}

/// Resizes the pipe; the kernel rounds up to a power of two of pages and says what it made.
pub fn set_capacity(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    Ok(fcntl_setpipe_size(fd, bytes)?)
}

/// Whether nobody reads any more from the pipe whose writing end this is.
pub fn has_no_reader(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&at_once)).is_ok() && polled.iter().any(|p| p.revents().contains(PollFlags::ERR))
}

/// How many bytes can be read now.
pub fn readable_bytes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(fd)?)
}

/// Reads once; `Ok(0)` is the end.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    retry(|| rustix::io::read(fd, &mut *buffer))
}

/// Writes once; may be short.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    retry(|| rustix::io::write(fd, bytes))
}

/// A second descriptor for the same open file.
pub fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 0)?)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pipe_says_so_only_when_nonblocking() {
        let (reader, writer) = pair().unwrap();
        set_nonblocking(writer.as_fd(), true).unwrap();
        let size = set_capacity(reader.as_fd(), 4096).unwrap();
        assert_eq!(write(writer.as_fd(), &vec![b'x'; size]).unwrap(), size);
        let error = write(writer.as_fd(), b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(readable_bytes(reader.as_fd()).unwrap(), size as u64);
        assert_eq!(read(reader.as_fd(), &mut [0; 10]).unwrap(), 10);
    }
}
