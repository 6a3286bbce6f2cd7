//! Manifests and indexes: what they may look like, and which image of an index is ours.
//!
//! A document that two readers could take for two things is refused: one with both `manifests` and `layers`,
//! or one whose media type differs from the one it is served with.

use oci::{Compression, Digest, MediaKind, Platform};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{ErrorKind, Fault};
use crate::types::{Descriptor, LayerDesc};

/// Entries of an index, or layers of an image, beyond this are no image but an attack.
const MAX_ENTRIES: usize = 10_000;
const MAX_LAYERS: usize = 512;
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A document that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    Index { media_type: String, entries: Vec<Entry> },
    Manifest { media_type: String, config: Descriptor, layers: Vec<LayerDesc> },
}

/// An entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) descriptor: Descriptor,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct RawDescriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<RawPlatform>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl Parsed {
    pub(crate) fn media_type(&self) -> &str {
        match self {
            Self::Index { media_type, .. } | Self::Manifest { media_type, .. } => media_type,
        }
    }
}

/// Reads a document that was served with a content type, or is named by a descriptor with a media type.
pub(crate) fn parse(bytes: &[u8], served_as: Option<&str>) -> Result<Parsed, Fault> {
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|error| Fault::invalid(format!("the manifest is malformed: {error}")))?;
    refuse_schema1(&raw, served_as)?;
    let is_index = raw.manifests.is_some();
    if is_index && (raw.layers.is_some() || raw.config.is_some() || raw.fs_layers.is_some()) {
        return Err(Fault::invalid("the manifest is ambiguous: it lists both manifests and layers"));
    }
    let media_type = agreed_media_type(&raw, served_as, is_index)?;
    if is_index {
        return Ok(Parsed::Index { media_type, entries: entries(raw.manifests.unwrap_or_default())? });
    }
    let config = raw.config.ok_or_else(|| Fault::invalid("the manifest names no configuration"))?;
    let layers = raw.layers.ok_or_else(|| Fault::invalid("the manifest lists no layers"))?;
    Ok(Parsed::Manifest { media_type, config: config.checked()?.descriptor, layers: layer_list(layers)? })
}

fn refuse_schema1(raw: &Raw, served_as: Option<&str>) -> Result<(), Fault> {
    let is_old_type = |text: &str| text.starts_with("application/vnd.docker.distribution.manifest.v1+");
    let types = [raw.media_type.as_deref(), served_as];
    if raw.schema_version == Some(1) || types.into_iter().flatten().any(is_old_type) {
        return Err(Fault::new(
            ErrorKind::Unsupported,
            "the image has Docker's schema 1 format, which nothing verifies; push it again with a current client",
        ));
    }
    if raw.schema_version != Some(2) {
        return Err(Fault::invalid("the manifest's schemaVersion is not 2"));
    }
    Ok(())
}

/// What the document says it is and what it is served as must be the same, and fit its shape.
fn agreed_media_type(raw: &Raw, served_as: Option<&str>, is_index: bool) -> Result<String, Fault> {
    let served = served_as.map(essence).filter(|text| MediaKind::of(text).is_manifest_or_index());
    let said = raw.media_type.as_deref().filter(|text| !text.is_empty());
    let media_type = match (said, served) {
        (Some(said), Some(served)) if said != served => {
            let said = crate::message::sanitize(said);
            return Err(Fault::invalid(format!("the manifest says it is {said}, but is served as {served}")));
        }
        (Some(one), _) | (None, Some(one)) => one,
        (None, None) => {
            if is_index {
                OCI_INDEX
            } else {
                OCI_MANIFEST
            }
        }
    };
    match (MediaKind::of(media_type), is_index) {
        (MediaKind::Index, true) | (MediaKind::Manifest, false) => Ok(media_type.to_owned()),
        (MediaKind::Index, false) => Err(Fault::invalid("the index lists no manifests")),
        (MediaKind::Manifest, true) => {
            Err(Fault::invalid("the image manifest lists manifests, as an index does"))
        }
        (MediaKind::Config | MediaKind::Layer(_) | MediaKind::ForeignLayer(_) | MediaKind::Other, _) => {
            Err(Fault::invalid(format!("{} is no image", crate::message::sanitize(media_type))))
        }
    }
}

fn essence(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}

impl RawDescriptor {
    fn checked(self) -> Result<Entry, Fault> {
        if self.size > i64::MAX.unsigned_abs() {
            return Err(Fault::invalid(format!("the size of {} is absurd", self.digest)));
        }
        let platform = self.platform.map(|raw| Platform {
            os: raw.os,
            architecture: raw.architecture,
            variant: raw.variant,
        });
        let descriptor = Descriptor { media_type: self.media_type, digest: self.digest, size: self.size };
        Ok(Entry { descriptor, platform })
    }

    /// Attestations travel in indexes as images for no platform.
    fn is_attestation(&self) -> bool {
        let has_annotation = self.annotations.as_ref().is_some_and(|annotations| {
            annotations.keys().any(|key| key.starts_with("vnd.docker.reference."))
        });
        let is_unknown =
            self.platform.as_ref().is_some_and(|p| p.os == "unknown" || p.architecture == "unknown");
        has_annotation || is_unknown
    }
}

fn entries(raw: Vec<RawDescriptor>) -> Result<Vec<Entry>, Fault> {
    if raw.len() > MAX_ENTRIES {
        return Err(Fault::invalid(format!("the index lists more than {MAX_ENTRIES} manifests")));
    }
    let usable = |entry: &RawDescriptor| {
        !entry.is_attestation() && MediaKind::of(&entry.media_type).is_manifest_or_index()
    };
    raw.into_iter().filter(usable).map(RawDescriptor::checked).collect()
}

fn layer_list(raw: Vec<RawDescriptor>) -> Result<Vec<LayerDesc>, Fault> {
    if raw.len() > MAX_LAYERS {
        return Err(Fault::invalid(format!("the manifest lists more than {MAX_LAYERS} layers")));
    }
    let layer = |raw: RawDescriptor| {
        let compression = compression(&raw.media_type)?;
        Ok(LayerDesc { descriptor: raw.checked()?.descriptor, compression })
    };
    raw.into_iter().map(layer).collect()
}

fn compression(media_type: &str) -> Result<Compression, Fault> {
    match MediaKind::of(media_type) {
        MediaKind::Layer(compression) | MediaKind::ForeignLayer(compression) => Ok(compression),
        MediaKind::Index | MediaKind::Manifest | MediaKind::Config | MediaKind::Other => Err(Fault::new(
            ErrorKind::Unsupported,
            format!("{} is no layer of a container image", crate::message::sanitize(media_type)),
        )),
    }
}

/// The entry of an index for a platform: an exact match, then one that fits, then a nested index or an entry
/// that names no platform.
pub(crate) fn choose<'a>(entries: &'a [Entry], platform: &Platform) -> Result<&'a Descriptor, Fault> {
    let fits = |entry: &&Entry| entry.platform.as_ref().is_some_and(|other| platform.accepts(other));
    let chosen = entries
        .iter()
        .find(|entry| entry.platform.as_ref() == Some(platform))
        .or_else(|| entries.iter().find(fits))
        .or_else(|| entries.iter().find(|entry| entry.platform.is_none()));
    chosen.map(|entry| &entry.descriptor).ok_or_else(|| {
        let mut offered: Vec<String> =
            entries.iter().filter_map(|entry| entry.platform.as_ref()).map(Platform::to_string).collect();
        offered.dedup();
        offered.truncate(16);
        let offered = if offered.is_empty() { "nothing".into() } else { offered.join(", ") };
        let offered = crate::message::sanitize(&offered);
        Fault::new(ErrorKind::NoPlatform, format!("no image for {platform}; there is {offered}"))
    })
}

/// What is needed of an image's configuration here.
pub(crate) fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, Fault> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: Rootfs,
    }
    #[derive(Deserialize)]
    struct Rootfs {
        #[serde(default)]
        diff_ids: Option<Vec<Digest>>,
    }
    let config: Config = serde_json::from_slice(config)
        .map_err(|error| Fault::invalid(format!("the image's configuration is malformed: {error}")))?;
    Ok(config.rootfs.diff_ids.unwrap_or_default())
}

#[cfg(test)]
mod tests;
