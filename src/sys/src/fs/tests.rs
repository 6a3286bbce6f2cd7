//! Tests on a temporary directory.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn temporary() -> PathBuf {
    let path =
        std::env::temp_dir().join(format!("berth-test-{}", u64::from_ne_bytes(random_bytes::<8>().unwrap())));
    std::fs::create_dir(&path).unwrap();
    path
}

#[test]
fn replaces_whole_files_with_the_mode_asked_for() {
    let directory = temporary();
    let file = directory.join("state.json");
    for (content, mode) in [("one", 0o600), ("three", 0o640)] {
        write_atomic(&file, content.as_bytes(), mode).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, mode);
    }
    write_volatile(&file, b"", 0o600).unwrap();
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "no temporary file is left");
    remove_tree(&directory).unwrap();
}

#[test]
fn a_failed_replacement_leaves_nothing_behind() {
    let directory = temporary();
    std::fs::create_dir(directory.join("taken")).unwrap();
    write_atomic(&directory.join("taken"), b"x", 0o600).unwrap_err();
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    remove_tree(&directory).unwrap();
}

#[test]
fn a_lock_has_one_holder() {
    let directory = temporary();
    let first = lock_exclusive(&directory.join("lock")).unwrap();
    assert!(first.is_some());
    assert!(lock_exclusive(&directory.join("lock")).unwrap().is_none());
    drop(first);
    assert!(lock_exclusive(&directory.join("lock")).unwrap().is_some());
    remove_tree(&directory).unwrap();
}

#[test]
fn removal_keeps_what_links_point_to() {
    let directory = temporary();
    std::fs::create_dir_all(directory.join("victim/sub")).unwrap();
    std::fs::create_dir_all(directory.join("tree/a/b")).unwrap();
    symlink(directory.join("victim"), directory.join("tree/a/link")).unwrap();
    remove_tree(&directory.join("tree")).unwrap();
    remove_tree(&directory.join("tree")).unwrap();
    assert!(directory.join("victim/sub").is_dir());
    remove_tree(&directory).unwrap();
    assert!(std::fs::metadata(&directory).is_err());
}

#[test]
fn removal_copes_with_any_depth() {
    let directory = temporary();
    let mut current = rustix::fs::open(&directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&current, "deep", Mode::from_raw_mode(0o700)).unwrap();
        current =
            rustix::fs::openat(&current, "deep", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    drop(current);
    remove_tree(&directory).unwrap();
    assert!(std::fs::metadata(&directory).is_err());
}

#[test]
fn clocks_and_statistics_make_sense() {
    let stats = statfs(Path::new("/proc")).unwrap();
    assert_eq!(stats.magic, 0x9fa0);
    assert!(now_ns() > 1_600_000_000_000_000_000);
    assert!(monotonic_ns() > 0);
    assert_eq!(boot_id().unwrap().len(), 36);
}
