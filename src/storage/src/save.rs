//! Images as one archive: an OCI layout that is what `docker save` writes as well, each blob once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use oci::{Digest, Reference};
use serde_json::{Value, json};

use crate::archive::TarWriter;
use crate::store::Store;
use crate::{Error, Image};

impl Store {
    /// Checks that images can be saved: all their blobs are here.
    pub fn can_save(&self, images: &[(Image, Vec<Reference>)]) -> Result<(), Error> {
        for (image, _) in images {
            for digest in image.layers.iter().map(|layer| &layer.blob).chain(image.metadata_blobs()) {
                if self.content().stat(digest).is_none() {
                    return Err(Error::BlobNotFound { digest: digest.clone() });
                }
            }
        }
        Ok(())
    }

    /// Writes images, each under these of its names, as one archive.
    pub fn save<W: Write>(&self, images: &[(Image, Vec<Reference>)], out: W) -> io::Result<W> {
        let lease = self.content().lease();
        let mut tar = TarWriter::new(out);
        let mut blobs: BTreeMap<&Digest, u64> = BTreeMap::new();
        for (image, _) in images {
            let manifest = image.manifests.last();
            for digest in image.layers.iter().map(|layer| &layer.blob).chain([&image.id]).chain(manifest) {
                lease.add(digest);
                let size = self.content().stat(digest).ok_or_else(|| missing(digest))?;
                blobs.insert(digest, size);
            }
        }
        tar.directory("blobs")?;
        let algorithms: BTreeSet<&str> = blobs.keys().map(|digest| digest.algorithm().name()).collect();
        for algorithm in algorithms {
            tar.directory(&format!("blobs/{algorithm}"))?;
        }
        for (digest, size) in &blobs {
            let mut blob = self.content().open_blob(digest).map_err(io::Error::other)?;
            tar.reader(&blob_path(digest), *size, &mut blob)?;
        }
        tar.file("index.json", self.index(images, &blobs).to_string().as_bytes())?;
        tar.file("manifest.json", manifest(images).to_string().as_bytes())?;
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.file("repositories", repositories(images).to_string().as_bytes())?;
        tar.finish()
    }

    fn index(&self, images: &[(Image, Vec<Reference>)], blobs: &BTreeMap<&Digest, u64>) -> Value {
        let mut entries = Vec::new();
        for (image, names) in images {
            let Some(manifest) = image.manifests.last() else { continue };
            let document = self.content().read_small(manifest, 4 << 20).unwrap_or_default();
            let document: Value = serde_json::from_slice(&document).unwrap_or_default();
            let media_type =
                document["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
            let entry =
                json!({"mediaType": media_type, "digest": manifest.as_str(), "size": blobs.get(manifest)});
            if names.is_empty() {
                entries.push(entry.clone());
            }
            for name in names {
                let mut named = entry.clone();
                named["annotations"] = json!({
                    "io.containerd.image.name": name.to_string(),
                    "org.opencontainers.image.ref.name": name.tag().unwrap_or_default(),
                });
                entries.push(named);
            }
        }
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries})
    }
}

fn missing(digest: &Digest) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("blob {digest} is not here any more"))
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// What `docker load` of any age reads.
fn manifest(images: &[(Image, Vec<Reference>)]) -> Value {
    let entries = images.iter().map(|(image, names)| {
        let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
        let layers: Vec<String> = image.layers.iter().map(|layer| blob_path(&layer.blob)).collect();
        json!({
            "Config": blob_path(&image.id),
            "RepoTags": if tags.is_empty() { Value::Null } else { tags.into() },
            "Layers": layers,
        })
    });
    entries.collect()
}

/// Names by repository and tag, each with the topmost layer.
fn repositories(images: &[(Image, Vec<Reference>)]) -> Value {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (image, names) in images {
        let top = image.layers.last().map_or(image.id.hex(), |layer| layer.diff_id.hex());
        for name in names {
            let Some(tag) = name.tag() else { continue };
            let familiar = name.familiar();
            let repository =
                familiar.rsplit_once(':').map_or(familiar.as_str(), |(repository, _)| repository);
            all.entry(repository.to_owned()).or_default().insert(tag.to_owned(), top.to_owned());
        }
    }
    json!(all)
}
