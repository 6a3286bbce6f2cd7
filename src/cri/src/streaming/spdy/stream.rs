//! One stream as a reader and a writer.
//!
//! Dropping the writer ends the stream's output cleanly; dropping the reader lets later input be thrown
//! away. When the peer resets the stream or the connection breaks, reads fail instead of ending.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::PollSender;

use super::connection::Shared;
use super::frame::{Frame, MAX_PIECE_BYTES};

/// Bytes that arrived, with their share of the connection's buffer.
pub(super) struct Piece {
    pub(super) data: Bytes,
    pub(super) share: Option<OwnedSemaphorePermit>,
}

/// What the peer sends on a stream.
pub(crate) struct StreamReader {
    id: u32,
    shared: Arc<Shared>,
    pieces: mpsc::Receiver<Piece>,
    current: Option<Piece>,
}

impl StreamReader {
    pub(super) fn new(id: u32, shared: Arc<Shared>, pieces: mpsc::Receiver<Piece>) -> Self {
        Self { id, shared, pieces, current: None }
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Some(piece) = &mut this.current {
                let take = piece.data.len().min(buf.remaining());
                buf.put_slice(&piece.data[..take]);
                piece.data.advance(take);
                if piece.data.is_empty() {
                    this.current = None;
                }
                this.shared.consumed(this.id, take);
                return Poll::Ready(Ok(()));
            }
            match ready!(this.pieces.poll_recv(cx)) {
                Some(piece) if piece.data.is_empty() => {}
                Some(piece) => this.current = Some(piece),
                None if this.shared.ended_cleanly(this.id) => return Poll::Ready(Ok(())),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        // Whatever was queued counts as consumed, or the session's window would shrink for good.
        let mut left = self.current.take().map_or(0, |piece| piece.data.len());
        self.pieces.close();
        while let Ok(piece) = self.pieces.try_recv() {
            left += piece.data.len();
            drop(piece.share);
        }
        self.shared.reader_gone(self.id, left);
    }
}

/// What we send on a stream.
pub(crate) struct StreamWriter {
    id: u32,
    shared: Arc<Shared>,
    frames: PollSender<Frame>,
    finished: bool,
}

impl StreamWriter {
    pub(super) fn new(id: u32, shared: Arc<Shared>, frames: mpsc::Sender<Frame>) -> Self {
        Self { id, shared, frames: PollSender::new(frames), finished: false }
    }
}

fn broken() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncWrite for StreamWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.finished || buf.is_empty() {
            return Poll::Ready(if this.finished { Err(broken()) } else { Ok(0) });
        }
        ready!(this.frames.poll_reserve(cx)).map_err(|_| broken())?;
        let Poll::Ready(take) = this.shared.poll_take(this.id, buf.len().min(MAX_PIECE_BYTES), cx) else {
            // Others must not wait for the place in the queue while this stream waits for its window.
            this.frames.abort_send();
            return Poll::Pending;
        };
        let take = take?;
        let data = Bytes::copy_from_slice(&buf[..take]);
        this.frames.send_item(Frame::Data { stream: this.id, fin: false, data }).map_err(|_| broken())?;
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection flushes whenever its queue is empty.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.finished {
            return Poll::Ready(Ok(()));
        }
        ready!(this.frames.poll_reserve(cx)).map_err(|_| broken())?;
        this.finished = true;
        let end = Frame::Data { stream: this.id, fin: true, data: Bytes::new() };
        this.frames.send_item(end).map_err(|_| broken())?;
        this.shared.writer_gone(this.id, true);
        Poll::Ready(Ok(()))
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        // A reserved place is one the writer would wait for.
        self.frames.abort_send();
        if !self.finished {
            self.shared.writer_gone(self.id, false);
        }
    }
}
