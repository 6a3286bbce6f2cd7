//! Hostile and benign archives, made byte by byte.

mod attacks;
mod build;
mod formats;
mod gnu;
mod place;
mod whiteouts;

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci::{Algorithm, Compression};

pub(crate) use build::{Builder, Item, directory, file, pax, symlink};

use super::{ArchiveError, Job, Unpacked, unpack};
use crate::Limits;

/// A directory to unpack into, next to a tree that nothing may touch.
pub(crate) struct Scratch {
    directory: tempfile::TempDir,
    before: BTreeMap<String, String>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap();
        let canary = directory.path().join("canary");
        std::fs::create_dir_all(canary.join("sub")).unwrap();
        std::fs::write(canary.join("file"), "canary").unwrap();
        std::os::unix::fs::symlink("file", canary.join("link")).unwrap();
        std::fs::create_dir(directory.path().join("layer")).unwrap();
        let before = picture(&canary);
        Self { directory, before }
    }

    pub(crate) fn canary(&self) -> String {
        self.directory.path().join("canary").to_str().unwrap().to_owned()
    }

    pub(crate) fn layer(&self) -> std::path::PathBuf {
        self.directory.path().join("layer")
    }

    /// Unpacks, and checks that only the layer's directory changed.
    pub(crate) fn unpack(&self, archive: &[u8]) -> Result<Unpacked, ArchiveError> {
        self.unpack_with(archive, Compression::None, Limits::STANDARD)
    }

    pub(crate) fn unpack_with(
        &self,
        archive: &[u8],
        compression: Compression,
        limits: Limits,
    ) -> Result<Unpacked, ArchiveError> {
        self.unpack_from(Box::new(Cursor::new(archive.to_vec())), compression, limits)
    }

    pub(crate) fn unpack_from(
        &self,
        reader: Box<dyn Read + Send>,
        compression: Compression,
        limits: Limits,
    ) -> Result<Unpacked, ArchiveError> {
        let root = self.layer();
        let outcome = unpack(Job { root: &root, compression, limits, algorithm: Algorithm::Sha256, reader });
        assert_eq!(picture(Path::new(&self.canary())), self.before, "the canary changed");
        let outside: Vec<_> = std::fs::read_dir(self.directory.path()).unwrap().collect();
        assert_eq!(outside.len(), 2, "something was made outside the layer: {outside:?}");
        outcome
    }

    /// Every path of the layer with its metadata.
    pub(crate) fn tree(&self) -> BTreeMap<String, String> {
        picture(&self.layer())
    }
}

/// Every path below a directory with its kind, mode, owner, time, links, and content or target.
pub(crate) fn picture(root: &Path) -> BTreeMap<String, String> {
    fn add(root: &Path, path: &Path, into: &mut BTreeMap<String, String>) {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let kind = metadata.file_type();
        let what = if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(path).unwrap().display())
        } else if kind.is_dir() {
            "dir".to_owned()
        } else if kind.is_file() {
            let links = metadata.nlink();
            let bytes = if metadata.len() > 1 << 24 { Vec::new() } else { std::fs::read(path).unwrap() };
            format!(
                "{} {} {}",
                metadata.len(),
                links,
                content::Hasher::digest(Algorithm::Sha256, &bytes).hex()
            )
        } else {
            format!("node {:x}", metadata.rdev())
        };
        let text = format!(
            "{:o} {}:{} {}.{} {what}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        into.insert(name, text);
        if kind.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                add(root, &entry.unwrap().path(), into);
            }
        }
    }
    let mut all = BTreeMap::new();
    add(root, root, &mut all);
    all
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}
