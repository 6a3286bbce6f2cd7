//! Archives written and extracted into roots that are not to be trusted.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::gzip;
use crate::archive::{PackOptions, PlaceOptions, TarWriter, place};
use crate::{ArchiveError, IdMap, IdMaps};

struct Roots {
    top: tempfile::TempDir,
    root: OwnedFd,
}

/// `root`, and beside it what nothing may touch.
fn roots() -> Roots {
    let top = tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap();
    std::fs::create_dir_all(top.path().join("root/d")).unwrap();
    std::fs::create_dir(top.path().join("outside")).unwrap();
    let root = sys::tree::open_root(&top.path().join("root")).unwrap();
    Roots { top, root }
}

impl Roots {
    fn path(&self, path: &str) -> std::path::PathBuf {
        self.top.path().join(path)
    }

    fn place(&self, base: &str, archive: Vec<u8>, options: PlaceOptions<'_>) -> Result<(), ArchiveError> {
        place(self.root.as_fd(), Path::new(base), Box::new(std::io::Cursor::new(archive)), options)
    }

    fn put(&self, base: &str, archive: Vec<u8>) -> Result<(), ArchiveError> {
        self.place(base, archive, PlaceOptions::default())
    }

    fn untouched(&self) {
        assert_eq!(std::fs::read_dir(self.path("outside")).unwrap().count(), 0);
    }
}

fn one(name: &str) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    tar.file(name, b"data").unwrap();
    tar.finish().unwrap()
}

#[test]
fn links_lead_nowhere_but_into_the_root() {
    let roots = roots();
    let outside = roots.path("outside");
    symlink(&outside, roots.path("root/absolute")).unwrap();
    symlink("../../outside", roots.path("root/d/relative")).unwrap();
    symlink(outside.join("f"), roots.path("root/f")).unwrap();
    for name in ["absolute/x", "d/relative/x"] {
        // Where they lead in the root there is nothing yet; it is made there.
        drop(roots.put("/", one(name)));
        roots.untouched();
    }
    roots.put("/", one("f")).unwrap();
    assert!(
        roots.path("root/f").symlink_metadata().unwrap().is_file(),
        "a link in the last place is replaced"
    );
    roots.put("/d", one("../x")).unwrap_err();
    roots.put("/d", one("/y")).unwrap();
    assert!(roots.path("root/d/y").try_exists().unwrap(), "a leading slash means nothing");
    roots.untouched();
}

#[test]
fn trees_come_back_as_they_were() {
    let (from, to) = (roots(), roots());
    let long = format!("{}/{}", "n".repeat(120), "ü".repeat(60));
    std::fs::create_dir(from.path("root").join("n".repeat(120))).unwrap();
    std::fs::write(from.path("root").join(&long), vec![7; 70_000]).unwrap();
    std::fs::write(from.path("root/d/a"), "x").unwrap();
    std::fs::hard_link(from.path("root/d/a"), from.path("root/d/b")).unwrap();
    symlink("l".repeat(150), from.path("root/d/link")).unwrap();
    std::os::unix::fs::chown(from.path("root/d/a"), Some(5_000_000), Some(7)).unwrap();
    std::fs::set_permissions(from.path("root/d/a"), PermissionsExt::from_mode(0o4711)).unwrap();
    let open = std::fs::File::open(from.path("root/d/a")).unwrap();
    sys::tree::set_xattr_fd(open.as_fd(), "user.k", b"v=\n1").unwrap();
    let mut tar = TarWriter::new(Vec::new());
    tar.contents(from.root.as_fd(), b"base", PackOptions::default()).unwrap();
    let archive = tar.finish().unwrap();
    to.put("/", gzip(&archive)).unwrap();
    assert_eq!(std::fs::read(to.path("root/base").join(&long)).unwrap(), vec![7; 70_000]);
    let (was, is) = (
        from.path("root/d/a").symlink_metadata().unwrap(),
        to.path("root/base/d/a").symlink_metadata().unwrap(),
    );
    assert_eq!(
        (was.mode(), was.uid(), was.gid(), was.mtime_nsec()),
        (is.mode(), is.uid(), is.gid(), is.mtime_nsec())
    );
    assert_eq!(is.ino(), to.path("root/base/d/b").metadata().unwrap().ino());
    assert_eq!(std::fs::read_link(to.path("root/base/d/link")).unwrap().to_str().unwrap().len(), 150);
    let open = std::fs::File::open(to.path("root/base/d/a")).unwrap();
    assert_eq!(sys::tree::xattr_fd(open.as_fd(), "user.k").unwrap().as_deref(), Some(&b"v=\n1"[..]));
}

#[test]
fn kinds_are_kept_if_so_wished_and_owners_mapped() {
    let roots = roots();
    let keep = PlaceOptions { keep_kinds: true, ..PlaceOptions::default() };
    let refused = roots.place("/", one("d"), keep).unwrap_err();
    assert!(refused.to_string().contains("cannot overwrite"), "{refused}");
    roots.put("/", one("d")).unwrap();
    assert!(roots.path("root/d").is_file());
    let ids = |host| vec![IdMap { container: 0, host, length: 10 }];
    let maps = IdMaps { uids: ids(1000), gids: ids(2000) };
    let options = PlaceOptions { owner: Some((3, 4)), maps: Some(&maps), ..PlaceOptions::default() };
    roots.place("/", one("mine"), options).unwrap();
    let found = roots.path("root/mine").metadata().unwrap();
    assert_eq!((found.uid(), found.gid()), (1003, 2004));
    assert_eq!(maps.inside(1003, 2004), (3, 4));
    assert_eq!(maps.inside(5, 5), (65534, 65534));
    let mut tar = TarWriter::new(Vec::new());
    tar.tree(roots.root.as_fd(), b"mine", b"as", PackOptions { maps: Some(&maps), ..Default::default() })
        .unwrap();
    let other = self::roots();
    other.put("/", tar.finish().unwrap()).unwrap();
    assert_eq!(other.path("root/as").metadata().unwrap().uid(), 3);
}

#[test]
fn mount_points_are_not_replaced() {
    let roots = roots();
    let target = roots.path("root/d/mounted");
    std::fs::create_dir(&target).unwrap();
    let work = || {
        let mount = sys::mount::new_mount("tmpfs", &[], sys::mount::Attributes::EMPTY)?;
        sys::mount::attach_at(mount.as_fd(), &target)?;
        sys::tree::open_root(&roots.path("root"))
    };
    let (_namespace, root) = sys::ns::with_private_mounts(work).unwrap();
    let archive = one("d/mounted");
    let refused =
        place(root.as_fd(), Path::new("/"), Box::new(std::io::Cursor::new(archive)), PlaceOptions::default());
    assert!(refused.unwrap_err().to_string().contains("mounted"));
    let inside = Box::new(std::io::Cursor::new(one("d/mounted/f")));
    place(root.as_fd(), Path::new("/"), inside, PlaceOptions::default()).unwrap();
    assert!(!target.join("f").try_exists().unwrap(), "it is in what is mounted, which nobody else sees");
}

#[test]
fn hostile_archives_are_refused() {
    let roots = roots();
    for name in ["a/../../x", ".."] {
        assert!(roots.put("/d", one(name)).is_err(), "{name}");
    }
    let mut truncated = one("whole");
    truncated.truncate(514);
    roots.put("/", truncated).unwrap_err();
    roots.untouched();
}
