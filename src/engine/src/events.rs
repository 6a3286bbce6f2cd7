//! Events: what happened, in order, after it is visible.
//!
//! Every event has a sequence number. Publishing never waits: a subscriber that falls more than
//! [`CAPACITY`] events behind is told how many it missed, and goes on with the oldest that is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oci::{ContainerId, SandboxId};
use tokio::sync::broadcast;

use crate::metrics::Metrics;
use crate::model::SandboxStatus;

/// Events kept for a slow subscriber.
const CAPACITY: usize = 4096;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A sandbox or container was made.
    Created,
    /// A sandbox is up, or a container runs.
    Started,
    /// A sandbox is down, or a container ended.
    Stopped,
    /// A sandbox or container is gone.
    Deleted,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// Grows by one with each event.
    pub sequence: u64,
    /// What.
    pub kind: EventKind,
    /// The container it happened to; `None` for the sandbox itself.
    pub container: Option<ContainerId>,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The sandbox right after; as last seen when it is gone.
    pub status: Arc<SandboxStatus>,
    /// Nanoseconds since the Unix epoch.
    pub at_ns: i64,
}

/// Receives events from the moment it was made.
#[derive(Debug)]
pub struct Subscription {
    events: broadcast::Receiver<Event>,
    metrics: Arc<Metrics>,
}

impl Subscription {
    /// The next event; `Err(n)` says that `n` events were missed; `None` that the engine ends.
    pub async fn next(&mut self) -> Option<std::result::Result<Event, u64>> {
        match self.events.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                self.metrics.events_missed.inc_by(missed);
                Some(Err(missed))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Bus {
    sender: broadcast::Sender<Event>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Bus {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { sender: broadcast::channel(CAPACITY).0, next: AtomicU64::new(1), metrics }
    }

    /// How many subscribers there are, and how many events the slowest of them has still to get.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.sender.receiver_count(), self.sender.len())
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        Subscription { events: self.sender.subscribe(), metrics: Arc::clone(&self.metrics) }
    }

    /// Tells all subscribers. Call it after the snapshot that shows the change was published.
    pub(crate) fn publish(
        &self,
        kind: EventKind,
        container: Option<ContainerId>,
        status: Arc<SandboxStatus>,
    ) {
        let event = Event {
            sequence: self.next.fetch_add(1, Ordering::Relaxed),
            kind,
            container,
            sandbox: status.id.clone(),
            status,
            at_ns: sys::fs::now_ns(),
        };
        self.metrics.events.inc();
        // No subscriber is no error: nobody asked to be told.
        drop(self.sender.send(event));
    }
}
