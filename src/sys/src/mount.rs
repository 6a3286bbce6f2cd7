//! The fd-based mount API: open_tree, fsopen, mount_setattr, move_mount.
//!
//! A mount is made detached, gets its attributes, and only then appears somewhere: nobody sees it half done
//! and no path is resolved twice.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::pidfd::owned;

/// A mount that is attached nowhere yet. Dropping it unmounts it.
#[derive(Debug)]
pub struct Detached(pub OwnedFd);

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Detached> for OwnedFd {
    fn from(mount: Detached) -> OwnedFd {
        mount.0
    }
}

/// Per-mount flags: the bits of `MOUNT_ATTR_…` in mount_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes(pub u64);

impl Attributes {
    /// None at all.
    pub const EMPTY: Attributes = Attributes(0);
    /// Read-only.
    pub const RDONLY: Attributes = Attributes(0x1);
    /// Set-user-id bits are ignored.
    pub const NOSUID: Attributes = Attributes(0x2);
    /// Device nodes do not work.
    pub const NODEV: Attributes = Attributes(0x4);
    /// Nothing can be executed.
    pub const NOEXEC: Attributes = Attributes(0x8);
    /// The bits that choose how access times are kept.
    pub const ATIME_MASK: Attributes = Attributes(0x70);
    /// Access times are not kept.
    pub const NOATIME: Attributes = Attributes(0x10);
    /// Access times are always kept.
    pub const STRICTATIME: Attributes = Attributes(0x20);
    /// Access times of directories are not kept.
    pub const NODIRATIME: Attributes = Attributes(0x80);
    /// The mount is idmapped.
    pub const IDMAP: Attributes = Attributes(0x0010_0000);
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: Attributes = Attributes(0x0020_0000);

    /// The union of two sets.
    #[must_use]
    pub const fn with(self, other: Attributes) -> Attributes {
        Attributes(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Attributes) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How mounts and unmounts spread between copies of a mount (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Both ways.
    Shared,
    /// From the original to this copy.
    Slave,
    /// Private, and cannot be bind mounted.
    Unbindable,
}

impl Propagation {
    /// The `MS_…` flag that mount_setattr(2) takes.
    #[must_use]
    pub fn flag(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// A change to a mount; [`set_attributes`] carries it out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// Attributes to set.
    pub set: Attributes,
    /// Attributes to clear.
    pub clear: Attributes,
    /// Propagation to change to.
    pub propagation: Option<Propagation>,
    /// A user namespace whose maps the mount takes on.
    pub idmap: Option<BorrowedFd<'a>>,
    /// Whether the mounts below it change as well.
    pub recursive: bool,
}

/// A value of a file system's option.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// The option alone, as in `ro`.
    Flag,
    /// A string.
    Text(&'a str),
    /// An open file.
    Fd(BorrowedFd<'a>),
}

/// A file system that is being configured, before it has a mount.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Starts to configure a file system of this type; `ENODEV` when the kernel has none.
    pub fn open(fstype: &str) -> io::Result<FsContext> {
        let fstype = CString::new(fstype)?;
        // SAFETY: fsopen(2) reads one C string, which lives through the call.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), 1) }).map(FsContext)
    }

    /// Sets an option. `lowerdir+` of overlayfs may be given many times.
    pub fn set(&self, key: &str, value: Value<'_>) -> io::Result<()> {
        match value {
            Value::Flag => self.config(0, Some(key), None, 0),
            Value::Text(text) => self.config(1, Some(key), Some(&CString::new(text)?), 0),
            Value::Fd(fd) => self.config(5, Some(key), None, fd.as_raw_fd()),
        }
    }

    /// Creates the superblock and makes a detached mount of it.
    pub fn mount(self, attributes: Attributes) -> io::Result<Detached> {
        self.config(6, None, None, 0)?;
        // SAFETY: fsmount(2) takes three integers; the descriptor is ours.
        let fd = unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), 1, attributes.0) };
        owned(fd).map(Detached)
    }

    /// What the file system logged about why a step failed, lines joined by `; `; empty when nothing.
    #[must_use]
    pub fn messages(&self) -> String {
        let mut lines = Vec::new();
        let mut buffer = [0_u8; 1024];
        while let Ok(length @ 1..) = rustix::io::read(&self.0, &mut buffer) {
            lines.push(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned());
        }
        lines.join("; ")
    }

    fn config(&self, command: u32, key: Option<&str>, value: Option<&CStr>, aux: i32) -> io::Result<()> {
        let key = key.map(CString::new).transpose()?;
        let key = key.as_ref().map_or(std::ptr::null(), |key| key.as_ptr());
        let value = value.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: fsconfig(2) reads the two C strings, which live through the call, or is given null where
        // the command takes none.
        if unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, aux) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Makes a detached mount of a new file system.
pub fn new_mount(
    fstype: &str,
    options: &[(&str, Value<'_>)],
    attributes: Attributes,
) -> io::Result<Detached> {
    let context = FsContext::open(fstype)?;
    for (key, value) in options {
        context.set(key, *value)?;
    }
    context.mount(attributes)
}

const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;

/// A detached copy of the mount that `path` below `directory` lies on, with `path` as its root; with
/// `recursive`, also of the mounts below it. An empty path means `directory` itself.
pub fn clone_tree(directory: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<Detached> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | libc::AT_EMPTY_PATH.cast_unsigned();
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: open_tree(2) reads one C string, which lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) })
        .map(Detached)
}

/// Attaches a detached mount on what `target` stands for.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
    const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
    let empty = c"";
    // SAFETY: move_mount(2) reads two C strings, both the empty constant.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            empty.as_ptr(),
            target.as_raw_fd(),
            empty.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Attaches a detached mount at a path of ours, which may not be a symbolic link.
pub fn attach_at(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let target = rustix::fs::open(target, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    attach(mount, target.as_fd())
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes a mount, detached or attached (mount_setattr(2)).
pub fn set_attributes(mount: BorrowedFd<'_>, change: Change<'_>) -> io::Result<()> {
    let mut attr = MountAttr {
        attr_set: change.set.0,
        attr_clr: change.clear.0,
        propagation: change.propagation.map_or(0, Propagation::flag),
        userns_fd: 0,
    };
    if let Some(userns) = change.idmap {
        attr.attr_set |= Attributes::IDMAP.0;
        attr.userns_fd = u64::from(userns.as_raw_fd().cast_unsigned());
    }
    let flags = libc::AT_EMPTY_PATH.cast_unsigned() | if change.recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: mount_setattr(2) reads the empty constant and one mount_attr of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Unmounts what is at `path`, now or when its last user is gone. Never follows a link; nothing mounted there
/// is `EINVAL`.
pub fn umount_detach(path: &Path) -> io::Result<()> {
    use rustix::mount::UnmountFlags;
    Ok(rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// Makes `new_root` the root of this mount namespace and puts the old one at `put_old` (pivot_root(2)).
pub fn pivot_root(new_root: &Path, put_old: &Path) -> io::Result<()> {
    Ok(rustix::process::pivot_root(new_root, put_old)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn a_detached_mount_is_configured_before_anybody_sees_it() {
        let mount = new_mount("tmpfs", &[("mode", Value::Text("711"))], Attributes::NODEV).unwrap();
        rustix::fs::mkdirat(&mount, "made", rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        set_attributes(mount.as_fd(), Change { set: Attributes::RDONLY, ..Change::default() }).unwrap();
        let denied = rustix::fs::mkdirat(&mount, "not", rustix::fs::Mode::from_raw_mode(0o700)).unwrap_err();
        assert_eq!(denied, rustix::io::Errno::ROFS);
    }

    #[test]
    fn bad_options_are_explained() {
        let context = FsContext::open("tmpfs").unwrap();
        context.set("nonsense", Value::Flag).unwrap_err();
        assert!(context.messages().contains("nonsense"), "{}", context.messages());
        assert_eq!(FsContext::open("no-such-fs").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn mounts_appear_where_they_are_attached() {
        let target = std::env::temp_dir().join(format!("berth-test-mount-{}", std::process::id()));
        std::fs::create_dir(&target).unwrap();
        let mount = new_mount("tmpfs", &[], Attributes::EMPTY).unwrap();
        rustix::fs::mkdirat(&mount, "inside", rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        attach_at(mount.as_fd(), &target).unwrap();
        assert!(target.join("inside").is_dir());
        let copy = clone_tree(CWD, &target, true).unwrap();
        umount_detach(&target).unwrap();
        assert_eq!(umount_detach(&target).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        rustix::fs::statat(&copy, "inside", rustix::fs::AtFlags::empty()).unwrap();
        std::fs::remove_dir(&target).unwrap();
    }
}
