//! Errors of the store.

use std::io;
use std::path::{Path, PathBuf};

use oci::{ContainerId, Digest};

use crate::archive::ArchiveError;

/// What went wrong, coarsely: what a caller decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such image, layer or snapshot.
    NotFound,
    /// An id prefix fits several images.
    Ambiguous,
    /// It exists already, with other content.
    Exists,
    /// The image or archive is malformed, hostile or damaged.
    Invalid,
    /// A limit of the store was exceeded.
    Limit,
    /// The file system is full or over quota.
    NoSpace,
    /// Another process holds the store.
    Locked,
    /// The snapshot did not survive a reboot.
    Stale,
    /// Anything else the kernel or the database said.
    Io,
}

/// An operation on the store that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the store open.
    #[error("another process uses the store at {}", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// There is no such image.
    #[error("image {name:?} is not here")]
    ImageNotFound {
        /// What was asked for.
        name: String,
    },
    /// An id prefix fits several images.
    #[error("{prefix:?} is the start of {count} image ids")]
    Ambiguous {
        /// The prefix.
        prefix: String,
        /// How many ids start with it.
        count: usize,
    },
    /// A layer that an image or a snapshot needs is not there.
    #[error("layer {diff_id} is not unpacked")]
    LayerNotFound {
        /// The layer.
        diff_id: Digest,
    },
    /// A blob that an image needs is not there.
    #[error("blob {digest} of the image is not in the store")]
    BlobNotFound {
        /// The blob.
        digest: Digest,
    },
    /// There is no such snapshot.
    #[error("container {key} has no snapshot")]
    SnapshotNotFound {
        /// The container.
        key: ContainerId,
    },
    /// There is a snapshot of another image under this key.
    #[error("container {key} has a snapshot already")]
    SnapshotExists {
        /// The container.
        key: ContainerId,
    },
    /// The machine booted since the snapshot was written without syncing.
    #[error("the file system of container {key} did not survive a reboot")]
    Stale {
        /// The container.
        key: ContainerId,
    },
    /// Reading or extracting an archive failed.
    #[error("unpack {what}")]
    Unpack {
        /// A layer's diff id, or the archive's kind.
        what: String,
        /// Why.
        #[source]
        source: ArchiveError,
    },
    /// The unpacked bytes are not those the image names.
    #[error("layer hashes to {actual}, expected diff id {expected}")]
    WrongDiffId {
        /// What the image's configuration says.
        expected: Digest,
        /// What came out.
        actual: Digest,
    },
    /// Layers with implied directories could not be fitted to those below them.
    #[error("fit {layers} layers to each other")]
    Adapt {
        /// How many.
        layers: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An archive of images does not hang together.
    #[error("the archive is not an image: {reason}")]
    NotAnImage {
        /// What is wrong.
        reason: String,
    },
    /// Mounting failed.
    #[error("mount {what}{}", hint(messages))]
    Mount {
        /// Which step.
        what: String,
        /// What the file system logged.
        messages: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The content store failed.
    #[error("use the content store")]
    Content(#[from] content::Error),
    /// The database failed.
    #[error("{operation} the database")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// A record cannot be read.
    #[error("read the record of {what}")]
    Record {
        /// Whose record.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
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

fn hint(messages: &str) -> String {
    if messages.is_empty() { String::new() } else { format!(" ({messages})") }
}

impl Error {
    /// Closes over an operation and its object, for `map_err`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }

    /// Closes over a database operation, for `map_err`.
    pub(crate) fn database<E: Into<redb::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Database { operation, source: Box::new(source.into()) }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } => ErrorKind::Locked,
            Self::ImageNotFound { .. }
            | Self::LayerNotFound { .. }
            | Self::BlobNotFound { .. }
            | Self::SnapshotNotFound { .. } => ErrorKind::NotFound,
            Self::Ambiguous { .. } => ErrorKind::Ambiguous,
            Self::SnapshotExists { .. } => ErrorKind::Exists,
            Self::Stale { .. } => ErrorKind::Stale,
            Self::Unpack { source, .. } => source.kind(),
            Self::WrongDiffId { .. } | Self::NotAnImage { .. } | Self::Record { .. } => ErrorKind::Invalid,
            Self::Content(error) => match error.kind() {
                content::ErrorKind::NotFound => ErrorKind::NotFound,
                content::ErrorKind::Mismatch => ErrorKind::Invalid,
                content::ErrorKind::TooLarge => ErrorKind::Limit,
                content::ErrorKind::NoSpace => ErrorKind::NoSpace,
                content::ErrorKind::Busy | content::ErrorKind::Io => ErrorKind::Io,
            },
            Self::Adapt { source, .. } => match source.kind() {
                io::ErrorKind::FileTooLarge
                | io::ErrorKind::TooManyLinks
                | io::ErrorKind::InvalidFilename => ErrorKind::Limit,
                _ => io_kind(source),
            },
            Self::Mount { source, .. } | Self::Io { source, .. } => io_kind(source),
            Self::Database { source, .. } => match &**source {
                redb::Error::Io(error) => io_kind(error),
                _ => ErrorKind::Io,
            },
        }
    }
}

pub(crate) fn io_kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    }
}
