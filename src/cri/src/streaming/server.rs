//! The HTTP side: accepts connections, checks tokens and hands upgraded connections to sessions.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use engine::label;
use engine::metrics::{Gauges, Within};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::backend::Backend;
use super::negotiate::{Answer, Refusal, Upgrade, negotiate};
use super::session::Session;
use super::token::{IssueError, Operation, Tokens};
use super::tunnel::Tunnel;
use super::{port_forward, remote_command, spdy, websocket, websocket_session};

/// How long a connection may take until its session starts.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that may be in that phase; the oldest makes room for a new one.
const MAX_HANDSHAKES: usize = 256;
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

label! {
    /// What a session is for.
    pub enum SessionKind: "kind" {
        /// A new process in a container.
        Exec = "exec",
        /// The main process of a container.
        Attach = "attach",
        /// Ports of a pod; one session may carry many connections.
        PortForward = "port_forward",
    }
}

impl SessionKind {
    fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Exec(_) => Self::Exec,
            Operation::Attach(_) => Self::Attach,
            Operation::PortForward(_) => Self::PortForward,
        }
    }
}

/// Settings of the server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// `HOST:PORT` in URLs, if clients reach the server by another name.
    pub advertise: Option<String>,
    /// TLS, if wanted.
    pub tls: Option<Arc<ServerConfig>>,
    /// Sessions on which nothing moves for so long are closed.
    pub idle_timeout: Duration,
    /// Sessions at a time.
    pub max_sessions: usize,
    /// Counts open sessions, if somebody reads that.
    pub open: Option<Arc<Gauges<SessionKind>>>,
}

impl Config {
    /// A server on a free port of the loopback interface, without TLS: idle sessions last four hours, as
    /// the kubelet has it, and there may be 1024.
    pub fn loopback() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            tls: None,
            idle_timeout: Duration::from_secs(4 * 3600),
            max_sessions: 1024,
            open: None,
        }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken or not ours.
    #[error("listen for streaming clients on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There are no random bytes for tokens.
    #[error("open /dev/urandom")]
    Random(#[source] io::Error),
}

/// Serves exec, attach and port-forward sessions at URLs that it issues.
pub struct Server {
    shared: Arc<Shared>,
    base: String,
    address: SocketAddr,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("base", &self.base).finish_non_exhaustive()
    }
}

struct Shared {
    backend: Arc<dyn Backend>,
    tokens: Tokens,
    idle_timeout: Duration,
    sessions: Arc<Semaphore>,
    open: Option<Arc<Gauges<SessionKind>>>,
    handshakes: Handshakes,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    /// Listens and serves until `stop` fires or [`Server::shut_down`].
    pub async fn start(
        config: Config,
        backend: Arc<dyn Backend>,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        let listener = TcpListener::bind(config.address).await;
        let (listener, address) = listener
            .and_then(|listener| listener.local_addr().map(|address| (listener, address)))
            .map_err(|source| StartError::Listen { address: config.address, source })?;
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let authority = config.advertise.unwrap_or_else(|| address.to_string());
        let shared = Arc::new(Shared {
            backend,
            tokens: Tokens::new().map_err(StartError::Random)?,
            idle_timeout: config.idle_timeout,
            sessions: Arc::new(Semaphore::new(config.max_sessions.min(Semaphore::MAX_PERMITS))),
            open: config.open,
            handshakes: Handshakes::default(),
            tasks: TaskTracker::new(),
            stop: stop.child_token(),
        });
        shared.tasks.spawn(shared.clone().accept(listener, config.tls.map(TlsAcceptor::from)));
        Ok(Self { shared, base: format!("{scheme}://{authority}"), address })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL that serves the operation once, within a minute.
    pub fn issue(&self, operation: Operation) -> Result<String, IssueError> {
        let name = operation.name();
        let token = self.shared.tokens.issue(operation)?;
        Ok(format!("{}/{name}/{token}", self.base))
    }

    /// Closes the listener and all sessions.
    pub async fn shut_down(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// Connections whose session has not started, oldest first.
#[derive(Default)]
struct Handshakes(Mutex<VecDeque<CancellationToken>>);

impl Handshakes {
    /// Registers a connection; its token fires when it must make room.
    fn enter(&self) -> CancellationToken {
        let token = CancellationToken::new();
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are over have cancelled their tokens themselves.
        queue.retain(|token| !token.is_cancelled());
        if queue.len() >= MAX_HANDSHAKES {
            queue.pop_front().iter().for_each(CancellationToken::cancel);
        }
        queue.push_back(token.clone());
        token
    }
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let evicted = self.handshakes.enter();
                    self.tasks.spawn(self.clone().handshake(stream, tls.clone(), evicted));
                }
                Err(error) => {
                    warn!(%error, "streaming connection not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn handshake(
        self: Arc<Self>,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        evicted: CancellationToken,
    ) {
        // Keystrokes and their echo are small and must not wait for each other.
        drop(stream.set_nodelay(true));
        let work = async {
            match tls {
                None => self.serve_http(stream).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => self.serve_http(stream).await,
                    Err(error) => debug!(%error, "streaming client fails in TLS"),
                },
            }
        };
        tokio::select! {
            result = timeout(HANDSHAKE_TIMEOUT, Box::pin(work)) => if result.is_err() {
                debug!("streaming client takes too long to start its session");
            },
            () = evicted.cancelled() => debug!("streaming client makes room for a new one"),
            () = self.stop.cancelled() => {}
        }
        evicted.cancel();
    }

    async fn serve_http(self: &Arc<Self>, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request)) });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE_TIMEOUT)
            // Without keep-alive hyper adds `close` to the Connection header of the upgrade, and Go's
            // clients then see no Connection header at all. Refusals say `close` themselves.
            .keep_alive(true)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            debug!(%error, "streaming client fails in HTTP");
        }
    }

    fn answer(self: &Arc<Self>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        match self.prepare(&request) {
            Ok((answer, operation, permit)) => {
                let upgrade = hyper::upgrade::on(&mut request);
                let session = self.clone().session(upgrade, answer.upgrade, operation, permit);
                self.tasks.spawn(session);
                switching(answer)
            }
            Err(Refusal(status, text)) => {
                let mut response = Response::new(Full::from(text + "\n"));
                *response.status_mut() = status;
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                response
            }
        }
    }

    /// Checks everything; takes the token last, so that a refused request may be repeated another way.
    fn prepare(
        &self,
        request: &Request<Incoming>,
    ) -> Result<(Answer, Operation, OwnedSemaphorePermit), Refusal> {
        let unknown = || Refusal(StatusCode::NOT_FOUND, "unknown, used or expired session".into());
        let path = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        let (name, token) = path.ok_or_else(unknown)?;
        let answer = match name {
            "exec" | "attach" => negotiate(request.method(), request.headers(), false)?,
            "portforward" => negotiate(request.method(), request.headers(), true)?,
            _ => return Err(unknown()),
        };
        let permit = self.sessions.clone().try_acquire_owned();
        let permit = permit
            .map_err(|_| Refusal(StatusCode::SERVICE_UNAVAILABLE, "too many streaming sessions".into()))?;
        let operation = self.tokens.take(name, token).ok_or_else(unknown)?;
        Ok((answer, operation, permit))
    }

    async fn session(
        self: Arc<Self>,
        on_upgrade: OnUpgrade,
        upgrade: Upgrade,
        operation: Operation,
        _permit: OwnedSemaphorePermit,
    ) {
        let io = match timeout(HANDSHAKE_TIMEOUT, on_upgrade).await {
            Ok(Ok(upgraded)) => TokioIo::new(upgraded),
            Ok(Err(error)) => return debug!(%error, "streaming client leaves before its session starts"),
            Err(_) => return debug!("streaming client does not take the start of its session"),
        };
        let open = self.open.as_ref();
        let _open = open.map(|open| Within::enter(open.get(SessionKind::of(&operation))));
        tokio::select! {
            () = Box::pin(self.run(io, upgrade, operation)) => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn run<IO>(&self, io: IO, upgrade: Upgrade, operation: Operation)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (backend, idle) = (&*self.backend, self.idle_timeout);
        let session = match operation {
            Operation::Exec(exec) => Session::Exec(exec),
            Operation::Attach(attach) => Session::Attach(attach),
            Operation::PortForward(forward) => {
                let serve = |streams| port_forward::run(backend, forward.clone(), streams);
                match upgrade {
                    Upgrade::Channels(protocol) => {
                        let ws = websocket::accept(io).await;
                        websocket_session::port_forward(backend, forward, protocol, ws, idle).await;
                    }
                    Upgrade::Tunnel => spdy::run(Tunnel::new(websocket::accept(io).await), idle, serve).await,
                    // The path decides about the upgrade, so this is port-forward over SPDY.
                    Upgrade::SpdyPorts | Upgrade::SpdyCommand(_) => spdy::run(io, idle, serve).await,
                }
                return;
            }
        };
        match upgrade {
            Upgrade::SpdyCommand(version) => {
                spdy::run(io, idle, |streams| remote_command::run(backend, session, version, streams)).await;
            }
            Upgrade::Channels(protocol) => {
                let ws = websocket::accept(io).await;
                websocket_session::remote_command(backend, session, protocol, ws, idle).await;
            }
            Upgrade::SpdyPorts | Upgrade::Tunnel => debug!("upgrade does not fit its session"),
        }
    }
}

fn switching(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    for (name, value) in answer.headers {
        // All values are names of protocols or base64.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}
