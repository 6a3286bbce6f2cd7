//! Sending a datagram of requests and reading one answer for each.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols};

use super::batch::Batch;
use super::link::{self, Address, Link};
use super::wire::{self, Writer};

const MSG_ERROR: u16 = 2;
const MSG_DONE: u16 = 3;
const MSG_MIN: u16 = 16;
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
const FLAG_ACK_CAPPED: u16 = 0x100;
const FLAG_ACK_TLVS: u16 = 0x200;
const RECEIVE_BYTES: usize = 64 * 1024;

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}{}", detail.as_ref().map_or_else(String::new, |d| format!(" ({d})")))]
pub struct Error {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub object: String,
    /// The kernel's own words, if it had any.
    pub detail: Option<String>,
    /// The error number.
    #[source]
    pub source: io::Error,
}

impl Error {
    pub(crate) fn new(operation: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        Self { operation, object: object.into(), detail: None, source }
    }

    /// The error number.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.source.kind(), error)
    }
}

/// One message that is not an acknowledgement.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) payload: Vec<u8>,
}

/// A netlink socket of any protocol.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    next_seq: u32,
    buffer: Vec<u8>,
}

/// The answer to one request of a datagram.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) seq: u32,
    pub(crate) source: io::Error,
    pub(crate) detail: Option<String>,
}

impl Connection {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Both only improve error messages, and old kernels do not have them.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, next_seq: 1, buffer: Vec::new() })
    }

    /// Joins a multicast group; the socket then receives events instead of answers.
    pub(crate) fn subscribe(protocol: isize, group: u32) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.add_membership(group)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, next_seq: 1, buffer: Vec::new() })
    }

    pub(crate) fn raise_buffers(&self, bytes: usize) {
        // Best effort: without it only very large batches fail, and say so.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(self, bytes)
            .or_else(|_| rustix::net::sockopt::set_socket_send_buffer_size(self, bytes));
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(self, bytes)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(self, bytes));
    }

    /// Numbers requests from `first` on, and again as soon as the lower half of the number is half used.
    pub(crate) fn number_from(&mut self, first: u32) {
        if self.next_seq >> 16 != first >> 16 || self.next_seq & 0xffff > 0x8000 {
            self.next_seq = first;
        }
    }

    /// Reserves `count` sequence numbers.
    pub(crate) fn sequence(&mut self, count: u32) -> u32 {
        let first = self.next_seq;
        self.next_seq = self.next_seq.wrapping_add(count).max(1);
        first
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        retry(|| self.socket.send(bytes, 0))?;
        Ok(())
    }

    /// The next datagram.
    pub(crate) fn receive(&mut self) -> io::Result<&[u8]> {
        let (socket, buffer) = (&self.socket, &mut self.buffer);
        retry(|| {
            buffer.clear();
            buffer.reserve(RECEIVE_BYTES);
            socket.recv(buffer, 0)
        })?;
        Ok(&self.buffer)
    }

    /// Reads until `pending` requests from `first_seq` on are acknowledged, or `stop` says that no more will come.
    pub(crate) fn acknowledgements(
        &mut self,
        first_seq: u32,
        pending: u32,
        stop: impl Fn(u32) -> bool,
    ) -> io::Result<Vec<Answer>> {
        let mut failed = Vec::new();
        let mut left = pending;
        while left > 0 {
            for message in wire::messages(self.receive()?) {
                if message.kind != MSG_ERROR || message.seq.wrapping_sub(first_seq) > u32::MAX / 2 {
                    continue;
                }
                if let Some(source) = error_of(message.payload) {
                    failed.push(Answer { seq: message.seq, source, detail: detail_of(&message) });
                }
                left = if stop(message.seq) { 0 } else { left.saturating_sub(1) };
            }
        }
        Ok(failed)
    }

    /// One request whose answer is data: a dump, or a single object. Interrupted dumps are repeated.
    pub(crate) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: impl Fn(&mut Writer),
    ) -> io::Result<Vec<Reply>> {
        for _ in 0..8 {
            let seq = self.sequence(1);
            let mut writer = Writer::default();
            writer.message(kind, flags | libc_flag(libc::NLM_F_REQUEST), seq, &body);
            self.send(writer.bytes())?;
            let is_dump = flags & libc_flag(libc::NLM_F_DUMP) == libc_flag(libc::NLM_F_DUMP);
            if let Some(replies) = self.replies(seq, is_dump)? {
                return Ok(replies);
            }
        }
        Err(io::Error::from(io::ErrorKind::Interrupted))
    }

    fn replies(&mut self, seq: u32, is_dump: bool) -> io::Result<Option<Vec<Reply>>> {
        let mut replies = Vec::new();
        let mut interrupted = false;
        loop {
            for message in wire::messages(self.receive()?).filter(|m| m.seq == seq) {
                interrupted |= message.flags & FLAG_DUMP_INTERRUPTED != 0;
                match message.kind {
                    MSG_DONE => return Ok((!interrupted).then_some(replies)),
                    MSG_ERROR => match error_of(message.payload) {
                        Some(error) => return Err(error),
                        None => return Ok(Some(replies)),
                    },
                    kind if kind < MSG_MIN => {}
                    _ => replies.push(Reply { payload: message.payload.to_vec() }),
                }
            }
            if !is_dump && !replies.is_empty() {
                return Ok(Some(replies));
            }
        }
    }
}

impl AsFd for Connection {
    #[allow(unsafe_code)]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is owned by `self.socket`, which stays open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn error_of(payload: &[u8]) -> Option<io::Error> {
    let code = wire::read_u32(payload, 0)?.cast_signed();
    (code != 0).then(|| io::Error::from_raw_os_error(code.wrapping_neg()))
}

/// The kernel's explanation (`NLMSGERR_ATTR_MSG`), which follows the header of the request, and the request itself
/// unless it was cut.
fn detail_of(message: &wire::Message<'_>) -> Option<String> {
    if message.flags & FLAG_ACK_TLVS == 0 {
        return None;
    }
    let request_len =
        if message.flags & FLAG_ACK_CAPPED != 0 { 16 } else { wire::read_u32(message.payload, 4)? as usize };
    let attributes = message.payload.get(4 + request_len.next_multiple_of(4)..)?;
    wire::attribute(attributes, 1).map(wire::read_text)
}

pub(crate) fn libc_flag(flag: libc::c_int) -> u16 {
    u16::try_from(flag).unwrap_or_default()
}

/// A socket for links, addresses, routes and neighbours.
#[derive(Debug)]
pub struct Route {
    connection: Connection,
}

impl Route {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        Ok(Self { connection: Connection::open(protocols::NETLINK_ROUTE)? })
    }

    /// Sends a batch and returns its first failure. The messages after a failed one have been executed as well.
    pub fn apply(&mut self, batch: Batch) -> Result<(), Error> {
        let count = u32::try_from(batch.operations.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return Ok(());
        }
        let first = self.connection.sequence(count);
        let bytes = batch.datagram(first);
        let socket_error = |e| Error::new("send netlink batch", "", e);
        self.connection.send(&bytes).map_err(socket_error)?;
        for answer in self.connection.acknowledgements(first, count, |_| false).map_err(socket_error)? {
            let index = answer.seq.wrapping_sub(first) as usize;
            let Some(operation) = batch.operations.get(index) else { continue };
            if answer.source.raw_os_error().is_some_and(|errno| operation.tolerates.contains(&errno)) {
                continue;
            }
            return Err(Error {
                operation: operation.name,
                object: operation.object.clone(),
                detail: answer.detail,
                source: answer.source,
            });
        }
        Ok(())
    }

    /// All links with their counters.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let replies =
            self.connection.request(libc::RTM_GETLINK, libc_flag(libc::NLM_F_DUMP), |w| w.put(&[0; 16]))?;
        Ok(replies.iter().filter_map(|r| link::parse(&r.payload)).collect())
    }

    /// A link by name.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let reply = self.connection.request(libc::RTM_GETLINK, 0, |w| {
            w.put(&[0; 16]);
            w.attr_str(libc::IFLA_IFNAME, name);
        });
        match reply {
            Ok(replies) => Ok(replies.first().and_then(|r| link::parse(&r.payload))),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All addresses.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let replies =
            self.connection.request(libc::RTM_GETADDR, libc_flag(libc::NLM_F_DUMP), |w| w.put(&[0; 8]))?;
        Ok(replies.iter().filter_map(|r| link::parse_address(&r.payload)).collect())
    }

    /// Where unicast routes lead to, of all tables and both families, without default routes.
    pub fn destinations(&mut self) -> io::Result<Vec<(std::net::IpAddr, u8)>> {
        let replies =
            self.connection.request(libc::RTM_GETROUTE, libc_flag(libc::NLM_F_DUMP), |w| w.put(&[0; 12]))?;
        Ok(replies.iter().filter_map(|r| link::parse_destination(&r.payload)).collect())
    }
}
