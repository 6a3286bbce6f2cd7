//! The daemon's end of the keeper's protocol: blocking, for a thread that receives and any that send.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sys::socket::Stream;

use crate::frame::{Progress, Reader, Sent, encode};
use crate::protocol::{Envelope, Reply, Request, ServerMessage, VERSION};

/// Why there is no connection to the keeper.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens there.
    #[error("connect to the keeper at {}: is berth-keeper running?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke during the greeting.
    #[error("greet the keeper at {}", path.display())]
    Greet {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The keeper speaks another version of the protocol, or does not want us.
    #[error("the keeper at {} refused the connection: {message}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What it said.
        message: String,
    },
}

/// Connects to the keeper at `path` and agrees on the protocol's version.
pub fn connect(path: &Path) -> Result<(Sender, Receiver), ConnectError> {
    let stream =
        Stream::connect(path).map_err(|source| ConnectError::Connect { path: path.to_owned(), source })?;
    greet(stream).map_err(|error| match error {
        GreetError::Io(source) => ConnectError::Greet { path: path.to_owned(), source },
        GreetError::Refused(message) => ConnectError::Refused { path: path.to_owned(), message },
    })
}

/// Sends requests. Clones share the connection; a frame is never interleaved with another.
#[derive(Debug, Clone)]
pub struct Sender {
    stream: Arc<Mutex<Stream>>,
}

impl Sender {
    /// Sends a request with descriptors; returns when the kernel has all of it. After an error the
    /// connection is of no more use.
    pub fn send(&self, id: u64, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(&EnvelopeRef { id, request })?;
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        Sent::default().send(&stream, &bytes, fds).map(|_| ())
    }

    /// Ends the connection: the receiver gets the end of the stream.
    pub fn close(&self) {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).shutdown();
    }
}

/// Receives replies and events.
#[derive(Debug)]
pub struct Receiver {
    stream: Stream,
    reader: Reader,
    keeper_pid: u32,
    release: String,
}

impl Receiver {
    /// The next message and its descriptors; `None` when the keeper closed the connection.
    pub fn recv(&mut self) -> io::Result<Option<(ServerMessage, Vec<OwnedFd>)>> {
        loop {
            match self.reader.read(&self.stream)? {
                Progress::End => return Ok(None),
                Progress::Pending => {}
                Progress::Frame(frame) if frame.fds_lost => {
                    return Err(io::Error::other(
                        "descriptors were lost: this process may open no more files",
                    ));
                }
                Progress::Frame(frame) => {
                    return Ok(Some((serde_json::from_slice(&frame.body)?, frame.fds)));
                }
            }
        }
    }

    /// The keeper's process id.
    pub fn keeper_pid(&self) -> u32 {
        self.keeper_pid
    }

    /// Release of the keeper's binary.
    pub fn release(&self) -> &str {
        &self.release
    }
}

/// As [`Envelope`], without owning the request.
#[derive(serde::Serialize)]
struct EnvelopeRef<'a> {
    id: u64,
    request: &'a Request,
}

enum GreetError {
    Io(io::Error),
    Refused(String),
}

impl From<io::Error> for GreetError {
    fn from(error: io::Error) -> GreetError {
        GreetError::Io(error)
    }
}

fn greet(stream: Stream) -> Result<(Sender, Receiver), GreetError> {
    let hello = encode(&Envelope { id: 0, request: Request::Hello { version: VERSION } })?;
    Sent::default().send(&stream, &hello, &[])?;
    let sender = Sender { stream: Arc::new(Mutex::new(stream.duplicate()?)) };
    let mut receiver = Receiver { stream, reader: Reader::default(), keeper_pid: 0, release: String::new() };
    match receiver.recv()? {
        Some((ServerMessage::Reply { reply: Reply::Hello { pid, release, .. }, .. }, _)) => {
            receiver.keeper_pid = pid;
            receiver.release = release;
            Ok((sender, receiver))
        }
        Some((ServerMessage::Failure { failure, .. }, _)) => Err(GreetError::Refused(failure.message)),
        Some(_) => Err(GreetError::Refused("it answered with another message than a greeting".into())),
        None => Err(GreetError::Refused("it closed the connection; does it run as another user?".into())),
    }
}
