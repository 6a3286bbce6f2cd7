//! The store on a real file system and a real kernel; needs root.

mod adapters;
mod capture;
mod crash;
mod import;
mod layering;
mod mounts;
mod records;

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use oci::{Algorithm, Compression, ContainerId, Digest, Reference};

use crate::archive::tests::Builder;
use crate::{Image, ImageLayer, ImageTarget, Options, Store};

/// A store in a directory of its own.
struct Fixture {
    directory: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap();
        let store = open(directory.path());
        Self { directory, store }
    }

    /// Closes the store and opens it again, as after a restart.
    fn reopen(self) -> Self {
        let Self { directory, store } = self;
        drop(store);
        let store = open(directory.path());
        Self { directory, store }
    }
}

fn open(path: &Path) -> Store {
    let content = Arc::new(content::Store::open(&path.join("content")).unwrap());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match Store::open(&path.join("storage"), Arc::clone(&content), Options::default()) {
            // A program that another test starts holds a copy of the lock until it is executed.
            Err(crate::Error::Locked { .. }) if std::time::Instant::now() < deadline => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    content::Hasher::digest(Algorithm::Sha256, bytes)
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn id(text: &str) -> ContainerId {
    text.parse().unwrap()
}

/// Unpacks a plain archive.
fn unpack(store: &Store, archive: &[u8]) -> Result<crate::Layer, crate::Error> {
    store.unpack(&sha256(archive), Compression::None, Cursor::new(archive.to_vec()))
}

/// Makes an image of plain archives, lowest first; its configuration is its name.
fn make_image(store: &Store, names: &[&str], archives: &[Vec<u8>]) -> Result<Image, crate::Error> {
    let lease = store.content().lease();
    let mut layers = Vec::new();
    for archive in archives {
        let diff_id = sha256(archive);
        lease.add(&diff_id);
        let blob = store.content().put(archive)?;
        unpack(store, archive)?;
        layers.push(ImageLayer { blob, size: archive.len() as u64, diff_id });
    }
    let key = layers.iter().map(|layer| layer.diff_id.as_str()).collect::<String>();
    let config = store.content().put(format!("config {key}").as_bytes())?;
    let manifest = store.content().put(format!("manifest {key}").as_bytes())?;
    let target = ImageTarget {
        manifest,
        config,
        layers,
        extra_blobs: Vec::new(),
        user: "1000".to_owned(),
        pinned: false,
    };
    let names: Vec<Reference> = names.iter().map(|name| reference(name)).collect();
    store.put_image(&names, target)
}

/// An archive with one file.
fn one(name: &str, data: &str) -> Vec<u8> {
    Builder::of([crate::archive::tests::file(name, data.as_bytes())])
}
