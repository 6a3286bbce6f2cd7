//! Copying a tree with everything that its files are: owners, modes, times, attributes, holes, hard links.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as rfs, SeekFrom};
use rustix::io::Errno;

use super::{
    Kind, Stat, create_file, list, list_xattrs_fd, make_directory, make_hard_link, make_node, make_symlink,
    open_directory, open_file, read_link, set_mode, set_mode_fd, set_mtime, set_mtime_fd, set_owner,
    set_owner_fd, set_xattr_fd, stat, stat_fd, xattr_fd,
};

/// Directories below each other: each is two open descriptors.
const MAX_DEPTH: usize = 256;

/// Copies what is in `from`, and what `from` itself says of owner, mode, time and attributes, to the empty directory
/// `to`. `owner` tells the owner of a copy by that of the original. Never follows a link, never crosses into another
/// file system. Attributes of overlayfs itself stay behind.
pub fn copy_contents(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    owner: &dyn Fn(u32, u32) -> (u32, u32),
) -> io::Result<()> {
    let device = stat_fd(from)?.device;
    let mut copy = Copy { owner, device, links: HashMap::new() };
    copy.directory(from, to, 0)?;
    copy.dress_directory(from, to)
}

struct Copy<'a> {
    owner: &'a dyn Fn(u32, u32) -> (u32, u32),
    device: u64,
    /// The first copy of each file with several names.
    links: HashMap<u64, (OwnedFd, Vec<u8>)>,
}

impl Copy<'_> {
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "directories lie too deep to be copied"));
        }
        for name in list(from)? {
            let found = stat(from, &name)?;
            match found.kind {
                Kind::Directory => {
                    make_directory(to, &name, 0o700)?;
                    let (inner, copy) = (open_directory(from, &name)?, open_directory(to, &name)?);
                    if stat_fd(inner.as_fd())?.device == self.device {
                        self.directory(inner.as_fd(), copy.as_fd(), depth + 1)?;
                    }
                    self.dress_directory(inner.as_fd(), copy.as_fd())?;
                }
                _ => self.file(from, to, &name, &found)?,
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        found: &Stat,
    ) -> io::Result<()> {
        if found.links > 1 {
            if let Some((directory, first)) = self.links.get(&found.inode) {
                return make_hard_link(directory.as_fd(), first, to, name);
            }
            self.links.insert(found.inode, (to.try_clone_to_owned()?, name.to_owned()));
        }
        let (uid, gid) = (self.owner)(found.uid, found.gid);
        match found.kind {
            Kind::File => {
                let original = File::from(open_file(from, name)?);
                let copy = File::from(create_file(to, name, 0o600)?);
                copy_data(&original, &copy)?;
                set_owner_fd(copy.as_fd(), uid, gid)?;
                set_mode_fd(copy.as_fd(), found.mode)?;
                copy_attributes(original.as_fd(), copy.as_fd())?;
                return set_mtime_fd(copy.as_fd(), found.mtime);
            }
            Kind::Symlink => make_symlink(&read_link(from, name)?, to, name)?,
            // Nobody listens on a copy of a socket.
            Kind::Socket => {
                self.links.remove(&found.inode);
                return Ok(());
            }
            kind => make_node(to, name, kind, 0o600, (found.major, found.minor))?,
        }
        set_owner(to, name, uid, gid)?;
        if found.kind != Kind::Symlink {
            set_mode(to, name, found.mode)?;
        }
        set_mtime(to, name, found.mtime)
    }

    fn dress_directory(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        let found = stat_fd(from)?;
        let (uid, gid) = (self.owner)(found.uid, found.gid);
        set_owner_fd(to, uid, gid)?;
        set_mode_fd(to, found.mode)?;
        copy_attributes(from, to)?;
        set_mtime_fd(to, found.mtime)
    }
}

fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let names = match list_xattrs_fd(from) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
        other => other?,
    };
    for name in names {
        let private = ["trusted.overlay.", "user.overlay.", "security.selinux"];
        if private.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let Some(value) = xattr_fd(from, &name)? else { continue };
        match set_xattr_fd(to, &name, &value) {
            // Everything but a capability can be done without where there is no room for it.
            Err(error) if error.kind() == io::ErrorKind::Unsupported && name != "security.capability" => {}
            other => other?,
        }
    }
    Ok(())
}

/// Copies the parts of a file that are not holes.
fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        let start = match rfs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rfs::seek(from, SeekFrom::Hole(start))?;
        rfs::seek(from, SeekFrom::Start(start))?;
        rfs::seek(to, SeekFrom::Start(start))?;
        let mut part = io::Read::take(from, end - start);
        io::copy(&mut part, &mut &*to)?;
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn everything_that_a_file_is_comes_along() {
        let top = tempfile_dir();
        let (from, to) = (top.join("from"), top.join("to"));
        std::fs::create_dir_all(from.join("d")).unwrap();
        std::fs::create_dir(&to).unwrap();
        let sparse = File::create(from.join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        sparse.write_all_at(b"end", (64 << 20) - 3).unwrap();
        std::fs::write(from.join("d/a"), "x").unwrap();
        std::fs::hard_link(from.join("d/a"), from.join("b")).unwrap();
        std::os::unix::fs::chown(from.join("b"), Some(7), Some(8)).unwrap();
        std::fs::set_permissions(from.join("b"), PermissionsExt::from_mode(0o4755)).unwrap();
        std::fs::set_permissions(from.join("d"), PermissionsExt::from_mode(0o1777)).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        std::os::unix::fs::chown(&from, Some(5), Some(6)).unwrap();
        let attribute = File::open(from.join("d")).unwrap();
        set_xattr_fd(attribute.as_fd(), "user.x", b"y").unwrap();
        let (open_from, open_to) =
            (super::super::open_root(&from).unwrap(), super::super::open_root(&to).unwrap());
        copy_contents(open_from.as_fd(), open_to.as_fd(), &|uid, gid| (uid + 100, gid + 100)).unwrap();
        let seen = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap();
        assert_eq!((seen("b").uid(), seen("b").gid(), seen("b").mode() & 0o7777), (107, 108, 0o4755));
        assert_eq!((seen("b").ino(), seen("b").nlink()), (seen("d/a").ino(), 2));
        assert_eq!((seen("").uid(), seen("d").mode() & 0o7777), (105, 0o1777));
        assert_eq!(std::fs::read_link(to.join("link")).unwrap().to_str(), Some("/etc/passwd"));
        assert_eq!((seen("sparse").len(), seen("sparse").blocks() < 1024), (64 << 20, true));
        assert_eq!(std::fs::read(to.join("sparse")).unwrap().last(), Some(&b'd'));
        let copied = File::open(to.join("d")).unwrap();
        assert_eq!(xattr_fd(copied.as_fd(), "user.x").unwrap().as_deref(), Some(&b"y"[..]));
        crate::fs::remove_tree(&top).unwrap();
    }

    fn tempfile_dir() -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("berth-test-copy-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        path
    }
}
