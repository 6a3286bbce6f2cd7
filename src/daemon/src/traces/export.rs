//! Sends ended spans in batches. A collector that cannot be reached costs its spans and a warning now and then.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Fate, Spans};

/// Spans of one message.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// Time between two warnings about the collector.
const WARN: Duration = Duration::from_secs(60);

/// The task that sends.
#[derive(Debug)]
pub(super) struct Export<E = opentelemetry_otlp::SpanExporter> {
    pub(super) exporter: E,
    pub(super) waiting: mpsc::Receiver<SpanData>,
    pub(super) spans: Arc<Spans>,
    pub(super) endpoint: String,
}

/// Failures since the last warning.
#[derive(Debug, Default)]
struct Failures {
    spans: usize,
    warned: Option<Instant>,
}

impl<E: SpanExporter> Export<E> {
    /// Sends until `stop` fires; what waits or is on its way then has `flush` to arrive.
    pub(super) async fn run(self, stop: CancellationToken, flush: Duration) {
        let endpoint = self.endpoint.clone();
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(flush).await;
        };
        tokio::select! {
            () = self.send_all(&stop) => {}
            // The program ends: what has not arrived is lost with it.
            () = deadline => tracing::warn!(%endpoint, "the collector did not take the last spans in time"),
        }
    }

    async fn send_all(mut self, stop: &CancellationToken) {
        let mut failures = Failures::default();
        while !stop.is_cancelled() {
            let batch = self.gather(stop).await;
            self.send(batch, &mut failures).await;
        }
        self.waiting.close();
        loop {
            let mut batch = Vec::new();
            if self.waiting.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            self.send(batch, &mut failures).await;
        }
    }

    /// Waits for spans, and from the first one on for as long as others may join it.
    async fn gather(&mut self, stop: &CancellationToken) -> Vec<SpanData> {
        let mut batch = Vec::new();
        let mut until = None;
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            let full = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Spans stay in the queue when another branch wins.
                count = self.waiting.recv_many(&mut batch, room) => match count {
                    0 => return batch,
                    _ => until = until.or_else(|| Some(Instant::now() + GATHER)),
                },
                () = full => break,
                () = stop.cancelled() => break,
            }
        }
        batch
    }

    async fn send(&self, batch: Vec<SpanData>, failures: &mut Failures) {
        let count = batch.len();
        if count == 0 {
            return;
        }
        let outcome = self.exporter.export(batch).await;
        let fate = if outcome.is_ok() { Fate::Exported } else { Fate::Failed };
        self.spans.get(fate).inc_by(count as u64);
        failures.note(count, &outcome, &self.endpoint);
    }
}

impl Failures {
    fn note(&mut self, count: usize, outcome: &OTelSdkResult, endpoint: &dyn fmt::Display) {
        let Err(error) = outcome else { return };
        self.spans += count;
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN) {
            tracing::warn!(
                %endpoint,
                spans = self.spans,
                %error,
                "traces could not be sent; check [tracing] endpoint and the collector"
            );
            self.spans = 0;
            self.warned = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use engine::metrics::Registry;
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;
    use crate::traces::{queue, register};

    /// Takes batches, or never answers.
    #[derive(Debug, Clone, Default)]
    struct Collector {
        batches: Arc<Mutex<Vec<usize>>>,
        is_silent: bool,
    }

    impl SpanExporter for Collector {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            if self.is_silent {
                std::future::pending::<()>().await;
            }
            self.batches.lock().unwrap().push(batch.len());
            Ok(())
        }
    }

    /// Ends `count` spans, stops at once, and tells what the metrics say afterwards.
    async fn run(count: usize, collector: &Collector) -> String {
        let registry = Registry::new();
        let spans = Arc::new(register(&registry));
        let (queue, waiting) = queue::queue(Arc::clone(&spans));
        let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
        let tracer = provider.tracer("test");
        (0..count).for_each(|_| tracer.start("a step").end());
        let export = Export { exporter: collector.clone(), waiting, spans, endpoint: "here".into() };
        let stop = CancellationToken::new();
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), export.run(stop, Duration::from_millis(50)))
            .await
            .unwrap();
        String::from_utf8(registry.encode().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn the_rest_is_sent_at_the_end() {
        let collector = Collector::default();
        let text = run(BATCH + 5, &collector).await;
        assert_eq!(*collector.batches.lock().unwrap(), [BATCH, 5]);
        assert!(text.contains(&format!("{{fate=\"exported\"}} {}\n", BATCH + 5)), "{text}");
    }

    #[tokio::test]
    async fn a_silent_collector_does_not_hold_up_the_end() {
        let collector = Collector { is_silent: true, ..Collector::default() };
        let text = run(1, &collector).await;
        assert!(text.contains("{fate=\"exported\"} 0\n"), "{text}");
    }
}
