//! Continues the client's trace: `traceparent` and `tracestate` of a call become the parent of its span.

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{Status, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Continues the traces of clients.
#[derive(Debug, Default)]
pub(crate) struct Continue(TraceContextPropagator);

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

impl cri::TraceCalls for Continue {
    fn begun(&self, span: &tracing::Span, headers: &HeaderMap, service: &str, method: &str) {
        let context = self.0.extract(&Headers(headers));
        if context.span().span_context().is_valid() {
            // It fails for a span that has started or that nobody wants; then there is nothing to continue.
            drop(span.set_parent(context));
        }
        span.set_attribute("rpc.system", "grpc");
        span.set_attribute("rpc.service", service.to_owned());
        span.set_attribute("rpc.method", method.to_owned());
    }

    fn ended(&self, span: &tracing::Span, code: i32) {
        span.set_attribute("rpc.grpc.status_code", i64::from(code));
        if is_ours(code) {
            span.set_status(Status::error(""));
        }
    }
}

/// Whether the conventions call it an error of the server: unknown, deadline exceeded, unimplemented, internal,
/// unavailable, data loss. Others are answers to what the client asked.
fn is_ours(code: i32) -> bool {
    matches!(code, 2 | 4 | 12 | 13 | 14 | 15)
}
