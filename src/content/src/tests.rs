use std::io::Read;
use std::time::Duration;

use oci::{Algorithm, Digest};

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap();
    let store = Store::open(&directory.path().join("content")).unwrap();
    (directory, store)
}

fn digest(bytes: &[u8]) -> Digest {
    Hasher::digest(Algorithm::Sha256, bytes)
}

fn ingests(store: &Store) -> usize {
    std::fs::read_dir(store.root().join("ingest")).unwrap().count()
}

#[test]
fn a_blob_is_visible_only_once_verified() {
    let (_directory, store) = store();
    let bytes = b"some bytes".repeat(1000);
    let name = digest(&bytes);
    let mut ingest = store.ingest("k", Some(&name), Some(bytes.len() as u64)).unwrap();
    ingest.write_all(&bytes).unwrap();
    assert_eq!(store.stat(&name), None);
    assert_eq!(ingest.commit().unwrap(), name);
    assert_eq!(store.stat(&name), Some(bytes.len() as u64));
    assert_eq!(store.read_small(&name, 1 << 20).unwrap(), bytes);
    assert_eq!(store.read_small(&name, 10).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(ingests(&store), 0);
}

#[test]
fn sha512_names_work() {
    let (_directory, store) = store();
    let name = Hasher::digest(Algorithm::Sha512, b"x");
    assert_eq!(store.put_as(&name, b"x").unwrap(), name);
    assert!(store.verify(&name).unwrap());
}

#[test]
fn a_dropped_ingest_is_resumed_and_hashed_again() {
    let (_directory, store) = store();
    let name = digest(b"hello world");
    let mut first = store.ingest("k", Some(&name), Some(11)).unwrap();
    first.write_all(b"hello").unwrap();
    drop(first);
    let mut second = store.ingest("k", Some(&name), Some(11)).unwrap();
    assert_eq!(second.offset(), 5);
    second.write_all(b" world").unwrap();
    second.commit().unwrap();
    let mut text = String::new();
    store.open_blob(&name).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello world");
}

#[test]
fn truncate_starts_over() {
    let (_directory, store) = store();
    let mut ingest = store.ingest("k", Some(&digest(b"abXY")), None).unwrap();
    ingest.write_all(b"abcd").unwrap();
    ingest.truncate(2).unwrap();
    assert_eq!(ingest.offset(), 2);
    ingest.write_all(b"XY").unwrap();
    assert!(ingest.commit().is_ok());
}

#[test]
fn wrong_bytes_are_thrown_away() {
    let (_directory, store) = store();
    let mut ingest = store.ingest("k", Some(&digest(b"right")), Some(5)).unwrap();
    ingest.write_all(b"wrong").unwrap();
    assert_eq!(ingest.commit().unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!((ingests(&store), store.list().unwrap().len()), (0, 0));

    let mut ingest = store.ingest("k", None, Some(5)).unwrap();
    assert_eq!(ingest.write_all(b"too long").unwrap_err().kind(), ErrorKind::Mismatch);
    ingest.write_all(b"abc").unwrap();
    assert_eq!(ingest.commit().unwrap_err().kind(), ErrorKind::Mismatch, "too short");
}

#[test]
fn one_writer_at_a_time() {
    let (_directory, store) = store();
    let first = store.ingest("k", None, None).unwrap();
    assert_eq!(store.ingest("k", None, None).unwrap_err().kind(), ErrorKind::Busy);
    assert!(store.ingest("other", None, None).is_ok());
    assert_eq!(store.sweep_ingests(Duration::ZERO).unwrap(), 0);
    first.abort().unwrap();
    assert!(store.ingest("k", None, None).is_ok());
}

#[test]
fn old_ingests_are_swept() {
    let (_directory, store) = store();
    store.ingest("k", None, None).unwrap().write_all(b"partial").unwrap();
    assert_eq!(store.sweep_ingests(Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(store.sweep_ingests(Duration::ZERO).unwrap(), 7);
    assert_eq!(ingests(&store), 0);
}

#[test]
fn a_buried_blob_is_gone_and_its_file_elsewhere() {
    let (directory, store) = store();
    let name = store.put(b"dead").unwrap();
    let grave = directory.path().join("grave");
    let lease = store.lease();
    lease.add(&name);
    assert!(!store.bury(&name, &grave).unwrap(), "a lease holds it");
    assert!(store.stat(&name).is_some());
    drop(lease);
    assert!(store.bury(&name, &grave).unwrap());
    assert!(store.stat(&name).is_none());
    assert_eq!(std::fs::read(&grave).unwrap(), b"dead");
    assert!(!store.bury(&name, &grave).unwrap(), "burying twice is fine");
}

#[test]
fn a_lease_holds_against_removal() {
    let (_directory, store) = store();
    let name = store.put(b"held").unwrap();
    let lease = store.lease();
    lease.add(&name);
    let other = store.lease();
    other.add(&name);
    drop(lease);
    assert!(!store.remove(&name).unwrap());
    assert!(store.stat(&name).is_some());
    drop(other);
    assert!(store.remove(&name).unwrap());
    assert!(store.stat(&name).is_none());
    assert!(store.remove(&name).unwrap(), "removing twice is fine");
    assert_eq!(store.open_blob(&name).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn damage_is_seen() {
    let (_directory, store) = store();
    let name = store.put(b"precious").unwrap();
    std::fs::write(store.blob_path(&name), b"preciouS").unwrap();
    assert!(!store.verify(&name).unwrap());
    assert_eq!(store.read_small(&name, 100).unwrap_err().kind(), ErrorKind::Mismatch);
}

/// Every durable step fails once; whatever happens, a visible blob is whole and a retry succeeds.
#[test]
fn a_failure_at_any_step_leaves_no_wrong_blob() {
    let bytes = b"durable".repeat(3);
    let name = digest(&bytes);
    let mut failures = 0;
    for step in 0.. {
        let (_directory, store) = store();
        fail::after(Some(step));
        let outcome = store.put_as(&name, &bytes);
        fail::after(None);
        let store = Store::open(store.root()).unwrap();
        if store.stat(&name).is_some() {
            assert!(store.verify(&name).unwrap(), "step {step}");
        }
        if outcome.is_ok() {
            break;
        }
        failures += 1;
        assert_eq!(store.put_as(&name, &bytes).unwrap(), name, "step {step}");
    }
    assert_eq!(failures, 4, "write, sync, rename, sync of the directory");
}

#[test]
fn concurrent_writers_of_one_blob_agree() {
    let (_directory, store) = store();
    let name = digest(b"shared");
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (store, name) = (store.clone(), name.clone());
            scope.spawn(move || {
                let key = format!("w{writer}");
                let mut ingest = store.ingest(&key, Some(&name), Some(6)).unwrap();
                ingest.write_all(b"shared").unwrap();
                ingest.commit().unwrap();
            });
        }
    });
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(ingests(&store), 0);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    /// However the bytes are cut and however often the writer comes back, the blob is the same.
    #[test]
    fn any_cut_gives_the_same_blob(chunks in proptest::collection::vec((proptest::collection::vec(proptest::num::u8::ANY, 0..200), proptest::bool::ANY), 1..12)) {
        let (_directory, store) = store();
        let whole: Vec<u8> = chunks.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let name = digest(&whole);
        let mut ingest = store.ingest("k", Some(&name), Some(whole.len() as u64)).unwrap();
        for (bytes, reopen) in chunks {
            ingest.write_all(&bytes).unwrap();
            if reopen {
                drop(ingest);
                ingest = store.ingest("k", Some(&name), Some(whole.len() as u64)).unwrap();
            }
        }
        proptest::prop_assert_eq!(ingest.commit().unwrap(), name.clone());
        proptest::prop_assert_eq!(store.read_small(&name, 1 << 20).unwrap(), whole);
    }
}
