//! Extracting an archive into a root file system that somebody may be changing meanwhile.
//!
//! Whoever runs in the root may put links and other things in the way at any moment. So each entry's directory is
//! resolved anew, with the root taken for `/`, and the entry itself is made by its name in that directory's descriptor;
//! it never leads out of the root, and no link in the last place is followed. Mount points are not replaced.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci::{Algorithm, Compression};
use sys::path::OFlags;
use sys::tree::{self, Kind};

use super::extract::{components, set_xattrs, write_parts, write_whole};
use super::walk::clamp;
use super::{ArchiveError, Entry, EntryKind, Limit, Stream, Tar};
use crate::{IdMaps, Limits};

/// How an archive is extracted.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlaceOptions<'a> {
    /// Whether a directory is not replaced by something else, nor something else by a directory.
    pub keep_kinds: bool,
    /// Whether all belongs to this user and group, whatever the archive says; as they are inside.
    pub owner: Option<(u32, u32)>,
    /// Maps of the root's user namespace.
    pub maps: Option<&'a IdMaps>,
    /// Bounds.
    pub limits: Limits,
}

/// Extracts an archive, compressed or not, into the directory `base` below `root`.
///
/// # Errors
/// What was extracted before something failed stays.
pub fn place(
    root: BorrowedFd<'_>,
    base: &Path,
    mut reader: Box<dyn io::Read + Send>,
    options: PlaceOptions<'_>,
) -> Result<(), ArchiveError> {
    let (start, compression) = sniff(&mut *reader).map_err(ArchiveError::Read)?;
    let reader = Box::new(io::Read::chain(io::Cursor::new(start), reader));
    let stream = Stream::start(reader, compression, options.limits, Algorithm::Sha256)?;
    let mut tar = Tar::new(stream, options.limits);
    let mut place = Placing { root, base, options, entries: 0, content: 0, here: None, times: Vec::new() };
    while let Some(entry) = tar.next()? {
        place.entry(&entry, &mut tar)?;
    }
    place.finish()?;
    tar.finish()?;
    Ok(())
}

/// The first bytes of a stream, and how it is compressed by them.
pub(crate) fn sniff(reader: &mut dyn io::Read) -> io::Result<(Vec<u8>, Compression)> {
    let mut start = vec![0; 4];
    let mut filled = 0;
    while filled < start.len() {
        match reader.read(&mut start[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    start.truncate(filled);
    let compression = match &start[..] {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        _ => Compression::None,
    };
    Ok((start, compression))
}

struct Placing<'a> {
    root: BorrowedFd<'a>,
    base: &'a Path,
    options: PlaceOptions<'a>,
    entries: u64,
    content: u64,
    /// The directory of the last entry.
    here: Option<(PathBuf, OwnedFd)>,
    /// Times of directories, set when nothing more comes into them.
    times: Vec<(OwnedFd, tree::Mtime)>,
}

/// Directories whose times are set at the end: each is an open descriptor.
const MAX_TIMES: usize = 128;

impl Placing<'_> {
    fn entry(&mut self, entry: &Entry, tar: &mut Tar) -> Result<(), ArchiveError> {
        self.entries += 1;
        if self.entries > self.options.limits.entries {
            return Err(ArchiveError::Limit { limit: Limit::Entries });
        }
        let path = components(&entry.name, self.options.limits.depth)?;
        let Some((last, parents)) = path.split_last() else {
            // The directory itself is there, and its owner's.
            return Ok(());
        };
        let parent = self.parent(parents, &entry.name)?;
        self.clear(parent.as_fd(), last, entry)?;
        match entry.kind {
            EntryKind::Directory => self.directory(parent.as_fd(), last, entry),
            EntryKind::File => self.file(parent.as_fd(), last, entry, tar),
            EntryKind::Symlink => {
                let made = tree::make_symlink(&entry.link, parent.as_fd(), last);
                made.map_err(ArchiveError::io("make the link", &entry.name))?;
                self.dress(parent.as_fd(), last, entry)
            }
            EntryKind::HardLink => self.hard_link(parent.as_fd(), last, entry),
            EntryKind::CharDevice => self.node(parent.as_fd(), last, entry, Kind::CharDevice),
            EntryKind::BlockDevice => self.node(parent.as_fd(), last, entry, Kind::BlockDevice),
            EntryKind::Fifo => self.node(parent.as_fd(), last, entry, Kind::Fifo),
            EntryKind::Other => Err(ArchiveError::entry(&entry.name, "its type cannot be extracted")),
        }
    }

    fn finish(&mut self) -> Result<(), ArchiveError> {
        for (directory, mtime) in self.times.drain(..).rev() {
            tree::set_mtime_fd(directory.as_fd(), mtime).map_err(ArchiveError::io(
                "set the time of a directory below",
                self.base.as_os_str().as_bytes(),
            ))?;
        }
        Ok(())
    }

    /// The directory of an entry; what is missing of it is made.
    fn parent(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<OwnedFd, ArchiveError> {
        let path = self.path_of(parents);
        if let Some((known, directory)) = &self.here
            && *known == path
        {
            return directory.try_clone().map_err(ArchiveError::io("open the directory of", name));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let open = || match sys::path::open_in_root(self.root, &path, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(sys::path::mkdir_all_in_root(self.root, &path, 0o755)?);
                sys::path::open_in_root(self.root, &path, flags)
            }
            other => other,
        };
        let directory = open().map_err(ArchiveError::io("open the directory of", name))?;
        let kept = directory.try_clone().map_err(ArchiveError::io("open the directory of", name))?;
        self.here = Some((path, kept));
        Ok(directory)
    }

    fn path_of(&self, components: &[&[u8]]) -> PathBuf {
        let mut path = self.base.to_owned();
        path.extend(components.iter().map(|component| std::ffi::OsStr::from_bytes(component)));
        path
    }

    /// Removes what is in the way of an entry.
    fn clear(&self, parent: BorrowedFd<'_>, last: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let found = tree::stat_optional(parent, last).map_err(ArchiveError::io("find", &entry.name))?;
        let Some(found) = found else { return Ok(()) };
        let (was, is) = (found.kind == Kind::Directory, entry.kind == EntryKind::Directory);
        if was && is {
            return Ok(());
        }
        if was != is && self.options.keep_kinds {
            return Err(ArchiveError::entry(
                &entry.name,
                if was {
                    "cannot overwrite a directory with something else"
                } else {
                    "cannot overwrite something else with a directory"
                },
            ));
        }
        if tree::is_mount_point(parent, last).map_err(ArchiveError::io("look at", &entry.name))? {
            return Err(ArchiveError::entry(&entry.name, "something is mounted there"));
        }
        tree::remove_entry(parent, last).map_err(ArchiveError::io("replace", &entry.name))
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, last: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        match tree::make_directory(parent, last, entry.mode | 0o700) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(ArchiveError::io("make", &entry.name)(error));
            }
            _ => {}
        }
        let directory = tree::open_directory(parent, last).map_err(ArchiveError::io("open", &entry.name))?;
        let (uid, gid) = self.owner(entry)?;
        tree::set_owner_fd(directory.as_fd(), uid, gid).map_err(ArchiveError::io("chown", &entry.name))?;
        tree::set_mode_fd(directory.as_fd(), entry.mode).map_err(ArchiveError::io("chmod", &entry.name))?;
        set_xattrs(directory.as_fd(), entry)?;
        if self.times.len() == MAX_TIMES {
            self.finish()?;
        }
        self.times.push((directory, clamp(entry.mtime)));
        Ok(())
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        last: &[u8],
        entry: &Entry,
        tar: &mut Tar,
    ) -> Result<(), ArchiveError> {
        self.content = self.content.saturating_add(entry.size);
        if self.content > self.options.limits.content_bytes {
            return Err(ArchiveError::Limit { limit: Limit::Content });
        }
        let file = tree::create_file(parent, last, 0o600).map_err(ArchiveError::io("create", &entry.name))?;
        let file = File::from(file);
        match &entry.parts {
            None => write_whole(&file, entry, tar)?,
            Some(parts) => write_parts(&file, entry, parts, tar)?,
        };
        let (uid, gid) = self.owner(entry)?;
        tree::set_owner_fd(file.as_fd(), uid, gid).map_err(ArchiveError::io("chown", &entry.name))?;
        tree::set_mode_fd(file.as_fd(), entry.mode).map_err(ArchiveError::io("chmod", &entry.name))?;
        set_xattrs(file.as_fd(), entry)?;
        tree::set_mtime_fd(file.as_fd(), clamp(entry.mtime))
            .map_err(ArchiveError::io("set the time of", &entry.name))
    }

    fn hard_link(&mut self, parent: BorrowedFd<'_>, last: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let path = components(&entry.link, self.options.limits.depth)?;
        let Some((target, parents)) = path.split_last() else {
            return Err(ArchiveError::entry(&entry.name, "it is a hard link to the directory itself"));
        };
        let path = self.path_of(parents);
        let from = sys::path::open_in_root(self.root, &path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(ArchiveError::io("find the target of the hard link", &entry.name))?;
        tree::make_hard_link(from.as_fd(), target, parent, last)
            .map_err(ArchiveError::io("make the hard link", &entry.name))
    }

    fn node(
        &mut self,
        parent: BorrowedFd<'_>,
        last: &[u8],
        entry: &Entry,
        kind: Kind,
    ) -> Result<(), ArchiveError> {
        let number = |number: i64, bits: u32| u32::try_from(number).ok().filter(|number| *number < 1 << bits);
        let device = number(entry.device.0, 12).zip(number(entry.device.1, 20));
        let device = match kind {
            Kind::Fifo => (0, 0),
            _ => device.ok_or_else(|| ArchiveError::entry(&entry.name, "its device number is too large"))?,
        };
        tree::make_node(parent, last, kind, 0o600, device).map_err(ArchiveError::io("make", &entry.name))?;
        self.dress(parent, last, entry)?;
        tree::set_mode(parent, last, entry.mode).map_err(ArchiveError::io("chmod", &entry.name))
    }

    fn dress(&mut self, parent: BorrowedFd<'_>, last: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let (uid, gid) = self.owner(entry)?;
        tree::set_owner(parent, last, uid, gid).map_err(ArchiveError::io("chown", &entry.name))?;
        tree::set_mtime(parent, last, clamp(entry.mtime))
            .map_err(ArchiveError::io("set the time of", &entry.name))
    }

    fn owner(&self, entry: &Entry) -> Result<(u32, u32), ArchiveError> {
        let (uid, gid) = match self.options.owner {
            Some(owner) => owner,
            None => super::extract::owner(entry)?,
        };
        Ok(match self.options.maps {
            None => (uid, gid),
            Some(maps) => maps.outside(uid, gid),
        })
    }
}
