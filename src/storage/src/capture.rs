//! Images of what containers wrote, and of file systems from elsewhere.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use content::{Hasher, Ingest};
use flate2::write::GzEncoder;
use oci::{Algorithm, Compression, Digest, Reference};
use serde_json::{Value, json};

use crate::archive::{PackOptions, Stream, TarWriter};
use crate::store::Store;
use crate::{Error, Image, ImageLayer, ImageTarget, Limits, Snapshot};

/// What a new image says of itself.
#[derive(Debug, Clone, Default)]
pub struct NewImage {
    /// Its names; it may have none.
    pub names: Vec<Reference>,
    /// The document of the image it continues, with `config`, `history` and the rest; `null` begins anew.
    pub base: Value,
    /// Replaces `config` of the document, unless it is `null`.
    pub config: Value,
    /// What to tell about the new layer.
    pub created_by: String,
    /// Who made it.
    pub author: String,
    /// A remark.
    pub comment: String,
    /// When, as RFC 3339 has it.
    pub created: String,
}

impl Store {
    /// Makes an image of what a container wrote, on top of the layers that it was made of.
    pub fn capture(&self, snapshot: &Snapshot, new: NewImage) -> Result<Image, Error> {
        let base = self
            .image(&snapshot.image)
            .ok_or_else(|| Error::ImageNotFound { name: snapshot.image.as_str().to_owned() })?;
        let lease = self.content().lease();
        let upper = self.upper_path(&snapshot.key);
        let failed = |error| Error::io("archive", &upper)(error);
        let directory = sys::tree::open_root(&upper).map_err(failed)?;
        let options = PackOptions { layer: true, maps: snapshot.idmap.as_ref(), one_file_system: true };
        let mut writer = TarWriter::new(self.layer_sink()?);
        writer
            .contents(directory.as_fd(), b"", options)
            .map_err(|error| Error::io("archive", &upper)(error))?;
        let sink = writer.finish().map_err(|error| Error::io("archive", &upper)(error))?;
        let layer = self.keep_layer(sink, &lease)?;
        let mut layers = base.layers;
        layers.push(layer);
        self.describe(layers, new, &lease)
    }

    /// Makes an image of one layer of a file system in a tar stream, compressed or not.
    pub fn import_rootfs(&self, reader: Box<dyn Read + Send>, new: NewImage) -> Result<Image, Error> {
        let lease = self.content().lease();
        let mut reader = reader;
        let (start, compression) = crate::archive::sniff(&mut *reader)
            .map_err(|error| Error::io("read the archive for", self.root())(error))?;
        let whole = Box::new(io::Cursor::new(start).chain(reader));
        let unpack = |source| Error::Unpack { what: "a root file system".to_owned(), source };
        let mut stream =
            Stream::start(whole, compression, Limits::STANDARD, Algorithm::Sha256).map_err(unpack)?;
        let mut sink = self.layer_sink()?;
        loop {
            let bytes = stream.fill().map_err(unpack)?;
            if bytes.is_empty() {
                break;
            }
            let count = bytes.len();
            sink.write_all(bytes).map_err(|error| Error::io("write a layer to", self.root())(error))?;
            stream.consume(count);
        }
        let layer = self.keep_layer(sink, &lease)?;
        self.describe(vec![layer], new, &lease)
    }

    fn layer_sink(&self) -> Result<LayerSink, Error> {
        let unique = sys::fs::random_bytes::<16>().map_err(Error::io("name an ingest in", self.root()))?;
        let ingest = self.content().ingest(&format!("capture {unique:?}"), None, None)?;
        let blob = GzEncoder::new(Blob { ingest }, flate2::Compression::fast());
        Ok(LayerSink { hasher: Hasher::new(Algorithm::Sha256), blob })
    }

    /// Keeps a layer as a blob, and unpacks it.
    fn keep_layer(&self, sink: LayerSink, lease: &content::Lease) -> Result<ImageLayer, Error> {
        let diff_id = sink.hasher.finish();
        let blob = sink.blob.finish().map_err(|error| Error::io("write a layer to", self.root())(error))?;
        let size = blob.ingest.offset();
        lease.add(&blob.ingest.digest());
        lease.add(&diff_id);
        let blob = blob.ingest.commit()?;
        self.unpack(&diff_id, Compression::Gzip, self.content().open_blob(&blob)?)?;
        Ok(ImageLayer { blob, size, diff_id })
    }

    /// Writes the documents of an image, and records it.
    fn describe(
        &self,
        layers: Vec<ImageLayer>,
        new: NewImage,
        lease: &content::Lease,
    ) -> Result<Image, Error> {
        let config = document(&layers, &new);
        let user = config["config"]["User"].as_str().unwrap_or_default().to_owned();
        let bytes = config.to_string().into_bytes();
        let id = Hasher::digest(Algorithm::Sha256, &bytes);
        lease.add(&id);
        self.content().put(&bytes)?;
        // A blob that is not kept cannot be looked at, nor pushed.
        let sniffed = |blob: &Digest| self.sniff(blob).unwrap_or(Compression::Gzip);
        let described: Vec<(Digest, u64, Compression)> =
            layers.iter().map(|layer| (layer.blob.clone(), layer.size, sniffed(&layer.blob))).collect();
        let manifest = crate::import::docker_manifest(&id, bytes.len() as u64, &described);
        lease.add(&Hasher::digest(Algorithm::Sha256, &manifest));
        let manifest = self.content().put(&manifest)?;
        let target =
            ImageTarget { manifest, config: id, layers, extra_blobs: Vec::new(), user, pinned: false };
        self.put_image(&new.names, target)
    }
}

/// The configuration of a new image.
fn document(layers: &[ImageLayer], new: &NewImage) -> Value {
    let platform = oci::Platform::host();
    let mut config = match &new.base {
        Value::Object(_) => new.base.clone(),
        _ => json!({"architecture": platform.architecture, "os": platform.os, "config": {}, "history": []}),
    };
    if !new.config.is_null() {
        config["config"] = new.config.clone();
    }
    for one_container_only in ["id", "parent", "container", "container_config", "docker_version"] {
        if let Some(fields) = config.as_object_mut() {
            fields.remove(one_container_only);
        }
    }
    config["created"] = new.created.clone().into();
    config["author"] = new.author.clone().into();
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    let step = json!({
        "created": new.created, "created_by": new.created_by, "author": new.author, "comment": new.comment,
    });
    match config["history"].as_array_mut() {
        Some(history) => history.push(step),
        None => config["history"] = json!([step]),
    }
    config
}

/// Hashes what is written, compresses it, and keeps that as a blob.
struct LayerSink {
    hasher: Hasher,
    blob: GzEncoder<Blob>,
}

impl Write for LayerSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.blob.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.blob.flush()
    }
}

struct Blob {
    ingest: Ingest,
}

impl Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ingest.write_all(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
