//! What can go wrong between us and a registry.
//!
//! A message names the operation, the reference and the host. It never contains a credential, nor the query
//! or user part of an URL: storage back ends put signatures there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An error of someone else's, kept as a cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong, coarsely: what a caller decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The registry has no such repository, tag, manifest or blob.
    NotFound,
    /// The registry wants credentials, or did not take the ones it got.
    Unauthorized,
    /// The credentials are fine, but do not allow this.
    Denied,
    /// Too many requests; the registry may have said how long to wait.
    RateLimited {
        /// The registry's wish.
        retry_after: Option<Duration>,
    },
    /// Nothing came for too long.
    Timeout,
    /// The registry cannot be reached, breaks off, or says it is not well.
    Unavailable,
    /// The registry's answer, or what was asked, makes no sense.
    Invalid,
    /// Content does not have the digest or the size it was promised to have.
    DigestMismatch,
    /// The image exists, but not for the wanted platform.
    NoPlatform,
    /// The registry cannot do this (for example an upload to a read-only one).
    Unsupported,
    /// The disk is full or over quota.
    NoSpace,
    /// The local store failed.
    Storage,
    /// Whoever takes the layers failed on one.
    Unpack,
    /// `hosts.toml`, a certificate or a credential entry is malformed.
    Config,
    /// The operation was cancelled.
    Cancelled,
}

/// A registry operation that failed.
#[derive(Debug, Clone)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    operation: String,
    object: String,
    host: String,
    fault: Fault,
}

/// The part of an [`Error`] that is known where it happens; [`Fault::during`] adds the rest.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: ErrorKind,
    pub(crate) detail: String,
    /// How long the registry wants us to wait before the next try.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) source: Option<Arc<BoxError>>,
}

impl Error {
    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.0.fault.kind
    }

    /// The host that was talked to; empty if none was.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// The reference or blob this was about.
    pub fn object(&self) -> &str {
        &self.0.object
    }

    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        self.0.fault.is_transient()
    }

    /// The message with all causes, joined by colons, for a client that takes one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { operation, object, host, fault } = &*self.0;
        f.write_str(operation)?;
        if !object.is_empty() {
            write!(f, " {object}")?;
        }
        if !host.is_empty() {
            write!(f, " at {host}")?;
        }
        write!(f, ": {}", fault.detail)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.fault.source.as_ref().map(|source| &***source as &(dyn std::error::Error + 'static))
    }
}

impl Fault {
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None, source: None }
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, detail)
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Arc::new(source.into()));
        self
    }

    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::RateLimited { .. } | ErrorKind::Timeout | ErrorKind::Unavailable)
    }

    pub(crate) fn during(
        self,
        operation: impl Into<String>,
        object: impl fmt::Display,
        host: impl Into<String>,
    ) -> Error {
        Error(Arc::new(Inner {
            operation: operation.into(),
            object: object.to_string(),
            host: host.into(),
            fault: self,
        }))
    }
}

impl From<content::Error> for Fault {
    fn from(error: content::Error) -> Self {
        let kind = match error.kind() {
            content::ErrorKind::Mismatch => ErrorKind::DigestMismatch,
            content::ErrorKind::NoSpace => ErrorKind::NoSpace,
            content::ErrorKind::TooLarge => ErrorKind::Invalid,
            content::ErrorKind::NotFound | content::ErrorKind::Busy | content::ErrorKind::Io => {
                ErrorKind::Storage
            }
        };
        let detail = match kind {
            ErrorKind::DigestMismatch => "content is not what its descriptor promises",
            ErrorKind::NoSpace => "no space left for it",
            _ => "the blob store failed",
        };
        Self::new(kind, detail).with_source(error)
    }
}
