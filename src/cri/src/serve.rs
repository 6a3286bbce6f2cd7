//! The gRPC server.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri_api::MAX_MESSAGE_BYTES;
use cri_api::v1::image_service_server::ImageServiceServer;
use cri_api::v1::runtime_service_server::RuntimeServiceServer;
use engine::Engine;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server as GrpcServer;

use crate::rpc_metrics::{RpcMetrics, WatchCalls};
use crate::rpc_trace::{TraceCalls, Traces};
use crate::sessions::Sessions;
use crate::streaming;

/// Streams that one connection may have open.
const MAX_STREAMS: u32 = 512;
/// Longest list of headers.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// A connection that is silent this long is asked for a sign of life, and closed without one.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Settings of the streaming server.
#[derive(Debug, Clone)]
pub struct StreamingOptions {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Files with the certificate chain and its key, in PEM, if sessions are to be encrypted.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Why the interface does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate or the key is not there.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate or the key is no good.
    #[error("use the certificate of the streaming server")]
    Tls(#[from] streaming::TlsError),
    /// The streaming server does not start.
    #[error("start the streaming server")]
    Streaming(#[from] streaming::StartError),
}

/// Why the server ended early.
#[derive(Debug, thiserror::Error)]
#[error("serve the container runtime interface")]
pub struct ServeError(#[from] tonic::transport::Error);

/// The calls of both services. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) engine: Engine,
    pub(crate) streaming: Arc<streaming::Server>,
    pub(crate) stop: CancellationToken,
}

/// The Container Runtime Interface on an engine.
#[derive(Debug)]
pub struct Server {
    service: Service,
    metrics: Arc<RpcMetrics>,
    traces: Traces,
}

impl Server {
    /// Starts the streaming server, which serves sessions until `stop` fires. Calls are counted.
    pub async fn start(
        engine: Engine,
        options: StreamingOptions,
        metrics: Arc<RpcMetrics>,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let tls = match &options.tls {
            Some((chain, key)) => Some(streaming::tls_config(&read(chain)?, &read(key)?, None)?),
            None => None,
        };
        let open = Some(Arc::clone(&metrics.sessions));
        let config =
            streaming::Config { address: options.address, tls, open, ..streaming::Config::loopback() };
        let backend = Arc::new(Sessions(engine.clone()));
        let streaming = Arc::new(streaming::Server::start(config, backend, &stop).await?);
        tracing::debug!(address = %streaming.address(), "streaming server listens");
        let service = Service { engine, streaming, stop };
        Ok(Self { service, metrics, traces: Traces::default() })
    }

    /// Makes a span of each call and tells `traces` of it.
    #[must_use]
    pub fn with_traces(self, traces: Arc<dyn TraceCalls>) -> Self {
        Self { traces: Traces(Some(traces)), ..self }
    }

    /// Serves both services on a socket until `stop` fires and the calls under way are answered.
    pub async fn serve(self, listener: UnixListener, stop: CancellationToken) -> Result<(), ServeError> {
        let Self { service, metrics, traces } = self;
        let streaming = service.streaming.clone();
        let runtime = RuntimeServiceServer::new(service.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let image = ImageServiceServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let served = GrpcServer::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .layer(WatchCalls { metrics, traces })
            .add_service(runtime)
            .add_service(image)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
            .await;
        streaming.shut_down().await;
        Ok(served?)
    }
}

/// Reads key material, once, before anything is served.
fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|source| StartError::Read { path: path.to_owned(), source })
}
