//! Holding ports of the host, so that no other program can take them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Takes a port for as long as the descriptor is open: nobody else can bind it. Nothing is ever read from it, and TCP
/// connections to it are refused, because it does not listen. Port 0 takes a free one. Without SCTP in the kernel there
/// is nothing to take: the answer is `None`.
pub fn hold(address: SocketAddr, transport: Transport) -> io::Result<Option<OwnedFd>> {
    match bind(address, transport, false) {
        // Connections that ended a moment ago make a port look busy (TIME_WAIT of tcp(7)); a socket that listens
        // may have it nevertheless, exactly if nobody else listens.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && transport == Transport::Tcp => {
            bind(address, transport, true)
        }
        other => other,
    }
}

/// The port that a descriptor of [`hold`] has.
pub fn held_port(socket: &OwnedFd) -> io::Result<u16> {
    let address = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    Ok(address.port())
}

fn bind(address: SocketAddr, transport: Transport, listening: bool) -> io::Result<Option<OwnedFd>> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let (kind, protocol) = match transport {
        Transport::Tcp => (SocketType::STREAM, ipproto::TCP),
        Transport::Udp => (SocketType::DGRAM, ipproto::UDP),
        Transport::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = match rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol)) {
        Err(rustix::io::Errno::PROTONOSUPPORT | rustix::io::Errno::SOCKTNOSUPPORT)
            if transport == Transport::Sctp =>
        {
            return Ok(None);
        }
        other => other?,
    };
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if transport == Transport::Udp {
        // What is sent to the port and not redirected is dropped here: as little as possible is kept.
        sockopt::set_socket_recv_buffer_size(&socket, 1)?;
    }
    sockopt::set_socket_reuseaddr(&socket, listening)?;
    rustix::net::bind(&socket, &address)?;
    if listening {
        rustix::net::listen(&socket, 0)?;
    }
    Ok(Some(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn a_held_port_is_nobody_elses() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let tcp = hold(any, Transport::Tcp).unwrap().unwrap();
        let port = held_port(&tcp).unwrap();
        let address: SocketAddr = ([127, 0, 0, 1], port).into();
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(hold(address, Transport::Tcp).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(tcp);
        drop(TcpListener::bind(address).unwrap());
        let udp = hold(any, Transport::Udp).unwrap().unwrap();
        let port = held_port(&udp).unwrap();
        assert_eq!(UdpSocket::bind(("127.0.0.1", port)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn connections_that_ended_do_not_keep_a_port_busy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        // Who closes first keeps the port for a while.
        drop(listener.accept().unwrap());
        drop(listener);
        drop(client);
        assert!(hold(address, Transport::Tcp).unwrap().is_some());
    }
}
