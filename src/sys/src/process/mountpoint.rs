//! Operations below a container's root, by descriptor.
//!
//! A path of the container is resolved once, with openat2(2) inside the root, and acted on by the
//! descriptor that came of it. What is missing is made one component at a time below a descriptor that is
//! held, so exchanging a directory for a link meanwhile gains nothing.

use std::ffi::{CStr, CString};

use super::op::{MountChange, Target, resolve};
use super::raw::{self, Errno, Opened, at, call, fd, text};

const MOVE_MOUNT_EMPTY_PATHS: usize = 0x4 | 0x40;
const OPEN_TREE_CLONE: usize = 1;
const AT_RECURSIVE: usize = 0x8000;
const OPEN_TREE_CLOEXEC: usize = libc::O_CLOEXEC as usize;
const MOUNT_ATTR_RDONLY: u64 = 1;
/// Mode of directories that are made as mount points.
const DIRECTORY_MODE: usize = 0o755;

/// A descriptor (O_PATH) for an existing target.
pub(super) fn find(root: i32, target: &Target, flags: i32) -> Result<Opened, Errno> {
    let path = target.components.last().map_or(c".", |(path, _)| path.as_c_str());
    raw::openat2(root, path, libc::O_PATH | flags, 0, mode_of(target)).map(Opened)
}

fn mode_of(target: &Target) -> u64 {
    if target.follow { resolve::IN_ROOT } else { resolve::IN_ROOT_NO_LINKS }
}

/// A descriptor for a directory, which is made with its parents when missing.
pub(super) fn ensure_directory(root: i32, target: &Target) -> Result<Opened, Errno> {
    ensure(root, &target.components, mode_of(target))
}

fn ensure(root: i32, components: &[(CString, CString)], resolve: u64) -> Result<Opened, Errno> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let whole = components.last().map_or(c".", |(path, _)| path.as_c_str());
    match raw::openat2(root, whole, flags, 0, resolve) {
        Err(libc::ENOENT) => {}
        other => return other.map(Opened),
    }
    let mut current = raw::openat2(root, c".", flags, 0, resolve).map(Opened)?;
    for (path, name) in components {
        current = match raw::openat2(root, path, flags, 0, resolve) {
            Err(libc::ENOENT) => make_directory(&current, name)?,
            other => Opened(other?),
        };
    }
    Ok(current)
}

fn make_directory(parent: &Opened, name: &CStr) -> Result<Opened, Errno> {
    match call(libc::SYS_mkdirat, [fd(parent.0), text(name), DIRECTORY_MODE]) {
        Ok(_) | Err(libc::EEXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    raw::openat2(parent.0, name, flags, 0, resolve::STRICT).map(Opened)
}

/// The directory a target lies in, made when missing, and its name there.
fn parent_of(root: i32, target: &Target) -> Result<(Opened, &CStr), Errno> {
    let Some(((_, name), parents)) = target.components.split_last() else { return Err(libc::EINVAL) };
    Ok((ensure(root, parents, mode_of(target))?, name))
}

/// A descriptor for a file, which is made empty when missing.
pub(super) fn ensure_file(root: i32, target: &Target) -> Result<Opened, Errno> {
    match find(root, target, 0) {
        Err(libc::ENOENT) => {}
        other => return other,
    }
    let (parent, name) = parent_of(root, target)?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    match raw::openat2(parent.0, name, flags, 0o644, resolve::STRICT) {
        Ok(made) => drop(Opened(made)),
        // Somebody was faster: what is there is opened without following it.
        Err(libc::EEXIST) => {}
        Err(error) => return Err(error),
    }
    raw::openat2(parent.0, name, libc::O_PATH | libc::O_NOFOLLOW, 0, resolve::STRICT).map(Opened)
}

/// Attaches a detached mount at a target.
pub(super) fn attach(mount: i32, root: i32, target: &Target) -> Result<(), Errno> {
    let place =
        if is_directory(mount)? { ensure_directory(root, target)? } else { ensure_file(root, target)? };
    attach_on(mount, place.0)
}

/// Attaches a detached mount on what a descriptor stands for.
pub(super) fn attach_on(mount: i32, place: i32) -> Result<(), Errno> {
    if is_link(place)? {
        return Err(libc::ELOOP);
    }
    let arguments = [fd(mount), text(c""), fd(place), text(c""), MOVE_MOUNT_EMPTY_PATHS];
    call(libc::SYS_move_mount, arguments).map(drop)
}

/// Attaches a detached mount over the root directory of this process.
pub(super) fn attach_over_root(mount: i32) -> Result<(), Errno> {
    let arguments = [fd(mount), text(c""), fd(libc::AT_FDCWD), text(c"/"), 0x4];
    call(libc::SYS_move_mount, arguments).map(drop)
}

fn is_directory(file: i32) -> Result<bool, Errno> {
    Ok(raw::stat(file)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

fn is_link(file: i32) -> Result<bool, Errno> {
    Ok(raw::stat(file)?.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

/// open_tree(2) of a copy.
pub(super) fn clone_tree(directory: i32, path: &CStr, recursive: bool) -> Result<i32, Errno> {
    let flags = OPEN_TREE_CLONE
        | OPEN_TREE_CLOEXEC
        | libc::AT_EMPTY_PATH as usize
        | if recursive { AT_RECURSIVE } else { 0 };
    call(libc::SYS_open_tree, [fd(directory), text(path), flags]).map(raw::descriptor)
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// mount_setattr(2). `idmap` is the descriptor of the user namespace.
pub(super) fn set_mount(
    mount: i32,
    path: &CStr,
    change: &MountChange,
    idmap: Option<i32>,
) -> Result<(), Errno> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let mut attr = MountAttr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    if let Some(userns) = idmap {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = u64::from(userns.cast_unsigned());
    }
    let flags = libc::AT_EMPTY_PATH as usize | if change.recursive { AT_RECURSIVE } else { 0 };
    let arguments = [fd(mount), text(path), flags, at(&attr), size_of::<MountAttr>()];
    call(libc::SYS_mount_setattr, arguments).map(drop)
}

/// Makes a node, in place of whatever file is there.
pub(super) fn make_node(
    root: i32,
    target: &Target,
    node: (u32, u64),
    owner: (u32, u32),
) -> Result<(), Errno> {
    let (parent, name) = parent_of(root, target)?;
    let (mode, device) = node;
    let arguments = [fd(parent.0), text(name), mode as usize, device as usize];
    match call(libc::SYS_mknodat, arguments) {
        Err(libc::EEXIST) => {
            call(libc::SYS_unlinkat, [fd(parent.0), text(name), 0])?;
            call(libc::SYS_mknodat, arguments)?;
        }
        other => drop(other?),
    }
    let arguments =
        [fd(parent.0), text(name), owner.0 as usize, owner.1 as usize, libc::AT_SYMLINK_NOFOLLOW as usize];
    call(libc::SYS_fchownat, arguments).map(drop)
}

/// Makes a symbolic link; anything there is left alone.
pub(super) fn make_link(root: i32, target: &Target, to: &CStr) -> Result<(), Errno> {
    let (parent, name) = parent_of(root, target)?;
    match call(libc::SYS_symlinkat, [text(to), fd(parent.0), text(name)]) {
        Ok(_) | Err(libc::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Hides a path behind an empty directory or `/dev/null`. The mount given is used up by the first path it
/// hides; later ones get a copy of it, which the kernel only makes of mounts that are attached.
pub(super) fn mask(root: i32, target: &Target, null: i32, empty: i32) -> Result<(), Errno> {
    let Some(place) = existing(root, target)? else { return Ok(()) };
    let source = if is_directory(place.0)? { empty } else { null };
    match clone_tree(source, c"", false) {
        Ok(copy) => attach_on(Opened(copy).0, place.0),
        Err(libc::EINVAL) => attach_on(source, place.0),
        Err(error) => Err(error),
    }
}

/// Makes the tree at a path read-only by a read-only copy of it on top.
pub(super) fn freeze(root: i32, target: &Target) -> Result<(), Errno> {
    let Some(place) = existing(root, target)? else { return Ok(()) };
    let copy = Opened(clone_tree(place.0, c"", true)?);
    let change = MountChange { set: MOUNT_ATTR_RDONLY, recursive: true, ..MountChange::default() };
    set_mount(copy.0, c"", &change, None)?;
    attach_on(copy.0, place.0)
}

fn existing(root: i32, target: &Target) -> Result<Option<Opened>, Errno> {
    match find(root, target, 0) {
        Ok(place) => Ok(Some(place)),
        Err(libc::ENOENT | libc::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes an attached mount the root and lets go of the old one.
pub(super) fn pivot(root: i32) -> Result<(), Errno> {
    call(libc::SYS_fchdir, [fd(root)])?;
    call(libc::SYS_pivot_root, [text(c"."), text(c".")])?;
    // The old root now lies on top of the new one, at the working directory.
    call(libc::SYS_umount2, [text(c"."), libc::MNT_DETACH as usize])?;
    call(libc::SYS_chdir, [text(c"/")]).map(drop)
}
