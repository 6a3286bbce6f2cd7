//! The resolver of user networks: 127.0.0.11, port 53, in every sandbox on one.
//!
//! Its sockets are the daemon's, made in the sandbox's network namespace on ports that the kernel chose; rules in that
//! namespace lead port 53 there, so that a container may serve port 53 itself. Names of containers are answered from
//! the registry, the rest is handed on. While the daemon restarts nobody answers; clients ask again.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oci::SandboxId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::blocking::Blocking;
use crate::sandbox::Live;

use super::registry::Networks;

mod forward;
mod message;
mod names;

pub(crate) use forward::{HostServers, Upstreams};

use forward::Transport;
use message::{Code, Data, Query, Unreadable};
use names::Found;

/// Questions that one sandbox may have under way.
const IN_FLIGHT: usize = 128;
/// Questions that are under way for all sandboxes.
pub(crate) const IN_FLIGHT_ALL: usize = 1024;
/// Connections that one sandbox may have open.
const CONNECTIONS: usize = 16;
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// Largest question that is read.
const QUESTION: usize = 4096;

/// Sockets in a sandbox, before they are served.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

/// A resolver that serves; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    _ends: DropGuard,
}

/// What resolvers share.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) networks: Arc<Networks>,
    pub(crate) blocking: Arc<Blocking>,
    pub(crate) tracker: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

struct Server {
    context: Context,
    live: Arc<Live>,
    sandbox: SandboxId,
    upstreams: Upstreams,
    /// Spreads the load over containers of one name.
    turn: AtomicUsize,
    in_flight: Semaphore,
    connections: Semaphore,
    udp: UdpSocket,
    /// Ends what is under way, too: every socket keeps the namespace.
    ends: CancellationToken,
}

impl Resolver {
    /// Makes the sockets in a sandbox and leads port 53 to them. Blocks.
    pub(crate) fn open(netns: BorrowedFd<'_>) -> std::io::Result<Sockets> {
        let make = || {
            let address: SocketAddr = ([127, 0, 0, 11], 0).into();
            let udp = std::net::UdpSocket::bind(address)?;
            let tcp = std::net::TcpListener::bind(address)?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            network::redirect_resolver(udp.local_addr()?, tcp.local_addr()?)?;
            Ok(Sockets { udp, tcp })
        };
        sys::ns::in_netns(netns, make)?
    }

    /// Serves a sandbox until the answer is dropped.
    pub(crate) fn serve(
        context: Context,
        live: &Arc<Live>,
        sandbox: &SandboxId,
        sockets: Sockets,
        upstreams: Upstreams,
    ) -> std::io::Result<Self> {
        let ends = CancellationToken::new();
        let listener = TcpListener::from_std(sockets.tcp)?;
        let server = Arc::new(Server {
            context,
            live: Arc::clone(live),
            sandbox: sandbox.clone(),
            upstreams,
            turn: AtomicUsize::new(0),
            in_flight: Semaphore::new(IN_FLIGHT),
            connections: Semaphore::new(CONNECTIONS),
            udp: UdpSocket::from_std(sockets.udp)?,
            ends: ends.clone(),
        });
        let tracker = server.context.tracker.clone();
        tracker.spawn(async move {
            tokio::select! {
                () = server.datagrams() => {}
                () = server.streams(&listener) => {}
                () = server.ends.cancelled() => {}
                () = server.context.shutdown.cancelled() => {}
            }
        });
        Ok(Self { _ends: ends.drop_guard() })
    }
}

impl Server {
    async fn datagrams(self: &Arc<Self>) {
        let mut buffer = vec![0; QUESTION];
        loop {
            let (length, peer) = match self.udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An earlier answer could not be delivered; the next question may come nevertheless.
                Err(error) => {
                    tracing::debug!(sandbox = %self.sandbox, %error, "receiving a question failed");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            let server = Arc::clone(self);
            self.context.tracker.spawn(async move {
                // A question that is given up is one that its client asks again.
                let answer = tokio::select! {
                    answer = server.answer(&bytes, Transport::Udp) => answer,
                    () = server.ends.cancelled() => None,
                };
                if let Some(answer) = answer {
                    drop(server.udp.send_to(&answer, peer).await);
                }
            });
        }
    }

    async fn streams(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Descriptors ran out: let some be closed first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let server = Arc::clone(self);
            self.context.tracker.spawn(async move {
                // Whoever has too many open already is turned away.
                let Ok(_place) = server.connections.try_acquire() else { return };
                tokio::select! {
                    () = server.stream(stream) => {}
                    () = server.ends.cancelled() => {}
                    () = server.context.shutdown.cancelled() => {}
                }
            });
        }
    }

    async fn stream(&self, mut stream: TcpStream) {
        loop {
            let question = tokio::time::timeout(IDLE, read_question(&mut stream)).await;
            let Ok(Some(bytes)) = question else { return };
            let Some(answer) = self.answer(&bytes, Transport::Tcp).await else { return };
            let Ok(length) = u16::try_from(answer.len()) else { return };
            let framed = [&length.to_be_bytes()[..], &answer].concat();
            let Ok(Ok(())) = tokio::time::timeout(IDLE, stream.write_all(&framed)).await else { return };
        }
    }

    /// The answer to a message; `None` where nothing is said.
    async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let query = match message::parse(bytes) {
            Ok(query) => query,
            Err(Unreadable::Answer(answer)) => return Some(answer),
            Err(Unreadable::Ignore) => return None,
        };
        let limit = match transport {
            Transport::Udp => query.udp_bytes,
            Transport::Tcp => usize::from(u16::MAX),
        };
        if let Some((code, answers)) = self.known(&query) {
            return Some(query.answer(code, &answers, limit));
        }
        if !self.context.networks.may_forward(&self.sandbox) {
            return Some(query.answer(Code::NoSuchName, &[], limit));
        }
        let failed = || query.answer(Code::ServerFailure, &[], limit);
        let (Ok(_own), Ok(_all)) =
            (self.in_flight.try_acquire(), self.context.networks.in_flight.try_acquire())
        else {
            return Some(failed());
        };
        let asked =
            forward::ask(&self.context, &self.live, &self.upstreams, (&query, bytes), transport).await;
        Some(asked.unwrap_or_else(failed))
    }

    /// What the networks of the sandbox say of a name; `None` if nothing.
    fn known(&self, query: &Query) -> Option<(Code, Vec<Data>)> {
        let name = query.name.as_deref()?;
        let networks = &self.context.networks;
        if query.kind == message::PTR {
            let ip = message::reverse_address(name)?;
            return networks.name_of(&self.sandbox, ip).map(|name| (Code::NoError, vec![Data::Name(name)]));
        }
        let Found::Addresses(all) = networks.look_up(&self.sandbox, name) else { return None };
        let asked_for = |ip: &std::net::IpAddr| match query.kind {
            message::A => ip.is_ipv4(),
            message::AAAA => ip.is_ipv6(),
            kind => kind == message::ANY,
        };
        let mut found: Vec<Data> = all.into_iter().filter(asked_for).map(Data::Address).collect();
        if !found.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % found.len();
            found.rotate_left(turn);
        }
        // A name that is known but has nothing of this type is known all the same.
        Some((Code::NoError, found))
    }
}

async fn read_question(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = usize::from(stream.read_u16().await.ok()?);
    if length > QUESTION {
        return None;
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

#[cfg(test)]
pub(super) use message::tests as test_messages;
#[cfg(test)]
mod tests;
