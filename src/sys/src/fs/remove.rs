//! Removal of a directory tree that may be hostile.
//!
//! Works on directory descriptors, never follows a link and never crosses a mount: where something is
//! mounted the removal fails instead of emptying what is not ours. Depth is bounded by moving what lies
//! too deep up to the top, so neither the stack nor the descriptor table grows with the tree.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How deep a directory may lie below the top before it is moved up.
const MAX_DEPTH: usize = 64;

/// Removes the file or directory tree at `path`. Nothing there is fine.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    remove_tree_at(CWD, path)
}

/// [`remove_tree`] for a path below a directory that is open.
pub fn remove_tree_at(directory: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    match rustix::fs::unlinkat(directory, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match rustix::fs::openat(directory, &name, flags, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut removal = Removal { top: top.as_fd(), moved: 0 };
    // What was moved up appears in the top directory, so go over it until a pass moves nothing.
    loop {
        let before = removal.moved;
        removal.empty(top.as_fd(), 0)?;
        if removal.moved == before {
            break;
        }
    }
    drop(top);
    match rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    moved: u64,
}

impl Removal<'_> {
    fn empty(&mut self, directory: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        // Reading while removing may skip entries on some file systems: repeat until a pass finds none.
        loop {
            let mut found = false;
            let moved_before = self.moved;
            for entry in Dir::read_from(directory)? {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                found = true;
                self.remove(directory, name, entry.file_type(), depth)?;
            }
            if !found || (depth == 0 && self.moved != moved_before) {
                return Ok(());
            }
        }
    }

    fn remove(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        kind: FileType,
        depth: usize,
    ) -> io::Result<()> {
        if !matches!(kind, FileType::Directory | FileType::Unknown) {
            return gone(rustix::fs::unlinkat(directory, name, AtFlags::empty()));
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR) => return gone(rustix::fs::unlinkat(directory, name, AtFlags::empty())),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        if depth >= MAX_DEPTH {
            let target = format!(".removing-{}", self.moved);
            self.moved += 1;
            return match rustix::fs::renameat_with(
                directory,
                name,
                self.top,
                target.as_str(),
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                // The name is taken when the tree itself holds such names; the next pass tries another.
                Ok(()) | Err(Errno::EXIST | Errno::NOENT) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        let child = match open_child(directory, name) {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        self.empty(child.as_fd(), depth + 1)?;
        drop(child);
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            // Something was moved into it meanwhile, or out of it at depth: a later pass gets it.
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn open_child(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::XDEV) => return Err(Errno::BUSY.into()),
            other => return Ok(other?),
        }
    }
}

fn gone(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
