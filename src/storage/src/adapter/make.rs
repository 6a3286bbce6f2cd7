//! What both halves of an adapter are made with: directories that look like others, and a bound.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::tree::{self, Mtime};

use crate::archive::is_wanted;
use crate::fail;

/// Bytes of paths that wait for their turn. Real images stay far below it.
const PENDING_BYTES: usize = 128 << 20;

/// Work that waits; what an image says decides how much, so there is a bound.
#[derive(Debug)]
pub(super) struct Pending<T> {
    items: Vec<(T, usize)>,
    bytes: usize,
}

impl<T> Pending<T> {
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), bytes: 0 }
    }

    /// `length` is that of the paths in the item.
    pub(super) fn push(&mut self, item: T, length: usize) -> io::Result<()> {
        let cost = length + 256;
        self.bytes += cost;
        if self.bytes > PENDING_BYTES {
            return Err(too_large());
        }
        self.items.push((item, cost));
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let (item, cost) = self.items.pop()?;
        self.bytes -= cost;
        Some(item)
    }
}

/// The answer to an image that asks for too much.
pub(super) fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "its layers hide too many directories of each other")
}

/// Makes a directory of root's and opens it, whatever the parent hands down.
pub(super) fn make_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    fail::point()?;
    tree::make_directory(parent, name, 0o755)?;
    let made = tree::open_directory(parent, name)?;
    let stat = tree::stat_fd(made.as_fd())?;
    if (stat.uid, stat.gid) != (0, 0) {
        tree::set_owner_fd(made.as_fd(), 0, 0)?;
    }
    tree::set_mode_fd(made.as_fd(), 0o755)?;
    Ok(made)
}

/// Gives a directory the owner, mode, attributes and time of another one.
pub(super) fn dress(directory: BorrowedFd<'_>, like: BorrowedFd<'_>) -> io::Result<()> {
    let stat = tree::stat_fd(like)?;
    let has = tree::stat_fd(directory)?;
    if (stat.uid, stat.gid) != (has.uid, has.gid) {
        tree::set_owner_fd(directory, stat.uid, stat.gid)?;
    }
    // A list that was inherited from the parent would cut the mode.
    for name in tree::list_xattrs_fd(directory)?.iter().filter(|name| is_wanted(name)) {
        tree::remove_xattr_fd(directory, name)?;
    }
    tree::set_mode_fd(directory, stat.mode)?;
    for name in tree::list_xattrs_fd(like)?.iter().filter(|name| is_wanted(name)) {
        if let Some(value) = tree::xattr_fd(like, name)? {
            tree::set_xattr_fd(directory, name, &value)?;
        }
    }
    tree::set_mtime_fd(directory, stat.mtime)
}

/// Does something to what is in a directory, and gives the directory its time back.
pub(super) fn keeping_time<T>(
    directory: BorrowedFd<'_>,
    change: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let mtime: Mtime = tree::stat_fd(directory)?.mtime;
    let outcome = change()?;
    tree::set_mtime_fd(directory, mtime)?;
    Ok(outcome)
}
