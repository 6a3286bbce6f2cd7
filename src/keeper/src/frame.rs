//! Frames on a unix socket: a length, bytes, and descriptors.
//!
//! The first 253 descriptors travel with the first byte of a frame, the next 253 with its second byte and so
//! on. The reader asks for no byte beyond the frame it is in, so every descriptor it gets belongs to that
//! frame.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::Serialize;
use sys::socket::{MAX_FDS, Stream};

use crate::protocol::MAX_FRAME_BYTES;

/// A frame that arrived whole.
#[derive(Debug)]
pub(crate) struct Frame {
    /// JSON.
    pub(crate) body: Vec<u8>,
    /// The descriptors that came with it.
    pub(crate) fds: Vec<OwnedFd>,
    /// Whether some could not be received because this process may open no more.
    pub(crate) fds_lost: bool,
}

/// What a read came to.
#[derive(Debug)]
pub(crate) enum Progress {
    /// A whole frame.
    Frame(Frame),
    /// The socket has no more bytes now.
    Pending,
    /// The other end closed between two frames.
    End,
}

/// Collects the bytes and descriptors of one frame after the other.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    header: Vec<u8>,
    body: Vec<u8>,
    filled: usize,
    fds: Vec<OwnedFd>,
    fds_lost: bool,
}

impl Reader {
    /// Reads until a frame is whole or the socket would block.
    pub(crate) fn read(&mut self, stream: &Stream) -> io::Result<Progress> {
        while self.header.len() < 4 {
            let mut part = [0; 4];
            let missing = 4 - self.header.len();
            let Some(n) = self.receive(stream, &mut part[..missing])? else { return Ok(Progress::Pending) };
            if n == 0 {
                return if self.header.is_empty() { Ok(Progress::End) } else { Err(cut_short()) };
            }
            self.header.extend_from_slice(&part[..n]);
            if self.header.len() == 4 {
                self.body = vec![0; body_length(&self.header)?];
            }
        }
        while self.filled < self.body.len() {
            let mut body = std::mem::take(&mut self.body);
            let result = self.receive(stream, &mut body[self.filled..]);
            self.body = body;
            match result? {
                None => return Ok(Progress::Pending),
                Some(0) => return Err(cut_short()),
                Some(n) => self.filled += n,
            }
        }
        let done = std::mem::take(self);
        Ok(Progress::Frame(Frame { body: done.body, fds: done.fds, fds_lost: done.fds_lost }))
    }

    fn receive(&mut self, stream: &Stream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match stream.recv(buffer, &mut self.fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
            Ok(received) => {
                self.fds_lost |= received.fds_lost;
                Ok(Some(received.bytes))
            }
        }
    }
}

/// The bytes of a frame with `message` in it.
pub(crate) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    if length as usize > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message is larger than a frame may be"));
    }
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// How much of a frame has been sent.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sent {
    bytes: usize,
    fds: usize,
}

impl Sent {
    /// Sends what is missing of a frame; `Ok(false)` when the socket would block first.
    pub(crate) fn send(&mut self, stream: &Stream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        while self.bytes < bytes.len() {
            let left = &fds[self.fds..];
            let now = &left[..left.len().min(MAX_FDS)];
            let end = if left.len() > MAX_FDS { self.bytes + 1 } else { bytes.len() };
            match stream.send(&bytes[self.bytes..end], now) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
                Ok(n) => {
                    self.bytes += n;
                    self.fds += now.len();
                }
            }
        }
        Ok(true)
    }
}

fn body_length(header: &[u8]) -> io::Result<usize> {
    let length = u32::from_le_bytes(header.try_into().map_err(|_| cut_short())?) as usize;
    if length > MAX_FRAME_BYTES {
        let message = format!("frame of {length} bytes; the most is {MAX_FRAME_BYTES}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(length)
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed within a frame")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_frame_carries_more_descriptors_than_one_message_can() {
        let (a, b) = Stream::pair().unwrap();
        let (fd, _writer) = sys::pipe::pair().unwrap();
        let many: Vec<_> = std::iter::repeat_n(fd.as_fd(), 600).collect();
        let message = encode(&"x".repeat(300_000)).unwrap();
        let sender = std::thread::spawn({
            let message = message.clone();
            let fds: Vec<_> = many.iter().map(|fd| sys::pipe::duplicate(fd).unwrap()).collect();
            move || {
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                assert!(Sent::default().send(&a, &message, &fds).unwrap());
                assert!(Sent::default().send(&a, &encode(&1).unwrap(), &fds[..1]).unwrap());
            }
        });
        let mut reader = Reader::default();
        let Progress::Frame(frame) = reader.read(&b).unwrap() else { panic!("no frame") };
        assert_eq!((frame.body.len() + 4, frame.fds.len(), frame.fds_lost), (message.len(), 600, false));
        let Progress::Frame(frame) = reader.read(&b).unwrap() else { panic!("no second frame") };
        assert_eq!((frame.body.as_slice(), frame.fds.len()), (&b"1"[..], 1));
        sender.join().unwrap();
        assert!(matches!(reader.read(&b).unwrap(), Progress::End));
    }

    #[test]
    fn a_frame_that_is_too_long_or_cut_short_is_an_error() {
        let (a, b) = Stream::pair().unwrap();
        a.send(&u32::MAX.to_le_bytes(), &[]).unwrap();
        assert_eq!(Reader::default().read(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (a, b) = Stream::pair().unwrap();
        a.send(b"\x05\0\0\0ab", &[]).unwrap();
        drop(a);
        assert_eq!(Reader::default().read(&b).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
