//! Media types of manifests, configurations and layers, in both families that registries serve.

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// What a media type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// A list of manifests for several platforms.
    Index,
    /// One image.
    Manifest,
    /// An image configuration.
    Config,
    /// A file system layer.
    Layer(Compression),
    /// A layer that a registry does not hold; its bytes may come from nowhere but the registry itself.
    ForeignLayer(Compression),
    /// Anything else.
    Other,
}

impl MediaKind {
    /// Media types of every manifest and index Berth can read, for an `Accept` header.
    pub const MANIFEST_TYPES: [&'static str; 4] = [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ];

    /// Reads a media type; parameters after a semicolon are ignored.
    pub fn of(media_type: &str) -> Self {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        match essence {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => Self::Index,
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => Self::Manifest,
            "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json" => {
                Self::Config
            }
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
                Self::Layer(Compression::None)
            }
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Self::Layer(Compression::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Self::Layer(Compression::Zstd),
            "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Self::ForeignLayer(Compression::None),
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
                Self::ForeignLayer(Compression::Gzip)
            }
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd" => {
                Self::ForeignLayer(Compression::Zstd)
            }
            _ => Self::Other,
        }
    }

    /// Media type a registry may give one of the two spellings of; see [`MediaKind::of`].
    pub fn is_manifest_or_index(self) -> bool {
        matches!(self, Self::Manifest | Self::Index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_known() {
        for accepted in MediaKind::MANIFEST_TYPES {
            assert!(MediaKind::of(accepted).is_manifest_or_index(), "{accepted}");
        }
        assert_eq!(
            MediaKind::of("application/vnd.docker.image.rootfs.diff.tar.gzip; q=1"),
            MediaKind::Layer(Compression::Gzip)
        );
        assert_eq!(MediaKind::of("text/html"), MediaKind::Other);
    }
}
