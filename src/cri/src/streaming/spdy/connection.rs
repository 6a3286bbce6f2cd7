//! Moves frames between a connection and its streams.
//!
//! ```text
//!            ┌─ read_frames ─→ per stream: bounded queue ─→ StreamReader ─┐
//! connection │                                                           handler
//!            └─ write_frames ←── one bounded queue of frames ←─ StreamWriter ┘
//! ```
//!
//! Memory is bounded per stream and per connection: when a queue is full, nothing more is read, so a
//! peer that ignores windows is held back by its own socket. All of a connection runs in one task.

use std::collections::{HashMap, HashSet};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::flow::{Grants, SendWindows};
use super::frame::{Decoder, Encoder, Frame, FrameError, MAX_PIECE_BYTES, ResetReason};
use super::headers::Headers;
use super::stream::{Piece, StreamReader, StreamWriter};

/// Streams open at a time.
const MAX_STREAMS: usize = 512;
/// Pieces queued for one stream.
const STREAM_QUEUE: usize = 32;
/// Bytes queued for all streams of a connection.
const CONNECTION_BYTES: usize = 2 * 1024 * 1024;
/// Frames queued for sending.
const SEND_QUEUE: usize = 8;
/// Streams that wait for the handler.
const ACCEPT_QUEUE: usize = 8;
/// How often a ping keeps the path alive and shows a dead peer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long the peer may take to close after we have said everything. The Go client throws away
/// what it has not handled yet when its connection ends, so it must be the one to close.
const LINGER: Duration = Duration::from_secs(5);

/// A stream that the peer opened. It was accepted already; dropping it ends it.
pub(crate) struct Incoming {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    pub(crate) reader: StreamReader,
    pub(crate) writer: StreamWriter,
}

/// Hands out new streams.
pub(crate) struct Acceptor {
    incoming: mpsc::Receiver<Incoming>,
    closed: CancellationToken,
}

impl Acceptor {
    /// The next stream; `None` when the peer opens no more.
    pub(crate) async fn accept(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// Fires when the peer is gone.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }
}

struct Entry {
    input: Option<mpsc::Sender<Piece>>,
    reader: bool,
    writer: bool,
    waker: Option<Waker>,
}

struct State {
    streams: HashMap<u32, Entry>,
    send: SendWindows,
    grants: Grants,
    /// Streams whose writer was dropped: their end is still to be sent.
    ends: Vec<u32>,
    /// Streams whose input ended before its end was sent.
    broken: HashSet<u32>,
    dead: bool,
}

/// What the parts of a connection share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// There are grants or ends to send.
    work: Notify,
    closed: CancellationToken,
    started: Instant,
    /// When stream data last moved, in milliseconds after `started`.
    active: AtomicU64,
}

impl Shared {
    fn new() -> Arc<Self> {
        let state = State {
            streams: HashMap::new(),
            send: SendWindows::new(),
            grants: Grants::default(),
            ends: Vec::new(),
            broken: HashSet::new(),
            dead: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            work: Notify::new(),
            closed: CancellationToken::new(),
            started: Instant::now(),
            active: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.active.store(now, Ordering::Relaxed);
    }

    fn last_active(&self) -> Instant {
        self.started + Duration::from_millis(self.active.load(Ordering::Relaxed))
    }

    pub(super) fn consumed(&self, stream: u32, bytes: usize) {
        let mut state = self.state();
        let open = state.streams.contains_key(&stream).then_some(stream);
        if bytes > 0 && state.grants.consumed(open, bytes) {
            self.work.notify_one();
        }
    }

    /// Whether the peer ended the stream, rather than broke it off.
    pub(super) fn ended_cleanly(&self, stream: u32) -> bool {
        !self.state().broken.contains(&stream)
    }

    pub(super) fn reader_gone(&self, stream: u32, left: usize) {
        self.consumed(stream, left);
        let mut state = self.state();
        state.broken.remove(&stream);
        if let Some(entry) = state.streams.get_mut(&stream) {
            entry.reader = false;
        }
        state.sweep(stream);
    }

    pub(super) fn writer_gone(&self, stream: u32, ended: bool) {
        let mut state = self.state();
        if !ended && state.streams.contains_key(&stream) {
            state.ends.push(stream);
            self.work.notify_one();
        }
        if let Some(entry) = state.streams.get_mut(&stream) {
            entry.writer = false;
        }
        state.sweep(stream);
    }

    /// Takes window for up to `want` bytes, at least one.
    pub(super) fn poll_take(&self, stream: u32, want: usize, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        if state.dead || !state.streams.contains_key(&stream) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let take = state.send.take(stream, want);
        if take > 0 {
            return Poll::Ready(Ok(take));
        }
        if let Some(entry) = state.streams.get_mut(&stream) {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The connection ended: readers fail unless their end was seen, writers fail.
    fn fail(&self) {
        let mut state = self.state();
        state.dead = true;
        let ids: Vec<u32> = state.streams.keys().copied().collect();
        ids.into_iter().for_each(|id| state.break_off(id));
        drop(state);
        self.closed.cancel();
    }
}

impl State {
    /// Forgets the stream if we say no more on it and hear no more, or do not want to.
    fn sweep(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|e| !e.writer && (e.input.is_none() || !e.reader)) {
            self.forget(stream);
        }
    }

    fn forget(&mut self, stream: u32) {
        self.streams.remove(&stream);
        self.send.close(stream);
        self.grants.close(stream);
    }

    /// Ends the stream in both directions, at once.
    fn break_off(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            if entry.input.take().is_some() && entry.reader {
                self.broken.insert(stream);
            }
            entry.waker.take().into_iter().for_each(Waker::wake);
        }
        self.forget(stream);
    }

    fn wake_writers(&mut self) {
        self.streams.values_mut().filter_map(|entry| entry.waker.take()).for_each(Waker::wake);
    }
}

/// Serves a connection until the handler is done, the peer has closed, or nothing moved for `idle`.
///
/// The handler gets the new streams. It is dropped when the connection idles; when the peer is gone,
/// [`Acceptor::closed`] fires and the handler is expected to come to its end.
pub(crate) async fn run<IO, H, F>(io: IO, idle: Duration, handler: H)
where
    IO: AsyncRead + AsyncWrite,
    H: FnOnce(Acceptor) -> F,
    F: Future<Output = ()>,
{
    let (read, write) = tokio::io::split(io);
    let shared = Shared::new();
    let (frames, frames_out) = mpsc::channel(SEND_QUEUE);
    let (incoming, incoming_out) = mpsc::channel(ACCEPT_QUEUE);
    let done = CancellationToken::new();
    // `frames` outlives the writer, whose queue therefore never ends by itself.
    let input =
        Input { shared: shared.clone(), frames: frames.clone(), incoming: Some(incoming), last_stream: 0 };
    let mut reader = pin!(input.read_frames(read));
    let mut writer = pin!(write_frames(write, frames_out, &shared, &done));
    let mut handler = pin!(handler(Acceptor { incoming: incoming_out, closed: shared.closed.clone() }));
    let (mut reading, mut writing) = (true, true);
    loop {
        tokio::select! {
            () = &mut handler => break,
            result = &mut reader, if reading => {
                reading = false;
                result.unwrap_or_else(|error| debug!(error = &error as &dyn std::error::Error, "spdy connection broken off"));
                shared.fail();
            }
            result = &mut writer, if writing => {
                writing = false;
                result.unwrap_or_else(|error| debug!(%error, "spdy connection cannot be written"));
                shared.fail();
            }
            () = idled(&shared, idle) => {
                debug!("spdy connection idle for too long");
                break;
            }
        }
    }
    // The handler's streams are gone or will not be used again: send what is queued and let the peer
    // close first.
    done.cancel();
    let rest = async {
        if writing && writer.await.is_ok() && reading {
            reader.await.unwrap_or_else(|error| debug!(%error, "spdy connection broken off at its end"));
        }
    };
    timeout(LINGER, rest).await.unwrap_or_default();
    shared.fail();
}

/// Returns when no stream data moved for `idle`.
async fn idled(shared: &Shared, idle: Duration) {
    loop {
        let deadline = shared.last_active() + idle;
        if Instant::now() >= deadline {
            return;
        }
        sleep_until(deadline).await;
    }
}

/// Why reading ended early.
#[derive(Debug, thiserror::Error)]
enum InputError {
    #[error("read from the connection")]
    Read(#[from] io::Error),
    #[error("decode frames")]
    Frame(#[from] FrameError),
    #[error("the peer breaks the protocol: {0}")]
    Peer(&'static str),
}

struct Input {
    shared: Arc<Shared>,
    frames: mpsc::Sender<Frame>,
    incoming: Option<mpsc::Sender<Incoming>>,
    last_stream: u32,
}

impl Input {
    /// Reads until the peer closes its side.
    async fn read_frames(mut self, read: impl AsyncRead) -> Result<(), InputError> {
        let mut read = pin!(read);
        let budget = Arc::new(Semaphore::new(CONNECTION_BYTES));
        let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
        loop {
            while let Some(frame) = decoder.decode(&mut buffer)? {
                self.handle(frame, &budget).await?;
            }
            buffer.reserve(MAX_PIECE_BYTES);
            if read.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, frame: Frame, budget: &Arc<Semaphore>) -> Result<(), InputError> {
        match frame {
            Frame::SynStream { stream, fin, headers } => self.open(stream, fin, headers).await?,
            Frame::Data { stream, fin, data } => self.data(stream, fin, data, budget).await,
            Frame::Headers { stream, fin: true } => self.end(stream),
            Frame::RstStream { stream, .. } => self.shared.state().break_off(stream),
            Frame::WindowUpdate { stream, delta } => {
                let mut state = self.shared.state();
                if !state.send.grant(stream, delta) {
                    return Err(InputError::Peer("window too large"));
                }
                state.wake_writers();
            }
            Frame::Settings { initial_window: Some(bytes) } => {
                let mut state = self.shared.state();
                state.send.set_initial(bytes);
                state.wake_writers();
            }
            // Odd ids are the peer's own pings; even ones are answers to ours.
            Frame::Ping(id) if id % 2 == 1 => self.send(Frame::Ping(id)).await,
            // No more streams, but those that are open go on.
            Frame::GoAway => self.incoming = None,
            Frame::Ping(_) | Frame::Headers { .. } | Frame::Settings { .. } | Frame::SynReply { .. } => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), InputError> {
        if id.is_multiple_of(2) || id <= self.last_stream {
            return Err(InputError::Peer("stream ids must be odd and grow"));
        }
        self.last_stream = id;
        let incoming = self.incoming.clone();
        let (input, pieces) = mpsc::channel(STREAM_QUEUE);
        {
            let mut state = self.shared.state();
            if incoming.is_some() && state.streams.len() < MAX_STREAMS {
                let input = (!fin).then_some(input);
                state.streams.insert(id, Entry { input, reader: true, writer: true, waker: None });
                state.send.open(id);
            }
        }
        let accepted = self.shared.state().streams.contains_key(&id);
        let Some(incoming) = incoming.filter(|_| accepted) else {
            self.send(Frame::RstStream { stream: id, reason: ResetReason::Refused as u32 }).await;
            return Ok(());
        };
        // The answer must precede data: the Go client drops data of streams that were not answered.
        self.send(Frame::SynReply { stream: id, fin: false, headers: Headers::default() }).await;
        let stream = Incoming {
            id,
            headers,
            reader: StreamReader::new(id, self.shared.clone(), pieces),
            writer: StreamWriter::new(id, self.shared.clone(), self.frames.clone()),
        };
        // Without a handler the stream is dropped and so ends.
        drop(incoming.send(stream).await);
        Ok(())
    }

    async fn data(&mut self, id: u32, fin: bool, data: Bytes, budget: &Arc<Semaphore>) {
        if id > self.last_stream {
            self.send(Frame::RstStream { stream: id, reason: ResetReason::InvalidStream as u32 }).await;
            return;
        }
        let input = self.shared.state().streams.get(&id).and_then(|entry| entry.input.clone());
        if !data.is_empty() {
            self.shared.touch();
            let bytes = data.len();
            if !self.queue(input, data, budget).await {
                // Thrown away, which is one way to consume it.
                self.shared.consumed(id, bytes);
            }
        }
        if fin {
            self.end(id);
        }
    }

    /// Queues data for its reader, waiting for room. False: there is no reader.
    async fn queue(&self, input: Option<mpsc::Sender<Piece>>, data: Bytes, budget: &Arc<Semaphore>) -> bool {
        let Some(input) = input else { return false };
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let share = tokio::select! {
            share = budget.clone().acquire_many_owned(bytes) => share.ok(),
            () = input.closed() => return false,
        };
        input.send(Piece { data, share }).await.is_ok()
    }

    /// The peer has sent everything on the stream.
    fn end(&self, id: u32) {
        let mut state = self.shared.state();
        if let Some(entry) = state.streams.get_mut(&id) {
            entry.input = None;
        }
        state.sweep(id);
    }

    async fn send(&self, frame: Frame) {
        // When the writer is gone, reading ends soon as well.
        drop(self.frames.send(frame).await);
    }
}

/// Writes frames until `done` and the queue is empty, then ends our side of the connection.
async fn write_frames(
    write: impl AsyncWrite,
    mut frames: mpsc::Receiver<Frame>,
    shared: &Shared,
    done: &CancellationToken,
) -> io::Result<()> {
    let mut write = pin!(write);
    let (mut encoder, mut buffer) = (Encoder::new(), BytesMut::new());
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    let mut ping = 0u32;
    loop {
        let (first, last) = tokio::select! {
            biased;
            frame = frames.recv() => (frame, false),
            () = shared.work.notified() => (None, false),
            _ = pings.tick() => {
                ping = ping.wrapping_add(2);
                (Some(Frame::Ping(ping)), false)
            }
            () = done.cancelled() => (None, true),
        };
        let (ends, grants) = {
            let mut state = shared.state();
            (std::mem::take(&mut state.ends), state.grants.take_due())
        };
        // Ends must follow the data of their streams, all of which is in the queue by now.
        let queued = (0..frames.len()).map_while(|_| frames.try_recv().ok()).collect::<Vec<_>>();
        let ends = ends.into_iter().map(|stream| Frame::Data { stream, fin: true, data: Bytes::new() });
        let grants = grants.into_iter().map(|(stream, delta)| Frame::WindowUpdate { stream, delta });
        let mut moved = false;
        for frame in first.into_iter().chain(queued).chain(ends).chain(grants) {
            moved |= matches!(&frame, Frame::Data { .. });
            encoder.encode(&frame, &mut buffer);
        }
        write.write_all(&buffer).await?;
        write.flush().await?;
        buffer.clear();
        if moved {
            shared.touch();
        }
        if last {
            return write.shutdown().await;
        }
    }
}
