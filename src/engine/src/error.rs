//! What can go wrong, in the words a front end can map.

use std::sync::Arc;
use std::time::Duration;

/// The closed set of outcomes that clients act on differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request makes no sense, whatever the state.
    InvalidArgument,
    /// No such object.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request makes sense, but not in this state.
    FailedPrecondition,
    /// This kernel, host or configuration cannot do it.
    Unsupported,
    /// Disk, memory, addresses or descriptors ran out.
    Exhausted,
    /// Who asks may not, as a registry says.
    Denied,
    /// It took longer than the client would wait; the work goes on.
    DeadlineExceeded,
    /// Something the engine depends on does not answer; try again.
    Unavailable,
    /// A bug, or the kernel refused something that should work.
    Internal,
}

/// An error: a kind, a sentence, and what caused it. Several callers may wait for one piece of work; each gets the error with its causes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// The result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a cause. `message` says what was tried, on which object, and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error with its cause, which `message` does not repeat.
    pub fn caused_by(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into().into()) }
    }

    /// What clients act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The cause of this type, for front ends that have words of their own for it.
    pub fn cause<E: std::error::Error + 'static>(&self) -> Option<&E> {
        // A shared cause stands for itself, not for its type, when it is asked for as a source.
        let mut next: Option<&(dyn std::error::Error + 'static)> = match &self.source {
            Some(source) => Some(&**source),
            None => None,
        };
        while let Some(cause) = next {
            if let Some(found) = cause.downcast_ref() {
                return Some(found);
            }
            if let Some(own) = cause.downcast_ref::<Self>() {
                return own.cause();
            }
            next = cause.source();
        }
        None
    }

    /// The sentence and all its causes, joined by colons: for a client that gets one string.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let part = cause.to_string();
            if !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            next = cause.source();
        }
        text
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FailedPrecondition, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub(crate) fn no_sandbox(id: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("no sandbox {id:?}"))
    }

    pub(crate) fn no_container(id: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("no container {id:?}"))
    }

    /// The client's deadline ran out while `what` was at `stage`.
    pub fn still_running(what: &str, stage: &str, age: Duration) -> Self {
        let message = format!(
            "{what} is still at stage {stage:?} after {:.1} s; the work goes on, ask again for its result",
            age.as_secs_f64()
        );
        Self::new(ErrorKind::DeadlineExceeded, message)
    }

    /// An I/O error with its object; disk-full and descriptor limits become [`ErrorKind::Exhausted`].
    pub(crate) fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        Self::caused_by(io_kind(&source), message, source)
    }
}

pub(crate) fn io_kind(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory => ErrorKind::Exhausted,
        // EMFILE and ENFILE have no stable std kind.
        _ if matches!(error.raw_os_error(), Some(23 | 24)) => ErrorKind::Exhausted,
        _ => ErrorKind::Internal,
    }
}
