//! Errors of the blob store.

use std::io;
use std::path::{Path, PathBuf};

use oci::Digest;

/// What went wrong, coarsely: what a caller decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such blob.
    NotFound,
    /// Another writer holds the ingest.
    Busy,
    /// The bytes do not match their digest or size; what was written is gone.
    Mismatch,
    /// The blob is larger than the caller allows.
    TooLarge,
    /// The file system is full or over quota.
    NoSpace,
    /// Anything else the kernel said.
    Io,
}

/// An operation on the blob store that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such blob.
    #[error("blob {digest} is not in the store")]
    NotFound {
        /// Its digest.
        digest: Digest,
    },
    /// Another writer holds the ingest.
    #[error("another writer holds the ingest {key:?}")]
    Busy {
        /// The ingest's key.
        key: String,
    },
    /// The bytes hash to something else.
    #[error("content has digest {actual}, expected {expected}")]
    WrongDigest {
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// There are more or fewer bytes than promised.
    #[error("content has {actual} bytes, expected {expected}")]
    WrongSize {
        /// What was promised.
        expected: u64,
        /// What came, so far.
        actual: u64,
    },
    /// The blob is larger than the caller allows.
    #[error("blob {digest} has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Its digest.
        digest: Digest,
        /// Its size.
        size: u64,
        /// The most the caller takes.
        limit: u64,
    },
    /// A sync failed earlier, so nothing this ingest wrote can be trusted.
    #[error("the ingest {key:?} failed to reach the disk and cannot go on")]
    Poisoned {
        /// The ingest's key.
        key: String,
    },
    /// The kernel said no.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Closes over an operation and its object, for `map_err`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::WrongDigest { .. } | Self::WrongSize { .. } => ErrorKind::Mismatch,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Io { source, .. } if is_no_space(source) => ErrorKind::NoSpace,
            Self::Poisoned { .. } | Self::Io { .. } => ErrorKind::Io,
        }
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
