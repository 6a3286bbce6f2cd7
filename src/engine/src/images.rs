//! Images: pulling, finding, removing.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use image::{BoxError, LayerJob, PullSink};
use oci::image::ImageConfiguration;
use oci::{Digest, Platform, Reference};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Metrics, Success, Within};
use crate::model::{FsUsage, ImageInfo, PullOutcome, PullRequest};
use crate::sandbox::{matches_glob, storage_error};
use crate::traces::step;

pub use image::{LayerProgress, LayerState, Progress as PullProgress, Stage as PullStage};

/// The image side of the engine.
#[derive(Debug)]
pub(crate) struct Images {
    client: image::Client,
    store: Arc<storage::Store>,
    pinned: Vec<String>,
    /// Configurations by digest: small, immutable, and needed by every list.
    configs: Mutex<HashMap<Digest, Arc<ImageConfiguration>>>,
    tracker: TaskTracker,
    metrics: Arc<Metrics>,
}

/// Unpacks layers as they arrive.
struct Unpacker {
    store: Arc<storage::Store>,
    metrics: Arc<Metrics>,
    leases: Mutex<Vec<content::Lease>>,
}

impl PullSink for Unpacker {
    fn wants_layer(&self, job: &LayerJob<'_>) -> bool {
        // From now on collection leaves the layer alone, whether it is here or comes.
        let lease = self.store.content().lease();
        lease.add(&job.layer.diff_id);
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).push(lease);
        !self.store.has_layer(&job.layer.diff_id)
    }

    fn layer(&self, job: &LayerJob<'_>, reader: Box<dyn Read + Send>) -> std::result::Result<(), BoxError> {
        let started = std::time::Instant::now();
        let reader = Counted { reader, bytes: self.metrics.pull_bytes.clone() };
        let unpacked = self.store.unpack(&job.layer.diff_id, job.layer.compression, reader);
        self.metrics.unpacks.get(Success::of(&unpacked)).inc();
        self.metrics.unpack_seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.unpack_bytes.inc_by(unpacked?.bytes);
        Ok(())
    }
}

/// Counts what is read of a layer.
struct Counted {
    reader: Box<dyn Read + Send>,
    bytes: prometheus::IntCounter,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.bytes.inc_by(count as u64);
        Ok(count)
    }
}

impl Images {
    pub(crate) fn new(
        client: image::Client,
        store: Arc<storage::Store>,
        pinned: Vec<String>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { client, store, pinned, configs: Mutex::default(), tracker: TaskTracker::new(), metrics }
    }

    pub(crate) fn client(&self) -> &image::Client {
        &self.client
    }

    pub(crate) async fn shutdown(&self) {
        self.client.shutdown().await;
        self.tracker.close();
        drop(tokio::time::timeout(std::time::Duration::from_secs(2), self.tracker.wait()).await);
    }

    /// The image that a client's text stands for: an id, the beginning of one, or a reference.
    pub(crate) async fn find(&self, text: &str) -> Result<ImageInfo> {
        // Records are in memory; a configuration that is not is one small file.
        let image = self.store.find_image(text).map_err(|error| find_error(text, error))?;
        self.info(image)
    }

    /// The image of this id.
    pub(crate) fn stored(&self, id: &Digest) -> Result<ImageInfo> {
        let image = self.store.image(id).map(|image| self.info(image));
        match image {
            Some(info) => info,
            // It was removed under a container that still uses its layers; its configuration may be known.
            None => self.remembered(id),
        }
    }

    /// Keeps a configuration for containers whose image may be removed under them.
    pub(crate) fn remember(&self, id: &Digest, config: ImageConfiguration) {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        configs.entry(id.clone()).or_insert_with(|| Arc::new(config));
    }

    fn remembered(&self, id: &Digest) -> Result<ImageInfo> {
        let config = self.configs.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let config = config.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no image {id}")))?;
        Ok(ImageInfo {
            id: id.clone(),
            tags: Vec::new(),
            digests: Vec::new(),
            size_bytes: 0,
            user: config.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default(),
            pinned: false,
            config: (*config).clone(),
        })
    }

    fn info(&self, image: storage::Image) -> Result<ImageInfo> {
        let config = self.config(&image.id)?;
        let (digests, tags): (Vec<Reference>, Vec<Reference>) =
            image.names.into_iter().partition(|name| name.digest().is_some());
        let pinned = image.pinned || tags.iter().any(|tag| self.is_pinned(tag));
        Ok(ImageInfo {
            id: image.id,
            tags,
            digests,
            size_bytes: image.size,
            user: image.user,
            pinned,
            config: (*config).clone(),
        })
    }

    fn is_pinned(&self, name: &Reference) -> bool {
        let (full, familiar) = (name.to_string(), name.familiar());
        self.pinned.iter().any(|glob| matches_glob(glob, &full) || matches_glob(glob, &familiar))
    }

    fn config(&self, id: &Digest) -> Result<Arc<ImageConfiguration>> {
        if let Some(known) = self.configs.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(Arc::clone(known));
        }
        let what = || format!("read the configuration of image {id}");
        let bytes = self
            .store
            .content()
            .read_small(id, image::CONFIG_LIMIT)
            .map_err(|error| Error::caused_by(ErrorKind::Internal, what(), error))?;
        let config: ImageConfiguration = serde_json::from_slice(&bytes)
            .map_err(|error| Error::caused_by(ErrorKind::FailedPrecondition, what(), error))?;
        let config = Arc::new(config);
        self.configs.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), Arc::clone(&config));
        Ok(config)
    }

    /// All images, by id.
    pub(crate) fn list(&self) -> Vec<ImageInfo> {
        let infos = self.store.images().into_iter().map(|image| {
            let id = image.id.clone();
            self.info(image).map_err(|error| (id, error))
        });
        infos
            .filter_map(|info| match info {
                Ok(info) => Some(info),
                Err((image, error)) => {
                    tracing::warn!(%image, error = error.chain(), "an image is left out of the list");
                    None
                }
            })
            .collect()
    }

    /// Deletes files that were put aside, behind everybody's back.
    pub(crate) fn empty(&self, trash: storage::Trash) {
        if trash.is_empty() {
            return;
        }
        self.tracker.spawn_blocking(move || {
            if let Err(error) = trash.empty() {
                tracing::warn!(error = %Chain(&error), "removed files could not be deleted; the next start tries again");
            }
        });
    }
}

/// An error with its causes, for one line of log.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

impl Engine {
    /// Pulls an image. `progress` is told how far it is. Dropping the future does not stop the pull: whoever
    /// asks again joins it.
    pub async fn pull_image(
        &self,
        request: PullRequest,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<PullOutcome> {
        let reference = request.reference.with_default_tag();
        let auth = request.auth;
        let shared = Arc::clone(self.shared());
        let (report, outcome) = tokio::sync::oneshot::channel();
        let span = tracing::info_span!(parent: None, "pull", image = %reference);
        let step = step!("pull image", image = %reference);
        let work = async move {
            let started = std::time::Instant::now();
            let _active = Within::enter(&shared.metrics.pulls_active);
            let outcome = pull(
                &shared.images,
                &reference,
                auth,
                progress,
                shared.config.images.discard_unpacked_layers,
            )
            .instrument(step)
            .await;
            shared.metrics.pulls.ended(started, &outcome);
            if let Err(error) = &outcome {
                tracing::info!(error = error.chain(), "pull failed");
            }
            drop(report.send(outcome));
        };
        self.shared().tracker.spawn(work.instrument(span));
        outcome.await.map_err(|_| Error::internal("the pull broke off"))?
    }

    /// The image of an id, the beginning of one, or a reference; `None` if it is not here.
    pub async fn image(&self, text: &str) -> Result<Option<ImageInfo>> {
        match self.shared().images.find(text).await {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All images.
    pub async fn images(&self) -> Result<Vec<ImageInfo>> {
        let shared = Arc::clone(self.shared());
        self.shared().blocking.run(Purpose::Images, move || shared.images.list()).await
    }

    /// Removes an image with all its names. One that is not here is removed already.
    pub async fn remove_image(&self, text: &str) -> Result<Vec<Reference>> {
        let Some(info) = self.image(text).await? else { return Ok(Vec::new()) };
        let shared = Arc::clone(self.shared());
        let work = move || {
            let removal = shared
                .storage
                .remove_image(&info.id)
                .map_err(|error| storage_error(format!("remove image {}", info.id), error))?;
            shared.images.empty(removal.trash);
            tracing::info!(image = %info.id, "image removed");
            Ok(removal.names)
        };
        self.shared().blocking.run(Purpose::Images, work).await?
    }

    /// Removes one name of an image; the image goes with its last one.
    pub async fn untag_image(&self, name: &Reference) -> Result<Vec<Reference>> {
        let (shared, name) = (Arc::clone(self.shared()), name.clone());
        let work = move || {
            let removal = shared
                .storage
                .remove_name(&name)
                .map_err(|error| storage_error(format!("remove image name {name}"), error))?;
            shared.images.empty(removal.trash);
            Ok(removal.names)
        };
        self.shared().blocking.run(Purpose::Images, work).await?
    }

    /// Gives an image one more name.
    pub async fn tag_image(&self, text: &str, name: &Reference) -> Result<()> {
        let (shared, text, name) =
            (Arc::clone(self.shared()), text.to_owned(), name.clone().with_default_tag());
        let work = move || {
            let image = shared.storage.find_image(&text).map_err(|error| find_error(&text, error))?;
            let manifest = image.manifests.last().cloned().unwrap_or_else(|| image.id.clone());
            let target = storage::ImageTarget {
                manifest,
                config: image.id,
                layers: image.layers,
                extra_blobs: image.extra_blobs,
                user: image.user,
                pinned: image.pinned,
            };
            shared
                .storage
                .put_image(std::slice::from_ref(&name), target)
                .map_err(|error| storage_error(format!("name image {text} {name}"), error))?;
            Ok(())
        };
        self.shared().blocking.run(Purpose::Images, work).await?
    }

    /// Takes in the images of an archive: an OCI layout or what `docker save` writes. `names` are given to
    /// the only image of an archive.
    pub async fn import_images(
        &self,
        archive: impl Read + Send + 'static,
        names: Vec<Reference>,
    ) -> Result<Vec<Digest>> {
        let shared = Arc::clone(self.shared());
        let work = move || {
            let images = shared
                .storage
                .import(archive, &Platform::host(), &names)
                .map_err(|error| storage_error("import the images of an archive".to_owned(), error))?;
            Ok(images.into_iter().map(|image| image.id).collect())
        };
        self.shared().blocking.run(Purpose::Images, work).await?
    }

    /// The image store's use of its file system.
    pub(crate) async fn store_info(&self) -> Result<storage::FsInfo> {
        let shared = Arc::clone(self.shared());
        let info = self.shared().blocking.run(Purpose::Images, move || shared.storage.fs_info()).await?;
        info.map_err(|error| storage_error("measure the image store".to_owned(), error))
    }

    /// What images and what containers use on disk.
    pub async fn image_fs_usage(&self) -> Result<(FsUsage, FsUsage)> {
        let info = self.store_info().await?;
        let observed_at_ns = sys::fs::now_ns();
        let usage = |used: storage::Usage| FsUsage {
            mountpoint: info.mountpoint.to_string_lossy().into_owned(),
            used_bytes: used.bytes,
            inodes_used: used.inodes,
            observed_at_ns,
        };
        Ok((usage(info.images), usage(info.containers)))
    }
}

async fn pull(
    images: &Images,
    reference: &Reference,
    auth: Option<image::ScopedAuth>,
    progress: Option<watch::Sender<PullProgress>>,
    discard_layers: bool,
) -> Result<PullOutcome> {
    let started = std::time::Instant::now();
    let sink = Arc::new(Unpacker {
        store: Arc::clone(&images.store),
        metrics: Arc::clone(&images.metrics),
        leases: Mutex::default(),
    });
    let request = image::PullRequest {
        reference: reference.clone(),
        platform: Platform::host(),
        auth,
        store: Arc::clone(images.store.content()),
        sink: Arc::clone(&sink) as Arc<dyn PullSink>,
        want_blobs: !discard_layers,
    };
    let mut pull = images.client.pull(request);
    let fetch = async {
        let Some(report) = progress else { return pull.wait().await };
        {
            let mut source = pull.progress();
            loop {
                tokio::select! {
                    outcome = pull.wait() => break outcome,
                    changed = source.changed() => match changed {
                        Ok(()) => drop(report.send_replace(source.borrow_and_update().clone())),
                        Err(_) => break pull.wait().await,
                    },
                }
            }
        }
    };
    let pulled = fetch.instrument(step!("fetch and unpack")).await;
    let pulled = pulled.map_err(|error| pull_error(reference, error))?;
    let record = record(images, reference, &pulled, started.elapsed());
    record.instrument(step!("record the image")).await
}

/// Gives the image its names, which makes it visible.
async fn record(
    images: &Images,
    reference: &Reference,
    pulled: &Arc<image::Pulled>,
    took: std::time::Duration,
) -> Result<PullOutcome> {
    let config: ImageConfiguration = serde_json::from_slice(&pulled.config.bytes).map_err(|error| {
        Error::caused_by(ErrorKind::InvalidArgument, format!("read the configuration of {reference}"), error)
    })?;
    let id = pulled.config.descriptor.digest.clone();
    let was_present = images.store.image(&id).is_some();
    let mut names = vec![reference.at_digest(&pulled.target.digest)];
    if reference.digest().is_none() {
        names.push(reference.clone());
    }
    let target = storage::ImageTarget {
        manifest: pulled.manifest.descriptor.digest.clone(),
        config: id.clone(),
        layers: pulled
            .layers
            .iter()
            .map(|layer| storage::ImageLayer {
                blob: layer.descriptor.digest.clone(),
                size: layer.descriptor.size,
                diff_id: layer.diff_id.clone(),
            })
            .collect(),
        extra_blobs: Vec::new(),
        user: config.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default(),
        pinned: false,
    };
    let store = Arc::clone(&images.store);
    let held = Arc::clone(pulled);
    let put = tokio::task::spawn_blocking(move || {
        let put = store.put_image(&names, target);
        drop(held);
        put
    });
    put.await
        .map_err(|error| Error::caused_by(ErrorKind::Internal, "recording an image broke off", error))?
        .map_err(|error| storage_error(format!("record image {reference}"), error))?;
    tracing::info!(id = %id, host = pulled.host, took_ms = took.as_millis(), "image pulled");
    Ok(PullOutcome { id, digest: pulled.target.digest.clone(), was_present })
}

pub(crate) fn find_error(text: &str, error: storage::Error) -> Error {
    match error.kind() {
        storage::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("image {text:?} is not on this node; pull it first"))
        }
        _ => storage_error(format!("find image {text:?}"), error),
    }
}

fn pull_error(reference: &Reference, error: image::Error) -> Error {
    registry_error(format!("pull image {reference}"), error)
}

/// Maps a registry's outcomes to ours.
pub(crate) fn registry_error(what: String, error: image::Error) -> Error {
    use image::ErrorKind as K;
    let kind = match error.kind() {
        K::NotFound | K::NoPlatform => ErrorKind::NotFound,
        K::Unauthorized | K::Denied => ErrorKind::Denied,
        K::RateLimited { .. } | K::Unavailable | K::Cancelled => ErrorKind::Unavailable,
        K::Timeout => ErrorKind::DeadlineExceeded,
        K::Invalid | K::DigestMismatch => ErrorKind::FailedPrecondition,
        K::Unsupported => ErrorKind::Unsupported,
        K::NoSpace => ErrorKind::Exhausted,
        _ => ErrorKind::Internal,
    };
    Error::caused_by(kind, what, error)
}
