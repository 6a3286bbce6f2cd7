//! Images.

use oci::{Digest, Reference};

/// What the engine knows of an image.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// The digest of its configuration: the same under every name and on every node.
    pub id: Digest,
    /// Names with a tag, oldest first.
    pub tags: Vec<Reference>,
    /// Names with the digest of the manifest.
    pub digests: Vec<Reference>,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// `User` of its configuration.
    pub user: String,
    /// Whether garbage collection leaves it alone.
    pub pinned: bool,
    /// Its configuration.
    pub config: oci::image::ImageConfiguration,
}

/// A pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// What to pull; without tag and digest, tag `latest`.
    pub reference: Reference,
    /// Credentials of the request; those configured for the host otherwise.
    pub auth: Option<image::ScopedAuth>,
}

/// What a pull came to.
#[derive(Debug, Clone)]
pub struct PullOutcome {
    /// Id of the image.
    pub id: Digest,
    /// Digest of the manifest or index that the reference named.
    pub digest: Digest,
    /// Whether the image was there already and nothing was fetched.
    pub was_present: bool,
}

/// Use of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// A directory on it.
    pub mountpoint: String,
    /// Bytes used by what is asked for.
    pub used_bytes: u64,
    /// Inodes used by what is asked for.
    pub inodes_used: u64,
    /// When it was measured, nanoseconds since the Unix epoch.
    pub observed_at_ns: i64,
}
