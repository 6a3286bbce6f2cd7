//! How much disk images and containers take.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oci::ContainerId;
use sys::tree::Usage;

use crate::Error;
use crate::store::Store;

/// How long a container's usage is taken for current.
const FRESH: Duration = Duration::from_secs(10);
/// How long one walk may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What takes space on the store's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInfo {
    /// A directory on that file system.
    pub mountpoint: PathBuf,
    /// Layers and blobs.
    pub images: Usage,
    /// Upper directories.
    pub containers: Usage,
}

impl Store {
    /// What a container wrote. Counted at most every ten seconds.
    pub fn usage(&self, key: &ContainerId) -> Result<Usage, Error> {
        if let Some((counted, usage)) = self.usages().get(key)
            && counted.elapsed() < FRESH
        {
            return Ok(*usage);
        }
        if self.snapshot(key).is_none() {
            return Err(Error::SnapshotNotFound { key: key.clone() });
        }
        let path = self.upper_path(key);
        let count = || {
            let directory = sys::tree::open_root(&path)?;
            sys::tree::usage(directory.as_fd(), Instant::now() + PATIENCE)
        };
        let usage = count().map_err(Error::io("count the files of", &path))?;
        self.usages().insert(key.clone(), (Instant::now(), usage));
        Ok(usage)
    }

    /// What takes space, images and containers apart.
    pub fn fs_info(&self) -> Result<FsInfo, Error> {
        let mut images = Usage { complete: true, ..Usage::default() };
        for layer in self.layers() {
            images.bytes += layer.bytes;
            images.inodes += layer.inodes;
        }
        for adapter in self.state().adapters.values() {
            images.bytes += adapter.directories * 4096;
            images.inodes += adapter.directories;
        }
        for blob in self.content().list()? {
            images.bytes += blob.size;
            images.inodes += 1;
        }
        let mut containers = Usage { complete: true, ..Usage::default() };
        for snapshot in self.list_snapshots() {
            // One that was removed meanwhile takes no space.
            let Ok(usage) = self.usage(&snapshot.key) else { continue };
            containers.bytes += usage.bytes;
            containers.inodes += usage.inodes;
            containers.complete &= usage.complete;
        }
        Ok(FsInfo { mountpoint: self.root().to_owned(), images, containers })
    }
}
