//! The directories between the root and where the next entry goes, kept open.
//!
//! Archives list a directory's entries next to each other, so the path to the last entry is mostly the path
//! to the next one and costs nothing to walk. Each directory's modification time is what the archive, or
//! the file system, said when it was entered, and is set again when it is left.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use sys::tree::{self, Kind, Mtime};

use super::{ArchiveError, Limit};

/// Links that one path may lead through.
pub(crate) const MAX_LINKS: usize = 40;
/// The attribute of a directory that only names of other entries speak of. Overlayfs shows nobody what starts
/// like its own attributes, and never copies it.
const IMPLIED: &str = "trusted.overlay.berth.implied";
const OPAQUE: &str = "trusted.overlay.opaque";

struct Frame {
    name: Vec<u8>,
    directory: OwnedFd,
    mtime: Mtime,
    changed: bool,
}

/// Open directories, from the root down.
pub(crate) struct Walk {
    /// The root is first and has no name.
    frames: Vec<Frame>,
    depth: usize,
    /// Directories made because an entry needed them.
    pub(crate) made: u64,
    /// Those of them that say nothing about what they hide: the root is not counted.
    pub(crate) implied: u64,
}

impl Walk {
    pub(crate) fn open(root: &Path, depth: usize) -> Result<Self, ArchiveError> {
        let open = || {
            let directory = tree::open_root(root)?;
            tree::set_mode_fd(directory.as_fd(), 0o755)?;
            set_implied(directory.as_fd())?;
            let mtime = tree::stat_fd(directory.as_fd())?.mtime;
            Ok(Frame { name: Vec::new(), directory, mtime, changed: false })
        };
        Ok(Self { frames: vec![open().map_err(ArchiveError::io("open", b"/"))?], depth, made: 0, implied: 0 })
    }

    /// The root.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.frames[0].directory.as_fd()
    }

    /// The directory where the walk stands.
    pub(crate) fn here(&self) -> BorrowedFd<'_> {
        self.frames[self.frames.len() - 1].directory.as_fd()
    }

    /// Whether the walk stands at the root.
    pub(crate) fn at_root(&self) -> bool {
        self.frames.len() == 1
    }

    /// Says that a name was made or removed in the directory where the walk stands.
    pub(crate) fn touch(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.changed = true;
        }
    }

    /// Says which time the directory where the walk stands is to have.
    pub(crate) fn set_mtime(&mut self, mtime: Mtime) {
        if let Some(frame) = self.frames.last_mut() {
            frame.mtime = mtime;
            frame.changed = true;
        }
    }

    /// Goes to a directory. Symbolic links on the way are followed as if the root were `/`; directories that
    /// are missing are made.
    pub(crate) fn go(&mut self, path: &[&[u8]], name: &[u8], mtime: Mtime) -> Result<(), ArchiveError> {
        let mut rest: Vec<Vec<u8>> = path.iter().rev().map(|component| component.to_vec()).collect();
        let mut at = 0;
        let mut links = 0;
        while let Some(component) = rest.pop() {
            match &*component {
                b"" | b"." => continue,
                b".." => {
                    at = usize::saturating_sub(at, 1);
                    continue;
                }
                _ => {}
            }
            if self.frames.get(at + 1).is_some_and(|frame| frame.name == component) {
                at += 1;
                continue;
            }
            self.leave_to(at, name)?;
            let Some(target) = self.enter_or_make(component, name, mtime)? else {
                at += 1;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(ArchiveError::entry(name, "its path leads through too many links"));
            }
            if target.starts_with(b"/") {
                at = 0;
            }
            rest.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
            if rest.len() > self.depth * 2 {
                return Err(ArchiveError::Limit { limit: Limit::Depth });
            }
        }
        self.leave_to(at, name)
    }

    /// Enters a directory that is known to be one.
    pub(crate) fn enter(&mut self, component: &[u8], name: &[u8]) -> Result<(), ArchiveError> {
        if self.frames.len() > self.depth {
            return Err(ArchiveError::Limit { limit: Limit::Depth });
        }
        let open = || {
            let directory = tree::open_directory(self.here(), component)?;
            let mtime = tree::stat_fd(directory.as_fd())?.mtime;
            Ok(Frame { name: component.to_vec(), directory, mtime, changed: false })
        };
        let frame = open().map_err(ArchiveError::io("open the directory of", name))?;
        self.frames.push(frame);
        Ok(())
    }

    /// Says that the archive speaks of a directory: it is not implied, or not any more.
    pub(crate) fn explain(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), ArchiveError> {
        let marked = clear_implied(directory).map_err(ArchiveError::io("unmark", name))?;
        self.implied = self.implied.saturating_sub(u64::from(marked));
        Ok(())
    }

    /// The same of the directory where the walk stands.
    pub(crate) fn explain_here(&mut self, name: &[u8]) -> Result<(), ArchiveError> {
        let marked = clear_implied(self.here()).map_err(ArchiveError::io("unmark", name))?;
        self.implied = self.implied.saturating_sub(u64::from(marked));
        Ok(())
    }

    /// Leaves all directories.
    pub(crate) fn finish(&mut self) -> Result<(), ArchiveError> {
        self.leave_to(0, b"/")?;
        self.frames.pop().map_or(Ok(()), |root| leave(&root, b"/"))
    }

    /// Enters a directory of this name, made if there is nothing; the target of a link of this name.
    fn enter_or_make(
        &mut self,
        component: Vec<u8>,
        name: &[u8],
        mtime: Mtime,
    ) -> Result<Option<Vec<u8>>, ArchiveError> {
        let here = self.here();
        let found = tree::stat_optional(here, &component).map_err(ArchiveError::io("find", name))?;
        match found {
            Some(stat) if stat.kind == Kind::Directory => self.enter(&component, name)?,
            Some(stat) if stat.kind == Kind::Symlink => {
                let target = tree::read_link(here, &component);
                return target.map(Some).map_err(ArchiveError::io("follow a link to", name));
            }
            Some(stat) if stat.is_whiteout() => {
                // Hidden below, and here again: a directory that hides what was there.
                tree::unlink(here, &component).map_err(ArchiveError::io("replace the parent of", name))?;
                self.make(&component, name, mtime)?;
                set_opaque(self.here(), name)?;
                self.made -= 1;
            }
            Some(_) => return Err(ArchiveError::entry(name, "its parent is not a directory")),
            None => {
                self.make(&component, name, mtime)?;
                set_implied(self.here()).map_err(ArchiveError::io("mark the directory of", name))?;
                self.implied += 1;
            }
        }
        Ok(None)
    }

    fn make(&mut self, component: &[u8], name: &[u8], mtime: Mtime) -> Result<(), ArchiveError> {
        let make = || {
            crate::fail::point()?;
            tree::make_directory(self.here(), component, 0o755)
        };
        make().map_err(ArchiveError::io("make the directory of", name))?;
        self.made += 1;
        self.touch();
        self.enter(component, name)?;
        tree::set_mode_fd(self.here(), 0o755).map_err(ArchiveError::io("chmod the directory of", name))?;
        self.set_mtime(mtime);
        Ok(())
    }

    fn leave_to(&mut self, at: usize, name: &[u8]) -> Result<(), ArchiveError> {
        while self.frames.len() > at + 1 {
            if let Some(frame) = self.frames.pop() {
                leave(&frame, name)?;
            }
        }
        Ok(())
    }
}

/// Marks a directory as one that the archive has no entry for: what it is like, if it is there already, is
/// for the layers below to say.
pub(crate) fn set_implied(directory: BorrowedFd<'_>) -> io::Result<()> {
    tree::set_xattr_fd(directory, IMPLIED, b"y")
}

/// Takes that mark away; says whether there was one.
pub(crate) fn clear_implied(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let marked = is_implied(directory)?;
    if marked {
        tree::remove_xattr_fd(directory, IMPLIED)?;
    }
    Ok(marked)
}

/// Whether a directory has the mark.
pub(crate) fn is_implied(directory: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(tree::xattr_fd(directory, IMPLIED)?.is_some())
}

/// Whether a directory hides what lies below it.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(tree::xattr_fd(directory, OPAQUE)?.as_deref() == Some(b"y"))
}

fn leave(frame: &Frame, name: &[u8]) -> Result<(), ArchiveError> {
    if !frame.changed {
        return Ok(());
    }
    tree::set_mtime_fd(frame.directory.as_fd(), clamp(frame.mtime))
        .map_err(ArchiveError::io("set the time of the directory before", name))
}

/// Marks a directory as hiding what lies below it.
pub(crate) fn set_opaque(directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), ArchiveError> {
    set_opaque_fd(directory).map_err(ArchiveError::io("make opaque the directory of", name))
}

pub(crate) fn set_opaque_fd(directory: BorrowedFd<'_>) -> io::Result<()> {
    tree::set_xattr_fd(directory, OPAQUE, b"y")
}

/// A time that every file system takes.
pub(crate) fn clamp(mtime: Mtime) -> Mtime {
    const LATEST: i64 = 1 << 33;
    Mtime { seconds: mtime.seconds.clamp(-(1 << 31), LATEST), nanoseconds: mtime.nanoseconds }
}
