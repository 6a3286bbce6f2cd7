//! How much disk a tree takes.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::{Kind, list, open_directory, stat};

/// Disk taken by a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of all blocks, each inode counted once.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Whether the walk reached its end; if not, the numbers are too small.
    pub complete: bool,
}

/// Open directories at a time. Deeper ones are counted without what is in them.
const MAX_DEPTH: usize = 256;

/// Walks the tree below `root`, not counting `root` itself, never crossing into another file system. Gives
/// up at `deadline`. What vanishes meanwhile is not counted.
pub fn usage(root: BorrowedFd<'_>, deadline: Instant) -> io::Result<Usage> {
    let device = super::stat_fd(root)?.device;
    let mut total = Usage { complete: true, ..Usage::default() };
    let mut linked = HashSet::new();
    let mut stack: Vec<(OwnedFd, Vec<Vec<u8>>)> = vec![(root.try_clone_to_owned()?, list(root)?)];
    loop {
        let depth = stack.len();
        let Some((directory, names)) = stack.last_mut() else { return Ok(total) };
        let Some(name) = names.pop() else {
            stack.pop();
            continue;
        };
        if Instant::now() >= deadline {
            total.complete = false;
            return Ok(total);
        }
        let Ok(entry) = stat(directory.as_fd(), &name) else { continue };
        if entry.device != device
            || (entry.links > 1 && entry.kind != Kind::Directory && !linked.insert(entry.inode))
        {
            continue;
        }
        total.bytes += entry.blocks * 512;
        total.inodes += 1;
        if entry.kind != Kind::Directory {
            continue;
        }
        if depth >= MAX_DEPTH {
            total.complete = false;
            continue;
        }
        let Ok(child) = open_directory(directory.as_fd(), &name) else { continue };
        let Ok(children) = list(child.as_fd()) else { continue };
        stack.push((child, children));
    }
}
