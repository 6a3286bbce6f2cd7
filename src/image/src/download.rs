//! One blob from a registry into the store, and to an unpacker on its way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use oci::Reference;
use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, Response};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::error::{Error, ErrorKind, Fault};
use crate::fallback::{Attempts, named};
use crate::feed::{self, FeedReader, FeedSender, Piece};
use crate::http::transport_fault;
use crate::progress::LayerState;
use crate::registry::{Registry, blocking, mismatch, with_capability};
use crate::report::LayerReporter;
use crate::transport::Remote;
use crate::types::Descriptor;

/// Less than this within the stall timeout is no progress.
const MIN_PROGRESS: u64 = 4 << 10;
/// A transfer that broke off after this much counts as a success so far: tries start from zero.
const MEANINGFUL: u64 = 64 << 10;

/// Unpacks a blob from a reader, on a blocking thread.
pub(crate) type Unpack = Arc<dyn Fn(FeedReader) -> Result<(), Fault> + Send + Sync>;

/// A blob to fetch.
pub(crate) struct Download<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) tasks: &'a TaskTracker,
    pub(crate) remotes: &'a [Remote],
    pub(crate) reference: &'a Reference,
    pub(crate) descriptor: &'a Descriptor,
    pub(crate) store: &'a Arc<content::Store>,
    pub(crate) report: LayerReporter,
    pub(crate) unpack: Option<Unpack>,
}

impl Download<'_> {
    /// Fetches the blob. Dropping the future stops it and keeps what is there for another time.
    pub(crate) async fn run(&self) -> Result<(), Error> {
        let usable = with_capability(self.remotes, |capabilities| capabilities.pull);
        let mut attempts = Attempts::new(&usable, &self.registry.config);
        loop {
            match self.attempt(&mut attempts).await {
                // The bytes came from this host, at least the last of them: ask the next one, from the start.
                Err(Failure::Blob(fault)) if fault.kind == ErrorKind::DigestMismatch => {
                    attempts.failed(fault)
                }
                Err(Failure::Blob(fault)) => return Err(fault.during("fetch layer", self.object(), "")),
                Err(Failure::Exhausted(fault, host)) => {
                    return Err(named("fetch layer", self.object())((fault, host)));
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    fn object(&self) -> Reference {
        self.reference.at_digest(&self.descriptor.digest)
    }

    /// One writer and one unpacker, fed by as many connections as it takes.
    async fn attempt(&self, attempts: &mut Attempts<'_>) -> Result<(), Failure> {
        let ingest = self.open_ingest().await?;
        let offset = ingest.offset();
        let (feed, reader) = match &self.unpack {
            None => (None, None),
            Some(unpack) => {
                let (sender, reader, has_failed) = feed::feed(&ingest)?;
                (Some(sender), Some((unpack.clone(), reader, has_failed)))
            }
        };
        let Some((unpack, reader, has_failed)) = reader else {
            return self.transfer(attempts, ingest, offset, feed).await;
        };
        let mut unpacker = self.tasks.spawn_blocking(move || unpack(reader));
        let transfer = self.transfer(attempts, ingest, offset, feed);
        tokio::pin!(transfer);
        let unpacked = tokio::select! {
            // The unpacker then ends by itself: it has all bytes, or an error to read.
            transferred = &mut transfer => {
                self.report.state(LayerState::Unpacking);
                let unpacked = unpacker.await;
                transferred?;
                unpacked
            }
            // The unpacker ended first: with an error, or because it needs no more.
            unpacked = &mut unpacker => {
                let is_ours = matches!(&unpacked, Ok(Err(_))) && !has_failed.load(Ordering::SeqCst);
                if !is_ours {
                    transfer.await?;
                }
                unpacked
            }
        };
        Ok(unpacked.map_err(|_| Fault::cancelled())??)
    }

    /// Another process may hold the ingest for a moment, or a thread that is about to notice it is to stop.
    async fn open_ingest(&self) -> Result<content::Ingest, Fault> {
        let mut tries = 0;
        loop {
            let (store, descriptor) = (self.store.clone(), self.descriptor.clone());
            let open = move || {
                let key = descriptor.digest.to_string();
                store.ingest(&key, Some(&descriptor.digest), Some(descriptor.size))
            };
            match blocking(open).await? {
                Err(error) if error.kind() == content::ErrorKind::Busy && tries < 100 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => return Ok(opened?),
            }
        }
    }

    async fn transfer(
        &self,
        attempts: &mut Attempts<'_>,
        ingest: content::Ingest,
        mut offset: u64,
        feed: Option<FeedSender>,
    ) -> Result<(), Failure> {
        let (pieces, receiver) = feed::pieces();
        let writer = self.tasks.spawn_blocking(move || feed::write(ingest, receiver, feed));
        while offset < self.descriptor.size {
            let remote = attempts.next().await.map_err(|(fault, host)| Failure::Exhausted(fault, host))?;
            let start = offset;
            match self.stream(remote, &mut offset, &pieces).await {
                Ok(()) => {}
                Err(StreamFault::WriterGone) => break,
                Err(StreamFault::Remote(fault)) => {
                    self.report.state(LayerState::Retrying);
                    if offset - start >= MEANINGFUL {
                        attempts.broke_off(fault);
                    } else {
                        attempts.failed(fault);
                    }
                }
            }
        }
        // If the writer is gone, its result says why.
        let _ = pieces.send(Piece::Finish).await;
        drop(pieces);
        writer.await.map_err(|_| Fault::cancelled())??;
        Ok(())
    }

    /// One response: from `offset` to the end, if all goes well.
    async fn stream(
        &self,
        remote: &Remote,
        offset: &mut u64,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<(), StreamFault> {
        let url = remote.url(&format!("blobs/{}", self.descriptor.digest));
        let mut call = self.registry.transport.call(Method::GET, url);
        if *offset > 0 {
            let range = HeaderValue::try_from(format!("bytes={offset}-"));
            call.headers.insert(RANGE, range.map_err(|_| Fault::invalid("range"))?);
        }
        let mut response = self.registry.transport.send_ok(remote, &call).await?;
        let mut skip = self.check_head(&response, *offset)?;
        let mut pace = Pace::new(self.registry.transport.stall_timeout());
        while let Some(mut chunk) = pace.next(&mut response).await? {
            if skip > 0 {
                let cut = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
                skip -= cut as u64;
                chunk = chunk.slice(cut..);
            }
            let end = *offset + chunk.len() as u64;
            if end > self.descriptor.size {
                return Err(
                    mismatch(format!("more bytes come than the {} promised", self.descriptor.size)).into()
                );
            }
            let before = Instant::now();
            pieces.send(Piece::Data(chunk)).await.map_err(|_| StreamFault::WriterGone)?;
            pace.forgive(before.elapsed());
            *offset = end;
            self.report.bytes(end);
        }
        if *offset < self.descriptor.size {
            let detail = format!("the transfer ended after {offset} of {} bytes", self.descriptor.size);
            return Err(Fault::new(ErrorKind::Unavailable, detail).into());
        }
        Ok(())
    }

    /// Checks what the head promises. Returns how many bytes of the body are here already.
    fn check_head(&self, response: &Response, offset: u64) -> Result<u64, Fault> {
        let size = self.descriptor.size;
        let encoding = response.headers().get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(Fault::invalid("the blob comes in a content encoding nobody asked for"));
        }
        let is_partial = response.status().as_u16() == 206;
        let start = if is_partial { content_range_start(response, size)? } else { 0 };
        if start > offset {
            return Err(Fault::invalid("the registry left out a part of the range asked for"));
        }
        if let Some(length) = response.content_length()
            && length != size - start
        {
            return Err(mismatch(format!("{length} bytes are announced where {} belong", size - start)));
        }
        Ok(offset - start)
    }
}

/// Where a partial answer starts; its end and size must be the blob's.
fn content_range_start(response: &Response, size: u64) -> Result<u64, Fault> {
    let malformed = || Fault::invalid("a partial answer does not say which part it is");
    let value = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let range = value.and_then(|value| value.trim().strip_prefix("bytes ")).ok_or_else(malformed)?;
    let (range, total) = range.split_once('/').ok_or_else(malformed)?;
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
    let start: u64 = start.ok_or_else(malformed)?;
    if total != "*" && total.trim().parse() != Ok(size) || start > size {
        return Err(mismatch(format!("the registry's blob is not {size} bytes long")));
    }
    Ok(start)
}

/// Watches over the pace of a transfer.
struct Pace {
    stall_timeout: Duration,
    deadline: Instant,
    bytes: u64,
}

impl Pace {
    fn new(stall_timeout: Duration) -> Self {
        Self { stall_timeout, deadline: Instant::now() + stall_timeout, bytes: 0 }
    }

    async fn next(&mut self, response: &mut Response) -> Result<Option<Bytes>, Fault> {
        let chunk = tokio::time::timeout_at(self.deadline, response.chunk()).await;
        let chunk = chunk.map_err(|_| {
            let detail = format!("the transfer stalled: {} bytes in {:?}", self.bytes, self.stall_timeout);
            Fault::new(ErrorKind::Timeout, detail)
        })?;
        let chunk = chunk.map_err(transport_fault)?;
        self.bytes += chunk.as_ref().map_or(0, Bytes::len) as u64;
        if self.bytes >= MIN_PROGRESS {
            self.bytes = 0;
            self.deadline = Instant::now() + self.stall_timeout;
        }
        Ok(chunk)
    }

    /// Time in which we were slow, not they.
    fn forgive(&mut self, time: Duration) {
        self.deadline += time;
    }
}

/// Why an attempt ended.
enum Failure {
    /// No endpoint is left.
    Exhausted(Fault, String),
    /// The blob, the store or the unpacker is at fault.
    Blob(Fault),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Blob(fault)
    }
}

enum StreamFault {
    WriterGone,
    Remote(Fault),
}

impl From<Fault> for StreamFault {
    fn from(fault: Fault) -> Self {
        Self::Remote(fault)
    }
}
