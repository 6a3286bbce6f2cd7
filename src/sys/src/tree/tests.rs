use std::time::{Duration, Instant};

use super::*;

fn scratch() -> (tempfile::TempDir, OwnedFd) {
    let directory = tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap();
    let fd = open_root(directory.path()).unwrap();
    (directory, fd)
}

#[test]
fn only_single_names_are_taken() {
    let (_directory, fd) = scratch();
    for bad in [&b""[..], b".", b"..", b"a/b", b"/etc", b"a\0b"] {
        assert!(make_directory(fd.as_fd(), bad, 0o755).is_err());
        assert!(stat(fd.as_fd(), bad).is_err());
    }
}

#[test]
fn links_are_not_followed() {
    let (directory, fd) = scratch();
    make_symlink(b"/", fd.as_fd(), b"link").unwrap();
    assert!(open_directory(fd.as_fd(), b"link").is_err());
    assert!(create_file(fd.as_fd(), b"link", 0o600).is_err());
    assert!(open_file(fd.as_fd(), b"link").is_err());
    set_mtime(fd.as_fd(), b"link", Mtime { seconds: 5, nanoseconds: 6 }).unwrap();
    let seen = stat(fd.as_fd(), b"link").unwrap();
    assert_eq!((seen.kind, seen.mtime.seconds, seen.mtime.nanoseconds), (Kind::Symlink, 5, 6));
    assert!(open_root(&directory.path().join("link")).is_err());
}

#[test]
fn modes_and_attributes_land() {
    let (_directory, fd) = scratch();
    let file = create_file(fd.as_fd(), b"f", 0o600).unwrap();
    set_owner_fd(file.as_fd(), 5, 6).unwrap();
    set_mode_fd(file.as_fd(), 0o4751).unwrap();
    set_xattr_fd(file.as_fd(), "user.x", b"1").unwrap();
    assert_eq!(xattr_fd(file.as_fd(), "user.x").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(xattr_fd(file.as_fd(), "user.y").unwrap(), None);
    assert_eq!(list_xattrs_fd(file.as_fd()).unwrap(), ["user.x"]);
    make_node(fd.as_fd(), b"p", Kind::Fifo, 0o600, (0, 0)).unwrap();
    set_mode(fd.as_fd(), b"p", 0o2666).unwrap();
    assert_eq!(stat(fd.as_fd(), b"p").unwrap().mode, 0o2666);
    assert!(open_file(fd.as_fd(), b"p").is_err(), "a pipe is refused without waiting for a writer");
    let seen = stat(fd.as_fd(), b"f").unwrap();
    assert_eq!((seen.mode, seen.uid, seen.gid), (0o4751, 5, 6));
    make_node(fd.as_fd(), b"w", Kind::CharDevice, 0, (0, 0)).unwrap();
    assert!(stat(fd.as_fd(), b"w").unwrap().is_whiteout());
}

#[test]
fn deep_trees_are_removed_and_counted() {
    let (_directory, fd) = scratch();
    make_directory(fd.as_fd(), b"top", 0o755).unwrap();
    let mut at = open_directory(fd.as_fd(), b"top").unwrap();
    for _ in 0..700 {
        create_file(at.as_fd(), b"file", 0o600).unwrap();
        make_directory(at.as_fd(), b"d", 0o755).unwrap();
        at = open_directory(at.as_fd(), b"d").unwrap();
    }
    let counted = usage(fd.as_fd(), Instant::now() + Duration::from_secs(30)).unwrap();
    assert!(!counted.complete && counted.inodes >= 500, "{counted:?}");
    assert!(!usage(fd.as_fd(), Instant::now()).unwrap().complete);
    remove_entry(fd.as_fd(), b"top").unwrap();
    remove_entry(fd.as_fd(), b"top").unwrap();
    assert!(list(fd.as_fd()).unwrap().is_empty());
}

#[test]
fn removal_spares_what_links_point_to() {
    let (directory, fd) = scratch();
    let (kept, _kept_fd) = scratch();
    std::fs::write(kept.path().join("keep"), "k").unwrap();
    make_directory(fd.as_fd(), b"d", 0o755).unwrap();
    std::os::unix::fs::symlink(kept.path(), directory.path().join("d/link")).unwrap();
    remove_entry(fd.as_fd(), b"d").unwrap();
    assert!(kept.path().join("keep").is_file());
    assert!(list(fd.as_fd()).unwrap().is_empty());
}

#[test]
fn hard_links_are_counted_once() {
    let (_directory, fd) = scratch();
    create_file(fd.as_fd(), b"a", 0o600).unwrap();
    make_hard_link(fd.as_fd(), b"a", fd.as_fd(), b"b").unwrap();
    let counted = usage(fd.as_fd(), Instant::now() + Duration::from_secs(30)).unwrap();
    assert_eq!((counted.inodes, counted.complete), (1, true));
}

#[test]
fn the_umask_is_read() {
    assert!(umask().unwrap() <= 0o777);
}
