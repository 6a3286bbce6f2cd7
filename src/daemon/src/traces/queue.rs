//! Where ended spans wait. Bounded: a span that finds no room is dropped, and counted.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;

use super::{Fate, Spans};

/// Spans that may wait. A pod's start makes about fifteen.
const WAITING: usize = 4096;

/// The end of a queue that spans go in by.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: mpsc::Sender<SpanData>,
    spans: Arc<Spans>,
}

pub(super) fn queue(spans: Arc<Spans>) -> (Queue, mpsc::Receiver<SpanData>) {
    let (sender, waiting) = mpsc::channel(WAITING);
    (Queue { waiting: sender, spans }, waiting)
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.waiting.try_send(named(span)).is_err() {
            self.spans.get(Fate::Dropped).inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Names the span of a call as the conventions for RPC have it: `package.Service/Method`, of kind server.
fn named(mut span: SpanData) -> SpanData {
    let value = |key: &str| {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
        found.map(|attribute| attribute.value.as_str())
    };
    if let (Some(service), Some(method)) = (value("rpc.service"), value("rpc.method")) {
        let name = format!("{service}/{method}");
        span.name = name.into();
        span.span_kind = SpanKind::Server;
    }
    span
}

#[cfg(test)]
mod tests {
    use engine::metrics::Registry;
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry::{KeyValue, trace::SpanBuilder};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    #[test]
    fn what_finds_no_room_is_counted() {
        let registry = Registry::new();
        let (queue, waiting) = queue(Arc::new(super::super::register(&registry)));
        let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
        let tracer = provider.tracer("test");
        for _ in 0..WAITING + 3 {
            tracer.start("a step").end();
        }
        assert_eq!(waiting.len(), WAITING);
        let text = String::from_utf8(registry.encode().unwrap()).unwrap();
        assert!(text.contains("berth_trace_spans_total{fate=\"dropped\"} 3\n"), "{text}");
    }

    #[test]
    fn calls_are_named_by_their_attributes_and_steps_are_left_alone() {
        let (queue, mut waiting) = queue(Arc::new(super::super::register(&Registry::new())));
        let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
        let tracer = provider.tracer("test");
        let attributes = [KeyValue::new("rpc.service", "a.B"), KeyValue::new("rpc.method", "C")];
        tracer.build(SpanBuilder::from_name("rpc").with_attributes(attributes)).end();
        tracer.start("a step").end();
        let call = waiting.try_recv().unwrap();
        assert_eq!((call.name.as_ref(), &call.span_kind), ("a.B/C", &SpanKind::Server));
        let step = waiting.try_recv().unwrap();
        assert_eq!((step.name.as_ref(), &step.span_kind), ("a step", &SpanKind::Internal));
    }
}
