//! Files of containers, from outside: looking, copying out and in, what was changed, the whole as an archive.
//!
//! A running container is entered by its root directory in its own mount namespace, so that its mounts are seen; one
//! that does not run is mounted anew, with what it is given, in a mount namespace that nobody else sees and that ends
//! with the work. In both, paths are resolved with that root taken for `/`, by the kernel, whatever the container does
//! meanwhile; no program and no library of it is ever loaded.

mod changes;
mod commit;
mod copy;
mod stream;
mod view;

pub use changes::{Change, ChangeKind};
pub use commit::CommitConfig;
pub use copy::{ArchivePut, PathStat};
pub use stream::ArchiveStream;
/// What is at a path.
pub use sys::tree::Kind as PathKind;

use std::path::PathBuf;

use oci::ContainerId;

use crate::error::{Error, ErrorKind};

/// The typed cause of an error about files of a container; see [`Error::cause`](crate::Error::cause).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveProblem {
    /// There is nothing at this path.
    #[error("no {} in container {container}", path.display())]
    NoPath {
        /// The container.
        container: ContainerId,
        /// The path, as asked for.
        path: PathBuf,
    },
    /// Things are extracted to directories.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The root file system, or what is mounted there, is read-only.
    #[error("{} is read-only", .0.display())]
    ReadOnly(PathBuf),
}

impl ArchiveProblem {
    fn error(self, what: impl Into<String>) -> Error {
        let kind = match &self {
            Self::NoPath { .. } => ErrorKind::NotFound,
            Self::NotADirectory(_) => ErrorKind::InvalidArgument,
            Self::ReadOnly(_) => ErrorKind::FailedPrecondition,
        };
        Error::caused_by(kind, what, self)
    }
}

/// Ends an archive; who reads it is told if it is not whole.
fn end(
    writer: storage::TarWriter<stream::Sink>,
    written: std::io::Result<()>,
    what: impl FnOnce() -> String,
) {
    let outcome = match written {
        Ok(()) => writer.finish().map(drop).map_err(|error| (None, error)),
        Err(error) => Err((Some(writer.into_inner()), error)),
    };
    let Err((sink, error)) = outcome else { return };
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return;
    }
    tracing::warn!(%error, what = what(), "an archive broke off");
    if let Some(sink) = sink {
        sink.fail(Error::io("write an archive", error));
    }
}
