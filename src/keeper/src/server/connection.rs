//! Clients: what they have sent, what is on its way to them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use sys::epoll::{Event, Interest};
use sys::socket::Stream;

use super::{Keeper, Target, warn};
use crate::frame::{Frame, Progress, Reader, Sent, encode};
use crate::protocol::{self, ServerMessage};

/// Most bytes that wait for a client; one that is further behind is disconnected and starts over with a list.
const MOST_QUEUED_BYTES: usize = 32 << 20;

/// Most clients at a time.
const MOST_CONNECTIONS: usize = 64;

/// Requests of one client that are served before others get their turn.
const TURN: usize = 32;

#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    token: u64,
    reader: Reader,
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    wants_write: bool,
    /// Whether versions were compared.
    pub(super) greeted: bool,
    /// Whether it wants events.
    pub(super) subscribed: bool,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    fds: Vec<Rc<OwnedFd>>,
    sent: Sent,
}

impl Connection {
    fn queue(&mut self, bytes: Vec<u8>, fds: Vec<Rc<OwnedFd>>) {
        self.queued_bytes += bytes.len();
        self.queue.push_back(Outgoing { bytes, fds, sent: Sent::default() });
    }

    /// Sends what goes; `Ok(false)` if something is left.
    fn flush(&mut self) -> io::Result<bool> {
        while let Some(first) = self.queue.front_mut() {
            let fds: Vec<_> = first.fds.iter().map(|fd| fd.as_fd()).collect();
            if !first.sent.send(&self.stream, &first.bytes, &fds)? {
                return Ok(false);
            }
            self.queued_bytes -= first.bytes.len();
            self.queue.pop_front();
        }
        Ok(true)
    }
}

impl Keeper {
    pub(super) fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok(Some(stream)) => self.admit(stream),
                Ok(None) => return,
                Err(error) => {
                    // Out of descriptors: with the spare one the connection can at least be closed.
                    warn(&format!("accept a connection: {error}"));
                    self.spare = None;
                    let _ = self.listener.accept();
                    self.spare = std::fs::File::open("/dev/null").ok().map(OwnedFd::from);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: Stream) {
        let own = sys::reaper::effective_uid();
        let welcome = stream.peer().is_ok_and(|peer| peer.uid == 0 || peer.uid == own);
        if !welcome || self.connections.len() >= MOST_CONNECTIONS {
            return;
        }
        let id = self.number();
        let Ok(token) = self.watch(&stream, Target::Connection(id)) else { return };
        let connection = Connection {
            stream,
            token,
            reader: Reader::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            wants_write: false,
            greeted: false,
            subscribed: false,
        };
        self.connections.insert(id, connection);
    }

    pub(super) fn serve_connection(&mut self, id: u64, event: Event) {
        if !event.readable {
            return;
        }
        for _ in 0..TURN {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            match connection.reader.read(&connection.stream) {
                Ok(Progress::Frame(frame)) => self.take_frame(id, frame),
                Ok(Progress::Pending) => return,
                Ok(Progress::End) => return self.disconnect(id),
                Err(error) => {
                    warn(&format!("read from a client: {error}"));
                    return self.disconnect(id);
                }
            }
        }
    }

    fn take_frame(&mut self, connection: u64, frame: Frame) {
        match serde_json::from_slice(&frame.body) {
            Ok(envelope) => self.serve_request(connection, envelope, frame),
            Err(error) => {
                // The id may be readable although the request is not.
                #[derive(serde::Deserialize)]
                struct Numbered {
                    id: u64,
                }
                let id = serde_json::from_slice::<Numbered>(&frame.body).map_or(0, |numbered| numbered.id);
                let failure = super::failure::invalid(format!("request: {error}"));
                self.send(connection, &ServerMessage::Failure { id, failure }, Vec::new());
            }
        }
    }

    /// Queues a message; it leaves at the end of this turn of the loop.
    pub(super) fn send(&mut self, connection: u64, message: &ServerMessage, fds: Vec<Rc<OwnedFd>>) {
        let Some(to) = self.connections.get_mut(&connection) else { return };
        match encode(message) {
            Ok(bytes) => to.queue(bytes, fds),
            Err(error) => {
                warn(&format!("encode a message: {error}"));
                self.disconnect(connection);
            }
        }
    }

    /// Tells every subscriber.
    pub(super) fn emit(&mut self, event: &protocol::Event) {
        let Ok(bytes) = encode(&ServerMessage::Event { event: event.clone() }) else { return };
        for connection in self.connections.values_mut().filter(|connection| connection.subscribed) {
            connection.queue(bytes.clone(), Vec::new());
        }
    }

    pub(super) fn flush_all(&mut self) {
        let mut broken = Vec::new();
        for (id, connection) in &mut self.connections {
            let wants_write = match connection.flush() {
                Ok(empty) => !empty,
                Err(_) => {
                    broken.push(*id);
                    continue;
                }
            };
            if connection.queued_bytes > MOST_QUEUED_BYTES {
                warn("a client does not read; disconnecting it");
                broken.push(*id);
            } else if wants_write != connection.wants_write {
                connection.wants_write = wants_write;
                let interest = if wants_write { Interest::ReadWrite } else { Interest::Read };
                let _ = self.poller.modify(connection.stream.as_fd(), connection.token, interest);
            }
        }
        broken.into_iter().for_each(|id| self.disconnect(id));
    }

    /// A client that goes changes nothing of what was asked.
    fn disconnect(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.unwatch(&connection.stream, connection.token);
        }
    }
}
