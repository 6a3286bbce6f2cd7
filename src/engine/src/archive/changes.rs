//! What a container changed of its image.

use std::os::fd::{AsFd, BorrowedFd};

use sys::tree::{self, Kind};

use super::view::Subject;
use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Directories below each other that are looked into.
const MAX_DEPTH: usize = 512;
/// Changes that are told.
const MAX_CHANGES: usize = 1_000_000;

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was there, and is otherwise now.
    Modified,
    /// It was not there.
    Added,
    /// It is not there any more.
    Deleted,
}

/// A path that a container changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path, absolute in the container.
    pub path: String,
    /// What became of it.
    pub kind: ChangeKind,
}

impl Engine {
    /// What a container changed of its image, by path. What is mounted in it is not its image's.
    pub async fn container_changes(&self, container: &str) -> Result<Vec<Change>> {
        let subject = Subject::find(self, container)?;
        let work = move || {
            let failed =
                |error| Error::io(format!("compare container {} with its image", subject.id.short()), error);
            let base = subject.base()?;
            let upper = tree::open_root(&subject.shared.storage.upper_path(&subject.id)).map_err(failed)?;
            let mut changes = Vec::new();
            compare(upper.as_fd(), Some(base.as_fd()), "", &mut changes, 0).map_err(failed)?;
            Ok(changes)
        };
        self.shared().blocking.run(Purpose::Archives, work).await?
    }
}

/// Compares a directory of the upper layer with what was there before, if anything was.
fn compare(
    upper: BorrowedFd<'_>,
    lower: Option<BorrowedFd<'_>>,
    path: &str,
    changes: &mut Vec<Change>,
    depth: usize,
) -> std::io::Result<()> {
    if depth > MAX_DEPTH || changes.len() > MAX_CHANGES {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "there is too much to compare"));
    }
    let mut names = tree::list(upper)?;
    names.sort();
    if tree::xattr_fd(upper, "trusted.overlay.opaque")?.as_deref() == Some(b"y")
        && let Some(lower) = lower
    {
        for name in tree::list(lower)?.into_iter().filter(|name| names.binary_search(name).is_err()) {
            changes.push(change(path, &name, ChangeKind::Deleted));
        }
    }
    for name in names {
        let Some(stat) = tree::stat_optional(upper, &name)? else { continue };
        let before = match lower {
            Some(lower) => tree::stat_optional(lower, &name)?,
            None => None,
        };
        if stat.is_whiteout() {
            if before.is_some() {
                changes.push(change(path, &name, ChangeKind::Deleted));
            }
            continue;
        }
        let kind = if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let told = change(path, &name, kind);
        let inner_path = told.path.clone();
        changes.push(told);
        if stat.kind == Kind::Directory {
            let inner = tree::open_directory(upper, &name)?;
            let was = match (lower, before) {
                (Some(lower), Some(before)) if before.kind == Kind::Directory => {
                    Some(tree::open_directory(lower, &name)?)
                }
                _ => None,
            };
            compare(inner.as_fd(), was.as_ref().map(AsFd::as_fd), &inner_path, changes, depth + 1)?;
        }
    }
    Ok(())
}

fn change(parent: &str, name: &[u8], kind: ChangeKind) -> Change {
    Change { path: format!("{parent}/{}", String::from_utf8_lossy(name)), kind }
}
