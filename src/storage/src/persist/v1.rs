//! The first version of the records: JSON, one document per key.

use std::collections::BTreeSet;

use oci::{ContainerId, Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::adapter::Adapter;
use crate::snapshot::IdMaps;
use crate::{Image, ImageLayer, Layer, Snapshot};

/// The version that a database with these records carries.
pub(crate) const VERSION: u64 = 1;

#[derive(Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    bytes: u64,
    inodes: u64,
    #[serde(default)]
    opaque: bool,
    /// Absent in records from before directories were marked: then nothing is known of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    implied: bool,
}

impl LayerRecord {
    pub(crate) fn new(layer: &Layer) -> Self {
        Self { bytes: layer.bytes, inodes: layer.inodes, opaque: layer.opaque, implied: layer.implied }
    }

    pub(crate) fn into_layer(self, diff_id: Digest) -> Layer {
        Layer { diff_id, bytes: self.bytes, inodes: self.inodes, opaque: self.opaque, implied: self.implied }
    }
}

#[derive(Serialize, Deserialize)]
struct ImageLayerRecord {
    blob: Digest,
    size: u64,
    diff_id: Digest,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    manifests: Vec<Digest>,
    names: BTreeSet<Reference>,
    layers: Vec<ImageLayerRecord>,
    extra_blobs: Vec<Digest>,
    size: u64,
    user: String,
    pinned: bool,
    created_ns: i64,
}

impl ImageRecord {
    pub(crate) fn new(image: &Image) -> Self {
        let layers = image.layers.iter().cloned();
        Self {
            manifests: image.manifests.clone(),
            names: image.names.clone(),
            layers: layers
                .map(|layer| ImageLayerRecord { blob: layer.blob, size: layer.size, diff_id: layer.diff_id })
                .collect(),
            extra_blobs: image.extra_blobs.clone(),
            size: image.size,
            user: image.user.clone(),
            pinned: image.pinned,
            created_ns: image.created_ns,
        }
    }

    pub(crate) fn into_image(self, id: Digest) -> Image {
        let layers = self.layers.into_iter();
        Image {
            id,
            manifests: self.manifests,
            names: self.names,
            layers: layers
                .map(|layer| ImageLayer { blob: layer.blob, size: layer.size, diff_id: layer.diff_id })
                .collect(),
            extra_blobs: self.extra_blobs,
            size: self.size,
            user: self.user,
            pinned: self.pinned,
            created_ns: self.created_ns,
        }
    }
}

/// The file `adapter.json` of an adapter.
#[derive(Serialize, Deserialize)]
pub(crate) struct AdapterRecord {
    version: u64,
    layers: Vec<Digest>,
    replaced: Vec<usize>,
    top: bool,
    directories: u64,
    inodes: u64,
}

impl AdapterRecord {
    pub(crate) fn new(adapter: &Adapter) -> Self {
        Self {
            version: VERSION,
            layers: adapter.layers.clone(),
            replaced: adapter.replaced.clone(),
            top: adapter.top,
            directories: adapter.directories,
            inodes: adapter.inodes,
        }
    }

    /// Nothing, if it is of a version from the future: an adapter can be made again.
    pub(crate) fn into_adapter(self) -> Option<Adapter> {
        let adapter = Adapter {
            layers: self.layers,
            replaced: self.replaced,
            top: self.top,
            directories: self.directories,
            inodes: self.inodes,
        };
        (self.version == VERSION).then_some(adapter)
    }
}

/// The file `snapshot.json` next to a container's upper directory.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    version: u64,
    image: Digest,
    layers: Vec<Digest>,
    idmap: Option<IdMaps>,
    durable: bool,
    boot_id: String,
}

impl SnapshotRecord {
    pub(crate) fn new(snapshot: &Snapshot, boot_id: &str) -> Self {
        Self {
            version: VERSION,
            image: snapshot.image.clone(),
            layers: snapshot.layers.clone(),
            idmap: snapshot.idmap.clone(),
            durable: snapshot.durable,
            boot_id: boot_id.to_owned(),
        }
    }

    pub(crate) fn into_snapshot(self, key: ContainerId, boot_id: &str) -> Snapshot {
        Snapshot {
            key,
            image: self.image,
            layers: self.layers,
            idmap: self.idmap,
            stale: !self.durable && self.boot_id != boot_id,
            durable: self.durable,
        }
    }
}
