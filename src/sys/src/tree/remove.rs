//! Removing trees of any depth with a bounded number of file descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::AtFlags;

use super::{checked, list, open_directory, rename};

/// Directories below this depth are moved up to the top before they are emptied, so that neither the
/// descriptors nor the stack grow with the tree.
const MAX_DEPTH: usize = 48;

/// Removes everything in a directory and keeps the directory. Names that vanish meanwhile are fine.
pub fn remove_contents(directory: BorrowedFd<'_>) -> io::Result<()> {
    let mut moved = 0;
    loop {
        let before = moved;
        for name in list(directory)? {
            remove_below(directory, directory, &name, 0, &mut moved)?;
        }
        if moved == before {
            return Ok(());
        }
    }
}

/// Removes an entry and, if it is a directory, everything in it. Nothing to remove is fine.
pub fn remove_entry(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    if remove_flat(directory, name)? {
        return Ok(());
    }
    match open_directory(directory, name) {
        Ok(child) => remove_contents(child.as_fd())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    remove_flat(directory, name).map(drop)
}

/// Removes a file or an empty directory. False for a directory that is not empty.
fn remove_flat(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    use rustix::io::Errno;
    let name = checked(name)?;
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn remove_below(
    top: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &[u8],
    depth: usize,
    moved: &mut usize,
) -> io::Result<()> {
    if remove_flat(directory, name)? {
        return Ok(());
    }
    if depth >= MAX_DEPTH {
        *moved += 1;
        return rename(directory, name, top, format!(".removing-{:x}-{moved}", std::process::id()).as_bytes());
    }
    let child = match open_directory(directory, name) {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in list(child.as_fd())? {
        remove_below(top, child.as_fd(), &entry, depth + 1, moved)?;
    }
    remove_flat(directory, name).map(drop)
}
