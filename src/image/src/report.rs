//! Progress, as the work sees it.

use oci::Digest;
use tokio::sync::watch;

use crate::progress::{LayerProgress, LayerState, Progress, Stage};

/// Tells the watchers of one pull or push.
#[derive(Debug, Clone)]
pub(crate) struct Reporter(watch::Sender<Progress>);

/// Tells them about one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerReporter {
    reporter: Reporter,
    index: usize,
}

impl Reporter {
    pub(crate) fn new() -> Self {
        Self(watch::channel(Progress::default()).0)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.0.subscribe()
    }

    pub(crate) fn stage(&self, stage: Stage) {
        self.0.send_modify(|progress| progress.stage = stage);
    }

    /// The layers are known now.
    pub(crate) fn layers<'a>(&self, layers: impl Iterator<Item = (&'a Digest, u64)>) {
        let layers = layers
            .map(|(digest, size)| LayerProgress {
                digest: digest.clone(),
                size,
                bytes: 0,
                state: LayerState::Waiting,
            })
            .collect();
        self.0.send_modify(|progress| {
            progress.layers = layers;
            progress.stage = Stage::Transferring;
        });
    }

    pub(crate) fn layer(&self, index: usize) -> LayerReporter {
        LayerReporter { reporter: self.clone(), index }
    }
}

impl LayerReporter {
    pub(crate) fn state(&self, state: LayerState) {
        self.update(|layer| {
            layer.state = state;
            if matches!(state, LayerState::Done | LayerState::Present | LayerState::Mounted) {
                layer.bytes = layer.size;
            }
        });
    }

    pub(crate) fn bytes(&self, bytes: u64) {
        self.update(|layer| {
            layer.bytes = bytes;
            layer.state = LayerState::Transferring;
        });
    }

    fn update(&self, change: impl FnOnce(&mut LayerProgress)) {
        self.reporter.0.send_modify(|progress| {
            if let Some(layer) = progress.layers.get_mut(self.index) {
                change(layer);
            }
        });
    }
}
