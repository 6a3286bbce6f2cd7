//! Which channels exec, attach and port-forwarding use over WebSocket.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tracing::debug;

use super::backend::{Backend, PortForward, PortIo};
use super::port_forward::connect;
use super::session::{Channels, Session, run as run_session};
use super::websocket::{ChannelWriter, Mux, Protocol};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Ports of one connection: each has two channels.
const MAX_PORTS: usize = 100;

/// Runs an exec or attach session.
pub(crate) async fn remote_command<IO>(
    backend: &dyn Backend,
    session: Session,
    protocol: Protocol,
    ws: WebSocketStream<IO>,
    idle: Duration,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let set = session.streams();
    let mut mux = Mux::new(protocol);
    let mut ready = mux.writer(match set {
        _ if set.stdout => STDOUT,
        _ if set.stderr => STDERR,
        _ => ERROR,
    });
    let channels = Channels {
        error: Box::new(mux.writer(ERROR)),
        stdin: set.stdin.then(|| Box::new(mux.reader(STDIN)) as _),
        stdout: set.stdout.then(|| Box::new(mux.writer(STDOUT)) as _),
        stderr: set.stderr.then(|| Box::new(mux.writer(STDERR)) as _),
        resize: set.tty.then(|| Box::new(mux.reader(RESIZE)) as _),
        format: protocol.format(),
        closed: mux.closed(),
    };
    let work = async {
        // Clients take an empty message for the sign that the session is open.
        drop(ready.write(&[]).await);
        drop(ready);
        run_session(backend, session, channels).await;
    };
    mux.run(ws, idle, Box::pin(work)).await;
}

/// Forwards the ports of the request, each over a data and an error channel.
pub(crate) async fn port_forward<IO>(
    backend: &dyn Backend,
    forward: PortForward,
    protocol: Protocol,
    ws: WebSocketStream<IO>,
    idle: Duration,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut mux = Mux::new(protocol);
    let mut work = FuturesUnordered::new();
    for (index, port) in (0u8..).zip(forward.ports.iter().take(MAX_PORTS)) {
        let (data, error) = (2 * index, 2 * index + 1);
        let io = PortIo {
            input: Box::new(mux.reader(data)),
            output: Box::new(mux.writer(data)),
            closed: mux.closed(),
        };
        work.push(forward_one(backend, &forward, *port, io, mux.writer(data), mux.writer(error)));
    }
    let work = async { while work.next().await.is_some() {} };
    mux.run(ws, idle, Box::pin(work)).await;
}

async fn forward_one(
    backend: &dyn Backend,
    forward: &PortForward,
    port: u16,
    io: PortIo,
    mut data: ChannelWriter,
    mut error: ChannelWriter,
) {
    // Each channel starts with the port it belongs to, least significant byte first.
    let greeting = async {
        data.write_all(&port.to_le_bytes()).await?;
        error.write_all(&port.to_le_bytes()).await
    };
    if greeting.await.is_err() {
        return;
    }
    drop(data);
    if let Err(message) = connect(backend, forward, Some(port), io).await {
        debug!(sandbox = %forward.sandbox, error = %message, "port forwarding failed");
        drop(error.write_all(message.as_bytes()).await);
    }
}
