//! Why an archive was refused.

use std::io;

use crate::ErrorKind;
use crate::error::io_kind;

/// A bound of [`crate::Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Too many entries.
    Entries,
    /// Too much content.
    Content,
    /// Too much comes out of too little.
    Ratio,
    /// A name or link target is too long.
    NameLength,
    /// A name has too many components.
    Depth,
    /// The extended headers of an entry are too long.
    Headers,
}

impl Limit {
    fn text(self) -> &'static str {
        match self {
            Self::Entries => "it has too many entries",
            Self::Content => "its files are too large",
            Self::Ratio => "it is a decompression bomb",
            Self::NameLength => "a name in it is too long",
            Self::Depth => "a name in it has too many components",
            Self::Headers => "the extended headers of an entry are too long",
        }
    }
}

/// Reading or extracting an archive failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The compressed stream could not be read or is malformed.
    #[error("read the compressed stream")]
    Read(#[source] io::Error),
    /// The stream ends in the middle of something.
    #[error("the archive ends in the middle of {what}")]
    Truncated {
        /// Of what.
        what: &'static str,
    },
    /// A header is malformed.
    #[error("the header at byte {offset} is malformed: {reason}")]
    Header {
        /// Where in the uncompressed archive.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit was exceeded.
    #[error("{}", limit.text())]
    Limit {
        /// Which.
        limit: Limit,
    },
    /// An entry cannot be extracted as it is.
    #[error("entry {name:?}: {reason}")]
    Entry {
        /// The entry's name, cut to 200 characters.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel refused to make an entry.
    #[error("{operation} {name:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The entry's name, cut to 200 characters.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl ArchiveError {
    pub(crate) fn entry(name: &[u8], reason: &'static str) -> Self {
        Self::Entry { name: shown(name), reason }
    }

    pub(crate) fn io(operation: &'static str, name: &[u8]) -> impl FnOnce(io::Error) -> Self {
        let name = shown(name);
        move |source| Self::Io { operation, name, source }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Limit { .. } => ErrorKind::Limit,
            Self::Read(source) => match source.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                    ErrorKind::Invalid
                }
                _ => ErrorKind::Io,
            },
            Self::Truncated { .. } | Self::Header { .. } | Self::Entry { .. } => ErrorKind::Invalid,
            Self::Io { source, .. } => io_kind(source),
        }
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}
