//! Layers that imply directories: what the layers below say about them counts.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use super::mounts::{inside, names};
use super::*;
use crate::archive::tests::{directory, file, pax, symlink};
use crate::{ErrorKind, GcOptions, MountOptions, Problem, SnapshotOptions, ViewOptions};

const NOW: GcOptions = GcOptions { grace: std::time::Duration::ZERO, ingest_age: std::time::Duration::ZERO };

fn adapters(store: &Store) -> Vec<String> {
    names(&store.root().join("adapters"))
}

/// What `path` is in the view of an image: mode, owner, time.
fn seen(store: &Store, image: &Image, path: &str) -> (u32, u32, u32, i64) {
    let view = store.view(&image.id, ViewOptions::default()).unwrap();
    let metadata = std::fs::symlink_metadata(inside(&view).join(path)).unwrap();
    (metadata.mode() & 0o7777, metadata.uid(), metadata.gid(), metadata.mtime())
}

/// A path and the names in it, in the view of an image.
fn listed(store: &Store, image: &Image, path: &str) -> Vec<String> {
    let view = store.view(&image.id, ViewOptions::default()).unwrap();
    names(&inside(&view).join(path))
}

fn read(store: &Store, image: &Image, path: &str) -> String {
    let view = store.view(&image.id, ViewOptions::default()).unwrap();
    std::fs::read_to_string(inside(&view).join(path)).unwrap()
}

#[test]
fn an_implied_directory_is_what_lower_layers_say() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let attribute = pax(&[("SCHILY.xattr.user.k", b"v")]);
    let archives = [
        Builder::of([
            directory("./").mode(0o711),
            attribute,
            directory("tmp").mode(0o1777).owner(5, 6),
            directory("tmp/in").mode(0o700),
            directory("tmp/gone").mode(0o700),
            directory("opaque").mode(0o750),
            file("opaque/x", b""),
        ]),
        one("tmp/in/file", "1"),
        Builder::of([
            file("tmp/in/second", b"2"),
            file("tmp/.wh.gone", b""),
            file("opaque/.wh..wh..opq", b""),
            file("opaque/y", b""),
        ]),
        one("tmp/gone/again", "3"),
    ];
    let image = make_image(store, &[], &archives).unwrap();
    assert_eq!(seen(store, &image, "tmp"), (0o1777, 5, 6, 1_000_000_000));
    assert_eq!(seen(store, &image, "tmp/in").0, 0o700);
    assert_eq!(seen(store, &image, "tmp/gone").0, 0o755, "it was removed before it was implied");
    assert_eq!(seen(store, &image, "opaque").0, 0o750, "its content was removed, not itself");
    assert_eq!(listed(store, &image, "opaque"), ["y"]);
    assert_eq!(listed(store, &image, "tmp/in"), ["file", "second"]);
    assert_eq!(seen(store, &image, "").0, 0o711);

    let snapshot = store.prepare(&id("c"), &image.id, SnapshotOptions::default()).unwrap();
    let mount = store.mount(&snapshot, MountOptions::default()).unwrap();
    assert_eq!(std::fs::metadata(inside(&mount)).unwrap().mode() & 0o7777, 0o711);
    let tmp = sys::tree::open_directory(mount_root(&mount).as_fd(), b"tmp").unwrap();
    assert_eq!(sys::tree::xattr_fd(tmp.as_fd(), "user.k").unwrap().as_deref(), Some(&b"v"[..]));
    std::fs::write(inside(&mount).join("tmp/written"), "").unwrap();
    assert_eq!(names(&inside(&mount).join("tmp")), ["gone", "in", "written"]);
    let shown = sys::tree::list_xattrs_fd(tmp.as_fd()).unwrap();
    assert!(shown.iter().all(|name| !name.contains("berth")), "{shown:?}");
}

fn mount_root(mount: &sys::mount::Detached) -> std::os::fd::OwnedFd {
    sys::tree::open_root(&inside(mount)).unwrap()
}

#[test]
fn a_link_of_a_lower_layer_is_followed() {
    for target in ["usr/lib", "/usr/lib", "usr/../usr/./lib", "../../usr/lib", "other"] {
        let fixture = Fixture::new();
        let store = &fixture.store;
        let archives = [
            Builder::of([
                directory("usr/lib").mode(0o710),
                file("usr/lib/below", b"0"),
                file("usr/lib/replaced", b"0"),
                symlink("lib", target),
                symlink("other", "usr/lib"),
            ]),
            Builder::of([file("lib/foo", b"1"), file("lib/replaced", b"1"), file("lib/sub/x", b"1")]),
            Builder::of([file("lib/.wh.foo", b""), file("usr/lib/bar", b"2")]),
            Builder::of([file("lib/sub/.wh..wh..opq", b""), file("lib/sub/y", b"3")]),
        ];
        let image = make_image(store, &[], &archives).unwrap();
        assert_eq!(listed(store, &image, ""), ["lib", "other", "usr"], "{target}");
        assert_eq!(listed(store, &image, "usr/lib"), ["bar", "below", "replaced", "sub"], "{target}");
        assert_eq!(listed(store, &image, "usr/lib/sub"), ["y"], "{target}");
        assert_eq!(seen(store, &image, "usr/lib").0, 0o710);
        assert_eq!(read(store, &image, "usr/lib/replaced"), "1");
        let view = store.view(&image.id, ViewOptions::default()).unwrap();
        assert_eq!(std::fs::read_link(inside(&view).join("lib")).unwrap(), Path::new(target));
        assert_eq!(adapters(store).len(), 1);
        assert_eq!(store.check(false).unwrap(), []);
    }
}

#[test]
fn a_layers_own_links_and_removals_count() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let lower = Builder::of([directory("one"), directory("two"), symlink("a", "b"), symlink("b", "one")]);
    let cases = [
        // Its own link is followed.
        (Builder::of([symlink("b", "two"), file("a/x", b"")]), "two", vec!["x"]),
        // A link that it removes is not.
        (Builder::of([file(".wh.a", b""), file("a/x", b"")]), "a", vec!["x"]),
        // What it has at the real path stays.
        (Builder::of([file("one/x", b"long"), file("a/x", b""), file("a/y", b"")]), "one", vec!["x", "y"]),
        // An entry of its own replaces the link.
        (Builder::of([directory("a"), file("a/x", b"")]), "a", vec!["x"]),
    ];
    for (upper, path, expected) in cases {
        let image = make_image(store, &[], &[lower.clone(), upper]).unwrap();
        assert_eq!(listed(store, &image, path), expected);
    }
    let upper = Builder::of([file("one/x", b"long"), file("a/x", b"")]);
    let image = make_image(store, &[], &[lower, upper]).unwrap();
    assert_eq!(read(store, &image, "one/x"), "long");
}

#[test]
fn links_that_lead_nowhere_do_no_harm() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let canary = fixture.directory.path().join("canary");
    std::fs::create_dir(&canary).unwrap();
    let lower = Builder::of([
        symlink("up", "../../../../../../made"),
        symlink("out", canary.to_str().unwrap()),
        symlink("loop", "loop"),
        symlink("file", "f"),
        symlink("self", "."),
        symlink("magic", "/proc/self/root"),
        file("f", b""),
    ]);
    let upper = ["up/x", "out/x", "loop/x", "file/x", "self/self/x", "magic/x"].map(|name| file(name, b""));
    let image = make_image(store, &[], &[lower, Builder::of(upper)]).unwrap();
    let inside_canary = canary.strip_prefix("/").unwrap().to_str().unwrap();
    for path in ["made", inside_canary, "loop", "file", "proc/self/root"] {
        assert_eq!(listed(store, &image, path), ["x"], "{path}");
    }
    let first = inside_canary.split('/').next().unwrap();
    let top = listed(store, &image, "");
    let mut expected = vec!["f", "file", "loop", "made", "magic", "out", "proc", "self", first, "up", "x"];
    expected.sort_unstable();
    assert_eq!(top, expected);
    assert!(names(&canary).is_empty());
}

#[test]
fn layers_that_imply_nothing_cost_nothing() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let upper = Builder::of([directory("d"), file("d/x", b""), file("top", b"")]);
    // The lowest layer has nothing below it.
    make_image(store, &[], &[one("a/b/c", ""), upper]).unwrap();
    // An entry may come late.
    let late = Builder::of([file("a/b/late", b""), directory("a"), directory("a/b")]);
    assert!(!unpack(store, &late).unwrap().implied);
    make_image(store, &[], &[one("a/b/c", ""), late]).unwrap();
    assert!(adapters(store).is_empty());
    // Nothing is hidden: looked at once, and remembered.
    let image = make_image(store, &[], &[one("a/b/c", ""), one("x/y", "")]).unwrap();
    assert_eq!(listed(store, &image, "x"), ["y"]);
    let [only] = &adapters(store)[..] else { panic!("one adapter") };
    assert_eq!(names(&store.root().join("adapters").join(only)), ["adapter.json"]);
}

fn layers() -> [Vec<u8>; 2] {
    let lower = Builder::of([directory("tmp").mode(0o1777), directory("usr"), symlink("lib", "usr")]);
    [lower, Builder::of([file("tmp/x", b""), file("lib/y", b"")])]
}

#[test]
fn an_adapter_lives_as_long_as_what_needs_it() {
    let fixture = Fixture::new();
    let image = make_image(&fixture.store, &["r.example/a:1"], &layers()).unwrap();
    let before = adapters(&fixture.store);
    assert_eq!(before.len(), 1);
    let inodes = fixture.store.fs_info().unwrap().images.inodes;
    let fixture = fixture.reopen();
    let store = &fixture.store;
    assert_eq!(store.fs_info().unwrap().images.inodes, inodes);
    make_image(store, &["r.example/b:1"], &layers()).unwrap();
    assert_eq!(adapters(store), before);
    assert_eq!(listed(store, &image, "usr"), ["y"]);

    let durable = SnapshotOptions { durable: true, ..SnapshotOptions::default() };
    let snapshot = store.prepare(&id("c"), &image.id, durable).unwrap();
    store.remove_image(&image.id).unwrap().trash.empty().unwrap();
    store.gc(NOW).unwrap().trash.empty().unwrap();
    assert_eq!(adapters(store), before, "a container uses it");
    let fixture = fixture.reopen();
    let store = &fixture.store;
    let mount = store.mount(&snapshot, MountOptions::default()).unwrap();
    assert_eq!(names(&inside(&mount).join("lib")), ["y"]);
    drop(mount);
    store.remove(&id("c")).unwrap().empty().unwrap();
    store.gc(NOW).unwrap().trash.empty().unwrap();
    assert!(adapters(store).is_empty() && store.layers().is_empty());
}

#[test]
fn a_damaged_adapter_is_made_again() {
    let fixture = Fixture::new();
    let image = make_image(&fixture.store, &["r.example/a:1"], &layers()).unwrap();
    let path = fixture.store.root().join("adapters").join(&adapters(&fixture.store)[0]);
    std::fs::remove_file(path.join("1/usr/y")).unwrap();
    let problems = fixture.store.check(true).unwrap();
    assert!(matches!(&problems[..], [Problem::AdapterChanged { .. }]), "{problems:?}");
    assert!(adapters(&fixture.store).is_empty());
    assert_eq!(listed(&fixture.store, &image, "usr"), ["y"]);
    assert_eq!(fixture.store.check(false).unwrap(), []);

    std::fs::write(path.join("adapter.json"), "{").unwrap();
    let fixture = fixture.reopen();
    assert!(adapters(&fixture.store).is_empty());
    assert_eq!(seen(&fixture.store, &image, "tmp").0, 0o1777);
    std::fs::remove_dir_all(&path).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(seen(&fixture.store, &image, "tmp").0, 0o1777);

    // A layer that is broken takes the adapters of its images with it.
    std::fs::remove_file(fixture.store.layer_path(&image.layers[1].diff_id).join("lib/y")).unwrap();
    fixture.store.check(true).unwrap();
    assert!(adapters(&fixture.store).is_empty());
    let lacking = fixture.store.view(&image.id, ViewOptions::default()).unwrap_err();
    assert_eq!(lacking.kind(), ErrorKind::NotFound);
    make_image(&fixture.store, &["r.example/a:1"], &layers()).unwrap();
    assert_eq!(listed(&fixture.store, &image, "usr"), ["y"]);
}
