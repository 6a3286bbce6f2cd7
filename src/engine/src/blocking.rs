//! Blocking work: one closure per job, bounded per purpose.
//!
//! A job that has started runs to its end even when the future that waits for it is dropped, so a closure
//! must leave things in order by itself.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::metrics::{JobState, Metrics, Pool, Within};

/// Places for blocking work. Purposes do not share places: unpacking an image must not delay a stop.
#[derive(Debug)]
pub(crate) struct Blocking {
    lifecycle: Semaphore,
    reading: Semaphore,
    images: Semaphore,
    archives: Semaphore,
    metrics: Arc<Metrics>,
}

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Making and removing sandboxes and containers.
    Lifecycle,
    /// Statistics.
    Reading,
    /// Images: lookups, removal, garbage collection.
    Images,
    /// Archives that clients read or write, however slowly.
    Archives,
}

impl Blocking {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            lifecycle: Semaphore::new(64),
            reading: Semaphore::new(8),
            images: Semaphore::new(8),
            archives: Semaphore::new(32),
            metrics,
        }
    }

    /// Runs `job` on a thread for blocking work, once its purpose has a place.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        purpose: Purpose,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (places, pool) = match purpose {
            Purpose::Lifecycle => (&self.lifecycle, Pool::Lifecycle),
            Purpose::Reading => (&self.reading, Pool::Reading),
            Purpose::Images => (&self.images, Pool::Images),
            Purpose::Archives => (&self.archives, Pool::Archives),
        };
        let waiting = Within::enter(self.metrics.jobs.get((pool, JobState::Waiting)));
        let _place = places.acquire().await.map_err(|_| Error::internal("the engine is shutting down"))?;
        drop(waiting);
        let _running = Within::enter(self.metrics.jobs.get((pool, JobState::Running)));
        let span = tracing::Span::current();
        tokio::task::spawn_blocking(move || span.in_scope(job))
            .await
            .map_err(|error| Error::caused_by(crate::ErrorKind::Internal, "a blocking job broke off", error))
    }
}
