//! The metrics server: `/metrics`, `/healthz` and `/readyz` over HTTP/1.1.
//!
//! It reads and never changes anything. Connections, headers and the time for a request are bounded. States
//! are read when somebody asks, so nobody who does not look pays for them.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use engine::Engine;
use engine::metrics::Registry;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::process_metrics::Process;
use crate::config::Metrics;

/// Connections served at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 32;
/// How long a client may take to shake hands, and to send the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest token that is read.
const MAX_TOKEN_BYTES: usize = 4096;
/// What Prometheus calls the text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

type Answer = Response<Full<Bytes>>;

/// A socket that listens, and how connections are encrypted.
pub(super) struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// Listens; a busy address or a bad certificate is an error before anything is touched.
pub(super) async fn bind(settings: &Metrics) -> anyhow::Result<Listener> {
    let tls = match &settings.tls {
        Some((certificate, key)) => {
            let read =
                |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
            let config = cri::streaming::tls_config(&read(certificate)?, &read(key)?, None)
                .context("use the certificate of the metrics server")?;
            Some(TlsAcceptor::from(config))
        }
        None => None,
    };
    let socket = TcpListener::bind(settings.address)
        .await
        .with_context(|| format!("listen for metrics at {}; choose another address", settings.address))?;
    if !settings.address.ip().is_loopback() && settings.bearer_token_file.is_none() {
        tracing::warn!(address = %settings.address, "whoever reaches the metrics server can read what runs here");
    }
    Ok(Listener { socket, tls })
}

/// What the server needs to answer.
#[derive(Debug)]
pub(super) struct Server {
    engine: Engine,
    registry: Registry,
    process: Process,
    containers: bool,
    bearer_token_file: Option<PathBuf>,
}

impl Server {
    pub(super) fn new(engine: Engine, registry: Registry, settings: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            engine,
            process: Process::register(&registry),
            registry,
            containers: settings.containers,
            bearer_token_file: settings.bearer_token_file.clone(),
        })
    }

    /// Serves until `stop`.
    pub(super) async fn serve(
        self: Arc<Self>,
        listener: Listener,
        stop: CancellationToken,
        tracker: TaskTracker,
    ) {
        let Listener { socket, tls } = listener;
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            // A connection that is not accepted stays in the backlog.
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, tls, stop) = (Arc::clone(&self), tls.clone(), stop.clone());
                    tracker.spawn(async move {
                        tokio::select! {
                            () = server.connection(stream, tls) => {}
                            // Nothing is under way that a client could lose: it asks again.
                            () = stop.cancelled() => {}
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection to the metrics server failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let Some(tls) = tls else { return self.requests(stream).await };
        match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.requests(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a client of the metrics server could not be trusted"),
            Err(_) => tracing::debug!("a client of the metrics server did not finish its handshake"),
        }
    }

    async fn requests<S: AsyncRead + AsyncWrite + Unpin>(self: Arc<Self>, stream: S) {
        let service = service_fn(move |request: Request<Incoming>| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(&request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the metrics server broke off");
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served\n");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready().await,
            "/metrics" if !self.may_read(request.headers().get(header::AUTHORIZATION)) => {
                let mut refused = text(StatusCode::UNAUTHORIZED, "a bearer token is needed\n");
                refused
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
                refused
            }
            "/metrics" => self.metrics().await,
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    async fn ready(&self) -> Answer {
        let status = self.engine.status().await;
        let unmet = [("runtime", &status.runtime), ("network", &status.network)]
            .into_iter()
            .filter(|(_, condition)| !condition.met)
            .map(|(name, condition)| format!("{name}: {}\n", condition.message))
            .collect::<String>();
        if unmet.is_empty() {
            text(StatusCode::OK, "ok\n")
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, unmet)
        }
    }

    /// Whether a client has shown the token, if one is wanted. Without a readable token nobody has.
    fn may_read(&self, authorization: Option<&header::HeaderValue>) -> bool {
        let Some(path) = &self.bearer_token_file else { return true };
        let wanted = match std::fs::read(path) {
            Ok(bytes) if bytes.len() <= MAX_TOKEN_BYTES => bytes,
            Ok(_) => {
                tracing::warn!(path = %path.display(), "the token of the metrics server is too long");
                return false;
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the token of the metrics server cannot be read");
                return false;
            }
        };
        let wanted = wanted.trim_ascii();
        let shown = authorization.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        !wanted.is_empty() && shown.is_some_and(|shown| same(shown, wanted))
    }

    async fn metrics(&self) -> Answer {
        if let Err(error) = self.engine.observe().await {
            tracing::warn!(error = error.chain(), "some metrics are of the last time they could be read");
        }
        self.process.observe();
        let mut body = match self.registry.encode() {
            Ok(body) => body,
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        };
        if self.containers {
            let make = |status: &Arc<_>, stats| (Arc::clone(status), stats);
            match self.engine.list_sandbox_stats(engine::Detail::Processes, |_| true, make).await {
                Ok(list) => {
                    let mut usage = cri::Usage::default();
                    list.iter().for_each(|(status, stats)| usage.add(status, stats));
                    body.extend_from_slice(usage.into_text().as_bytes());
                }
                Err(error) => tracing::warn!(error = error.chain(), "usage of containers could not be read"),
            }
        }
        let mut answer = Response::new(Full::new(body.into()));
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(TEXT_FORMAT));
        answer
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

/// Compares in a time that depends on the lengths alone.
fn same(shown: &[u8], wanted: &[u8]) -> bool {
    let different = shown.iter().zip(wanted).fold(0, |all, (a, b)| all | (a ^ b));
    shown.len() == wanted.len() && std::hint::black_box(different) == 0
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn tokens_are_equal_or_not() {
        assert!(same(b"secret", b"secret"));
        assert!(!same(b"secres", b"secret"));
        assert!(!same(b"secre", b"secret"));
        assert!(!same(b"", b"secret"));
        assert!(!same(b"secret2", b"secret"));
    }
}
