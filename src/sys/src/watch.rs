//! Waiting: for descriptors to become readable, for a directory to change, for the output of a program.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::process::{Pid, Signal};

/// Waits until one of the descriptors is readable or hung up; the answer has one entry for each. At the deadline all are
/// `false`.
pub fn readable(descriptors: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let timeout =
            left.map(|l| Timespec::try_from(l).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) => return Ok(polled.iter().map(|p| !p.revents().is_empty()).collect()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Kills all processes of a group with SIGKILL; no such group is fine.
pub fn kill_group(leader: u32) -> io::Result<()> {
    let leader = i32::try_from(leader).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    match rustix::process::kill_process_group(leader, Signal::KILL) {
        Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A file in memory that is read from its beginning.
pub fn memory_file(name: &str, bytes: &[u8]) -> io::Result<std::fs::File> {
    use io::{Seek, Write};
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// A descriptor that is readable when a file in a directory was written to, made or renamed. Nonblocking.
pub fn changes(directory: &Path) -> io::Result<OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::ONLYDIR;
    inotify::add_watch(&fd, directory, events)?;
    Ok(fd)
}

/// Takes what [`changes`] has to tell, so that the descriptor is readable again at the next change.
pub fn take_changes(fd: &OwnedFd) {
    let mut buffer = [0; 4096];
    while rustix::io::read(fd, &mut buffer).is_ok_and(|count| count > 0) {}
}

/// Watches the entries of one directory, which need not exist yet.
#[derive(Debug)]
pub struct Directory {
    inotify: OwnedFd,
    path: std::path::PathBuf,
    watched: bool,
}

impl Directory {
    /// Starts to watch.
    pub fn open(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let mut directory = Self { inotify, path: path.to_path_buf(), watched: false };
        directory.follow()?;
        Ok(directory)
    }

    /// Reads all that has arrived; whether something in the directory may have changed.
    pub fn drain(&mut self) -> io::Result<bool> {
        let mut changed = false;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    changed = true;
                    let gone = inotify::ReadFlags::IGNORED | inotify::ReadFlags::DELETE_SELF;
                    if event.events().intersects(gone) {
                        self.watched = false;
                    }
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if changed {
            self.follow()?;
        }
        Ok(changed)
    }

    /// Watches the directory or, as long as it does not exist, the nearest parent that does.
    fn follow(&mut self) -> io::Result<()> {
        use inotify::WatchFlags as W;
        if self.watched {
            return Ok(());
        }
        let entries = W::CLOSE_WRITE
            | W::MOVED_TO
            | W::MOVED_FROM
            | W::DELETE
            | W::CREATE
            | W::DELETE_SELF
            | W::MOVE_SELF;
        for (depth, path) in self.path.ancestors().enumerate() {
            match inotify::add_watch(&self.inotify, path, entries | W::ONLYDIR) {
                Ok(_) => {
                    self.watched = depth == 0;
                    return Ok(());
                }
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// A deadline that far away from now.
pub fn deadline_in(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}
