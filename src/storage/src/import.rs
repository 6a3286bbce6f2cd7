//! Images from archives: OCI image layouts, and what `docker save` writes, in a tar stream.
//!
//! Blobs go to the content store as they come by; the small documents that say what they are for are read
//! afterwards, whatever their place in the archive. Nothing an archive calls a blob is believed before it
//! is hashed.

use std::collections::HashMap;
use std::io::Read;

use content::Hasher;
use oci::{Algorithm, Compression, Digest, MediaKind, Platform, Reference};
use serde::Deserialize;

use crate::archive::{EntryKind, Stream, Tar};
use crate::store::Store;
use crate::{ArchiveError, Error, Image, ImageLayer, ImageTarget};

/// Largest document: manifest, index or configuration.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Images in one archive.
const MAX_IMAGES: usize = 256;
/// Names of files that are documents about the archive.
const DOCUMENTS: [&str; 2] = ["index.json", "manifest.json"];

/// What an archive held.
#[derive(Default)]
struct Contents {
    documents: HashMap<String, Vec<u8>>,
    /// Blobs by their path in the archive.
    files: HashMap<String, (Digest, u64)>,
    /// Links by their path: `docker save` writes a layer once.
    links: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize, Clone)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    config: Option<ContainerConfig>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct ContainerConfig {
    #[serde(rename = "User", default)]
    user: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// An entry of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image of an archive, found but not unpacked.
struct Found {
    names: Vec<Reference>,
    manifest: Digest,
    config: Digest,
    layers: Vec<(Digest, u64, Compression)>,
}

impl Store {
    /// Imports every image for `platform` from a tar stream: an OCI image layout, or what `docker save`
    /// writes, plain. Images get the names that the archive gives them, and `names` if there is just one.
    pub fn import(
        &self,
        reader: impl Read + Send + 'static,
        platform: &Platform,
        names: &[Reference],
    ) -> Result<Vec<Image>, Error> {
        let lease = self.content().lease();
        let contents = self.receive(Box::new(reader), &lease)?;
        // What `docker save` writes today is both; then the layout says more.
        let mut found = if contents.documents.contains_key("index.json") {
            self.layout_images(&contents, platform)?
        } else {
            self.docker_images(&contents, &lease)?
        };
        match &mut *found {
            [] => return Err(not_an_image(format!("it holds none for {platform}"))),
            [only] => only.names.extend_from_slice(names),
            _ => {}
        }
        found.into_iter().map(|image| self.adopt(image, &lease)).collect()
    }

    /// Takes all files into the content store.
    fn receive(&self, reader: Box<dyn Read + Send>, lease: &content::Lease) -> Result<Contents, Error> {
        let failed = |source| Error::Unpack { what: "an archive of images".to_owned(), source };
        let limits = self.options().limits;
        let stream = Stream::start(reader, Compression::None, limits, Algorithm::Sha256).map_err(failed)?;
        let mut tar = Tar::new(stream, limits);
        let mut contents = Contents::default();
        let mut entries = 0;
        while let Some(entry) = tar.next().map_err(failed)? {
            entries += 1;
            if entries > 100_000 {
                return Err(failed(ArchiveError::Limit { limit: crate::Limit::Entries }));
            }
            let name = normal_path(&String::from_utf8_lossy(&entry.name));
            match entry.kind {
                EntryKind::File if DOCUMENTS.contains(&&*name) => {
                    let document = tar.read_all(MAX_DOCUMENT).map_err(failed)?;
                    contents.documents.insert(name, document);
                }
                EntryKind::File => {
                    let received = self.receive_file(&name, entry.size, &mut tar, lease)?;
                    contents.files.insert(name, received);
                }
                EntryKind::Symlink => {
                    let target = String::from_utf8_lossy(&entry.link);
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    contents.links.insert(name.clone(), normal_path(&format!("{directory}/{target}")));
                }
                EntryKind::HardLink => {
                    contents.links.insert(name, normal_path(&String::from_utf8_lossy(&entry.link)));
                }
                _ => {}
            }
        }
        tar.finish().map_err(failed)?;
        Ok(contents)
    }

    fn receive_file(
        &self,
        name: &str,
        size: u64,
        tar: &mut Tar,
        lease: &content::Lease,
    ) -> Result<(Digest, u64), Error> {
        let failed = |source| Error::Unpack { what: format!("{name} of an archive of images"), source };
        let expected = blob_name(name);
        if let Some(digest) = &expected {
            lease.add(digest);
            if self.content().stat(digest) == Some(size) {
                return Ok((digest.clone(), size));
            }
        }
        let unique = sys::fs::random_bytes::<16>().map_err(Error::io("name an ingest in", self.root()))?;
        let key = format!("import {unique:?}");
        let mut ingest = self.content().ingest(&key, expected.as_ref(), Some(size))?;
        loop {
            let data = tar.data().map_err(failed)?;
            if data.is_empty() {
                break;
            }
            let count = data.len();
            ingest.write_all(data)?;
            tar.consume(count);
        }
        lease.add(&ingest.digest());
        Ok((ingest.commit()?, size))
    }

    /// The images of an OCI layout.
    fn layout_images(&self, contents: &Contents, platform: &Platform) -> Result<Vec<Found>, Error> {
        let bytes = contents.documents.get("index.json").map_or(&[][..], Vec::as_slice);
        let index: Index = parse("index.json", bytes)?;
        let mut found = Vec::new();
        for descriptor in index.manifests {
            if found.len() >= MAX_IMAGES {
                return Err(not_an_image(format!("it holds more than {MAX_IMAGES} images")));
            }
            let names = annotated_names(&descriptor.annotations);
            let Some(manifest) = self.choose(descriptor, platform)? else { continue };
            let document: Manifest = self.document(&manifest.digest)?;
            let layer = |layer: &Descriptor| match MediaKind::of(&layer.media_type) {
                MediaKind::Layer(compression) => Ok((layer.digest.clone(), layer.size, compression)),
                _ => Err(not_an_image(format!("{} is not a layer", layer.media_type))),
            };
            found.push(Found {
                names,
                layers: document.layers.iter().map(layer).collect::<Result<_, _>>()?,
                config: document.config.digest,
                manifest: manifest.digest,
            });
        }
        Ok(found)
    }

    /// The manifest for the platform: the descriptor itself, or one of the index that it names.
    fn choose(&self, descriptor: Descriptor, platform: &Platform) -> Result<Option<Descriptor>, Error> {
        let fits = |descriptor: &Descriptor| {
            descriptor.platform.as_ref().is_none_or(|other| platform.accepts(other))
        };
        match MediaKind::of(&descriptor.media_type) {
            MediaKind::Index => {
                let index: Index = self.document(&descriptor.digest)?;
                let is_manifest =
                    |entry: &Descriptor| MediaKind::of(&entry.media_type) == MediaKind::Manifest;
                Ok(index.manifests.into_iter().find(|entry| is_manifest(entry) && fits(entry)))
            }
            MediaKind::Manifest => Ok(Some(descriptor).filter(fits)),
            _ => Ok(None),
        }
    }

    /// The images of docker's own format. It has no manifests, so they are written here.
    fn docker_images(&self, contents: &Contents, lease: &content::Lease) -> Result<Vec<Found>, Error> {
        let bytes = contents.documents.get("manifest.json");
        let bytes =
            bytes.ok_or_else(|| not_an_image("it has no index.json and no manifest.json".to_owned()))?;
        let images: Vec<DockerImage> = parse("manifest.json", bytes)?;
        if images.len() > MAX_IMAGES {
            return Err(not_an_image(format!("it holds more than {MAX_IMAGES} images")));
        }
        let mut found = Vec::new();
        for image in images {
            let (config, config_size) = contents.find(&image.config)?;
            let mut layers = Vec::new();
            for path in &image.layers {
                let (digest, size) = contents.find(path)?;
                let compression = self.sniff(&digest)?;
                layers.push((digest, size, compression));
            }
            let manifest = docker_manifest(&config, config_size, &layers);
            lease.add(&Hasher::digest(Algorithm::Sha256, &manifest));
            let tags = image.repo_tags.unwrap_or_default();
            found.push(Found {
                names: tags.iter().filter_map(|tag| tag.parse().ok()).collect(),
                manifest: self.content().put(&manifest)?,
                config,
                layers,
            });
        }
        Ok(found)
    }

    /// Unpacks an image's layers and records it.
    fn adopt(&self, found: Found, lease: &content::Lease) -> Result<Image, Error> {
        let config: Config = self.document(&found.config)?;
        if config.rootfs.diff_ids.len() != found.layers.len() {
            return Err(not_an_image("its configuration names another number of layers".to_owned()));
        }
        let mut layers = Vec::new();
        for (diff_id, (blob, size, compression)) in config.rootfs.diff_ids.into_iter().zip(found.layers) {
            lease.add(&diff_id);
            if !self.has_layer(&diff_id) {
                self.unpack(&diff_id, compression, self.content().open_blob(&blob)?)?;
            }
            layers.push(ImageLayer { blob, size, diff_id });
        }
        let target = ImageTarget {
            manifest: found.manifest,
            config: found.config,
            layers,
            extra_blobs: Vec::new(),
            user: config.config.and_then(|config| config.user).unwrap_or_default(),
            pinned: false,
        };
        self.put_image(&found.names, target)
    }

    fn document<T: serde::de::DeserializeOwned>(&self, digest: &Digest) -> Result<T, Error> {
        parse(digest.as_str(), &self.content().read_small(digest, MAX_DOCUMENT)?)
    }

    /// How a layer without a media type is compressed.
    pub(crate) fn sniff(&self, digest: &Digest) -> Result<Compression, Error> {
        let mut magic = [0; 4];
        let mut file = self.content().open_blob(digest)?;
        let read = file.read(&mut magic);
        read.map_err(Error::io("read", &self.content().blob_path(digest)))?;
        Ok(match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
            _ => Compression::None,
        })
    }
}

impl Contents {
    /// A file, or what links lead to.
    fn find(&self, path: &str) -> Result<(Digest, u64), Error> {
        let mut path = normal_path(path);
        for _ in 0..8 {
            if let Some(found) = self.files.get(&path) {
                return Ok(found.clone());
            }
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        Err(not_an_image(format!("it lacks {path:?}")))
    }
}

fn not_an_image(reason: String) -> Error {
    Error::NotAnImage { reason }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Record { what: what.to_owned(), source })
}

/// `.` and `..` worked out, never above the top.
fn normal_path(path: &str) -> String {
    let mut components = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()),
            _ => components.push(component),
        }
    }
    components.join("/")
}

/// The digest that a blob of a layout is filed under.
fn blob_name(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// Names by the annotations of containerd, and of the specification where it holds a whole name.
fn annotated_names(annotations: &HashMap<String, String>) -> Vec<Reference> {
    let containerd = annotations.get("io.containerd.image.name");
    let standard = annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains('/'));
    containerd.or(standard).and_then(|name| name.parse().ok()).into_iter().collect()
}

pub(crate) fn docker_manifest(config: &Digest, size: u64, layers: &[(Digest, u64, Compression)]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size, compression)| {
            let suffix = match compression {
                Compression::None => "",
                Compression::Gzip => "+gzip",
                Compression::Zstd => "+zstd",
            };
            serde_json::json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                "digest": digest.as_str(),
                "size": size,
            })
        })
        .collect();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.as_str(),
            "size": size,
        },
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}
