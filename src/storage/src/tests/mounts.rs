//! Overlay mounts, detached, on the kernel that runs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use sys::mount::Detached;

use super::*;
use crate::archive::tests::{directory, file, symlink};
use crate::{ErrorKind, IdMap, IdMaps, MountOptions, SnapshotOptions, ViewOptions};

pub(super) fn inside(mount: &Detached) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/", mount.as_fd().as_raw_fd()))
}

pub(super) fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn layers() -> [Vec<u8>; 3] {
    [
        Builder::of([
            directory("./").mode(0o711),
            file("gone", b"1"),
            file("changed", b"1"),
            directory("opaque"),
            file("opaque/below", b"1"),
            directory("merged"),
            file("merged/below", b"1"),
            symlink("link", "/merged"),
        ]),
        Builder::of([
            directory("./").mode(0o711),
            file(".wh.gone", b""),
            file("changed", b"2"),
            directory("opaque"),
            file("opaque/.wh..wh..opq", b""),
            file("opaque/above", b"2"),
            directory("merged"),
            file("merged/above", b"2"),
        ]),
        Builder::of([directory("./").mode(0o711), file("top", b"3").mode(0o600)]),
    ]
}

#[test]
fn layers_are_stacked_and_written_on() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let image = make_image(store, &[], &layers()).unwrap();
    let snapshot = store.prepare(&id("c"), &image.id, SnapshotOptions::default()).unwrap();
    assert_eq!(store.prepare(&id("c"), &image.id, SnapshotOptions::default()).unwrap(), snapshot);
    let durable = SnapshotOptions { durable: true, ..SnapshotOptions::default() };
    assert_eq!(store.prepare(&id("c"), &image.id, durable).unwrap_err().kind(), ErrorKind::Exists);

    let mount = store.mount(&snapshot, MountOptions::default()).unwrap();
    let root = inside(&mount);
    assert_eq!(names(&root), ["changed", "link", "merged", "opaque", "top"]);
    assert_eq!(names(&root.join("opaque")), ["above"]);
    assert_eq!(names(&root.join("merged")), ["above", "below"]);
    assert_eq!(std::fs::read(root.join("changed")).unwrap(), b"2");
    assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o7777, 0o711);
    std::fs::write(root.join("written"), vec![1; 100_000]).unwrap();
    std::fs::remove_file(root.join("top")).unwrap();
    drop(mount);

    assert!(store.layer_path(&image.layers[2].diff_id).join("top").is_file(), "layers never change");
    let again = store.mount(&snapshot, MountOptions { readonly: true, ..MountOptions::default() }).unwrap();
    assert_eq!(names(&inside(&again)), ["changed", "link", "merged", "opaque", "written"]);
    let denied = std::fs::write(inside(&again).join("x"), "").unwrap_err();
    assert_eq!(denied.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    drop(again);
    let usage = store.usage(&id("c")).unwrap();
    assert!(usage.complete && usage.inodes == 2 && usage.bytes >= 100_000, "{usage:?}");
    let info = store.fs_info().unwrap();
    assert_eq!(info.containers, usage);
    assert!(info.images.inodes > 15, "{info:?}");
    assert!(store.check(false).unwrap().is_empty());
}

#[test]
fn many_layers_and_none() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let many: Vec<_> = (0..120).map(|n| one(&format!("f{n}"), &n.to_string())).collect();
    let image = make_image(store, &[], &many).unwrap();
    let snapshot = store.prepare(&id("many"), &image.id, SnapshotOptions::default()).unwrap();
    let mount = store.mount(&snapshot, MountOptions::default()).unwrap();
    assert_eq!(names(&inside(&mount)).len(), 120);

    for archives in [vec![], vec![one("a", "1")], vec![one("a", "1"), one("b", "2"), one("a", "1")]] {
        let image = make_image(store, &[], &archives).unwrap();
        let key = id(&format!("few{}", archives.len()));
        let snapshot = store.prepare(&key, &image.id, SnapshotOptions::default()).unwrap();
        let mount = store.mount(&snapshot, MountOptions::default()).unwrap();
        assert_eq!(names(&inside(&mount)).len(), archives.len().min(2));
        let view = store.view(&image.id, ViewOptions::default()).unwrap();
        assert_eq!(names(&inside(&view)).len(), archives.len().min(2));
        std::fs::write(inside(&view).join("x"), "").unwrap_err();
    }
}

#[test]
fn an_opaque_root_hides_all_layers_below() {
    let fixture = Fixture::new();
    let top = Builder::of([file(".wh..wh..opq", b""), file("b", b"")]);
    let image = make_image(&fixture.store, &[], &[one("a", "1"), top, one("c", "")]).unwrap();
    let view = fixture.store.view(&image.id, ViewOptions::default()).unwrap();
    assert_eq!(names(&inside(&view)), ["b", "c"]);
}

#[test]
fn sub_paths_stay_in_the_image() {
    let fixture = Fixture::new();
    let archive = Builder::of([
        directory("data"),
        file("data/f", b"1"),
        symlink("abs", "/data"),
        symlink("up", "../../../../data"),
        symlink("proc", "/proc/self/root"),
    ]);
    let image = make_image(&fixture.store, &[], &[archive]).unwrap();
    let view = |path: &str| {
        let options = ViewOptions { sub_path: Some(Path::new(path)), ..ViewOptions::default() };
        fixture.store.view(&image.id, options)
    };
    for path in ["data", "abs", "up", "/data", "../../data", "data/../abs/."] {
        assert_eq!(names(&inside(&view(path).unwrap())), ["f"], "{path}");
    }
    for path in ["proc", "missing", "data/f/x"] {
        assert_eq!(view(path).unwrap_err().kind(), ErrorKind::Io, "{path}");
    }
}

/// A process in a user namespace with a map, and that namespace.
struct Mapped {
    child: std::process::Child,
    namespace: OwnedFd,
}

impl Mapped {
    fn new(maps: &IdMaps) -> Self {
        let mut command = Command::new("unshare");
        let mut child =
            command.args(["-U", "sh", "-c", "echo; exec sleep 600"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let write = |name: &str, maps: &[IdMap]| {
            let lines: String =
                maps.iter().map(|map| format!("{} {} {}\n", map.container, map.host, map.length)).collect();
            std::fs::write(format!("/proc/{}/{name}", child.id()), lines).unwrap();
        };
        write("uid_map", &maps.uids);
        write("gid_map", &maps.gids);
        let namespace = std::fs::File::open(format!("/proc/{}/ns/user", child.id())).unwrap().into();
        Self { child, namespace }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn user_namespaces_see_their_own_ids() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let archives = [
        Builder::of([file("root", b"1"), file("user", b"2").owner(1000, 1001)]),
        Builder::of([directory("d").owner(5, 5)]),
    ];
    let image = make_image(store, &[], &archives).unwrap();
    let map = vec![IdMap { container: 0, host: 100_000, length: 65536 }];
    let maps = IdMaps { uids: map.clone(), gids: map };
    let mapped = Mapped::new(&maps);
    let options = SnapshotOptions { idmap: Some(maps), durable: false };
    let snapshot = store.prepare(&id("c"), &image.id, options).unwrap();
    let namespace = Some(mapped.namespace.as_fd());
    let mount = store.mount(&snapshot, MountOptions { readonly: false, user_namespace: namespace }).unwrap();
    let owner = |mount: &Detached, name: &str| {
        let metadata = std::fs::metadata(inside(mount).join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner(&mount, ""), (100_000, 100_000));
    assert_eq!(owner(&mount, "root"), (100_000, 100_000));
    assert_eq!(owner(&mount, "user"), (101_000, 101_001));
    // Copied up, a file keeps its owner.
    std::fs::write(inside(&mount).join("user"), "more").unwrap();
    assert_eq!(owner(&mount, "user"), (101_000, 101_001));
    let upper = std::fs::metadata(store.upper_path(&id("c")).join("user")).unwrap();
    assert_eq!(upper.uid(), 101_000);
    let view = store.view(&image.id, ViewOptions { sub_path: None, user_namespace: namespace }).unwrap();
    assert_eq!(owner(&view, "d"), (100_005, 100_005));
    let layer = std::fs::metadata(store.layer_path(&image.layers[0].diff_id).join("user")).unwrap();
    assert_eq!((layer.uid(), layer.gid()), (1000, 1001));
}

#[test]
fn a_snapshot_that_was_never_synced_ends_with_the_boot() {
    let fixture = Fixture::new();
    let image = make_image(&fixture.store, &[], &[one("a", "1")]).unwrap();
    let durable = SnapshotOptions { durable: true, ..SnapshotOptions::default() };
    fixture.store.prepare(&id("volatile"), &image.id, SnapshotOptions::default()).unwrap();
    fixture.store.prepare(&id("durable"), &image.id, durable).unwrap();
    // Another boot: other snapshots' directories without a record are swept, records are marked.
    for key in ["volatile", "durable"] {
        let path = fixture.store.root().join("snapshots").join(key).join("snapshot.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&sys::fs::boot_id().unwrap(), "another")).unwrap();
    }
    std::fs::create_dir(fixture.store.root().join("snapshots/half")).unwrap();
    let fixture = fixture.reopen();
    let store = &fixture.store;
    assert!(store.snapshot(&id("half")).is_none());
    let stale = store.snapshot(&id("volatile")).unwrap();
    assert_eq!(store.mount(&stale, MountOptions::default()).unwrap_err().kind(), ErrorKind::Stale);
    let kept = store.snapshot(&id("durable")).unwrap();
    store.mount(&kept, MountOptions::default()).unwrap();
    store.remove(&id("volatile")).unwrap().empty().unwrap();
    assert_eq!(store.list_snapshots().len(), 1);
    assert_eq!(store.mount(&stale, MountOptions::default()).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Attaching needs a mount namespace of its own, so the test runs itself in one.
#[test]
fn a_snapshot_is_attached_at_a_path() {
    const INNER: &str = "BERTH_TEST_OWN_MOUNTS";
    if std::env::var_os(INNER).is_none() {
        let test = std::env::current_exe().unwrap();
        let status = Command::new("unshare")
            .arg("-m")
            .arg(test)
            .args(["--exact", "tests::mounts::a_snapshot_is_attached_at_a_path"])
            .env(INNER, "1")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let fixture = Fixture::new();
    let image = make_image(&fixture.store, &[], &[one("a", "1")]).unwrap();
    let snapshot = fixture.store.prepare(&id("c"), &image.id, SnapshotOptions::default()).unwrap();
    let target = fixture.directory.path().join("rootfs");
    std::fs::create_dir(&target).unwrap();
    fixture.store.mount_at(&snapshot, MountOptions::default(), &target).unwrap();
    assert_eq!(names(&target), ["a"]);
    sys::mount::umount_detach(&target).unwrap();
    assert!(names(&target).is_empty());
}
