//! Handing questions on to name servers: a fresh socket with a port of the kernel's choice and an id of its own for every
//! question, and only an answer to that question from that server counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use keeper::protocol::NamespaceKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::Context;
use super::message::{self, Query};
use crate::blocking::Purpose;
use crate::sandbox::Live;

/// Servers that are asked, one after another.
const MAX_SERVERS: usize = 3;
/// How long each of them has.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long the host's servers are remembered before they are looked up again.
const FRESH: Duration = Duration::from_secs(2);
/// Largest datagram that is taken.
const DATAGRAM: usize = 8192;
/// Largest answer over TCP; the protocol has no larger one.
const STREAM: usize = u16::MAX as usize;
const DNS_PORT: u16 = 53;

/// Who is asked.
#[derive(Debug, Clone)]
pub(crate) enum Upstreams {
    /// The host's servers, as they are at the time.
    Host,
    /// Those that were asked for, from the sandbox's own network unless they are on the host's loopback.
    Own(Vec<SocketAddr>),
}

impl Upstreams {
    /// Of `--dns` options; `None` in it means the host's.
    pub(crate) fn of(servers: &[String]) -> Self {
        let own: Vec<SocketAddr> = servers.iter().filter_map(|s| address(s)).collect();
        if own.is_empty() { Self::Host } else { Self::Own(own) }
    }
}

fn address(text: &str) -> Option<SocketAddr> {
    let ip: IpAddr = text.parse().ok()?;
    Some(SocketAddr::new(ip, DNS_PORT))
}

/// The host's servers, remembered for a moment.
#[derive(Debug, Default)]
pub(crate) struct HostServers {
    known: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl HostServers {
    async fn get(&self, context: &Context) -> Vec<SocketAddr> {
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, servers)) = known.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
                return servers.clone();
            }
        }
        let read = || super::super::files::host_dns().servers;
        let servers = context.blocking.run(Purpose::Reading, read).await.unwrap_or_default();
        let servers: Vec<SocketAddr> = servers.iter().filter_map(|s| address(s)).collect();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), servers.clone()));
        servers
    }
}

/// How a question reached us, and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Asks the servers in turn. A server that fails or refuses is passed over; its answer is used if no other has one.
pub(crate) async fn ask(
    context: &Context,
    live: &Arc<Live>,
    upstreams: &Upstreams,
    (query, bytes): (&Query, &[u8]),
    transport: Transport,
) -> Option<Vec<u8>> {
    let servers = match upstreams {
        Upstreams::Host => context.networks.host_servers.get(context).await,
        Upstreams::Own(servers) => servers.clone(),
    };
    let mut refusal = None;
    for server in servers.into_iter().take(MAX_SERVERS) {
        let inside = matches!(upstreams, Upstreams::Own(_)) && !server.ip().is_loopback();
        let live = inside.then_some(live);
        let asked = ask_one(context, live, server, (query, bytes), transport);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(mut answer)) => {
                query.restore_id(&mut answer);
                if !message::is_no_answer(&answer) {
                    return Some(answer);
                }
                refusal = refusal.or(Some(answer));
            }
            Ok(Err(error)) => tracing::debug!(%server, %error, "a name server cannot be asked"),
            Err(_) => tracing::debug!(%server, "a name server does not answer"),
        }
    }
    refusal
}

async fn ask_one(
    context: &Context,
    live: Option<&Arc<Live>>,
    server: SocketAddr,
    (query, bytes): (&Query, &[u8]),
    transport: Transport,
) -> std::io::Result<Vec<u8>> {
    let id = u16::from_ne_bytes(sys::fs::random_bytes()?);
    let mut question = bytes.to_vec();
    message::set_id(&mut question, id);
    match transport {
        Transport::Udp => {
            let socket = udp(context, live, server).await?;
            socket.connect(server).await?;
            socket.send(&question).await?;
            let mut buffer = vec![0; DATAGRAM];
            loop {
                let length = socket.recv(&mut buffer).await?;
                let answer = buffer.get(..length).unwrap_or_default();
                // Anything else is late, or forged.
                if query.is_answered_by(answer, id) {
                    return Ok(answer.to_vec());
                }
            }
        }
        Transport::Tcp => {
            let mut stream = tcp(context, live, server).await?;
            let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes()[..], &question].concat()).await?;
            let mut answer = vec![0; usize::from(stream.read_u16().await?).min(STREAM)];
            stream.read_exact(&mut answer).await?;
            if query.is_answered_by(&answer, id) {
                return Ok(answer);
            }
            Err(std::io::Error::other("the server answered something else"))
        }
    }
}

async fn udp(context: &Context, live: Option<&Arc<Live>>, server: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: SocketAddr =
        if server.is_ipv6() { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
    let Some(live) = live else { return UdpSocket::bind(any).await };
    let socket = inside(context, live, move || std::net::UdpSocket::bind(any)).await?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn tcp(context: &Context, live: Option<&Arc<Live>>, server: SocketAddr) -> std::io::Result<TcpStream> {
    let Some(live) = live else { return TcpStream::connect(server).await };
    let stream =
        inside(context, live, move || std::net::TcpStream::connect_timeout(&server, PATIENCE)).await?;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// Makes a socket in the sandbox's network.
async fn inside<T: Send + 'static>(
    context: &Context,
    live: &Arc<Live>,
    make: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let namespaces = live.namespaces();
    let work = move || match namespaces.get(&NamespaceKind::Net) {
        Some(netns) => sys::ns::in_netns(netns.as_fd(), make)?,
        None => Err(std::io::ErrorKind::NotConnected.into()),
    };
    context.blocking.run(Purpose::Reading, work).await.map_err(std::io::Error::other)?
}
