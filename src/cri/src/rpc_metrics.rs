//! Counts calls by method and code, and how long they take.
//!
//! A layer around both services. A call whose client gave up is counted as cancelled; that of a stream is
//! over when its first answer is on the way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use engine::label;
use engine::metrics::{Counters, Gauges, Histograms, Registry};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::rpc_trace::Traces;
use crate::streaming::SessionKind;

label! {
    /// A method of the interface.
    enum Method: "method" {
        /// Version.
        Version = "Version",
        /// RunPodSandbox.
        RunPodSandbox = "RunPodSandbox",
        /// StopPodSandbox.
        StopPodSandbox = "StopPodSandbox",
        /// RemovePodSandbox.
        RemovePodSandbox = "RemovePodSandbox",
        /// PodSandboxStatus.
        PodSandboxStatus = "PodSandboxStatus",
        /// ListPodSandbox.
        ListPodSandbox = "ListPodSandbox",
        /// StreamPodSandboxes.
        StreamPodSandboxes = "StreamPodSandboxes",
        /// CreateContainer.
        CreateContainer = "CreateContainer",
        /// StartContainer.
        StartContainer = "StartContainer",
        /// StopContainer.
        StopContainer = "StopContainer",
        /// RemoveContainer.
        RemoveContainer = "RemoveContainer",
        /// ListContainers.
        ListContainers = "ListContainers",
        /// StreamContainers.
        StreamContainers = "StreamContainers",
        /// ContainerStatus.
        ContainerStatus = "ContainerStatus",
        /// UpdateContainerResources.
        UpdateContainerResources = "UpdateContainerResources",
        /// ReopenContainerLog.
        ReopenContainerLog = "ReopenContainerLog",
        /// ExecSync.
        ExecSync = "ExecSync",
        /// Exec.
        Exec = "Exec",
        /// Attach.
        Attach = "Attach",
        /// PortForward.
        PortForward = "PortForward",
        /// ContainerStats.
        ContainerStats = "ContainerStats",
        /// ListContainerStats.
        ListContainerStats = "ListContainerStats",
        /// StreamContainerStats.
        StreamContainerStats = "StreamContainerStats",
        /// PodSandboxStats.
        PodSandboxStats = "PodSandboxStats",
        /// ListPodSandboxStats.
        ListPodSandboxStats = "ListPodSandboxStats",
        /// StreamPodSandboxStats.
        StreamPodSandboxStats = "StreamPodSandboxStats",
        /// UpdateRuntimeConfig.
        UpdateRuntimeConfig = "UpdateRuntimeConfig",
        /// Status.
        Status = "Status",
        /// CheckpointContainer.
        CheckpointContainer = "CheckpointContainer",
        /// CheckpointPod.
        CheckpointPod = "CheckpointPod",
        /// RestorePod.
        RestorePod = "RestorePod",
        /// GetContainerEvents.
        GetContainerEvents = "GetContainerEvents",
        /// ListMetricDescriptors.
        ListMetricDescriptors = "ListMetricDescriptors",
        /// ListPodSandboxMetrics.
        ListPodSandboxMetrics = "ListPodSandboxMetrics",
        /// StreamPodSandboxMetrics.
        StreamPodSandboxMetrics = "StreamPodSandboxMetrics",
        /// RuntimeConfig.
        RuntimeConfig = "RuntimeConfig",
        /// UpdatePodSandboxResources.
        UpdatePodSandboxResources = "UpdatePodSandboxResources",
        /// ListImages.
        ListImages = "ListImages",
        /// StreamImages.
        StreamImages = "StreamImages",
        /// ImageStatus.
        ImageStatus = "ImageStatus",
        /// PullImage.
        PullImage = "PullImage",
        /// RemoveImage.
        RemoveImage = "RemoveImage",
        /// ImageFsInfo.
        ImageFsInfo = "ImageFsInfo",
        /// What the interface does not have.
        Other = "other",
    }
}

label! {
    /// What a call came to.
    enum Code: "code" {
        /// Ok.
        Ok = "ok",
        /// Cancelled.
        Cancelled = "cancelled",
        /// Unknown.
        Unknown = "unknown",
        /// InvalidArgument.
        InvalidArgument = "invalid_argument",
        /// DeadlineExceeded.
        DeadlineExceeded = "deadline_exceeded",
        /// NotFound.
        NotFound = "not_found",
        /// AlreadyExists.
        AlreadyExists = "already_exists",
        /// PermissionDenied.
        PermissionDenied = "permission_denied",
        /// ResourceExhausted.
        ResourceExhausted = "resource_exhausted",
        /// FailedPrecondition.
        FailedPrecondition = "failed_precondition",
        /// Aborted.
        Aborted = "aborted",
        /// OutOfRange.
        OutOfRange = "out_of_range",
        /// Unimplemented.
        Unimplemented = "unimplemented",
        /// Internal.
        Internal = "internal",
        /// Unavailable.
        Unavailable = "unavailable",
        /// DataLoss.
        DataLoss = "data_loss",
        /// Unauthenticated.
        Unauthenticated = "unauthenticated",
    }
}

impl Method {
    fn of(path: &str) -> Self {
        match path.rsplit('/').next().unwrap_or_default() {
            "Version" => Self::Version,
            "RunPodSandbox" => Self::RunPodSandbox,
            "StopPodSandbox" => Self::StopPodSandbox,
            "RemovePodSandbox" => Self::RemovePodSandbox,
            "PodSandboxStatus" => Self::PodSandboxStatus,
            "ListPodSandbox" => Self::ListPodSandbox,
            "StreamPodSandboxes" => Self::StreamPodSandboxes,
            "CreateContainer" => Self::CreateContainer,
            "StartContainer" => Self::StartContainer,
            "StopContainer" => Self::StopContainer,
            "RemoveContainer" => Self::RemoveContainer,
            "ListContainers" => Self::ListContainers,
            "StreamContainers" => Self::StreamContainers,
            "ContainerStatus" => Self::ContainerStatus,
            "UpdateContainerResources" => Self::UpdateContainerResources,
            "ReopenContainerLog" => Self::ReopenContainerLog,
            "ExecSync" => Self::ExecSync,
            "Exec" => Self::Exec,
            "Attach" => Self::Attach,
            "PortForward" => Self::PortForward,
            "ContainerStats" => Self::ContainerStats,
            "ListContainerStats" => Self::ListContainerStats,
            "StreamContainerStats" => Self::StreamContainerStats,
            "PodSandboxStats" => Self::PodSandboxStats,
            "ListPodSandboxStats" => Self::ListPodSandboxStats,
            "StreamPodSandboxStats" => Self::StreamPodSandboxStats,
            "UpdateRuntimeConfig" => Self::UpdateRuntimeConfig,
            "Status" => Self::Status,
            "CheckpointContainer" => Self::CheckpointContainer,
            "CheckpointPod" => Self::CheckpointPod,
            "RestorePod" => Self::RestorePod,
            "GetContainerEvents" => Self::GetContainerEvents,
            "ListMetricDescriptors" => Self::ListMetricDescriptors,
            "ListPodSandboxMetrics" => Self::ListPodSandboxMetrics,
            "StreamPodSandboxMetrics" => Self::StreamPodSandboxMetrics,
            "RuntimeConfig" => Self::RuntimeConfig,
            "UpdatePodSandboxResources" => Self::UpdatePodSandboxResources,
            "ListImages" => Self::ListImages,
            "StreamImages" => Self::StreamImages,
            "ImageStatus" => Self::ImageStatus,
            "PullImage" => Self::PullImage,
            "RemoveImage" => Self::RemoveImage,
            "ImageFsInfo" => Self::ImageFsInfo,
            _ => Self::Other,
        }
    }
}

impl Code {
    fn of(code: tonic::Code) -> Self {
        match code {
            tonic::Code::Ok => Self::Ok,
            tonic::Code::Cancelled => Self::Cancelled,
            tonic::Code::Unknown => Self::Unknown,
            tonic::Code::InvalidArgument => Self::InvalidArgument,
            tonic::Code::DeadlineExceeded => Self::DeadlineExceeded,
            tonic::Code::NotFound => Self::NotFound,
            tonic::Code::AlreadyExists => Self::AlreadyExists,
            tonic::Code::PermissionDenied => Self::PermissionDenied,
            tonic::Code::ResourceExhausted => Self::ResourceExhausted,
            tonic::Code::FailedPrecondition => Self::FailedPrecondition,
            tonic::Code::Aborted => Self::Aborted,
            tonic::Code::OutOfRange => Self::OutOfRange,
            tonic::Code::Unimplemented => Self::Unimplemented,
            tonic::Code::Internal => Self::Internal,
            tonic::Code::Unavailable => Self::Unavailable,
            tonic::Code::DataLoss => Self::DataLoss,
            tonic::Code::Unauthenticated => Self::Unauthenticated,
        }
    }
}

/// What the interface counts of its calls.
#[derive(Debug)]
pub struct RpcMetrics {
    requests: Counters<(Method, Code)>,
    seconds: Histograms<Method>,
    in_flight: Gauges<Method>,
    pub(crate) sessions: Arc<Gauges<SessionKind>>,
}

impl RpcMetrics {
    /// Registers all of them.
    pub fn register(registry: &Registry) -> Arc<Self> {
        Arc::new(Self {
            requests: registry.counters("berth_cri_requests_total", "Calls of the CRI that were answered"),
            seconds: registry.histograms("berth_cri_request_seconds", "Time to answer a call of the CRI"),
            in_flight: registry.gauges("berth_cri_requests_in_flight", "Calls of the CRI under way"),
            sessions: Arc::new(
                registry.gauges("berth_streaming_sessions", "Open streaming sessions, by kind").filled(),
            ),
        })
    }
}

/// Wraps services so that their calls are counted, and have spans if somebody wants them.
#[derive(Debug, Clone)]
pub(crate) struct WatchCalls {
    pub(crate) metrics: Arc<RpcMetrics>,
    pub(crate) traces: Traces,
}

impl<S> Layer<S> for WatchCalls {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, metrics: Arc::clone(&self.metrics), traces: self.traces.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub(crate) struct Watched<S> {
    inner: S,
    metrics: Arc<RpcMetrics>,
    traces: Traces,
}

/// A call under way; one that is dropped before it has ended was cancelled.
struct Call {
    metrics: Arc<RpcMetrics>,
    method: Method,
    code: Code,
    started: Instant,
}

impl Call {
    fn ended(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.metrics.in_flight.get(self.method).dec();
        self.metrics.requests.get((self.method, self.code)).inc();
        self.metrics.seconds.get(self.method).observe(self.started.elapsed().as_secs_f64());
    }
}

impl<S, Q, A> Service<http::Request<Q>> for Watched<S>
where
    S: Service<http::Request<Q>, Response = http::Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let method = Method::of(request.uri().path());
        self.metrics.in_flight.get(method).inc();
        let metrics = Arc::clone(&self.metrics);
        let mut call = Call { metrics, method, code: Code::Cancelled, started: Instant::now() };
        let traces = self.traces.clone();
        let span = traces.begin(&request);
        let answer = span.in_scope(|| self.inner.call(request));
        Box::pin(async move {
            let answer = answer.instrument(span.clone()).await;
            let code = match &answer {
                // An error is all headers; success has its code behind the body.
                Ok(response) => tonic::Status::from_header_map(response.headers())
                    .map_or(tonic::Code::Ok, |status| status.code()),
                Err(_) => tonic::Code::Internal,
            };
            call.ended(Code::of(code));
            traces.end(&span, code);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn count(answer: Option<http::Response<()>>, path: &str) -> String {
        let registry = Registry::new();
        let layer = WatchCalls { metrics: RpcMetrics::register(&registry), traces: Traces::default() };
        let service = tower::service_fn(move |_: http::Request<()>| {
            let answer = answer.clone();
            async move {
                match answer {
                    Some(answer) => Ok::<_, std::convert::Infallible>(answer),
                    None => std::future::pending().await,
                }
            }
        });
        let mut service = layer.layer(service);
        let call = service.call(http::Request::builder().uri(path).body(()).unwrap());
        drop(tokio::time::timeout(std::time::Duration::from_millis(10), call).await);
        String::from_utf8(registry.encode().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn calls_are_counted_by_method_and_code() {
        let path = "/runtime.v1.RuntimeService/ExecSync";
        let text = count(Some(http::Response::new(())), path).await;
        assert!(text.contains("berth_cri_requests_total{code=\"ok\",method=\"ExecSync\"} 1"), "{text}");
        assert!(text.contains("berth_cri_request_seconds_count{method=\"ExecSync\"} 1"), "{text}");
        assert!(text.contains("berth_cri_requests_in_flight{method=\"ExecSync\"} 0"), "{text}");
        let refused = tonic::Status::not_found("no").into_http::<tonic::body::Body>().map(|_| ());
        let text = count(Some(refused), path).await;
        assert!(text.contains("code=\"not_found\",method=\"ExecSync\"} 1"), "{text}");
        let text = count(None, path).await;
        assert!(text.contains("code=\"cancelled\",method=\"ExecSync\"} 1"), "{text}");
        let text = count(Some(http::Response::new(())), "/a/b").await;
        assert!(text.contains("method=\"other\"} 1"), "{text}");
    }

    #[test]
    fn every_method_has_a_label() {
        use engine::metrics::Labels as _;
        let pool = prost_reflect::DescriptorPool::decode(cri_api::FILE_DESCRIPTOR_SET).unwrap();
        for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let label = Method::of(&format!("/runtime.v1.Service/{}", method.name()));
            assert_eq!(label.values(), [method.name()]);
        }
    }
}
