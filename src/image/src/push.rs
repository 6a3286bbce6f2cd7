//! A push: what a manifest refers to, then the manifest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use futures_util::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::document::{self, Parsed};
use crate::error::{Error, ErrorKind, Fault};
use crate::fallback::{Attempts, named};
use crate::progress::LayerState;
use crate::registry::{Purpose, Registry, blocking, header_digest, mismatch, stored, with_capability};
use crate::report::{LayerReporter, Reporter};
use crate::transport::{MakeBody, Remote};
use crate::types::{Descriptor, Document, MANIFEST_LIMIT, PushRequest};

const CHUNK: usize = 128 << 10;
const MAX_DEPTH: usize = 4;

/// What pushes share.
#[derive(Debug)]
pub(crate) struct Pusher {
    registry: Arc<Registry>,
    uploads: Semaphore,
}

/// One push.
struct Work<'a> {
    pusher: &'a Pusher,
    request: &'a PushRequest,
    remotes: Vec<Remote>,
    /// Repositories to mount from, on the same registry.
    mounts: Vec<String>,
}

impl Pusher {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        let uploads = Semaphore::new(registry.config.max_concurrent_uploads.max(1));
        Self { registry, uploads }
    }

    /// Pushes an image or an index. Dropping the future stops the push.
    pub(crate) async fn push(&self, request: &PushRequest, report: &Reporter) -> Result<Descriptor, Error> {
        let reference = &request.reference;
        let failed = |fault: Fault| fault.during("push", reference, "");
        let is_elsewhere = reference.digest().is_some_and(|digest| *digest != request.target);
        if is_elsewhere {
            return Err(failed(Fault::invalid("the reference names another digest than the image to push")));
        }
        let lease = request.store.lease();
        lease.add(&request.target);
        let mut documents = Vec::new();
        collect(&request.store, &lease, &request.target, &mut documents, 0).await.map_err(failed)?;
        let blobs = blobs(&documents);
        blobs.iter().for_each(|blob| lease.add(&blob.digest));
        let work = self.work(request).await?;
        report.layers(blobs.iter().map(|blob| (&blob.digest, blob.size)));
        try_join_all(blobs.iter().enumerate().map(|(index, blob)| work.blob(blob, report.layer(index))))
            .await?;
        // Children come before whoever names them.
        let (top, children) =
            documents.split_last().ok_or_else(|| failed(Fault::invalid("nothing to push")))?;
        for (child, _) in children {
            work.manifest(child, child.descriptor.digest.as_str()).await?;
        }
        let name = reference.tag().unwrap_or(request.target.as_str());
        work.manifest(&top.0, name).await?;
        Ok(top.0.descriptor.clone())
    }

    async fn work<'a>(&'a self, request: &'a PushRequest) -> Result<Work<'a>, Error> {
        let reference = &request.reference;
        let remotes = self.registry.remotes(reference, request.auth.as_ref(), Purpose::Push).await?;
        let mut remotes = with_capability(&remotes, |capabilities| capabilities.push);
        // A mirror is never pushed to unless its table says so; without a table it says everything.
        remotes.retain(|remote| remote.endpoint.is_origin);
        let mut mounts: Vec<String> = Vec::new();
        for other in &request.mount_from {
            let is_usable = other.domain() == reference.domain() && other.path() != reference.path();
            if is_usable && !mounts.iter().any(|path| path == other.path()) && mounts.len() < 4 {
                mounts.push(other.path().to_owned());
            }
        }
        for remote in &mut remotes {
            for path in &mounts {
                remote.scope.push_str(&format!(" repository:{path}:pull"));
            }
        }
        Ok(Work { pusher: self, request, remotes, mounts })
    }
}

/// Reads a document and those it refers to, children first.
fn collect<'a>(
    store: &'a Arc<content::Store>,
    lease: &'a content::Lease,
    digest: &'a oci::Digest,
    documents: &'a mut Vec<(Document, Parsed)>,
    depth: usize,
) -> BoxFuture<'a, Result<(), Fault>> {
    Box::pin(async move {
        if depth > MAX_DEPTH {
            return Err(Fault::invalid("indexes are nested too deeply"));
        }
        let bytes = stored(Some(store), digest, MANIFEST_LIMIT).await;
        let bytes = bytes.ok_or_else(|| missing(digest))?;
        let parsed = document::parse(&bytes, None)?;
        if let Parsed::Index { entries, .. } = &parsed {
            for entry in entries {
                let digest = &entry.descriptor.digest;
                lease.add(digest);
                if !documents.iter().any(|(document, _)| document.descriptor.digest == *digest) {
                    collect(store, lease, digest, documents, depth + 1).await?;
                }
            }
        }
        let media_type = parsed.media_type().to_owned();
        let descriptor = Descriptor { media_type, digest: digest.clone(), size: bytes.len() as u64 };
        documents.push((Document { descriptor, bytes }, parsed));
        Ok(())
    })
}

fn missing(digest: &oci::Digest) -> Fault {
    Fault::new(ErrorKind::NotFound, format!("{digest} is not in the local store"))
}

/// Configurations and layers, each once.
fn blobs(documents: &[(Document, Parsed)]) -> Vec<Descriptor> {
    let mut blobs: Vec<Descriptor> = Vec::new();
    for (_, parsed) in documents {
        let Parsed::Manifest { config, layers, .. } = parsed else { continue };
        for blob in layers.iter().map(|layer| &layer.descriptor).chain([config]) {
            if !blobs.iter().any(|known| known.digest == blob.digest) {
                blobs.push(blob.clone());
            }
        }
    }
    blobs
}

impl Work<'_> {
    fn registry(&self) -> &Registry {
        &self.pusher.registry
    }

    async fn blob(&self, blob: &Descriptor, report: LayerReporter) -> Result<(), Error> {
        let object = self.request.reference.at_digest(&blob.digest);
        let _permit = self.pusher.uploads.acquire().await;
        let mut attempts = Attempts::new(&self.remotes, &self.registry().config);
        loop {
            let remote = attempts.next().await.map_err(named("push layer", &object))?;
            match self.blob_to(remote, blob, &report).await {
                Ok(state) => {
                    report.state(state);
                    return Ok(());
                }
                Err(fault) => {
                    report.state(LayerState::Retrying);
                    attempts.failed(fault);
                }
            }
        }
    }

    async fn blob_to(
        &self,
        remote: &Remote,
        blob: &Descriptor,
        report: &LayerReporter,
    ) -> Result<LayerState, Fault> {
        let transport = &self.registry().transport;
        let call = transport.call(Method::HEAD, remote.url(&format!("blobs/{}", blob.digest)));
        let there = transport.send(remote, &call).await?;
        if there.status() == StatusCode::OK {
            return Ok(LayerState::Present);
        }
        if there.status() != StatusCode::NOT_FOUND {
            return Err(transport.refusal(remote, there).await);
        }
        let mut location = None;
        for path in &self.mounts {
            let response = self.begin(remote, Some((&blob.digest, path))).await?;
            match response.status() {
                StatusCode::CREATED => return Ok(LayerState::Mounted),
                StatusCode::ACCEPTED => {
                    location = Some(upload_url(&response)?);
                    break;
                }
                // Who may not read the other repository may still upload.
                _ => {}
            }
        }
        let location = match location {
            Some(location) => location,
            None => {
                let response = self.begin(remote, None).await?;
                if response.status() != StatusCode::ACCEPTED {
                    return Err(transport.refusal(remote, response).await);
                }
                upload_url(&response)?
            }
        };
        self.upload(remote, blob, location, report).await?;
        Ok(LayerState::Done)
    }

    /// Asks for an upload, or for a mount that ends in one if it is not granted.
    async fn begin(&self, remote: &Remote, mount: Option<(&oci::Digest, &str)>) -> Result<Response, Fault> {
        let mut url = remote.url("blobs/uploads/");
        if let Some((digest, from)) = mount {
            url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from);
        }
        let mut call = self.registry().transport.call(Method::POST, url);
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        self.registry().transport.send(remote, &call).await
    }

    /// Sends a blob in one request. It is broken off when it makes no progress.
    async fn upload(
        &self,
        remote: &Remote,
        blob: &Descriptor,
        mut location: Url,
        report: &LayerReporter,
    ) -> Result<(), Fault> {
        let (store, digest) = (self.request.store.clone(), blob.digest.clone());
        let held = blocking(move || store.stat(&digest)).await?.ok_or_else(|| missing(&blob.digest))?;
        if held != blob.size {
            return Err(mismatch(format!("the blob has {held} bytes here, not {}", blob.size)));
        }
        location.query_pairs_mut().append_pair("digest", blob.digest.as_str());
        let transport = &self.registry().transport;
        let mut call = transport.call(Method::PUT, location);
        let sent = Arc::new(AtomicU64::new(0));
        call.timeout = None;
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size));
        call.body = Some(blob_body(self.request.store.clone(), blob, sent.clone(), report.clone()));
        let request = transport.send(remote, &call);
        let response = tokio::select! {
            response = request => response?,
            () = stalled(&sent, transport.stall_timeout()) => {
                return Err(Fault::new(ErrorKind::Timeout, "the upload stalled"));
            }
        };
        if response.status() != StatusCode::CREATED {
            return Err(transport.refusal(remote, response).await);
        }
        Ok(())
    }

    async fn manifest(&self, document: &Document, name: &str) -> Result<(), Error> {
        let object = &self.request.reference;
        let mut attempts = Attempts::new(&self.remotes, &self.registry().config);
        loop {
            let remote = attempts.next().await.map_err(named("push manifest of", object))?;
            match self.manifest_to(remote, document, name).await {
                Ok(()) => return Ok(()),
                Err(fault) => attempts.failed(fault),
            }
        }
    }

    async fn manifest_to(&self, remote: &Remote, document: &Document, name: &str) -> Result<(), Fault> {
        let transport = &self.registry().transport;
        let mut call = transport.call(Method::PUT, remote.url(&format!("manifests/{name}")));
        let media_type = HeaderValue::try_from(document.descriptor.media_type.as_str());
        call.headers
            .insert(CONTENT_TYPE, media_type.map_err(|_| Fault::invalid("the media type is malformed"))?);
        let bytes = document.bytes.clone();
        call.body = Some(Arc::new(move || Body::from(bytes.clone())));
        let response = transport.send_ok(remote, &call).await?;
        match header_digest(&response) {
            Some(digest) if digest != document.descriptor.digest => {
                Err(mismatch(format!("the registry stored {digest}, not {}", document.descriptor.digest)))
            }
            _ => Ok(()),
        }
    }
}

/// Where to upload to. Elsewhere than at the registry, nothing but the bytes are sent.
fn upload_url(response: &Response) -> Result<Url, Fault> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| Fault::invalid("the registry names no location to upload to"))?;
    let url = response.url().join(location);
    let url = url.map_err(|_| Fault::invalid("the location to upload to is not an URL"))?;
    let is_downgrade = response.url().scheme() == "https" && url.scheme() != "https";
    if is_downgrade || !matches!(url.scheme(), "http" | "https") {
        return Err(Fault::invalid("the location to upload to would give up encryption"));
    }
    Ok(url)
}

/// A body that reads a blob chunk by chunk on blocking threads and counts what has been taken.
fn blob_body(
    store: Arc<content::Store>,
    blob: &Descriptor,
    sent: Arc<AtomicU64>,
    report: LayerReporter,
) -> MakeBody {
    let digest = blob.digest.clone();
    Arc::new(move || {
        sent.store(0, Ordering::Relaxed);
        let (store, digest, sent, report) = (store.clone(), digest.clone(), sent.clone(), report.clone());
        let chunks = stream::try_unfold(None, move |file: Option<std::fs::File>| {
            let (store, digest, sent, report) = (store.clone(), digest.clone(), sent.clone(), report.clone());
            async move {
                let read = blocking(move || next_chunk(&store, &digest, file));
                let (chunk, file) = read.await.map_err(|_| std::io::ErrorKind::Interrupted)??;
                if chunk.is_empty() {
                    return Ok::<_, std::io::Error>(None);
                }
                let total = sent.fetch_add(chunk.len() as u64, Ordering::Relaxed) + chunk.len() as u64;
                report.bytes(total);
                Ok(Some((chunk, Some(file))))
            }
        });
        Body::wrap_stream(chunks)
    })
}

fn next_chunk(
    store: &content::Store,
    digest: &oci::Digest,
    file: Option<std::fs::File>,
) -> std::io::Result<(Bytes, std::fs::File)> {
    use std::io::Read;
    let mut file = match file {
        Some(file) => file,
        None => store.open_blob(digest).map_err(std::io::Error::other)?,
    };
    let mut buffer = vec![0; CHUNK];
    let mut count = 0;
    while count < CHUNK {
        match file.read(&mut buffer[count..])? {
            0 => break,
            more => count += more,
        }
    }
    buffer.truncate(count);
    Ok((buffer.into(), file))
}

/// Ends when nothing was taken for the stall timeout.
async fn stalled(sent: &AtomicU64, stall_timeout: Duration) {
    let mut last = (sent.load(Ordering::Relaxed), Instant::now());
    loop {
        tokio::time::sleep((stall_timeout / 8).max(Duration::from_millis(5))).await;
        let now = sent.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        } else if last.1.elapsed() >= stall_timeout {
            return;
        }
    }
}
