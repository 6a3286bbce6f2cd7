//! Connections: accepted, served, and ended when the daemon ends.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SERVER, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::call::Call;
use super::error::ApiError;
use super::reply::{Body, Io, Reply, Session};
use super::stream::Streamed;
use super::version::ApiVersion;

/// Connections at a time; one more waits until one ends.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may be silent before it has sent the head of its next request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_HEADERS: usize = 128;
const MAX_HEAD_BYTES: usize = 256 * 1024;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a session under way where the client did not ask for an upgrade.
const SESSION_BYTES: usize = 64 * 1024;

/// The future of an answer.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Reply, ApiError>> + Send>>;

/// What answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers a request. Dropping the future gives up the answer, not what the engine has begun.
    fn answer(self: Arc<Self>, call: Call) -> Answer;
}

/// Serves connections of a listener.
pub(crate) struct Listening {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Listening {
    /// Accepts connections until the daemon stops.
    pub(crate) async fn unix(self: Arc<Self>, listener: UnixListener) {
        let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let this = Arc::clone(&self);
                    self.tracker.spawn(async move {
                        this.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a Docker client's connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection to its end. When the daemon stops, the answer under way is finished.
    pub(crate) async fn connection(self: Arc<Self>, io: impl Io + 'static) {
        let this = Arc::clone(&self);
        let service = service_fn(move |request| {
            let this = Arc::clone(&this);
            async move { Ok::<_, Infallible>(this.respond(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a Docker client's connection broke off");
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let mut response = match Call::new(request).await {
            Ok(mut call) => {
                let (upgrade, method, path) = (call.upgrade.take(), call.method.clone(), call.path.clone());
                match Arc::clone(&self.handler).answer(call).await {
                    Ok(Reply::Response(response)) => response,
                    Ok(Reply::Hijack { content_type, input, session }) => match upgrade {
                        Some(upgrade) => self.switch(upgrade, content_type, session),
                        None => self.without_upgrade(input, content_type, session),
                    },
                    Err(error) => {
                        log(&method, &path, &error);
                        error_response(&error)
                    }
                }
            }
            Err(error) => error_response(&error),
        };
        let headers = response.headers_mut();
        headers.insert(
            SERVER,
            HeaderValue::from_static(concat!("Docker/", env!("CARGO_PKG_VERSION"), " (linux)")),
        );
        headers.insert("ostype", HeaderValue::from_static("linux"));
        if let Ok(version) = HeaderValue::from_str(&ApiVersion::MAX.to_string()) {
            headers.insert("api-version", version);
        }
        headers.insert("docker-experimental", HeaderValue::from_static("false"));
        if head {
            *response.body_mut() = Empty::new().boxed_unsync();
            response.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
        }
        response
    }

    /// Answers an upgrade; the session begins when the answer is out.
    fn switch(&self, upgrade: OnUpgrade, content_type: &'static str, session: Session) -> Response<Body> {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            let io = match upgrade.await {
                Ok(io) => TokioIo::new(io),
                Err(error) => return tracing::debug!(%error, "a Docker client left before its session began"),
            };
            tokio::select! {
                () = session(Box::new(io)) => {}
                () = stop.cancelled() => {}
            }
        });
        let mut response = Response::new(Empty::new().boxed_unsync());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
        response
    }

    /// A session for a client that did not ask for an upgrade: the request's body is what the session reads, the
    /// response's what it writes.
    fn without_upgrade(
        &self,
        body: Option<Incoming>,
        content_type: &'static str,
        session: Session,
    ) -> Response<Body> {
        let (ours, theirs) = tokio::io::duplex(SESSION_BYTES);
        let stop = self.stop.clone();
        let streamed = Streamed::new(move |out| async move {
            let (mut from, mut to) = tokio::io::split(ours);
            let write = async move {
                let mut body = body;
                while let Some(Ok(frame)) = match &mut body {
                    Some(body) => body.frame().await,
                    None => None,
                } {
                    if let Ok(data) = frame.into_data()
                        && to.write_all(&data).await.is_err()
                    {
                        break;
                    }
                }
                drop(to.shutdown().await);
                std::future::pending::<()>().await;
            };
            let read = async move {
                let mut buffer = vec![0; SESSION_BYTES];
                while let Ok(count @ 1..) = from.read(&mut buffer).await {
                    if out.send(buffer[..count].to_vec()).await.is_err() {
                        break;
                    }
                }
            };
            let run = async move {
                session(Box::new(theirs)).await;
                std::future::pending::<()>().await;
            };
            // Reading ends when the session has dropped its side and everything it wrote is sent.
            tokio::select! {
                () = read => {}
                () = write => {}
                () = run => {}
                () = stop.cancelled() => {}
            }
        });
        let mut response = Response::new(streamed.boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

fn error_response(error: &ApiError) -> Response<Body> {
    match Reply::error(error) {
        Reply::Response(response) => response,
        Reply::Hijack { .. } => Response::new(Empty::new().boxed_unsync()),
    }
}

fn log(method: &Method, path: &str, error: &ApiError) {
    if error.status() == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::warn!(%method, path, status = error.status().as_u16(), error = error.message(), "a Docker request failed");
    } else {
        tracing::debug!(%method, path, status = error.status().as_u16(), error = error.message(), "a Docker request was refused");
    }
}
