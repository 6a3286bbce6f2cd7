//! Port-forwarding over SPDY: pairs of streams, one connection each.
//!
//! For every connection the client opens an error and a data stream that name the same request and
//! port. The data stream is the connection; a message on the error stream says why it failed.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oci::SandboxId;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::backend::{Backend, BoxFuture, PortForward, PortIo, SessionError};
use super::session::abandoned;
use super::spdy::{Acceptor, Incoming, StreamWriter};

/// How long one half of a pair waits for the other.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Halves that may wait.
const MAX_HALVES: usize = 64;
/// Connections at a time.
const MAX_CONNECTIONS: usize = 256;
/// How long writing an error may take.
const ERROR_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves pairs until the client closes the connection.
pub(crate) async fn run(backend: &dyn Backend, forward: PortForward, mut streams: Acceptor) {
    let closed = streams.closed();
    let mut halves = Halves::default();
    let mut running = FuturesUnordered::new();
    let mut expiry = interval(PAIR_TIMEOUT / 4);
    let mut accepting = true;
    while accepting || !running.is_empty() {
        tokio::select! {
            stream = streams.accept(), if accepting => match stream {
                Some(stream) => {
                    let pair = halves.join(stream);
                    // Beyond the limit the pair is dropped, which ends both streams.
                    if let Some(pair) = pair.filter(|_| running.len() < MAX_CONNECTIONS) {
                        running.push(serve(backend, &forward, pair, closed.clone()));
                    }
                }
                None => accepting = false,
            },
            Some(()) = running.next() => {}
            _ = expiry.tick() => halves.expire(Instant::now()),
        }
    }
}

struct Pair {
    port: Option<u16>,
    data: Incoming,
    error: StreamWriter,
}

struct Half {
    since: Instant,
    stream: Incoming,
}

/// Streams whose other half has not come.
#[derive(Default)]
struct Halves(HashMap<(String, bool), Half>);

impl Halves {
    /// Pairs the stream, or keeps it. What is neither data nor error is dropped and so ends.
    fn join(&mut self, stream: Incoming) -> Option<Pair> {
        let is_data = match stream.headers.get("streamtype") {
            Some("data") => true,
            Some("error") => false,
            _ => return None,
        };
        let request = request_id(&stream, is_data);
        let Some(other) = self.0.remove(&(request.clone(), !is_data)) else {
            if self.0.len() < MAX_HALVES {
                self.0.insert((request, is_data), Half { since: Instant::now(), stream });
            }
            return None;
        };
        let (data, error) = if is_data { (stream, other.stream) } else { (other.stream, stream) };
        let port = data.headers.get("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        Some(Pair { port, data, error: error.writer })
    }

    fn expire(&mut self, now: Instant) {
        self.0.retain(|_, half| now.duration_since(half.since) < PAIR_TIMEOUT);
    }
}

/// Clients that name no request open the error stream first and the data stream right after it.
fn request_id(stream: &Incoming, is_data: bool) -> String {
    match stream.headers.get("requestid") {
        Some(id) => format!("request {id}"),
        None => format!("stream {}", if is_data { stream.id.saturating_sub(2) } else { stream.id }),
    }
}

fn serve<'a>(
    backend: &'a dyn Backend,
    forward: &'a PortForward,
    pair: Pair,
    closed: CancellationToken,
) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        let Pair { port, data, mut error } = pair;
        let io = PortIo { input: Box::new(data.reader), output: Box::new(data.writer), closed };
        let Err(message) = connect(backend, forward, port, io).await else { return };
        debug!(sandbox = %forward.sandbox, error = %message, "port forwarding failed");
        // The writer ends its stream when it is dropped, whether or not the client took the message.
        drop(timeout(ERROR_TIMEOUT, error.write_all(message.as_bytes())).await);
    })
}

/// Forwards one connection; the error is for the client.
pub(crate) async fn connect(
    backend: &dyn Backend,
    forward: &PortForward,
    port: Option<u16>,
    io: PortIo,
) -> Result<(), String> {
    let PortForward { sandbox, ports } = forward;
    let Some(port) = port else {
        return Err("the stream names no valid port".into());
    };
    if !ports.is_empty() && !ports.contains(&port) {
        return Err(format!("port {port} was not asked for when this session was opened"));
    }
    let closed = io.closed.clone();
    let sandbox_id: SandboxId = sandbox.clone();
    let result = tokio::select! {
        result = backend.port_forward(sandbox_id, port, io) => result,
        () = abandoned(&closed) => Err(SessionError("the client is gone".into())),
    };
    result.map_err(|error| format!("error forwarding port {port} to sandbox {sandbox}: {error}"))
}
