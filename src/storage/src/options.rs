//! What a store is told when it is opened.

/// Bounds on what one layer may make this machine do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the archive, directories made for them included.
    pub entries: u64,
    /// Bytes of file content, holes of sparse files included.
    pub content_bytes: u64,
    /// Bytes of the uncompressed archive per byte of the compressed one …
    pub ratio: u64,
    /// … once the uncompressed archive is longer than this.
    pub ratio_free_bytes: u64,
    /// Length of an entry's name and of a link's target.
    pub name_length: usize,
    /// Components of an entry's name, links in it followed: each is an open directory.
    pub depth: usize,
    /// Bytes of extended headers of one entry.
    pub header_bytes: u64,
    /// Memory for zstd's window, as a power of two.
    pub zstd_window_log: u32,
}

impl Limits {
    /// Wide enough for every image in use, narrow enough to stop a bomb before it fills a disk.
    pub const STANDARD: Self = Self {
        entries: 2_000_000,
        content_bytes: 128 << 30,
        ratio: 400,
        ratio_free_bytes: 1 << 30,
        name_length: 4096,
        depth: 256,
        header_bytes: 1 << 20,
        zstd_window_log: 27,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::STANDARD
    }
}

/// Options of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bounds on layers.
    pub limits: Limits,
    /// Whether the compressed layers stay in the content store once unpacked, for pushing and saving.
    pub keep_layer_blobs: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { limits: Limits::STANDARD, keep_layer_blobs: true }
    }
}
