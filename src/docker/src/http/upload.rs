//! Bodies of requests that are read by work that blocks: archives.

use std::future::Future;
use std::io::{self, Read};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

/// Pieces that may wait for whoever reads.
const PIECES: usize = 16;

/// The bytes of a body, for a thread that may wait for them.
#[derive(Debug)]
pub(crate) struct Upload {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

/// A body as something to read. The future hands pieces over, and ends with the body or when nobody reads any more:
/// wait for it together with the work.
pub(crate) fn upload(body: Option<Incoming>) -> (Upload, impl Future<Output = ()> + Send) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let pump = async move {
        let Some(mut body) = body else { return };
        while let Some(frame) = body.frame().await {
            let piece = match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => Ok(bytes),
                    // Trailers say nothing here.
                    Err(_) => continue,
                },
                Err(error) => Err(io::Error::other(error)),
            };
            let failed = piece.is_err();
            if sender.send(piece).await.is_err() || failed {
                return;
            }
        }
    };
    (Upload { pieces, piece: Bytes::new() }, pump)
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_in_order_to_the_end_or_a_failure() {
        let (sender, pieces) = mpsc::channel(8);
        for piece in [Ok(Bytes::from("ab")), Ok(Bytes::new()), Ok(Bytes::from("cde"))] {
            sender.try_send(piece).unwrap();
        }
        let mut upload = Upload { pieces, piece: Bytes::new() };
        let mut two = [0; 2];
        upload.read_exact(&mut two).unwrap();
        assert_eq!(&two, b"ab");
        sender.try_send(Err(io::Error::other("cut off"))).unwrap();
        drop(sender);
        let mut rest = Vec::new();
        assert_eq!(upload.read_to_end(&mut rest).unwrap_err().to_string(), "cut off");
        assert_eq!(rest, b"cde");
        assert_eq!(upload.read(&mut two).unwrap(), 0);
    }
}
