//! Decompression and hashing on a thread of their own, so that they overlap with making files.

use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use content::Hasher;
use oci::{Algorithm, Compression, Digest};

use super::{ArchiveError, Limit};
use crate::Limits;

const CHUNK: usize = 256 << 10;
/// Chunks between the two threads.
const QUEUE: usize = 6;

enum Message {
    Data(Vec<u8>),
    End(Digest),
    Failed(ArchiveError),
}

/// The uncompressed bytes of an archive.
#[derive(Debug)]
pub(crate) struct Stream {
    messages: Receiver<Message>,
    /// Gives used buffers back.
    used: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    position: usize,
    offset: u64,
    digest: Option<Digest>,
}

impl Stream {
    /// Starts the thread. It ends with the stream, at the latest when the reader returns.
    pub(crate) fn start(
        reader: Box<dyn Read + Send>,
        compression: Compression,
        limits: Limits,
        algorithm: Algorithm,
    ) -> Result<Self, ArchiveError> {
        let (messages_in, messages) = sync_channel(QUEUE);
        let (used, used_out) = sync_channel(QUEUE + 2);
        let producer = Producer { messages: messages_in, used: used_out, limits };
        std::thread::Builder::new()
            .name("unpack".to_owned())
            .spawn(move || producer.run(reader, compression, algorithm))
            .map_err(ArchiveError::Read)?;
        Ok(Self { messages, used, chunk: Vec::new(), position: 0, offset: 0, digest: None })
    }

    /// Bytes that are at hand, at least one; none at the end.
    pub(crate) fn fill(&mut self) -> Result<&[u8], ArchiveError> {
        while self.position == self.chunk.len() && self.digest.is_none() {
            match self.messages.recv() {
                Ok(Message::Data(chunk)) => {
                    let old = std::mem::replace(&mut self.chunk, chunk);
                    // The producer is gone or has buffers enough.
                    let _kept = self.used.try_send(old);
                    self.position = 0;
                }
                Ok(Message::End(digest)) => self.digest = Some(digest),
                Ok(Message::Failed(error)) => return Err(error),
                Err(_) => {
                    let gone = io::Error::other("the decompressing thread ended unexpectedly");
                    return Err(ArchiveError::Read(gone));
                }
            }
        }
        Ok(&self.chunk[self.position..])
    }

    /// Takes bytes that [`Stream::fill`] showed.
    pub(crate) fn consume(&mut self, count: usize) {
        self.position = (self.position + count).min(self.chunk.len());
        self.offset += count as u64;
    }

    /// How many bytes were taken.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills the buffer, as far as there are bytes; returns how many there were.
    pub(crate) fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let available = self.fill()?;
            if available.is_empty() {
                break;
            }
            let count = available.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&available[..count]);
            self.consume(count);
            filled += count;
        }
        Ok(filled)
    }

    /// Reads to the end and returns the digest of everything.
    pub(crate) fn finish(mut self) -> Result<Digest, ArchiveError> {
        loop {
            let count = self.fill()?.len();
            if let (0, Some(digest)) = (count, self.digest.take()) {
                return Ok(digest);
            }
            self.consume(count);
        }
    }
}

struct Producer {
    messages: SyncSender<Message>,
    used: Receiver<Vec<u8>>,
    limits: Limits,
}

impl Producer {
    fn run(self, reader: Box<dyn Read + Send>, compression: Compression, algorithm: Algorithm) {
        let outcome = match self.pump(reader, compression, algorithm) {
            Ok(Some(digest)) => Message::End(digest),
            Ok(None) => return,
            Err(error) => Message::Failed(error),
        };
        // Nobody wants to know: the consumer failed first.
        let _unwanted = self.messages.send(outcome);
    }

    /// `None` if the consumer went away.
    fn pump(
        &self,
        reader: Box<dyn Read + Send>,
        compression: Compression,
        algorithm: Algorithm,
    ) -> Result<Option<Digest>, ArchiveError> {
        let consumed = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = Counted { reader, consumed: std::rc::Rc::clone(&consumed) };
        let mut decoder = decoder(counted, compression, self.limits).map_err(ArchiveError::Read)?;
        let mut hasher = Hasher::new(algorithm);
        let mut produced: u64 = 0;
        loop {
            let mut chunk = self.used.try_recv().unwrap_or_default();
            chunk.resize(CHUNK, 0);
            let count = read_chunk(&mut *decoder, &mut chunk).map_err(ArchiveError::Read)?;
            if count == 0 {
                return Ok(Some(hasher.finish()));
            }
            produced += count as u64;
            let limit =
                u64::max(self.limits.ratio_free_bytes, self.limits.ratio.saturating_mul(consumed.get()));
            if compression != Compression::None && produced > limit {
                return Err(ArchiveError::Limit { limit: Limit::Ratio });
            }
            chunk.truncate(count);
            hasher.update(&chunk);
            if self.messages.send(Message::Data(chunk)).is_err() {
                return Ok(None);
            }
        }
    }
}

/// Fills the chunk if it can, so that few messages are sent; a slow download is passed on as it comes only
/// in whole chunks.
fn read_chunk(decoder: &mut dyn Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match decoder.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn decoder(reader: Counted, compression: Compression, limits: Limits) -> io::Result<Box<dyn Read>> {
    let buffered = BufReader::with_capacity(128 << 10, reader);
    Ok(match compression {
        Compression::None => Box::new(buffered),
        // Concatenated members are one stream; anything else after a member is an error.
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(buffered)?;
            decoder.window_log_max(limits.zstd_window_log)?;
            Box::new(decoder)
        }
    })
}

/// Counts the compressed bytes.
struct Counted {
    reader: Box<dyn Read + Send>,
    consumed: std::rc::Rc<std::cell::Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.consumed.set(self.consumed.get() + count as u64);
        Ok(count)
    }
}
