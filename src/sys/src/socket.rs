//! Unix sockets: bytes with descriptors, peer credentials, listening without a moment of loose permissions.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Most descriptors one message can carry (SCM_MAX_FD of unix(7)).
pub const MAX_FDS: usize = 253;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Process id when it connected.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What [`Stream::recv`] got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes; 0 is the end of the stream.
    pub bytes: usize,
    /// Whether descriptors were lost because this process may open no more.
    pub fds_lost: bool,
}

/// A listening unix stream socket.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Binds `path` with `mode`, replacing a socket that is there. The caller holds a lock that keeps a
    /// second server away. The socket appears under its name only after its mode is set.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Listener> {
        let fd =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        remove_socket(&temporary)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(temporary.as_path())?)?;
        rustix::fs::chmod(&temporary, rustix::fs::Mode::from_raw_mode(mode))?;
        rustix::net::listen(&fd, 64)?;
        std::fs::rename(&temporary, path)?;
        crate::pipe::set_nonblocking(fd.as_fd(), true)?;
        Ok(Listener(fd))
    }

    /// The next connection, nonblocking; `None` when there is none.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        loop {
            match rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(fd) => return Ok(Some(Stream(fd))),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Listener {
        Listener(fd)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A connected unix stream socket.
#[derive(Debug)]
pub struct Stream(OwnedFd);

impl Stream {
    /// Connects to `path`; blocking.
    pub fn connect(path: &Path) -> io::Result<Stream> {
        let fd =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Stream(fd))
    }

    /// Two connected sockets; blocking.
    pub fn pair() -> io::Result<(Stream, Stream)> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Stream(a), Stream(b)))
    }

    /// Credentials of the process that connected (SO_PEERCRED).
    pub fn peer(&self) -> io::Result<Credentials> {
        let found = rustix::net::sockopt::socket_peercred(&self.0)?;
        Ok(Credentials {
            pid: found.pid.as_raw_nonzero().get(),
            uid: found.uid.as_raw(),
            gid: found.gid.as_raw(),
        })
    }

    /// Sets or clears nonblocking mode, for all duplicates.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        crate::pipe::set_nonblocking(self.0.as_fd(), nonblocking)
    }

    /// A second handle for the same connection.
    pub fn duplicate(&self) -> io::Result<Stream> {
        crate::pipe::duplicate(&self.0).map(Stream)
    }

    /// Ends the connection in both directions, for all duplicates.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }

    /// Sends some of `bytes`, with `fds` (at most [`MAX_FDS`]) attached to the first of them. Never raises
    /// SIGPIPE. Returns how many bytes went; if any did, all the descriptors went too.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "too many descriptors for one message",
                ));
            }
            let parts = [io::IoSlice::new(bytes)];
            match rustix::net::sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Receives into `buffer` and appends the descriptors that came along to `fds`. Bytes behind a message
    /// with descriptors are left for the next call (unix(7)).
    pub fn recv(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [io::IoSliceMut::new(buffer)];
            match rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(message) => {
                    for part in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(received) = part {
                            fds.extend(received);
                        }
                    }
                    let fds_lost = message.flags.contains(rustix::net::ReturnFlags::CTRUNC);
                    return Ok(Received { bytes: message.bytes, fds_lost });
                }
            }
        }
    }
}

impl From<OwnedFd> for Stream {
    fn from(fd: OwnedFd) -> Stream {
        Stream(fd)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn remove_socket(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_travel_with_their_byte() {
        let (a, b) = Stream::pair().unwrap();
        let (reader, writer) = crate::pipe::pair().unwrap();
        assert_eq!(a.send(b"one", &[]).unwrap(), 3);
        assert_eq!(a.send(b"two", &[writer.as_fd(), reader.as_fd()]).unwrap(), 3);
        assert_eq!(a.send(b"end", &[]).unwrap(), 3);
        drop(writer);
        let (mut buffer, mut fds) = ([0; 64], Vec::new());
        assert_eq!(b.recv(&mut buffer[..3], &mut fds).unwrap().bytes, 3);
        assert!(fds.is_empty());
        assert_eq!(b.recv(&mut buffer[..1], &mut fds).unwrap().bytes, 1);
        assert_eq!(fds.len(), 2);
        crate::pipe::write(fds[0].as_fd(), b"x").unwrap();
        assert_eq!(crate::pipe::read(reader.as_fd(), &mut buffer).unwrap(), 1);
        assert_eq!(b.recv(&mut buffer, &mut fds).unwrap().bytes, 5);
        assert_eq!(fds.len(), 2);
    }

    #[test]
    fn the_most_descriptors_fit_and_one_more_is_refused() {
        let (a, b) = Stream::pair().unwrap();
        let fd = a.duplicate().unwrap();
        let many: Vec<_> = std::iter::repeat_n(fd.as_fd(), MAX_FDS).collect();
        assert_eq!(a.send(b"x", &many).unwrap(), 1);
        let mut fds = Vec::new();
        let got = b.recv(&mut [0; 8], &mut fds).unwrap();
        assert_eq!((got.bytes, got.fds_lost, fds.len()), (1, false, MAX_FDS));
        let more: Vec<_> = std::iter::repeat_n(fd.as_fd(), MAX_FDS + 1).collect();
        assert!(a.send(b"x", &more).is_err());
    }

    #[test]
    fn a_listener_has_its_mode_and_tells_who_connects() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("berth-test-socket-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("s");
        let listener = Listener::bind(&path, 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listener.accept().unwrap().is_none());
        let client = Stream::connect(&path).unwrap();
        let server = listener.accept().unwrap().unwrap();
        assert_eq!(server.peer().unwrap().uid, crate::reaper::effective_uid());
        drop(client);
        let again = Listener::bind(&path, 0o600).unwrap();
        drop((listener, again, server));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
