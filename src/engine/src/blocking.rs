//! Blocking work: one closure per job, bounded per purpose.
//!
//! A job that has started runs to its end even when the future that waits for it is dropped, so a closure
//! must leave things in order by itself.

use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// Places for blocking work. Purposes do not share places: unpacking an image must not delay a stop.
#[derive(Debug)]
pub(crate) struct Blocking {
    lifecycle: Semaphore,
    reading: Semaphore,
    images: Semaphore,
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
}

impl Blocking {
    pub(crate) fn new() -> Self {
        Self { lifecycle: Semaphore::new(64), reading: Semaphore::new(8), images: Semaphore::new(8) }
    }

    /// Runs `job` on a thread for blocking work, once its purpose has a place.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        purpose: Purpose,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let places = match purpose {
            Purpose::Lifecycle => &self.lifecycle,
            Purpose::Reading => &self.reading,
            Purpose::Images => &self.images,
        };
        let _place = places.acquire().await.map_err(|_| Error::internal("the engine is shutting down"))?;
        let span = tracing::Span::current();
        tokio::task::spawn_blocking(move || span.in_scope(job))
            .await
            .map_err(|error| Error::caused_by(crate::ErrorKind::Internal, "a blocking job broke off", error))
    }
}
