//! Spans of calls, for whoever joins them with the client's trace.
//!
//! This crate knows spans and headers. How a trace is continued and where it is sent is the business of the
//! [`TraceCalls`] that the server is given; without one there is no span.

use std::sync::Arc;

use http::HeaderMap;
use tracing::Span;

/// Is told of calls and their spans.
pub trait TraceCalls: std::fmt::Debug + Send + Sync {
    /// A call has come. Its headers may carry the client's trace; `span` has not been entered yet.
    fn begun(&self, span: &Span, headers: &HeaderMap, service: &str, method: &str);

    /// It has been answered. A call that its client gave up is not.
    fn ended(&self, span: &Span, code: i32);
}

/// The spans of calls, if somebody wants them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traces(pub(crate) Option<Arc<dyn TraceCalls>>);

impl Traces {
    /// The span of a call; without effect when nobody wants it.
    pub(crate) fn begin<Q>(&self, request: &http::Request<Q>) -> Span {
        let Some(traces) = &self.0 else { return Span::none() };
        // The path is /package.Service/Method.
        let mut parts = request.uri().path().trim_start_matches('/').splitn(2, '/');
        let (service, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        // The span is one of the client's trace, and of nothing that happens to surround it here.
        let span =
            tracing::info_span!(target: engine::TRACE_TARGET, parent: None, "rpc", rpc.method = method);
        traces.begun(&span, request.headers(), service, method);
        span
    }

    /// Says what a call came to.
    pub(crate) fn end(&self, span: &Span, code: tonic::Code) {
        if let Some(traces) = &self.0 {
            traces.ended(span, code.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<String>>);

    impl TraceCalls for Told {
        fn begun(&self, _: &Span, headers: &HeaderMap, service: &str, method: &str) {
            let parent = headers.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or("-");
            self.0.lock().unwrap().push(format!("begun {service} {method} {parent}"));
        }

        fn ended(&self, _: &Span, code: i32) {
            self.0.lock().unwrap().push(format!("ended {code}"));
        }
    }

    #[test]
    fn a_call_is_told_with_its_headers_and_its_code() {
        let told = Arc::new(Told::default());
        let traces = Traces(Some(Arc::clone(&told) as Arc<dyn TraceCalls>));
        let request = http::Request::builder()
            .uri("/runtime.v1.RuntimeService/StartContainer")
            .header("traceparent", "00-1-2-01")
            .body(())
            .unwrap();
        let span = traces.begin(&request);
        traces.end(&span, tonic::Code::NotFound);
        let told = told.0.lock().unwrap();
        assert_eq!(*told, ["begun runtime.v1.RuntimeService StartContainer 00-1-2-01", "ended 5"]);
    }

    #[test]
    fn without_a_listener_there_is_no_span() {
        let request = http::Request::builder().uri("/a/b").body(()).unwrap();
        assert!(Traces::default().begin(&request).is_none());
    }
}
