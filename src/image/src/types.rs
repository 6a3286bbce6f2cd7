//! What goes into and comes out of registry operations.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use oci::{Compression, Digest, Platform, Reference};

use crate::{BoxError, ScopedAuth};

/// A manifest is refused if it is larger than this.
pub const MANIFEST_LIMIT: u64 = 4 << 20;
/// An image configuration is refused if it is larger than this.
pub const CONFIG_LIMIT: u64 = 4 << 20;
/// A token server's answer is refused if it is larger than this.
pub const TOKEN_LIMIT: u64 = 1 << 20;

/// Names content by media type, digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A verified manifest or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is.
    pub descriptor: Descriptor,
    /// Its bytes, exactly as the registry served them.
    pub bytes: Bytes,
}

/// A layer in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDesc {
    /// The blob.
    pub descriptor: Descriptor,
    /// How it is compressed.
    pub compression: Compression,
}

/// A reference, followed to one image for one platform.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What was asked for.
    pub reference: Reference,
    /// What the reference names: an index, or the manifest itself.
    pub target: Descriptor,
    /// The indexes between target and manifest, outermost first.
    pub indexes: Vec<Document>,
    /// The image's manifest.
    pub manifest: Document,
    /// The image's configuration, not fetched yet.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<LayerDesc>,
    /// The host that served the manifest.
    pub host: String,
}

/// A layer of a pulled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob.
    pub descriptor: Descriptor,
    /// How it is compressed.
    pub compression: Compression,
    /// The digest of the uncompressed tar, as the configuration promises.
    pub diff_id: Digest,
}

/// An image that has been pulled.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// What was asked for.
    pub reference: Reference,
    /// What the reference named: an index, or the manifest itself. This digest belongs in the image's names.
    pub target: Descriptor,
    /// The image's manifest; its bytes are in the store, as are those of the target.
    pub manifest: Document,
    /// The image's configuration; its bytes are in the store, too.
    pub config: Document,
    /// The layers, bottom first. Their blobs are in the store unless they were not wanted.
    pub layers: Vec<Layer>,
    /// The host that served the manifest.
    pub host: String,
    /// Holds all these blobs against collection until the image is recorded.
    pub lease: Arc<content::Lease>,
}

/// Takes the layers of an image as they arrive.
pub trait PullSink: Send + Sync {
    /// Whether the layer is still to be unpacked. Called on a blocking thread.
    fn wants_layer(&self, job: &LayerJob<'_>) -> bool;

    /// Takes one layer, on a blocking thread of its own; several layers come at once and in any order.
    ///
    /// The reader yields the blob's compressed bytes as they arrive. End of file comes only after the whole
    /// blob has been verified; before that, a failed transfer or a wrong digest is a read error, and nothing
    /// read so far may be kept. The same layer may then be offered once more.
    fn layer(&self, job: &LayerJob<'_>, reader: Box<dyn Read + Send>) -> Result<(), BoxError>;
}

/// A layer offered to a [`PullSink`].
#[derive(Debug, Clone, Copy)]
pub struct LayerJob<'a> {
    /// Its position, 0 at the bottom.
    pub index: usize,
    /// The layer.
    pub layer: &'a Layer,
    /// The diff ids of the layers below it, bottom first.
    pub parents: &'a [Digest],
}

/// What to pull, and where to.
#[derive(Clone)]
pub struct PullRequest {
    /// The image.
    pub reference: Reference,
    /// For which platform.
    pub platform: Platform,
    /// Credentials of whoever asks; configured ones are used if there are none.
    pub auth: Option<ScopedAuth>,
    /// Where blobs go.
    pub store: Arc<content::Store>,
    /// Who unpacks the layers.
    pub sink: Arc<dyn PullSink>,
    /// Fetch the blobs even of layers that the sink does not want.
    pub want_blobs: bool,
}

impl std::fmt::Debug for PullRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullRequest")
            .field("reference", &self.reference)
            .field("platform", &self.platform)
            .field("want_blobs", &self.want_blobs)
            .finish_non_exhaustive()
    }
}

/// What to push, and where from.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The name to push to; it needs a tag or a digest.
    pub reference: Reference,
    /// Credentials of whoever asks.
    pub auth: Option<ScopedAuth>,
    /// Where the blobs are.
    pub store: Arc<content::Store>,
    /// The manifest or index; all it refers to must be in the store.
    pub target: Digest,
    /// Repositories of the same registry that may already have the layers.
    pub mount_from: Vec<Reference>,
}
