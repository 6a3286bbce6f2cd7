//! A pull from beginning to end.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use oci::{Digest, MediaKind};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::document;
use crate::download::{Download, Unpack};
use crate::error::{Error, ErrorKind, Fault};
use crate::flight::{Boarding, Ended, Flights};
use crate::progress::LayerState;
use crate::registry::{Purpose, Registry, blocking, mismatch, stored};
use crate::report::{LayerReporter, Reporter};
use crate::transport::Remote;
use crate::types::{CONFIG_LIMIT, Document, Layer, LayerJob, PullRequest, Pulled, Resolved};

/// What pulls share.
#[derive(Debug)]
pub(crate) struct Puller {
    pub(crate) registry: Arc<Registry>,
    pub(crate) tasks: TaskTracker,
    downloads: Semaphore,
    blobs: Flights<(PathBuf, Digest), Ended>,
}

/// One pull's layers, with all that handling one of them needs.
struct Layers<'a> {
    puller: &'a Puller,
    request: &'a PullRequest,
    remotes: &'a [Remote],
    layers: Arc<[Layer]>,
    parents: Arc<[Digest]>,
    report: &'a Reporter,
}

impl Puller {
    pub(crate) fn new(registry: Arc<Registry>, tasks: TaskTracker) -> Self {
        let downloads = Semaphore::new(registry.config.max_concurrent_downloads.max(1));
        Self { registry, tasks, downloads, blobs: Flights::default() }
    }

    /// Pulls an image. Dropping the future stops the pull.
    pub(crate) async fn pull(&self, request: &PullRequest, report: &Reporter) -> Result<Pulled, Error> {
        let reference = &request.reference;
        let auth = request.auth.as_ref();
        let remotes = self.registry.remotes(reference, auth, Purpose::Pull).await?;
        let store = Some(&request.store);
        let resolved = self.registry.resolve(&remotes, reference, &request.platform, store).await?;
        let lease = Arc::new(request.store.lease());
        let failed = |fault: Fault| fault.during("pull", reference, resolved.host.clone());

        self.keep_documents(&resolved, request, &lease).await.map_err(failed)?;
        let config = self.config(&resolved, request, &remotes, &lease).await?;
        let layers: Arc<[Layer]> = layers(&resolved, &config.bytes).map_err(failed)?.into();
        layers.iter().for_each(|layer| lease.add(&layer.descriptor.digest));
        report.layers(layers.iter().map(|layer| (&layer.descriptor.digest, layer.descriptor.size)));

        let parents = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let work =
            Layers { puller: self, request, remotes: &remotes, layers: layers.clone(), parents, report };
        try_join_all((0..layers.len()).map(|index| work.layer(index))).await?;
        Ok(Pulled {
            reference: reference.clone(),
            target: resolved.target,
            manifest: resolved.manifest,
            config,
            layers: layers.to_vec(),
            host: resolved.host,
            lease,
        })
    }

    /// Puts indexes and the manifest into the store.
    async fn keep_documents(
        &self,
        resolved: &Resolved,
        request: &PullRequest,
        lease: &content::Lease,
    ) -> Result<(), Fault> {
        for document in resolved.indexes.iter().chain([&resolved.manifest]) {
            lease.add(&document.descriptor.digest);
            put(&request.store, &document.descriptor.digest, &document.bytes).await?;
        }
        Ok(())
    }

    async fn config(
        &self,
        resolved: &Resolved,
        request: &PullRequest,
        remotes: &[Remote],
        lease: &content::Lease,
    ) -> Result<Document, Error> {
        let descriptor = resolved.config.clone();
        let reference = &request.reference;
        if MediaKind::of(&descriptor.media_type) != MediaKind::Config {
            let media_type = crate::message::sanitize(&descriptor.media_type);
            let fault = Fault::new(ErrorKind::Unsupported, format!("{media_type} is no container image"));
            return Err(fault.during("pull", reference, resolved.host.clone()));
        }
        lease.add(&descriptor.digest);
        if let Some(bytes) = stored(Some(&request.store), &descriptor.digest, CONFIG_LIMIT).await {
            return Ok(Document { descriptor, bytes });
        }
        let fetched = self.registry.fetch_small_blob(remotes, &descriptor, reference, CONFIG_LIMIT).await?;
        let kept = put(&request.store, &descriptor.digest, &fetched).await;
        kept.map_err(|fault| fault.during("pull", reference, ""))?;
        Ok(Document { descriptor, bytes: fetched })
    }
}

/// Pairs layers with their diff ids.
fn layers(resolved: &Resolved, config: &[u8]) -> Result<Vec<Layer>, Fault> {
    let diff_ids = document::diff_ids(config)?;
    if diff_ids.len() != resolved.layers.len() {
        return Err(Fault::invalid(format!(
            "the manifest lists {} layers, the configuration {}",
            resolved.layers.len(),
            diff_ids.len()
        )));
    }
    let layer = |(layer, diff_id): (&crate::LayerDesc, Digest)| Layer {
        descriptor: layer.descriptor.clone(),
        compression: layer.compression,
        diff_id,
    };
    Ok(resolved.layers.iter().zip(diff_ids).map(layer).collect())
}

/// Stores bytes that are verified already.
async fn put(store: &Arc<content::Store>, digest: &Digest, bytes: &Bytes) -> Result<(), Fault> {
    for _ in 0..100 {
        let (store, digest, bytes) = (store.clone(), digest.clone(), bytes.clone());
        let put = move || match store.stat(&digest) {
            Some(_) => Ok(()),
            None => store.put_as(&digest, &bytes).map(drop),
        };
        match blocking(put).await? {
            // Someone else stores the same bytes right now.
            Err(error) if error.kind() == content::ErrorKind::Busy => {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            done => return Ok(done?),
        }
    }
    Err(Fault::new(ErrorKind::Storage, "another writer does not finish"))
}

impl Layers<'_> {
    async fn layer(&self, index: usize) -> Result<(), Error> {
        let layer = &self.layers[index];
        let report = self.report.layer(index);
        let named = |fault: Fault| {
            fault.during("pull layer", self.request.reference.at_digest(&layer.descriptor.digest), "")
        };
        // Permits are given in the order of asking, which is that of the layers.
        let _permit = self.puller.downloads.acquire().await.map_err(|_| named(Fault::cancelled()))?;
        loop {
            let wants = self.wants(index).await.map_err(named)?;
            let held = self.held(index).await.map_err(named)?;
            match (wants, held) {
                (false, true) => return self.end(&report, LayerState::Present),
                (false, false) if !self.request.want_blobs => return self.end(&report, LayerState::Present),
                (true, true) => {
                    report.state(LayerState::Unpacking);
                    if let Err(fault) = self.unpack_held(index).await {
                        return Err(named(self.blame(index, fault).await));
                    }
                    return self.end(&report, LayerState::Done);
                }
                (_, false) => {
                    if self.fetch_or_follow(index, wants, &report).await? {
                        return self.end(&report, LayerState::Done);
                    }
                }
            }
        }
    }

    fn end(&self, report: &LayerReporter, state: LayerState) -> Result<(), Error> {
        report.state(state);
        Ok(())
    }

    async fn wants(&self, index: usize) -> Result<bool, Fault> {
        let (sink, layers, parents) = (self.request.sink.clone(), self.layers.clone(), self.parents.clone());
        blocking(move || {
            sink.wants_layer(&LayerJob { index, layer: &layers[index], parents: &parents[..index] })
        })
        .await
    }

    /// Whether the blob is in the store.
    async fn held(&self, index: usize) -> Result<bool, Fault> {
        let (store, descriptor) = (self.request.store.clone(), self.layers[index].descriptor.clone());
        match blocking(move || store.stat(&descriptor.digest)).await? {
            None => Ok(false),
            Some(size) if size == self.layers[index].descriptor.size => Ok(true),
            Some(size) => Err(mismatch(format!("the layer has {size} bytes, not those promised"))),
        }
    }

    /// Fetches the blob, or waits for someone else who does. True if we did, and it is unpacked if wanted.
    async fn fetch_or_follow(
        &self,
        index: usize,
        wants: bool,
        report: &LayerReporter,
    ) -> Result<bool, Error> {
        let key = (self.request.store.root().to_owned(), self.layers[index].descriptor.digest.clone());
        let (sender, receiver) = watch::channel(());
        match self.puller.blobs.board(&key, || receiver) {
            Boarding::Joined(mut ended) => {
                report.state(LayerState::Transferring);
                // An error is the signal: the leader has gone. Whether it succeeded shows in the store.
                let _ = ended.changed().await;
                Ok(false)
            }
            Boarding::Leads(_, landing) => {
                report.state(LayerState::Transferring);
                let download = Download {
                    registry: &self.puller.registry,
                    tasks: &self.puller.tasks,
                    remotes: self.remotes,
                    reference: &self.request.reference,
                    descriptor: &self.layers[index].descriptor,
                    store: &self.request.store,
                    report: report.clone(),
                    unpack: wants.then(|| self.unpacker(index)),
                };
                let outcome = download.run().await;
                drop(landing);
                drop(sender);
                outcome.map(|()| true)
            }
        }
    }

    fn unpacker(&self, index: usize) -> Unpack {
        let (sink, layers, parents) = (self.request.sink.clone(), self.layers.clone(), self.parents.clone());
        Arc::new(move |reader| {
            let job = LayerJob { index, layer: &layers[index], parents: &parents[..index] };
            sink.layer(&job, Box::new(reader)).map_err(unpack_fault)
        })
    }

    async fn unpack_held(&self, index: usize) -> Result<(), Fault> {
        let (sink, layers, parents) = (self.request.sink.clone(), self.layers.clone(), self.parents.clone());
        let store = self.request.store.clone();
        let unpack = move || {
            let job = LayerJob { index, layer: &layers[index], parents: &parents[..index] };
            let blob = store.open_blob(&job.layer.descriptor.digest)?;
            let reader: Box<dyn Read + Send> = Box::new(blob);
            sink.layer(&job, reader).map_err(unpack_fault)
        };
        self.puller.tasks.spawn_blocking(unpack).await.map_err(|_| Fault::cancelled())?
    }

    /// After a failed unpack: whether the unpacker is to blame, or a blob that rotted on disk.
    async fn blame(&self, index: usize, fault: Fault) -> Fault {
        let (store, digest) = (self.request.store.clone(), self.layers[index].descriptor.digest.clone());
        match blocking(move || store.verify(&digest)).await {
            Ok(Ok(false)) => {
                let detail =
                    "its blob is corrupt on disk; `berth check --repair` removes it, then pull again";
                Fault::new(ErrorKind::Storage, detail)
            }
            _ => fault,
        }
    }
}

fn unpack_fault(error: crate::BoxError) -> Fault {
    let mut fault = Fault::new(ErrorKind::Unpack, "the layer cannot be unpacked");
    fault.source = Some(Arc::new(error));
    fault
}
