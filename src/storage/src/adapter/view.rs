//! Layers seen as one tree, as overlayfs shows them, without a mount.
//!
//! Directories are named by their path and opened from their layer's root for each look: a path of this
//! module has no links in it, and an open that meets one fails.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sys::path::OFlags;
use sys::tree::{self, Kind, Stat};

use crate::archive::{MAX_LINKS, is_implied, is_opaque};

/// Directories, the lowest first.
#[derive(Debug, Default)]
pub(super) struct View {
    layers: Vec<Lower>,
}

#[derive(Debug)]
struct Lower {
    root: OwnedFd,
    /// Whether it may have directories that are implied.
    implied: bool,
}

/// A directory of the view.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Its path; empty for the root.
    pub(super) path: Vec<u8>,
    /// The layers whose directories are seen as this one, the topmost first; never empty.
    pub(super) layers: Vec<usize>,
    /// The layer that says what the directory is like.
    pub(super) described_by: usize,
}

/// What has a name.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Directory(Node),
    /// In which layer, and what.
    Other(usize, Stat),
}

impl View {
    pub(super) fn push(&mut self, root: OwnedFd, implied: bool) {
        self.layers.push(Lower { root, implied });
    }

    pub(super) fn pop(&mut self) {
        self.layers.pop();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Whether directories of a layer may be implied and hide some of a layer below.
    pub(super) fn may_imply(&self, layer: usize) -> bool {
        layer > 0 && self.layers.get(layer).is_some_and(|lower| lower.implied)
    }

    /// The root of all layers.
    pub(super) fn root(&self) -> io::Result<Node> {
        let layers: Vec<usize> = (0..self.layers.len()).rev().collect();
        let mut described_by = 0;
        for layer in &layers {
            if !is_implied(self.layer(*layer)?)? {
                described_by = *layer;
                break;
            }
        }
        Ok(Node { path: Vec::new(), layers, described_by })
    }

    /// Opens a directory of one layer.
    pub(super) fn open(&self, layer: usize, path: &[u8]) -> io::Result<OwnedFd> {
        open_path(self.layer(layer)?, path)
    }

    /// What is seen under a name.
    pub(super) fn look(&self, node: &Node, name: &[u8]) -> io::Result<Found> {
        let mut layers = Vec::new();
        let mut described_by = None;
        let mut merging = true;
        for layer in &node.layers {
            let directory = self.open(*layer, &node.path)?;
            let Some(stat) = tree::stat_optional(directory.as_fd(), name)? else { continue };
            if stat.kind != Kind::Directory {
                if layers.is_empty() && !stat.is_whiteout() {
                    return Ok(Found::Other(*layer, stat));
                }
                break;
            }
            let child = tree::open_directory(directory.as_fd(), name)?;
            if merging {
                layers.push(*layer);
                merging = !is_opaque(child.as_fd())?;
            }
            // What is hidden may be what the directory is like: its content was taken away, not itself.
            if described_by.is_none() && !is_implied(child.as_fd())? {
                described_by = Some(*layer);
            }
            if !merging && described_by.is_some() {
                break;
            }
        }
        let Some(top) = layers.first().copied() else { return Ok(Found::Nothing) };
        let described_by = described_by.unwrap_or(top);
        Ok(Found::Directory(Node { path: join(&node.path, name), layers, described_by }))
    }

    /// The directory at a path without links, if there is one.
    pub(super) fn at(&self, path: &[u8]) -> io::Result<Option<Node>> {
        let mut node = self.root()?;
        for name in components(path) {
            match self.look(&node, name)? {
                Found::Directory(child) => node = child,
                Found::Nothing | Found::Other(..) => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// Where a link in the directory `from` leads, for someone who makes the directories that are missing;
    /// nothing, if it cannot lead to a directory.
    pub(super) fn follow(&self, from: &[u8], target: &[u8], depth: usize) -> io::Result<Option<Vec<u8>>> {
        let mut rest: Vec<Vec<u8>> = components(target).rev().map(<[u8]>::to_vec).collect();
        let from: &[u8] = if target.starts_with(b"/") { b"" } else { from };
        // A directory that is not there has no node.
        let mut at: Vec<(Vec<u8>, Option<Node>)> = vec![(Vec::new(), Some(self.root()?))];
        rest.extend(components(from).rev().map(<[u8]>::to_vec));
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                at.truncate(usize::max(at.len() - 1, 1));
                continue;
            }
            let here = at.last().and_then(|(_, node)| node.as_ref());
            let found = here.map_or(Ok(Found::Nothing), |node| self.look(node, &name))?;
            match (found, here) {
                (Found::Directory(child), _) => at.push((name, Some(child))),
                (Found::Other(layer, stat), Some(node)) if stat.kind == Kind::Symlink => {
                    links += 1;
                    let directory = self.open(layer, &node.path)?;
                    let target = tree::read_link(directory.as_fd(), &name)?;
                    if target.starts_with(b"/") {
                        at.truncate(1);
                    }
                    rest.extend(components(&target).rev().map(<[u8]>::to_vec));
                }
                (Found::Nothing, _) => at.push((name, None)),
                (Found::Other(..), _) => return Ok(None),
            }
            if links > MAX_LINKS || rest.len() > depth * 2 || at.len() > depth {
                return Ok(None);
            }
        }
        let names: Vec<Vec<u8>> = at.into_iter().skip(1).map(|(name, _)| name).collect();
        Ok(Some(names.join(&b'/')))
    }

    fn layer(&self, layer: usize) -> io::Result<BorrowedFd<'_>> {
        let lower = self.layers.get(layer).ok_or(io::ErrorKind::NotFound)?;
        Ok(lower.root.as_fd())
    }
}

/// Opens a directory at a path without links.
pub(super) fn open_path(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    sys::path::open_without_links(root, Path::new(OsStr::from_bytes(path)), flags)
}

pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') }
}

/// The names in a path or in the target of a link.
pub(super) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}
