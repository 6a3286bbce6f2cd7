//! Building images: layers, configuration and manifest as bytes with their digests.

use std::io::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::archive::{Entry, archive};

/// A blob and what its descriptor says of it.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its media type.
    pub media_type: String,
    /// `sha256:…` of the bytes.
    pub digest: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// A blob with its true digest.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Blob {
        Blob { media_type: media_type.to_owned(), digest: digest(&bytes), bytes }
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// With gzip.
    Gzip,
    /// With zstd; OCI images only.
    Zstd,
}

/// Whose media types an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OCI image specification.
    Oci,
    /// Docker image manifest, version 2, schema 2.
    Docker,
}

/// A layer: its blob and the digest of the tar stream in it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// As in the registry.
    pub blob: Blob,
    /// Digest of the uncompressed stream.
    pub diff_id: String,
}

impl Layer {
    /// A layer from entries.
    pub fn new(entries: &[Entry], compression: Compression, format: Format) -> Result<Layer> {
        Layer::from_tar(&archive(entries), compression, format)
    }

    /// A layer from a tar stream, which need not be a good one.
    pub fn from_tar(tar: &[u8], compression: Compression, format: Format) -> Result<Layer> {
        let (bytes, suffix) = match compression {
            Compression::None => (tar.to_vec(), "tar"),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(tar).and_then(|()| encoder.finish()).map(|bytes| (bytes, "tar+gzip"))?
            }
            Compression::Zstd => (zstd::bulk::compress(tar, 3).context("compress with zstd")?, "tar+zstd"),
        };
        let media_type = match format {
            Format::Oci => format!("application/vnd.oci.image.layer.v1.{suffix}"),
            Format::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned(),
        };
        Ok(Layer { blob: Blob::new(&media_type, bytes), diff_id: digest(tar) })
    }
}

/// What goes into an image's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `linux/…`.
    pub architecture: String,
    /// `config.User`.
    pub user: String,
    /// `config.Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `config.Cmd`.
    pub cmd: Vec<String>,
    /// `config.WorkingDir`.
    pub working_dir: String,
    /// `config.Volumes`.
    pub volumes: Vec<String>,
    /// `config.Labels`.
    pub labels: Vec<(String, String)>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            architecture: native_architecture().to_owned(),
            user: String::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            working_dir: String::new(),
            volumes: Vec::new(),
            labels: Vec::new(),
        }
    }
}

/// OCI's word for the architecture the tests run on.
pub fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A whole image for one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its configuration.
    pub config: Blob,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// Its manifest.
    pub manifest: Blob,
    /// Its architecture, for an index.
    pub architecture: String,
}

impl Image {
    /// Puts layers and configuration together.
    pub fn new(config: &Config, layers: &[Layer], format: Format) -> Image {
        let volumes: serde_json::Map<String, Value> =
            config.volumes.iter().map(|volume| (volume.clone(), json!({}))).collect();
        let labels: serde_json::Map<String, Value> =
            config.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let document = json!({
            "architecture": config.architecture,
            "os": "linux",
            "config": {
                "User": config.user,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": config.entrypoint,
                "Cmd": config.cmd,
                "WorkingDir": config.working_dir,
                "Volumes": volumes,
                "Labels": labels,
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|layer| layer.diff_id.clone()).collect::<Vec<_>>(),
            },
        });
        let (config_type, manifest_type) = match format {
            Format::Oci => {
                ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.manifest.v1+json")
            }
            Format::Docker => (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json",
            ),
        };
        let blob = Blob::new(config_type, document.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": blob.descriptor(),
            "layers": layers.iter().map(|layer| layer.blob.descriptor()).collect::<Vec<_>>(),
        });
        Image {
            manifest: Blob::new(manifest_type, manifest.to_string().into_bytes()),
            config: blob,
            layers: layers.to_vec(),
            architecture: config.architecture.clone(),
        }
    }
}

/// An index over images, with an attestation manifest as build tools add one.
pub fn index(images: &[Image]) -> Blob {
    let mut manifests: Vec<Value> = Vec::new();
    for image in images {
        let mut descriptor = image.manifest.descriptor();
        descriptor["platform"] = json!({"os": "linux", "architecture": image.architecture});
        manifests.push(descriptor);
    }
    if let Some(last) = images.last() {
        let mut attestation = last.manifest.descriptor();
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        attestation["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": last.manifest.digest,
        });
        manifests.insert(0, attestation);
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let document = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    Blob::new(media_type, document.to_string().into_bytes())
}
