//! The way of a blob's bytes from the network to the disk and to whoever unpacks it.
//!
//! ```text
//! download (async) ──Piece──► writer thread: hash, write ──Feed──► FeedReader on the unpacker's thread
//! ```
//!
//! Both channels are short: a slow disk or unpacker slows the download down, and memory stays bounded. The
//! reader sees the end of the file only after the writer has committed the blob, which verifies it.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf, Bytes};
use content::Ingest;
use tokio::sync::mpsc;

use crate::error::Fault;

/// Chunks on their way to the writer, and from it to the unpacker.
const DEPTH: usize = 16;

/// What the download tells the writer.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    /// All bytes are there; without it, the end of the channel means that the download gave up.
    Finish,
}

/// What the writer tells the reader.
#[derive(Debug)]
enum Feed {
    Data(Bytes),
    Verified,
}

/// The writer's end of a feed.
#[derive(Debug)]
pub(crate) struct FeedSender {
    sender: Option<SyncSender<Feed>>,
    has_failed: Arc<AtomicBool>,
}

/// Yields a blob's bytes as they arrive.
#[derive(Debug)]
pub(crate) struct FeedReader {
    /// What an earlier download left, and how much of it.
    earlier: Option<io::Take<File>>,
    receiver: Receiver<Feed>,
    current: Bytes,
    is_verified: bool,
}

/// A feed for a blob of which `ingest` may hold a part. The flag is raised if it ends without the whole blob.
pub(crate) fn feed(ingest: &Ingest) -> Result<(FeedSender, FeedReader, Arc<AtomicBool>), Fault> {
    let (sender, receiver) = sync_channel(DEPTH);
    let has_failed = Arc::new(AtomicBool::new(false));
    let earlier = match ingest.offset() {
        0 => None,
        offset => Some(ingest.reader()?.take(offset)),
    };
    let sender = FeedSender { sender: Some(sender), has_failed: has_failed.clone() };
    let reader = FeedReader { earlier, receiver, current: Bytes::new(), is_verified: false };
    Ok((sender, reader, has_failed))
}

impl FeedSender {
    fn send(&mut self, feed: Feed) {
        // An unpacker that needs no more has dropped its reader; the blob is still wanted.
        if let Some(sender) = &self.sender
            && sender.send(feed).is_err()
        {
            self.sender = None;
        }
    }

    fn verified(mut self) {
        self.send(Feed::Verified);
        self.sender = None;
        std::mem::take(&mut self.has_failed);
    }
}

impl Drop for FeedSender {
    fn drop(&mut self) {
        // `verified` has taken the flag; whoever else drops this has failed. The flag is up before the channel
        // ends, so that it explains the unpacker's error.
        self.has_failed.store(true, Ordering::SeqCst);
    }
}

impl Read for FeedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(earlier) = &mut self.earlier {
            match earlier.read(buffer)? {
                0 => self.earlier = None,
                count => return Ok(count),
            }
        }
        while self.current.is_empty() {
            if self.is_verified {
                return Ok(0);
            }
            match self.receiver.recv() {
                Ok(Feed::Data(bytes)) => self.current = bytes,
                Ok(Feed::Verified) => self.is_verified = true,
                Err(_) => {
                    let kind = io::ErrorKind::UnexpectedEof;
                    return Err(io::Error::new(kind, "the download failed before the blob was verified"));
                }
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current[..count]);
        self.current.advance(count);
        Ok(count)
    }
}

/// Runs on a blocking thread: writes what comes, and commits at the end. What was written stays for a later
/// attempt if the download gives up.
pub(crate) fn write(
    mut ingest: Ingest,
    mut pieces: mpsc::Receiver<Piece>,
    mut feed: Option<FeedSender>,
) -> Result<(), Fault> {
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(bytes)) => {
                ingest.write_all(&bytes)?;
                if let Some(feed) = &mut feed {
                    feed.send(Feed::Data(bytes));
                }
            }
            Some(Piece::Finish) => {
                ingest.commit()?;
                if let Some(feed) = feed {
                    feed.verified();
                }
                return Ok(());
            }
            None => {
                if ingest.offset() == 0 {
                    ingest.abort()?;
                }
                return Err(Fault::cancelled());
            }
        }
    }
}

/// The channel to a writer.
pub(crate) fn pieces() -> (mpsc::Sender<Piece>, mpsc::Receiver<Piece>) {
    mpsc::channel(DEPTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingest(store: &content::Store, bytes: &[u8]) -> Ingest {
        let digest = content::Hasher::digest(oci::Algorithm::Sha256, bytes);
        store.ingest("k", Some(&digest), Some(bytes.len() as u64)).unwrap()
    }

    fn run(ingest: Ingest, parts: Vec<Piece>) -> (Result<(), Fault>, io::Result<Vec<u8>>, bool) {
        let (sender, mut reader, has_failed) = feed(&ingest).unwrap();
        let (pieces_in, pieces_out) = pieces();
        let writer = std::thread::spawn(move || write(ingest, pieces_out, Some(sender)));
        let unpacker = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        for part in parts {
            if pieces_in.blocking_send(part).is_err() {
                break;
            }
        }
        drop(pieces_in);
        let (written, read) = (writer.join().unwrap(), unpacker.join().unwrap());
        (written, read, has_failed.load(Ordering::SeqCst))
    }

    fn data(bytes: &'static [u8]) -> Piece {
        Piece::Data(Bytes::from_static(bytes))
    }

    #[test]
    fn the_end_comes_only_after_verification() {
        let root = tempfile::tempdir().unwrap();
        let store = content::Store::open(root.path()).unwrap();
        let (written, read, failed) =
            run(ingest(&store, b"hello"), vec![data(b"hel"), data(b"xx"), Piece::Finish]);
        assert_eq!(written.unwrap_err().kind, crate::ErrorKind::DigestMismatch);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(failed);
        let (written, read, failed) =
            run(ingest(&store, b"hello"), vec![data(b"hel"), data(b"lo"), Piece::Finish]);
        written.unwrap();
        assert_eq!(read.unwrap(), b"hello");
        assert!(!failed);
    }

    #[test]
    fn what_an_earlier_attempt_left_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let store = content::Store::open(root.path()).unwrap();
        let (written, read, failed) = run(ingest(&store, b"hello"), vec![data(b"hel")]);
        assert!(written.is_err() && read.is_err() && failed);
        let again = ingest(&store, b"hello");
        assert_eq!(again.offset(), 3);
        let (written, read, _) = run(again, vec![data(b"lo"), Piece::Finish]);
        written.unwrap();
        assert_eq!(read.unwrap(), b"hello");
    }
}
