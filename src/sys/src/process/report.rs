//! What a child tells its parent.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

/// A message of a child.
#[derive(Debug)]
pub enum Message {
    /// A new user namespace waits for its maps; answer with [`Report::go_on`].
    NeedsMaps,
    /// A point is reached at which the parent has something to do; answer with [`Report::go_on`].
    Waiting,
    /// All is set up; the program starts after [`Report::go_on`].
    Ready,
    /// The master of a terminal.
    Console(OwnedFd),
    /// A step that may fail did.
    Warning {
        /// Its index.
        step: usize,
        /// Why.
        errno: i32,
    },
    /// A step failed, and the child exits.
    Failed {
        /// Its index.
        step: usize,
        /// Why.
        errno: i32,
    },
    /// The last step is next. The end of the messages after this one means that the program runs.
    Executing,
}

/// Kinds of message, as they go over the socket.
pub(super) mod kind {
    pub(in super::super) const NEEDS_MAPS: u32 = 1;
    pub(in super::super) const WAITING: u32 = 2;
    pub(in super::super) const READY: u32 = 3;
    pub(in super::super) const CONSOLE: u32 = 4;
    pub(in super::super) const WARNING: u32 = 5;
    pub(in super::super) const FAILED: u32 = 6;
    pub(in super::super) const EXECUTING: u32 = 7;
}

/// Bytes of a message: kind, step, errno.
pub(super) const MESSAGE_BYTES: usize = 12;

/// A message as it goes over the socket.
pub(super) fn encode(kind: u32, step: u32, errno: i32) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    for (to, from) in bytes.chunks_exact_mut(4).zip([kind, step, errno.cast_unsigned()]) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    bytes
}

/// The parent's end of the socket to a child, or to one that waits to be started.
#[derive(Debug)]
pub struct Report(OwnedFd);

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Report {
    /// Over a connected `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Report {
        Report(socket)
    }

    /// To a child that waits on the socket [`listen`] made.
    pub fn connect(directory: BorrowedFd<'_>, name: &str) -> io::Result<Report> {
        let socket = packet_socket()?;
        rustix::net::connect(&socket, &address(directory, name)?)?;
        Ok(Report(socket))
    }

    /// The next message; `None` at their end. `WouldBlock` when there is none yet.
    pub fn next(&self) -> io::Result<Option<Message>> {
        self.receive(RecvFlags::DONTWAIT)
    }

    /// The next message, waiting for it; `None` at their end.
    pub fn next_blocking(&self) -> io::Result<Option<Message>> {
        self.receive(RecvFlags::empty())
    }

    fn receive(&self, flags: RecvFlags) -> io::Result<Option<Message>> {
        let mut bytes = [0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let mut vectors = [IoSliceMut::new(&mut bytes)];
            rustix::net::recvmsg(&self.0, &mut vectors, &mut control, flags | RecvFlags::CMSG_CLOEXEC)
        });
        let length = match received {
            Ok(received) => received.bytes,
            // The child died with our answer unread.
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(error) => return Err(error.into()),
        };
        if length == 0 {
            return Ok(None);
        }
        if length != MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        decode(&bytes, descriptor).map(Some)
    }

    /// Lets a waiting child go on.
    pub fn go_on(&self) -> io::Result<()> {
        rustix::io::retry_on_intr(|| {
            rustix::net::send(&self.0, b"+", SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
        })?;
        Ok(())
    }
}

/// A listening socket for [`super::Op::Hold`], under a name in a directory.
pub fn listen(directory: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    rustix::net::bind(&socket, &address(directory, name)?)?;
    rustix::net::listen(&socket, 1)?;
    Ok(socket)
}

fn packet_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// By the directory's descriptor, since the whole path may be too long for an address.
fn address(directory: BorrowedFd<'_>, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?)
}

fn decode(bytes: &[u8; MESSAGE_BYTES], descriptor: Option<OwnedFd>) -> io::Result<Message> {
    let mut words = [0_u32; 3];
    for (to, from) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *to = u32::from_ne_bytes(from.try_into().map_err(|_| io::ErrorKind::InvalidData)?);
    }
    let [kind, step, errno] = words;
    let (step, errno) = (step as usize, errno.cast_signed());
    Ok(match kind {
        kind::NEEDS_MAPS => Message::NeedsMaps,
        kind::WAITING => Message::Waiting,
        kind::READY => Message::Ready,
        kind::CONSOLE => Message::Console(descriptor.ok_or(io::ErrorKind::InvalidData)?),
        kind::WARNING => Message::Warning { step, errno },
        kind::FAILED => Message::Failed { step, errno },
        kind::EXECUTING => Message::Executing,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    })
}
