//! Which traces are sent: what the client decided, or a share of those that begin here.

use opentelemetry::trace::{Link, SpanKind, TraceContextExt as _, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingResult, ShouldSample};

/// The name that spans of calls have until they are sent.
const CALL: &str = "rpc";

/// Samples calls and what is below them. Steps outside of a call, such as what an exit leads to, are no trace.
#[derive(Debug, Clone)]
pub(super) struct OfCalls(Sampler);

impl OfCalls {
    pub(super) fn new(ratio: f64) -> Self {
        Self(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
    }
}

impl ShouldSample for OfCalls {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let has_parent = parent.is_some_and(|context| context.span().span_context().is_valid());
        let sampler = if has_parent || name == CALL { &self.0 } else { &Sampler::AlwaysOff };
        sampler.should_sample(parent, trace, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};
    use opentelemetry_sdk::trace::SamplingDecision;

    use super::*;

    fn is_sampled(ratio: f64, parent: Option<TraceFlags>, name: &str) -> bool {
        let context = parent.map(|flags| {
            let (trace, span) = (TraceId::from(1), SpanId::from(2));
            Context::new().with_remote_span_context(SpanContext::new(
                trace,
                span,
                flags,
                true,
                TraceState::NONE,
            ))
        });
        let sampler = OfCalls::new(ratio);
        let result =
            sampler.should_sample(context.as_ref(), TraceId::from(1), name, &SpanKind::Internal, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn the_client_decides_and_the_ratio_where_it_does_not() {
        assert!(is_sampled(0.0, Some(TraceFlags::SAMPLED), CALL));
        assert!(!is_sampled(1.0, Some(TraceFlags::default()), CALL));
        assert!(is_sampled(1.0, None, CALL));
        assert!(!is_sampled(0.0, None, CALL));
    }

    #[test]
    fn steps_are_traced_below_a_call_only() {
        assert!(is_sampled(1.0, Some(TraceFlags::SAMPLED), "a step"));
        assert!(!is_sampled(1.0, None, "a step"));
    }
}
