//! Layers: unpacking them and finding them.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use oci::{Compression, Digest};

use crate::archive::{self, Unpacked};
use crate::store::Store;
use crate::{Error, fail, trash};

/// A layer that is unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of its files' content.
    pub bytes: u64,
    /// Inodes it takes.
    pub inodes: u64,
    /// Whether it hides everything below it.
    pub opaque: bool,
    /// Whether it has directories that its archive has no entry for. They are marked.
    pub implied: bool,
}

impl Store {
    /// Whether the layer is unpacked.
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        self.state().layers.contains_key(diff_id)
    }

    /// A layer.
    pub fn layer(&self, diff_id: &Digest) -> Option<Layer> {
        self.state().layers.get(diff_id).cloned()
    }

    /// All layers, in no order.
    pub fn layers(&self) -> Vec<Layer> {
        self.state().layers.values().cloned().collect()
    }

    /// The directory of a layer, or where it would be.
    pub fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root().join("layers").join(diff_id.algorithm().name()).join(diff_id.hex())
    }

    /// Unpacks a layer from its compressed archive, which may still be arriving. The layer exists, durably,
    /// when this returns; it does not at all if this fails.
    ///
    /// Hold a [`content::Lease`] on the diff id, or the layer may be collected before an image names it. If
    /// the layer is there already, or is being unpacked by someone else, the reader is left alone.
    pub fn unpack(
        &self,
        diff_id: &Digest,
        compression: Compression,
        reader: impl Read + Send + 'static,
    ) -> Result<Layer, Error> {
        let turn = self.unpack_turn(diff_id);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = self.layer(diff_id) {
            return Ok(layer);
        }
        let temporary = self.temporary_directory()?;
        // Opened before anything is written: syncing it reports whatever could not be written since.
        let root = sys::tree::open_root(&temporary.path).map_err(Error::io("open", &temporary.path))?;
        let writing = self.writeback().enter(&temporary.path);
        let unpacked = archive::unpack(archive::Job {
            root: &temporary.path,
            compression,
            limits: self.options().limits,
            algorithm: diff_id.algorithm(),
            reader: Box::new(reader),
        })
        .map_err(|source| Error::Unpack { what: format!("layer {diff_id}"), source })?;
        if unpacked.diff_id != *diff_id {
            return Err(Error::WrongDiffId { expected: diff_id.clone(), actual: unpacked.diff_id });
        }
        drop(writing);
        self.commit_layer(temporary, root.as_fd(), unpacked)
    }

    /// Syncs the files, moves them into place, then records the layer.
    fn commit_layer(
        &self,
        temporary: Temporary,
        root: BorrowedFd<'_>,
        unpacked: Unpacked,
    ) -> Result<Layer, Error> {
        let layer = Layer {
            diff_id: unpacked.diff_id,
            bytes: unpacked.bytes,
            inodes: unpacked.inodes,
            opaque: unpacked.opaque,
            implied: unpacked.implied,
        };
        let path = self.layer_path(&layer.diff_id);
        let sync = || {
            fail::point()?;
            sys::tree::sync_file_system(root)
        };
        sync().map_err(Error::io("sync", &temporary.path))?;
        // A directory without a record may be left from a removal that crashed half-way.
        trash::discard(&path, &self.trash_path())?.empty()?;
        fail::point()
            .and_then(|()| std::fs::rename(&temporary.path, &path))
            .map_err(Error::io("move layer to", &path))?;
        let parent = path.parent().unwrap_or_else(|| self.root());
        fail::point()
            .and_then(|()| sys::fs::sync_directory(parent))
            .map_err(Error::io("sync directory", parent))?;
        self.records().put_layer(&layer)?;
        self.state().layers.insert(layer.diff_id.clone(), layer.clone());
        Ok(layer)
    }

    /// The lock that makes one of several unpacks of the same layer do the work.
    pub(crate) fn unpack_turn(&self, diff_id: &Digest) -> Arc<Mutex<()>> {
        let mut turns = self.unpacking().lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(diff_id.clone()).or_default())
    }

    pub(crate) fn temporary_directory(&self) -> Result<Temporary, Error> {
        let parent = self.root().join("tmp");
        let make = || {
            fail::point()?;
            let name: String =
                sys::fs::random_bytes::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
            let path = parent.join(name);
            std::fs::create_dir(&path)?;
            Ok(Temporary { path })
        };
        make().map_err(Error::io("create directory in", &parent))
    }
}

/// A directory that goes away with its owner.
#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Whatever is left is swept when the store is opened next.
        if let Err(error) = sys::fs::remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "temporary directory is left behind");
        }
    }
}
