//! Making files of entries, as a lower directory of overlayfs.
//!
//! Whiteouts become what overlayfs takes for them: a character device 0:0 for a name, an attribute of the
//! directory for "nothing of what was here". They speak of the layers below only, never of this one,
//! wherever they stand in the archive.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sys::tree::{self, Kind, Stat};

use super::walk::{Walk, clamp, clear_implied, set_opaque};
use super::{ArchiveError, Entry, EntryKind, Limit, Tar};
use crate::{Limits, fail};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const MAX_COMPONENT: usize = 255;
/// What a file or directory takes at least.
const UNIT: u64 = 4096;

/// What was extracted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) opaque: bool,
    pub(crate) implied: bool,
}

/// Extracts entries below a directory.
pub(crate) struct Extractor {
    walk: Walk,
    limits: Limits,
    umask: u32,
    entries: u64,
    content: u64,
    totals: Totals,
    /// Something was replaced, so the totals are too large.
    recount: bool,
}

impl Extractor {
    pub(crate) fn open(root: &Path, limits: Limits) -> Result<Self, ArchiveError> {
        Ok(Self {
            walk: Walk::open(root, limits.depth)?,
            limits,
            umask: tree::umask().map_err(ArchiveError::io("read the umask for", b"/"))?,
            entries: 0,
            content: 0,
            totals: Totals::default(),
            recount: false,
        })
    }

    /// Extracts one entry; its data comes from `tar`.
    pub(crate) fn extract(&mut self, entry: &Entry, tar: &mut Tar) -> Result<(), ArchiveError> {
        self.entries += 1;
        if self.entries + self.walk.made > self.limits.entries {
            return Err(ArchiveError::Limit { limit: Limit::Entries });
        }
        if entry.name.len() > self.limits.name_length || entry.link.len() > self.limits.name_length {
            return Err(ArchiveError::Limit { limit: Limit::NameLength });
        }
        let path = components(&entry.name, self.limits.depth)?;
        let Some((last, parents)) = path.split_last() else { return self.extract_root(entry) };
        if parents.iter().any(|parent| parent.starts_with(WHITEOUT_META)) || is_metadata(last) {
            return Ok(());
        }
        if parents.iter().any(|parent| parent.starts_with(WHITEOUT)) {
            return Err(ArchiveError::entry(&entry.name, "a whiteout is not a directory"));
        }
        if last.len() > MAX_COMPONENT {
            return Err(ArchiveError::Limit { limit: Limit::NameLength });
        }
        self.walk.go(parents, &entry.name, entry.mtime)?;
        if let Some(hidden) = last.strip_prefix(WHITEOUT) {
            return self.extract_whiteout(last, hidden, entry);
        }
        match entry.kind {
            EntryKind::Directory => self.extract_directory(last, entry),
            EntryKind::File => self.extract_file(last, entry, tar),
            EntryKind::Symlink => self.extract_symlink(last, entry),
            EntryKind::HardLink => self.extract_hard_link(last, entry),
            EntryKind::CharDevice => self.extract_node(last, entry, Kind::CharDevice),
            EntryKind::BlockDevice => self.extract_node(last, entry, Kind::BlockDevice),
            EntryKind::Fifo => self.extract_node(last, entry, Kind::Fifo),
            EntryKind::Other => Err(ArchiveError::entry(&entry.name, "its type cannot be extracted")),
        }
    }

    /// Sets the last times and counts.
    pub(crate) fn finish(mut self) -> Result<Totals, ArchiveError> {
        let root = self.walk.root().try_clone_to_owned().map_err(ArchiveError::io("open", b"/"))?;
        self.totals.inodes += self.walk.made;
        self.totals.bytes += self.walk.made * UNIT;
        self.totals.implied = self.walk.implied > 0;
        self.walk.finish()?;
        if self.recount {
            let far = std::time::Instant::now() + std::time::Duration::from_secs(600);
            let usage =
                tree::usage(root.as_fd(), far).map_err(ArchiveError::io("count the files of", b"/"))?;
            self.totals.inodes = usage.inodes;
        }
        Ok(self.totals)
    }

    fn extract_root(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        if entry.kind != EntryKind::Directory {
            return Err(ArchiveError::entry(&entry.name, "only a directory can be the root"));
        }
        self.walk.go(&[], &entry.name, entry.mtime)?;
        clear_implied(self.walk.root()).map_err(ArchiveError::io("unmark", &entry.name))?;
        self.dress_directory(entry)
    }

    fn extract_whiteout(&mut self, last: &[u8], hidden: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        if last == OPAQUE {
            if self.walk.at_root() {
                self.totals.opaque = true;
                return Ok(());
            }
            self.walk.touch();
            return set_opaque(self.walk.here(), &entry.name);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ArchiveError::entry(&entry.name, "it is a whiteout of nothing"));
        }
        let here = self.walk.here();
        let found = tree::stat_optional(here, hidden).map_err(ArchiveError::io("find", &entry.name))?;
        match found {
            None => {
                let make = || {
                    fail::point()?;
                    tree::make_node(here, hidden, Kind::CharDevice, 0, (0, 0))
                };
                make().map_err(ArchiveError::io("make the whiteout", &entry.name))?;
                self.count(0);
                self.walk.touch();
            }
            // What this layer has stays, and hides what is below it: a directory must be told to.
            Some(stat) if stat.kind == Kind::Directory => {
                let directory = tree::open_directory(here, hidden);
                let directory = directory.map_err(ArchiveError::io("open", &entry.name))?;
                set_opaque(directory.as_fd(), &entry.name)?;
                self.walk.explain(directory.as_fd(), &entry.name)?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn extract_directory(&mut self, last: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let made = self.make(
            last,
            entry,
            |here, mode| tree::make_directory(here, last, mode),
            |stat| stat.kind == Kind::Directory,
        )?;
        self.walk.enter(last, &entry.name)?;
        match made {
            Made::New => self.count(UNIT),
            Made::InsteadOfWhiteout => {
                self.count(UNIT);
                set_opaque(self.walk.here(), &entry.name)?;
            }
            Made::Kept => self.walk.explain_here(&entry.name)?,
        }
        self.dress_directory(entry)
    }

    fn dress_directory(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        let here = self.walk.here();
        let stat = tree::stat_fd(here).map_err(ArchiveError::io("stat", &entry.name))?;
        let (uid, gid) = owner(entry)?;
        if (stat.uid, stat.gid) != (uid, gid) {
            tree::set_owner_fd(here, uid, gid).map_err(ArchiveError::io("chown", &entry.name))?;
        }
        if stat.mode != entry.mode {
            tree::set_mode_fd(here, entry.mode).map_err(ArchiveError::io("chmod", &entry.name))?;
        }
        set_xattrs(here, entry)?;
        self.walk.set_mtime(entry.mtime);
        Ok(())
    }

    fn extract_file(&mut self, last: &[u8], entry: &Entry, tar: &mut Tar) -> Result<(), ArchiveError> {
        self.content = self.content.saturating_add(entry.size);
        if self.content > self.limits.content_bytes {
            return Err(ArchiveError::Limit { limit: Limit::Content });
        }
        let mut file = None;
        self.make(
            last,
            entry,
            |here, mode| {
                file = Some(tree::create_file(here, last, mode)?);
                Ok(())
            },
            |_| false,
        )?;
        let Some(file) = file.map(File::from) else { return Ok(()) };
        let stored = match &entry.parts {
            None => write_whole(&file, entry, tar)?,
            Some(parts) => write_parts(&file, entry, parts, tar)?,
        };
        self.count(stored.next_multiple_of(UNIT));
        let failed = |operation| ArchiveError::io(operation, &entry.name);
        let (uid, gid) = owner(entry)?;
        if (uid, gid) != (0, 0) {
            tree::set_owner_fd(file.as_fd(), uid, gid).map_err(failed("chown"))?;
        }
        if entry.mode & 0o777 & !self.umask != entry.mode {
            tree::set_mode_fd(file.as_fd(), entry.mode).map_err(failed("chmod"))?;
        }
        set_xattrs(file.as_fd(), entry)?;
        tree::set_mtime_fd(file.as_fd(), clamp(entry.mtime)).map_err(failed("set the time of"))
    }

    fn extract_symlink(&mut self, last: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        self.make(last, entry, |here, _| tree::make_symlink(&entry.link, here, last), |_| false)?;
        self.count(0);
        self.dress_node(last, entry)
    }

    fn extract_node(&mut self, last: &[u8], entry: &Entry, kind: Kind) -> Result<(), ArchiveError> {
        let (major, minor) = match (kind, entry.device) {
            (Kind::CharDevice | Kind::BlockDevice, (major, minor)) => {
                let major = u32::try_from(major).ok().filter(|major| *major < 1 << 12);
                let minor = u32::try_from(minor).ok().filter(|minor| *minor < 1 << 20);
                major
                    .zip(minor)
                    .ok_or_else(|| ArchiveError::entry(&entry.name, "its device number is too large"))?
            }
            _ => (0, 0),
        };
        self.make(
            last,
            entry,
            |here, mode| tree::make_node(here, last, kind, mode, (major, minor)),
            |_| false,
        )?;
        self.count(0);
        self.dress_node(last, entry)?;
        if entry.mode & 0o777 & !self.umask != entry.mode {
            tree::set_mode(self.walk.here(), last, entry.mode)
                .map_err(ArchiveError::io("chmod", &entry.name))?;
        }
        Ok(())
    }

    fn dress_node(&mut self, last: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let here = self.walk.here();
        let (uid, gid) = owner(entry)?;
        if (uid, gid) != (0, 0) {
            tree::set_owner(here, last, uid, gid).map_err(ArchiveError::io("chown", &entry.name))?;
        }
        tree::set_mtime(here, last, clamp(entry.mtime))
            .map_err(ArchiveError::io("set the time of", &entry.name))
    }

    /// Another name for a file that this layer has already. What the entry says about owner and mode is the
    /// first name's business.
    fn extract_hard_link(&mut self, last: &[u8], entry: &Entry) -> Result<(), ArchiveError> {
        let path = components(&entry.link, self.limits.depth)?;
        let Some((target, parents)) = path.split_last() else {
            return Err(ArchiveError::entry(&entry.name, "it is a hard link to the root"));
        };
        let parent = Path::new(std::ffi::OsStr::from_bytes(&parents.join(&b"/"[..]))).to_owned();
        let parent = if parent.as_os_str().is_empty() { Path::new(".").to_owned() } else { parent };
        let directory = tree::pin_in_root(self.walk.root(), &parent)
            .map_err(ArchiveError::io("find the target of the hard link", &entry.name))?;
        let original = tree::stat(directory.as_fd(), target)
            .map_err(ArchiveError::io("find, in this layer, the target of the hard link", &entry.name))?;
        if original.kind == Kind::Directory {
            return Err(ArchiveError::entry(&entry.name, "it is a hard link to a directory"));
        }
        let same = |stat: &Stat| (stat.device, stat.inode) == (original.device, original.inode);
        self.make(last, entry, |here, _| tree::make_hard_link(directory.as_fd(), target, here, last), same)?;
        Ok(())
    }

    /// Makes a name in the directory where the walk stands. What has the name already is removed, unless
    /// `keep` says that it is as good as new.
    fn make(
        &mut self,
        last: &[u8],
        entry: &Entry,
        mut create: impl FnMut(BorrowedFd<'_>, u32) -> std::io::Result<()>,
        keep: impl Fn(&Stat) -> bool,
    ) -> Result<Made, ArchiveError> {
        let here = self.walk.here();
        let mut create = || {
            fail::point()?;
            create(here, entry.mode)
        };
        let mut made = Made::New;
        match create() {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let stat = tree::stat(here, last).map_err(ArchiveError::io("find", &entry.name))?;
                if keep(&stat) {
                    return Ok(Made::Kept);
                }
                if stat.is_whiteout() {
                    made = Made::InsteadOfWhiteout;
                }
                self.recount = true;
                tree::remove_entry(here, last).map_err(ArchiveError::io("replace", &entry.name))?;
                create().map_err(ArchiveError::io("create", &entry.name))?;
            }
            Err(error) => return Err(ArchiveError::io("create", &entry.name)(error)),
        }
        self.walk.touch();
        Ok(made)
    }

    fn count(&mut self, bytes: u64) {
        self.totals.inodes += 1;
        self.totals.bytes += bytes;
    }
}

/// How a name came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    New,
    InsteadOfWhiteout,
    Kept,
}

/// Names that other storage drivers use for themselves.
fn is_metadata(last: &[u8]) -> bool {
    last.starts_with(WHITEOUT_META) && last != OPAQUE
}

/// A name's components, `.` and `..` worked out. A leading slash means nothing.
pub(super) fn components(name: &[u8], depth: usize) -> Result<Vec<&[u8]>, ArchiveError> {
    if name.contains(&0) {
        return Err(ArchiveError::entry(name, "it contains a zero byte"));
    }
    let mut path = Vec::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if path.pop().is_none() {
                    return Err(ArchiveError::entry(name, "it leads out of the layer"));
                }
            }
            _ => path.push(component),
        }
        if path.len() > depth {
            return Err(ArchiveError::Limit { limit: Limit::Depth });
        }
    }
    Ok(path)
}

pub(super) fn owner(entry: &Entry) -> Result<(u32, u32), ArchiveError> {
    let id = |id: i64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    let owner = id(entry.uid).zip(id(entry.gid));
    owner.ok_or_else(|| ArchiveError::entry(&entry.name, "its owner is not a user of Linux"))
}

/// Attributes that mean the same everywhere. Those of overlayfs would make a layer speak to the kernel;
/// labels and signatures are of the machine that made the image.
pub(crate) fn is_wanted(name: &str) -> bool {
    match name {
        "security.capability" | "system.posix_acl_access" | "system.posix_acl_default" => true,
        _ => name.starts_with("user.") && !name.starts_with("user.overlay."),
    }
}

pub(super) fn set_xattrs(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), ArchiveError> {
    for (name, value) in &entry.xattrs {
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| is_wanted(name)) else { continue };
        match tree::set_xattr_fd(fd, name, value) {
            // The file system has none of these: everything but a capability can be done without.
            Err(error) if is_unsupported(&error) && name != "security.capability" => {}
            outcome => outcome.map_err(ArchiveError::io("set an attribute of", &entry.name))?,
        }
    }
    Ok(())
}

fn is_unsupported(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::Unsupported
}

pub(super) fn write_whole(file: &File, entry: &Entry, tar: &mut Tar) -> Result<u64, ArchiveError> {
    let mut written = 0;
    loop {
        let data = tar.data()?;
        if data.is_empty() {
            return Ok(written);
        }
        let count = data.len();
        let write = fail::point().and_then(|()| std::io::Write::write_all(&mut &*file, data));
        write.map_err(ArchiveError::io("write", &entry.name))?;
        tar.consume(count);
        written += count as u64;
    }
}

pub(super) fn write_parts(
    file: &File,
    entry: &Entry,
    parts: &[(u64, u64)],
    tar: &mut Tar,
) -> Result<u64, ArchiveError> {
    file.set_len(entry.size).map_err(ArchiveError::io("set the size of", &entry.name))?;
    let mut written = 0;
    for (offset, length) in parts {
        let mut done = 0;
        while done < *length {
            let data = tar.data()?;
            if data.is_empty() {
                return Err(ArchiveError::Truncated { what: "a sparse file" });
            }
            let count = data.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
            let write = file.write_all_at(&data[..count], offset + done);
            write.map_err(ArchiveError::io("write", &entry.name))?;
            tar.consume(count);
            done += count as u64;
        }
        written += done;
    }
    Ok(written)
}
