//! OpenTelemetry traces: spans of calls and their steps, sent to a collector over OTLP.
//!
//! ```text
//! tracing spans ──▶ layer ──▶ Queue (bounded, never waits) ──▶ export task ──▶ collector
//!                     ▲                    │
//!   traceparent ──────┘                    └──▶ what does not fit is counted and dropped
//! ```
//!
//! Off, nothing of this exists: no layer, no task, no client. On, no call ever waits for the collector.

mod calls;
mod export;
mod queue;
mod sample;

use std::time::Duration;

use anyhow::Context as _;
use engine::label;
use engine::metrics::{Counters, Registry};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::filter::{FilterFn, Filtered, filter_fn};
use tracing_subscriber::layer::Layer as _;

pub(crate) use calls::Continue;

use crate::config::Tracing;

/// Longest time for one batch, the collector's answer included.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last spans may take when the daemon ends.
const FLUSH: Duration = Duration::from_secs(2);

label! {
    /// What became of a span.
    pub(crate) enum Fate: "fate" {
        /// The collector has it.
        Exported = "exported",
        /// The collector did not take it.
        Failed = "failed",
        /// There was no room to keep it.
        Dropped = "dropped",
    }
}

/// What is counted of spans.
pub(crate) type Spans = Counters<Fate>;

/// Registers what is counted of spans, which is there whether there are spans or not.
pub(crate) fn register(registry: &Registry) -> Spans {
    registry
        .counters("berth_trace_spans_total", "Spans of traces, by whether the collector got them")
        .filled()
}

/// The layer that makes spans of traces.
pub(crate) type Layer<S> =
    Filtered<tracing_opentelemetry::OpenTelemetryLayer<S, opentelemetry_sdk::trace::SdkTracer>, FilterFn, S>;

/// Traces that are sent.
#[derive(Debug)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    export: export::Export,
}

impl Traces {
    /// Prepares everything; the connection is made when there is something to send. Must be called within the
    /// scheduler that will serve it.
    pub(crate) fn new(settings: &Tracing, spans: Spans) -> anyhow::Result<Self> {
        let mut builder = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&settings.endpoint)
            .with_timeout(EXPORT_TIMEOUT);
        if settings.endpoint.starts_with("https://") {
            builder = builder.with_tls_config(tls(settings)?);
        }
        let mut exporter = builder.build().context("prepare to send traces")?;
        let resource = Resource::builder_empty()
            .with_service_name(settings.service_name.clone())
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(opentelemetry::KeyValue::new("host.name", hostname()))
            .build();
        opentelemetry_sdk::trace::SpanExporter::set_resource(&mut exporter, &resource);
        let spans = std::sync::Arc::new(spans);
        let (queue, waiting) = queue::queue(std::sync::Arc::clone(&spans));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_sampler(sample::OfCalls::new(settings.sampling_ratio))
            .with_resource(resource)
            .build();
        let export = export::Export { exporter, waiting, spans, endpoint: settings.endpoint.clone() };
        Ok(Self { provider, export })
    }

    /// The layer for the program's subscriber. It sees spans of traces and nothing else.
    pub(crate) fn layer<S>(&self) -> Layer<S>
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        let of_traces: fn(&tracing::Metadata<'_>) -> bool =
            |metadata| metadata.is_span() && metadata.target() == engine::TRACE_TARGET;
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("berth"))
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter_fn(of_traces))
    }

    /// Starts to send spans.
    pub(crate) fn send(self) -> Sending {
        let sending = Sending { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        sending.tasks.spawn(self.export.run(sending.stop.clone(), FLUSH));
        sending.tasks.close();
        sending
    }
}

/// Spans that are being sent.
#[derive(Debug)]
pub(crate) struct Sending {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Sending {
    /// Sends what waits, within a time that a daemon's end may take.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

fn tls(settings: &Tracing) -> anyhow::Result<ClientTlsConfig> {
    let Some(path) = &settings.ca else { return Ok(ClientTlsConfig::new().with_native_roots()) };
    let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

fn hostname() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    text.trim_end().to_owned()
}
