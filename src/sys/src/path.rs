//! Path resolution that cannot leave its root: openat2.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

pub use rustix::fs::OFlags;
use rustix::fs::{Mode, ResolveFlags};
use rustix::io::Errno;

/// Opens a path with `root` taken for `/`: absolute links and `..` stay inside. No magic links.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens a path below `directory`; whatever leads out of it is `EXDEV`. No magic links.
pub fn open_beneath(directory: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open(directory, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

/// Opens a path below `directory` in which no component is a link.
pub fn open_without_links(directory: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open(directory, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Opens a regular file for reading with `root` taken for `/`. Anything else, a FIFO or a device say, is
/// refused before it is opened: opening it could block, or do something.
///
/// # Errors
/// `InvalidInput` when it is not a regular file; otherwise as openat2(2).
pub fn open_regular_in_root(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let found = open_in_root(root, path, OFlags::PATH | OFlags::CLOEXEC)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    if kind != rustix::fs::FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let number = std::os::fd::AsRawFd::as_raw_fd(&found);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(format!("/proc/self/fd/{number}"), flags, Mode::empty())?)
}

/// Opens a directory inside `root`, making it and its parents with this mode when they are missing.
pub fn mkdir_all_in_root(root: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let names = normal_components(path);
    let mut current = open_in_root(root, Path::new("."), flags)?;
    for (index, name) in names.iter().enumerate() {
        let whole: std::path::PathBuf = names[..=index].iter().collect();
        current = match open_in_root(root, &whole, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_one(current.as_fd(), Path::new(name), mode)?
            }
            other => other?,
        };
    }
    Ok(current)
}

fn make_one(parent: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open_without_links(parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
}

/// The names in a path that is taken as absolute; `..` removes the name before it.
fn normal_components(path: &Path) -> Vec<&std::ffi::OsStr> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => drop(names.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}

/// openat2(2); races that the kernel detects are retried.
fn open(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    how: ResolveFlags,
) -> io::Result<OwnedFd> {
    let mut left = 128;
    loop {
        match rustix::fs::openat2(directory, path, flags | OFlags::CLOEXEC, mode, how) {
            Err(Errno::AGAIN) if left > 0 => left -= 1,
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside_the_root() {
        let top = std::env::temp_dir().join(format!("berth-test-path-{}", std::process::id()));
        let inside = top.join("root");
        std::fs::create_dir_all(inside.join("etc")).unwrap();
        std::fs::create_dir_all(top.join("etc-outside")).unwrap();
        symlink("/etc", inside.join("absolute")).unwrap();
        symlink("../etc-outside", inside.join("up")).unwrap();
        let root = OwnedFd::from(std::fs::File::open(&inside).unwrap());
        let made =
            mkdir_all_in_root(root.as_fd(), Path::new("/absolute/../absolute/new/sub"), 0o755).unwrap();
        assert!(inside.join("etc/new/sub").is_dir());
        drop(made);
        open_in_root(root.as_fd(), Path::new("up"), OFlags::PATH).unwrap_err();
        open_beneath(root.as_fd(), Path::new("absolute"), OFlags::PATH).unwrap_err();
        open_without_links(root.as_fd(), Path::new("absolute/new"), OFlags::PATH).unwrap_err();
        crate::fs::remove_tree(&top).unwrap();
    }
}
