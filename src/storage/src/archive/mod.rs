//! x
mod error;
pub use error::{ArchiveError, Limit};
use oci::{Algorithm, Compression, Digest};
use std::io::Read;
use std::path::Path;
/// One archive to unpack.
pub(crate) struct Job<'a> {
    pub(crate) root: &'a Path,
    pub(crate) compression: Compression,
    pub(crate) limits: crate::Limits,
    pub(crate) algorithm: Algorithm,
    pub(crate) reader: Box<dyn Read + Send>,
}
/// What came out.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) diff_id: Digest,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) opaque: bool,
}
pub(crate) fn unpack(_job: Job<'_>) -> Result<Unpacked, ArchiveError> {
    Err(ArchiveError::Truncated { what: "" })
}
