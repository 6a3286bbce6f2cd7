//! The client against a registry that can misbehave, and against a real one.

#![allow(clippy::unwrap_used)] // All of this is test code, helpers as well.

mod auth;
mod faults;
mod mirrors;
mod pull;
mod push;
mod real;
mod tls;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image::{
    Auth, BoxError, Client, Config, Error, LayerJob, PullRequest, PullSink, Pulled, ScopedAuth, Secret,
};
use oci::{Platform, Reference};
use testkit::Registry;

/// Takes layers into memory.
#[derive(Default)]
pub(crate) struct Sink {
    layers: Mutex<HashMap<usize, Vec<u8>>>,
    calls: AtomicUsize,
    /// Positions that are unpacked already.
    has: Vec<usize>,
    /// Fails on this position.
    fails_on: Option<usize>,
}

impl Sink {
    pub(crate) fn bytes(&self) -> Vec<Vec<u8>> {
        let layers = self.layers.lock().unwrap();
        let mut indexes: Vec<_> = layers.keys().copied().collect();
        indexes.sort_unstable();
        indexes.iter().map(|index| layers[index].clone()).collect()
    }
}

impl PullSink for Sink {
    fn wants_layer(&self, job: &LayerJob<'_>) -> bool {
        assert_eq!(job.parents.len(), job.index);
        !self.has.contains(&job.index) && !self.layers.lock().unwrap().contains_key(&job.index)
    }

    fn layer(&self, job: &LayerJob<'_>, mut reader: Box<dyn Read + Send>) -> Result<(), BoxError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.fails_on == Some(job.index) {
            return Err("no room for this layer".into());
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        self.layers.lock().unwrap().insert(job.index, bytes);
        Ok(())
    }
}

/// A client, a store and a configuration directory.
pub(crate) struct Bench {
    root: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) store: Arc<content::Store>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(content::Store::open(&root.path().join("content")).unwrap());
        std::fs::create_dir(root.path().join("certs.d")).unwrap();
        let mut config = Config::new("berth-test");
        config.config_path = Some(root.path().join("certs.d"));
        config.retries = 3;
        config.stall_timeout = Duration::from_millis(1500);
        config.max_backoff = Duration::from_secs(2);
        Self { root, config, store }
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn hosts(&self, domain: &str, text: &str) {
        let directory = self.root.path().join("certs.d").join(domain);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), text).unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.config.clone()).unwrap()
    }

    pub(crate) fn request(&self, reference: &str, sink: &Arc<Sink>) -> PullRequest {
        PullRequest {
            reference: reference.parse().unwrap(),
            platform: amd64(),
            auth: None,
            store: self.store.clone(),
            sink: sink.clone(),
            want_blobs: false,
        }
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<(Arc<Pulled>, Vec<Vec<u8>>), Error> {
        self.pull_as(reference, None).await
    }

    pub(crate) async fn pull_as(
        &self,
        reference: &str,
        auth: Option<ScopedAuth>,
    ) -> Result<(Arc<Pulled>, Vec<Vec<u8>>), Error> {
        let sink = Arc::new(Sink::default());
        let request = PullRequest { auth, ..self.request(reference, &sink) };
        let pulled = self.client().pull(request).wait().await?;
        Ok((pulled, sink.bytes()))
    }
}

pub(crate) fn amd64() -> Platform {
    Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() }
}

pub(crate) fn basic(user: &str, password: &str) -> ScopedAuth {
    Auth::Basic { username: user.into(), password: Secret::new(password.into()) }.into()
}

/// A name in a registry.
pub(crate) fn name(registry: &Registry, rest: &str) -> String {
    format!("{}/{rest}", registry.address())
}

pub(crate) fn reference(registry: &Registry, rest: &str) -> Reference {
    name(registry, rest).parse().unwrap()
}

/// Bytes that do not repeat soon.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A secret must be in no message.
pub(crate) fn assert_silent(error: &Error, secret: &str) {
    let everything = format!("{error} {error:?} {}", error.chain());
    assert!(!everything.contains(secret), "{everything}");
}
