//! How far a pull or push has come, for progress bars.

use oci::Digest;

/// A pull or push as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// The layers, bottom first; empty until the manifest is known.
    pub layers: Vec<LayerProgress>,
}

impl Progress {
    /// Bytes moved so far, over all layers.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// Bytes to move, over all layers.
    pub fn total(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Asking for the manifest and the configuration.
    #[default]
    Resolving,
    /// Moving layers.
    Transferring,
    /// It ended well.
    Done,
    /// It failed.
    Failed,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size.
    pub size: u64,
    /// Bytes of the blob that are here (pull) or there (push).
    pub bytes: u64,
    /// What is being done with it.
    pub state: LayerState,
}

/// What is being done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayerState {
    /// It waits for its turn.
    #[default]
    Waiting,
    /// Its bytes are moving (and, on a pull, are unpacked as they come).
    Transferring,
    /// The transfer broke off and is about to go on.
    Retrying,
    /// All bytes are here and verified; the rest is being unpacked.
    Unpacking,
    /// It was there already.
    Present,
    /// On a push: the registry took it from another repository of its own.
    Mounted,
    /// It is complete.
    Done,
}
