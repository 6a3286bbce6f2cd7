//! Garbage collection, and checking that records and files fit together.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use oci::Digest;

use crate::image::{Image, Removal};
use crate::store::Store;
use crate::{Error, Trash, fail, trash};

/// What a collection spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcOptions {
    /// Unreferenced blobs younger than this stay: they may belong to a pull that goes on after a restart.
    pub grace: Duration,
    /// Partial downloads untouched for this long go.
    pub ingest_age: Duration,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { grace: Duration::from_secs(3600), ingest_age: Duration::from_secs(24 * 3600) }
    }
}

/// What a collection removed.
#[derive(Debug, Default)]
pub struct GcReport {
    /// Layers.
    pub layers: Vec<Digest>,
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// Bytes of blobs and partial downloads.
    pub blob_bytes: u64,
    /// What is to be deleted in the background.
    pub trash: Trash,
}

/// Something that does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The database could not be read and was put aside; images must be pulled again.
    #[error("the image database was damaged and is now at {}", put_aside.display())]
    DatabaseDamaged {
        /// Where it is now.
        put_aside: PathBuf,
    },
    /// One record could not be read.
    #[error("the record of {what} cannot be read")]
    RecordUnreadable {
        /// Whose.
        what: String,
    },
    /// A layer is recorded, but its directory is gone.
    #[error("the files of layer {diff_id} are gone")]
    LayerMissing {
        /// The layer.
        diff_id: Digest,
    },
    /// A layer has more or fewer files than were unpacked.
    #[error("layer {diff_id} has {found} files, {expected} were unpacked")]
    LayerChanged {
        /// The layer.
        diff_id: Digest,
        /// How many inodes were recorded.
        expected: u64,
        /// How many are there.
        found: u64,
    },
    /// An image lacks a layer or blob; it must be pulled again.
    #[error("image {id} lacks {digest}")]
    ImageIncomplete {
        /// The image.
        id: Digest,
        /// What it lacks.
        digest: Digest,
    },
    /// A blob does not hash to its name.
    #[error("blob {digest} is damaged")]
    BlobDamaged {
        /// The blob.
        digest: Digest,
    },
    /// An adapter has more or fewer files than were made. It can be made again.
    #[error("adapter {key} of a list of layers has changed")]
    AdapterChanged {
        /// The digest of the list.
        key: Digest,
    },
    /// A container's file system lacks a layer.
    #[error("the file system of container {key} lacks layer {diff_id}")]
    SnapshotBroken {
        /// The container.
        key: oci::ContainerId,
        /// The layer it lacks.
        diff_id: Digest,
    },
}

/// What is still needed.
struct Live {
    layers: HashSet<Digest>,
    blobs: HashSet<Digest>,
}

impl Store {
    /// Removes layers and blobs that no image, container or lease needs. Unpacking goes on meanwhile.
    pub fn gc(&self, options: GcOptions) -> Result<GcReport, Error> {
        let _writing = self.writing();
        let live = self.live();
        let layers = self.layers().into_iter().map(|layer| layer.diff_id);
        let layers: Vec<Digest> = layers.filter(|layer| !live.layers.contains(layer)).collect();
        let mut report = GcReport::default();
        (report.layers, report.trash) = self.collect_layers(layers)?;
        for blob in self.content().list()? {
            let age = SystemTime::now().duration_since(blob.modified).unwrap_or_default();
            if live.blobs.contains(&blob.digest) || age < options.grace {
                continue;
            }
            if self.content().remove(&blob.digest)? {
                report.blobs.push(blob.digest);
                report.blob_bytes += blob.size;
            }
        }
        report.blob_bytes += self.content().sweep_ingests(options.ingest_age)?;
        let _unused = self.collect_adapters()?;
        report.trash = self.empty_trash()?;
        Ok(report)
    }

    /// Removes what only this image, which is no longer recorded, needed.
    pub(crate) fn collect_of(&self, image: &Image) -> Result<Removal, Error> {
        let live = self.live();
        let layers = image.diff_ids().filter(|layer| !live.layers.contains(*layer)).cloned().collect();
        let (layers, mut trash) = self.collect_layers(layers)?;
        trash.append(self.collect_adapters()?);
        let blobs = image.metadata_blobs().chain(image.layers.iter().map(|layer| &layer.blob));
        for digest in blobs.filter(|digest| !live.blobs.contains(*digest)) {
            let grave = trash::grave(&self.trash_path())
                .map_err(Error::io("name in the trash", &self.trash_path()))?;
            if self.content().bury(digest, &grave)? {
                trash.paths.push(grave);
            }
        }
        Ok(Removal { layers, trash, ..Removal::default() })
    }

    /// Removes those of the layers that no lease holds: from memory, from the records, then from sight.
    fn collect_layers(&self, candidates: Vec<Digest>) -> Result<(Vec<Digest>, Trash), Error> {
        let turns: Vec<_> = candidates.iter().map(|diff_id| self.unpack_turn(diff_id)).collect();
        let mut removed = Vec::new();
        let mut held = Vec::new();
        for (diff_id, turn) in candidates.iter().zip(&turns) {
            // Being unpacked right now means being wanted.
            let Ok(turn) = turn.try_lock() else { continue };
            let forget = || {
                let mut state = self.state();
                let used = state.snapshots.values().any(|snapshot| snapshot.layers.contains(diff_id));
                !used && state.layers.remove(diff_id).is_some()
            };
            if self.content().leases().remove_unless_held(diff_id, forget) == Some(true) {
                removed.push(diff_id.clone());
                held.push(turn);
            }
        }
        self.records().remove_layers(&removed)?;
        let mut trash = Trash::default();
        for diff_id in &removed {
            trash.append(trash::discard(&self.layer_path(diff_id), &self.trash_path())?);
        }
        drop(held);
        Ok((removed, trash))
    }

    fn live(&self) -> Live {
        let state = self.state();
        let mut live = Live { layers: HashSet::new(), blobs: HashSet::new() };
        for image in state.images.values() {
            live.layers.extend(image.diff_ids().cloned());
            live.blobs.extend(image.metadata_blobs().cloned());
            if self.options().keep_layer_blobs {
                live.blobs.extend(image.layers.iter().map(|layer| layer.blob.clone()));
            }
        }
        for snapshot in state.snapshots.values() {
            live.layers.extend(snapshot.layers.iter().cloned());
        }
        live
    }

    /// Looks for what does not fit together; reads every blob. With `repair`, what is broken is removed so
    /// that it can be pulled again: damaged blobs, changed layers and adapters, unreadable records. Containers are
    /// never touched.
    pub fn check(&self, repair: bool) -> Result<Vec<Problem>, Error> {
        let _writing = self.writing();
        let mut problems = self.found_on_open().to_vec();
        let mut broken_layers = Vec::new();
        for layer in self.layers() {
            let Some(problem) = self.check_layer(&layer)? else { continue };
            problems.push(problem);
            broken_layers.push(layer.diff_id);
        }
        problems.extend(self.check_adapters(repair)?);
        for blob in self.content().list()? {
            if !self.content().verify(&blob.digest)? {
                problems.push(Problem::BlobDamaged { digest: blob.digest.clone() });
                if repair {
                    self.content().remove(&blob.digest)?;
                }
            }
        }
        if repair {
            self.repair(&problems, broken_layers)?;
        }
        problems.extend(self.check_references());
        Ok(problems)
    }

    fn check_layer(&self, layer: &crate::Layer) -> Result<Option<Problem>, Error> {
        use std::os::fd::AsFd;
        let path = self.layer_path(&layer.diff_id);
        let directory = match sys::tree::open_root(&path) {
            Ok(directory) => directory,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Some(Problem::LayerMissing { diff_id: layer.diff_id.clone() }));
            }
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(600);
        let usage =
            sys::tree::usage(directory.as_fd(), deadline).map_err(Error::io("count the files of", &path))?;
        let same = !usage.complete || usage.inodes == layer.inodes;
        Ok((!same).then(|| Problem::LayerChanged {
            diff_id: layer.diff_id.clone(),
            expected: layer.inodes,
            found: usage.inodes,
        }))
    }

    /// Forgets broken layers, so that the next pull unpacks them anew.
    fn repair(&self, problems: &[Problem], broken_layers: Vec<Digest>) -> Result<(), Error> {
        let unreadable: Vec<String> = problems
            .iter()
            .filter_map(|problem| match problem {
                Problem::RecordUnreadable { what } => Some(what.clone()),
                _ => None,
            })
            .collect();
        self.records().remove_unreadable(&unreadable)?;
        let missing = problems.iter().filter_map(|problem| match problem {
            Problem::LayerMissing { diff_id } => Some(diff_id.clone()),
            _ => None,
        });
        let missing: Vec<Digest> = missing.collect();
        self.records().remove_layers(&missing)?;
        // A container may have the changed layer mounted: it keeps its files, which are only renamed away.
        self.records().remove_layers(&broken_layers)?;
        fail::point().map_err(Error::io("repair", self.root()))?;
        self.forget_adapters_of(&broken_layers)?;
        for diff_id in broken_layers {
            self.state().layers.remove(&diff_id);
            let _trash = trash::discard(&self.layer_path(&diff_id), &self.trash_path())?;
        }
        Ok(())
    }

    fn check_references(&self) -> Vec<Problem> {
        let state = self.state();
        let mut problems = Vec::new();
        for image in state.images.values() {
            let layers = image.diff_ids().filter(|layer| !state.layers.contains_key(*layer));
            let blobs = image.metadata_blobs().filter(|blob| self.content().stat(blob).is_none());
            for digest in layers.chain(blobs) {
                problems.push(Problem::ImageIncomplete { id: image.id.clone(), digest: digest.clone() });
            }
        }
        for snapshot in state.snapshots.values() {
            for layer in snapshot.layers.iter().filter(|layer| !state.layers.contains_key(*layer)) {
                problems.push(Problem::SnapshotBroken { key: snapshot.key.clone(), diff_id: layer.clone() });
            }
        }
        problems
    }
}
