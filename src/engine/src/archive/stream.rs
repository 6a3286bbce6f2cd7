//! An archive that is written while it is read: a bounded queue between a blocking writer and an async reader.

use std::io::{self, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::Error;

/// Bytes of a part.
const PART: usize = 128 << 10;
/// Parts between writer and reader.
const QUEUE: usize = 8;

/// The bytes of an archive, as they are made. Dropping it ends the work.
#[derive(Debug)]
pub struct ArchiveStream {
    parts: mpsc::Receiver<Result<Bytes, Error>>,
}

impl ArchiveStream {
    /// The next bytes; `None` at the end. After an error there are no more.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        self.parts.recv().await
    }
}

/// Where the blocking side writes.
#[derive(Debug)]
pub(super) struct Sink {
    parts: mpsc::Sender<Result<Bytes, Error>>,
    buffer: Vec<u8>,
}

/// Both ends.
pub(super) fn pair() -> (Sink, ArchiveStream) {
    let (sender, parts) = mpsc::channel(QUEUE);
    (Sink { parts: sender, buffer: Vec::with_capacity(PART) }, ArchiveStream { parts })
}

impl Sink {
    /// Tells the reader that it failed.
    pub(super) fn fail(self, error: Error) {
        drop(self.parts.blocking_send(Err(error)));
    }

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the archive any more");
        self.parts.blocking_send(Ok(part.into())).map_err(gone)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PART - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == PART {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
