//! Archives of layers: decompression, the tar format, extraction.
//!
//! All of it reads what a stranger wrote. Three stages, each with its bounds: a thread decompresses and
//! hashes ([`stream`]); the parser turns bytes into entries, in the reading of Go's `archive/tar`, which is
//! what registries and builders check layers with ([`tar`]); the extractor makes files one name at a time
//! below a directory's descriptor and follows links only within it ([`extract`]).

mod error;
mod extract;
mod header;
mod pax;
mod place;
mod sparse;
mod stream;
mod tar;
mod walk;
mod write;

use std::io::Read;
use std::path::Path;

use oci::{Algorithm, Compression, Digest};

pub use error::{ArchiveError, Limit};
pub(crate) use extract::is_wanted;
pub(crate) use place::sniff;
pub use place::{PlaceOptions, place};
pub(crate) use stream::Stream;
pub(crate) use tar::{Entry, EntryKind, Tar};
pub(crate) use walk::{MAX_LINKS, clear_implied, is_implied, is_opaque, set_implied, set_opaque_fd};
pub use write::{PackOptions, TarWriter};

use crate::Limits;

/// One archive to unpack.
pub(crate) struct Job<'a> {
    /// An empty directory.
    pub(crate) root: &'a Path,
    pub(crate) compression: Compression,
    pub(crate) limits: Limits,
    pub(crate) algorithm: Algorithm,
    pub(crate) reader: Box<dyn Read + Send>,
}

/// What came out.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// Bytes its files take.
    pub(crate) bytes: u64,
    /// Inodes, the root directory not counted.
    pub(crate) inodes: u64,
    /// Whether it hides everything below it.
    pub(crate) opaque: bool,
    /// Whether it has directories that the archive has no entry for.
    pub(crate) implied: bool,
}

/// Unpacks a layer. The directory holds rubbish if this fails.
pub(crate) fn unpack(job: Job<'_>) -> Result<Unpacked, ArchiveError> {
    let stream = Stream::start(job.reader, job.compression, job.limits, job.algorithm)?;
    let mut tar = Tar::new(stream, job.limits);
    let mut extractor = extract::Extractor::open(job.root, job.limits)?;
    while let Some(entry) = tar.next()? {
        extractor.extract(&entry, &mut tar)?;
    }
    let totals = extractor.finish()?;
    let diff_id = tar.finish()?;
    Ok(Unpacked {
        diff_id,
        bytes: totals.bytes,
        inodes: totals.inodes,
        opaque: totals.opaque,
        implied: totals.implied,
    })
}

#[cfg(test)]
pub(crate) mod tests;
