//! The topmost directory of an adapter: what implied directories are really like.
//!
//! A directory that a layer only implies must not change what a lower layer said about it. Overlayfs takes
//! owner, mode, attributes and time of a merged directory from its topmost layer, so one more layer with
//! nothing but directories says it again. They are not opaque: what is in them is merged as before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::tree::{self, Kind};

use super::make::{Pending, dress, keeping_time, make_directory, too_large};
use super::view::{Found, Node, View, components, open_path};

/// Fills `top`. Says how many directories it made.
pub(super) fn build(view: &View, top: BorrowedFd<'_>, limit: u64) -> io::Result<u64> {
    let root = view.root()?;
    dress(top, view.open(root.described_by, b"")?.as_fd())?;
    let mut pending = Pending::new();
    pending.push(root, 0)?;
    let mut made = 0;
    while let Some(node) = pending.pop() {
        for name in candidates(view, &node)? {
            let Found::Directory(child) = view.look(&node, &name)? else { continue };
            if child.layers.first() != Some(&child.described_by) {
                made += restate(view, top, &child)?;
                if made > limit {
                    return Err(too_large());
                }
            }
            if child.layers.len() > 1 {
                let length = child.path.len();
                pending.push(child, length)?;
            }
        }
    }
    Ok(made)
}

/// Names of directories in layers that may imply them.
fn candidates(view: &View, node: &Node) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for layer in node.layers.iter().filter(|layer| view.may_imply(**layer)) {
        let directory = view.open(*layer, &node.path)?;
        for name in tree::list(directory.as_fd())? {
            if tree::stat(directory.as_fd(), &name)?.kind == Kind::Directory {
                names.push(name);
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Makes a directory and those above it, each as it is to be seen.
fn restate(view: &View, top: BorrowedFd<'_>, node: &Node) -> io::Result<u64> {
    let mut here: OwnedFd = open_path(top, b"")?;
    let mut at = view.root()?;
    let mut made = 0;
    for name in components(&node.path) {
        let Found::Directory(child) = view.look(&at, name)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        here = match tree::stat_optional(here.as_fd(), name)? {
            Some(_) => tree::open_directory(here.as_fd(), name)?,
            None => {
                made += 1;
                let new = keeping_time(here.as_fd(), || make_directory(here.as_fd(), name))?;
                dress(new.as_fd(), view.open(child.described_by, &child.path)?.as_fd())?;
                new
            }
        };
        at = child;
    }
    Ok(made)
}
