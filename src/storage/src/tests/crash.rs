//! Failures at every step, full disks, and everything at once.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use super::*;
use crate::archive::tests::{directory, file, symlink};
use crate::{Error, ErrorKind, GcOptions, SnapshotOptions, fail};

const NOW: GcOptions = GcOptions { grace: Duration::ZERO, ingest_age: Duration::ZERO };

fn archives() -> [Vec<u8>; 2] {
    [Builder::of([directory("d"), file("d/f", b"1"), file(".wh.x", b"")]), one("b", "2")]
}

/// What must hold whenever a store is opened.
fn check_invariants(fixture: Fixture, step: u32) -> Fixture {
    let fixture = fixture.reopen();
    let store = &fixture.store;
    assert_eq!(store.check(false).unwrap(), [], "step {step}");
    assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0, "step {step}");
    for layer in store.layers() {
        assert!(store.layer_path(&layer.diff_id).is_dir(), "step {step}");
    }
    store.empty_trash().unwrap().empty().unwrap();
    fixture
}

/// Runs work that fails from its n-th step on, for every n, opens the store again and looks.
fn at_every_step(prepare: impl Fn(&Store), work: impl Fn(&Store) -> Result<(), Error>, at_least: u32) {
    for step in 0.. {
        let fixture = Fixture::new();
        prepare(&fixture.store);
        fail::after(Some(step));
        let outcome = work(&fixture.store);
        fail::after(None);
        let fixture = check_invariants(fixture, step);
        work(&fixture.store).unwrap_or_else(|error| panic!("retry after step {step}: {error:?}"));
        drop(check_invariants(fixture, step));
        if outcome.is_ok() {
            assert!(step >= at_least, "only {step} steps");
            return;
        }
    }
}

#[test]
fn pulls_can_fail_anywhere() {
    let work = |store: &Store| make_image(store, &["r.example/a:1"], &archives()).map(drop);
    at_every_step(|_| {}, work, 15);
}

/// Archives without entries for directories, so that the image needs an adapter of both kinds.
fn implying() -> [Vec<u8>; 2] {
    let lower = [directory("d").mode(0o1777), directory("t"), symlink("l", "t")];
    [Builder::of(lower), Builder::of([file("d/f", b"1"), file("l/x", b"1")])]
}

#[test]
fn pulls_of_layers_with_gaps_can_fail_anywhere() {
    let work = |store: &Store| make_image(store, &["r.example/a:1"], &implying()).map(drop);
    at_every_step(|_| {}, work, 20);
    let prepare = |store: &Store| work(store).unwrap();
    let work = |store: &Store| {
        for image in store.images() {
            store.remove_image(&image.id)?.trash.empty()?;
        }
        store.gc(NOW)?.trash.empty()?;
        assert_eq!(std::fs::read_dir(store.root().join("adapters")).unwrap().count(), 0);
        Ok(())
    };
    at_every_step(prepare, work, 4);
}

#[test]
fn removals_can_fail_anywhere() {
    let prepare = |store: &Store| drop(make_image(store, &["r.example/a:1"], &archives()).unwrap());
    let work = |store: &Store| {
        for image in store.images() {
            store.remove_image(&image.id)?.trash.empty()?;
        }
        store.gc(NOW)?.trash.empty()
    };
    at_every_step(prepare, work, 3);
}

#[test]
fn snapshots_can_fail_anywhere() {
    let prepare = |store: &Store| drop(make_image(store, &["r.example/a:1"], &archives()).unwrap());
    let work = |store: &Store| {
        let image = store.images().remove(0);
        let options = SnapshotOptions { durable: true, ..SnapshotOptions::default() };
        store.prepare(&id("c"), &image.id, options)?;
        store.remove(&id("c"))?.empty()
    };
    at_every_step(prepare, work, 1);
}

/// A full disk: the unpack fails, takes nothing, and removing things still works.
#[test]
fn a_full_disk_is_an_answer() {
    use sys::mount::{Attributes, Value, new_mount};
    let disk = new_mount("tmpfs", &[("size", Value::Text("12M"))], Attributes::EMPTY).unwrap();
    let root = std::path::PathBuf::from(format!("/proc/self/fd/{}", disk.as_fd().as_raw_fd()));
    let store = open(&root);
    let image = make_image(&store, &["r.example/a:1"], &archives()).unwrap();
    let used = || {
        let stats = sys::fs::fstatfs(disk.as_fd()).unwrap();
        stats.total_bytes - stats.free_bytes
    };
    let before = used();
    let large = Builder::of([file("a", &vec![1; 6 << 20]), file("b", &vec![2; 30 << 20])]);
    let error = unpack(&store, &large).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    assert_eq!(used(), before);
    let mut ingest = store.content().ingest("k", None, None).unwrap();
    let error = loop {
        if let Err(error) = ingest.write_all(&[1; 1 << 20]) {
            break error;
        }
    };
    assert_eq!(error.kind(), content::ErrorKind::NoSpace);
    store.remove_image(&image.id).unwrap().trash.empty().unwrap();
    ingest.abort().unwrap();
    assert!(used() <= before);
    unpack(&store, &one("x", "fits")).unwrap();
}

/// Pulls, removals and collections of images that share layers, all at once: whoever was told that an image is
/// there can use it.
#[test]
fn everything_at_once() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let shared: Vec<_> = (0..4).map(|n| one("shared", &n.to_string())).collect();
    std::thread::scope(|scope| {
        for worker in 0..4_u32 {
            let shared = &shared;
            scope.spawn(move || {
                for round in 0..12 {
                    let archives: Vec<_> = shared
                        .iter()
                        .skip(worker as usize % 2)
                        .chain([&one("own", &worker.to_string())])
                        .cloned()
                        .collect();
                    let name = format!("r.example/w{worker}:{round}");
                    let image = make_image(store, &[&name], &archives).unwrap();
                    let key = id(&format!("c{worker}-{round}"));
                    // Another worker with the same layers may have removed the image under its own name.
                    match store.prepare(&key, &image.id, SnapshotOptions::default()) {
                        Ok(snapshot) => {
                            assert!(snapshot.layers.iter().all(|layer| store.layer_path(layer).is_dir()));
                            store.remove(&key).unwrap().empty().unwrap();
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
                    }
                    drop(store.remove_name(&reference(&name)).unwrap());
                }
            });
        }
        scope.spawn(move || {
            for _ in 0..30 {
                let grace = GcOptions { grace: Duration::from_secs(3600), ..GcOptions::default() };
                store.gc(grace).unwrap().trash.empty().unwrap();
            }
        });
    });
    assert_eq!(store.check(false).unwrap(), []);
    assert!(store.images().is_empty());
    store.gc(NOW).unwrap().trash.empty().unwrap();
    assert!(store.layers().is_empty());
    assert!(store.content().list().unwrap().is_empty());
}

/// Several unpacks of one layer do the work once.
#[test]
fn one_of_many_unpacks_does_the_work() {
    let fixture = Fixture::new();
    let archive = archives()[0].clone();
    std::thread::scope(|scope| {
        let unpackers: Vec<_> =
            (0..6).map(|_| scope.spawn(|| unpack(&fixture.store, &archive).unwrap())).collect();
        let layers: Vec<_> = unpackers.into_iter().map(|unpacker| unpacker.join().unwrap()).collect();
        assert!(layers.iter().all(|layer| *layer == layers[0]));
    });
    assert_eq!(fixture.store.layers().len(), 1);
}
