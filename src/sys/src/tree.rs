//! File trees, one name at a time below a directory's file descriptor.
//!
//! Every call takes an open directory and a *single* name in it, and never follows a symbolic link: whoever
//! builds a tree from untrusted input walks it with these and cannot leave it. Paths are not accepted here;
//! a name with a slash is an error.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, XattrFlags};

mod copy;
mod usage;

pub use copy::copy_contents;
pub use usage::{Usage, usage};

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Time of last modification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds of that second.
    pub nanoseconds: u32,
}

/// The metadata of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// 512-byte blocks on disk.
    pub blocks: u64,
    /// Number of names.
    pub links: u64,
    /// Inode number.
    pub inode: u64,
    /// The device of the file system.
    pub device: u64,
    /// Major number of a device node.
    pub major: u32,
    /// Minor number of a device node.
    pub minor: u32,
    /// Time of last modification.
    pub mtime: Mtime,
}

impl Stat {
    /// Whether it is overlayfs' mark for "nothing here": a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.major == 0 && self.minor == 0
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn checked(name: &[u8]) -> io::Result<&OsStr> {
    let bad = name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0);
    if bad {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a single file name"));
    }
    Ok(OsStr::from_bytes(name))
}

fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// Opens a directory by path; its last component must not be a symbolic link.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(retry(|| rfs::open(path, DIRECTORY, Mode::empty()))?)
}

/// Opens the root directory of a process, `/proc/PID/root`: paths below it are seen with the mounts of the process.
pub fn open_root_of_process(path: &Path) -> io::Result<OwnedFd> {
    Ok(retry(|| rfs::open(path, DIRECTORY - OFlags::NOFOLLOW, Mode::empty()))?)
}

/// Opens whatever lies at a path below a directory, without reading it. Links and `..` in the path cannot
/// lead out: the directory is their root.
pub fn pin_in_root(directory: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let resolve = rfs::ResolveFlags::IN_ROOT | rfs::ResolveFlags::NO_MAGICLINKS;
    loop {
        match rfs::openat2(directory, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel saw a rename while it walked, and could not be sure.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens a directory.
pub fn open_directory(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let name = checked(name)?;
    Ok(retry(|| rfs::openat(directory, name, DIRECTORY, Mode::empty()))?)
}

/// Opens a regular file for reading. Anything else is an error, and is not touched: no device is opened and
/// no pipe is waited for.
pub fn open_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let name = checked(name)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let pinned = retry(|| {
        rfs::openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    })?;
    if stat_fd(pinned.as_fd())?.kind != Kind::File {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(retry(|| rfs::open(descriptor_path(pinned.as_fd()), flags - OFlags::NOFOLLOW, Mode::empty()))?)
}

/// Creates a file for writing; it must not exist. The mode is cut by the process' umask.
pub fn create_file(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<OwnedFd> {
    let name = checked(name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(retry(|| rfs::openat(directory, name, flags, mode_of(mode)))?)
}

/// Creates a directory; it must not exist. The mode is cut by the process' umask.
pub fn make_directory(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    Ok(rfs::mkdirat(directory, checked(name)?, mode_of(mode))?)
}

/// Creates a symbolic link; the name must not exist.
pub fn make_symlink(target: &[u8], directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rfs::symlinkat(OsStr::from_bytes(target), directory, checked(name)?)?)
}

/// Gives a file a second name. A symbolic link is linked itself, not what it points to.
pub fn make_hard_link(
    from_directory: BorrowedFd<'_>,
    from: &[u8],
    to_directory: BorrowedFd<'_>,
    to: &[u8],
) -> io::Result<()> {
    let (from, to) = (checked(from)?, checked(to)?);
    Ok(rfs::linkat(from_directory, from, to_directory, to, AtFlags::empty())?)
}

/// Creates a device node or a named pipe with exactly this mode; the name must not exist.
pub fn make_node(
    directory: BorrowedFd<'_>,
    name: &[u8],
    kind: Kind,
    mode: u32,
    (major, minor): (u32, u32),
) -> io::Result<()> {
    let file_type = match kind {
        Kind::CharDevice => rfs::FileType::CharacterDevice,
        Kind::BlockDevice => rfs::FileType::BlockDevice,
        Kind::Fifo => rfs::FileType::Fifo,
        Kind::Socket => rfs::FileType::Socket,
        Kind::File | Kind::Directory | Kind::Symlink => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device or pipe"));
        }
    };
    let checked_name = checked(name)?;
    rfs::mknodat(directory, checked_name, file_type, mode_of(mode), rfs::makedev(major, minor))?;
    Ok(())
}

/// The metadata of an entry.
pub fn stat(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Stat> {
    Ok(convert(&rfs::statat(directory, checked(name)?, AtFlags::SYMLINK_NOFOLLOW)?))
}

/// The metadata of an entry, if there is one.
pub fn stat_optional(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match stat(directory, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The metadata of an open file.
pub fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    Ok(convert(&rfs::fstat(fd)?))
}

#[allow(clippy::useless_conversion, reason = "the count of links is narrower on other machines")]
fn convert(stat: &rfs::Stat) -> Stat {
    let kind = match rfs::FileType::from_raw_mode(stat.st_mode) {
        rfs::FileType::Directory => Kind::Directory,
        rfs::FileType::Symlink => Kind::Symlink,
        rfs::FileType::CharacterDevice => Kind::CharDevice,
        rfs::FileType::BlockDevice => Kind::BlockDevice,
        rfs::FileType::Fifo => Kind::Fifo,
        rfs::FileType::Socket => Kind::Socket,
        rfs::FileType::RegularFile | rfs::FileType::Unknown => Kind::File,
    };
    Stat {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        links: u64::from(stat.st_nlink),
        inode: stat.st_ino,
        device: stat.st_dev,
        major: rfs::major(stat.st_rdev),
        minor: rfs::minor(stat.st_rdev),
        mtime: Mtime { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
    }
}

/// Whether something is mounted on an entry, in whatever mount namespace the directory was opened in.
pub fn is_mount_point(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    let name = checked(name)?;
    let id = |path: &OsStr, flags: AtFlags| {
        let wanted = rfs::StatxFlags::MNT_ID;
        let found = retry(|| rfs::statx(directory, path, flags | AtFlags::NO_AUTOMOUNT, wanted))?;
        Ok::<u64, io::Error>(found.stx_mnt_id)
    };
    Ok(id(name, AtFlags::SYMLINK_NOFOLLOW)? != id(OsStr::new(""), AtFlags::EMPTY_PATH)?)
}

/// Where a symbolic link points.
pub fn read_link(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rfs::readlinkat(directory, checked(name)?, Vec::new())?.into_bytes())
}

/// Removes one name that is not a directory.
pub fn unlink(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rfs::unlinkat(directory, checked(name)?, AtFlags::empty())?)
}

/// Removes an entry and, if it is a directory, everything in it. Nothing to remove is fine.
pub fn remove_entry(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    crate::fs::remove_tree_at(directory, Path::new(checked(name)?))
}

/// Changes the owner of an entry.
pub fn set_owner(directory: BorrowedFd<'_>, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (rfs::Uid::from_raw(uid), rfs::Gid::from_raw(gid));
    Ok(rfs::chownat(directory, checked(name)?, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Changes the owner of an open file. This clears set-id bits and file capabilities, so it comes first.
pub fn set_owner_fd(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rfs::fchown(fd, Some(rfs::Uid::from_raw(uid)), Some(rfs::Gid::from_raw(gid)))?)
}

/// Changes the mode of an entry that is not a symbolic link.
pub fn set_mode(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    let name = checked(name)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pinned = retry(|| rfs::openat(directory, name, flags, Mode::empty()))?;
    // fchmod refuses O_PATH descriptors; the magic link leads to exactly the pinned inode.
    Ok(rfs::chmod(descriptor_path(pinned.as_fd()), mode_of(mode))?)
}

/// Changes the mode of an open file.
pub fn set_mode_fd(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    Ok(rfs::fchmod(fd, mode_of(mode))?)
}

fn timestamps(mtime: Mtime) -> rfs::Timestamps {
    let time = rfs::Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanoseconds) };
    rfs::Timestamps { last_access: time, last_modification: time }
}

/// Changes access and modification time of an entry.
pub fn set_mtime(directory: BorrowedFd<'_>, name: &[u8], mtime: Mtime) -> io::Result<()> {
    Ok(rfs::utimensat(directory, checked(name)?, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Changes access and modification time of an open file.
pub fn set_mtime_fd(fd: BorrowedFd<'_>, mtime: Mtime) -> io::Result<()> {
    Ok(rfs::futimens(fd, &timestamps(mtime))?)
}

/// Sets an extended attribute of an open file.
pub fn set_xattr_fd(fd: BorrowedFd<'_>, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rfs::fsetxattr(fd, name, value, XattrFlags::empty())?)
}

/// Removes an extended attribute of an open file.
pub fn remove_xattr_fd(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    Ok(rfs::fremovexattr(fd, name)?)
}

/// An extended attribute of an open file, if it has it.
pub fn xattr_fd(fd: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        match rfs::fgetxattr(fd, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(rustix::io::Errno::RANGE) if value.len() < 1 << 17 => value.resize(value.len() * 8, 0),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The names of the extended attributes of an open file.
pub fn list_xattrs_fd(fd: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = vec![0u8; 1 << 16];
    let length = rfs::flistxattr(fd, &mut names[..])?;
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// The names in a directory, without `.` and `..`, in the order of the file system.
pub fn list(directory: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rfs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Moves an entry; an existing target is replaced.
pub fn rename(
    from_directory: BorrowedFd<'_>,
    from: &[u8],
    to_directory: BorrowedFd<'_>,
    to: &[u8],
) -> io::Result<()> {
    Ok(rfs::renameat(from_directory, checked(from)?, to_directory, checked(to)?)?)
}

/// Waits until everything on the file system of `fd` is on disk, and reports what failed to get there.
pub fn sync_file_system(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rfs::syncfs(fd)?)
}

/// The process' umask, read without changing it.
pub fn umask() -> io::Result<u32> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let parsed = value.and_then(|value| u32::from_str_radix(value.trim(), 8).ok());
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no Umask in /proc/self/status"))
}

fn descriptor_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    rustix::io::retry_on_intr(call)
}

#[cfg(test)]
mod tests;
