//! Images of containers and of root file systems, and archives of images.

use std::io::Read;
use std::sync::Arc;

use oci::{Digest, Reference};
use serde_json::Value;
use storage::TarWriter;

use super::ArchiveStream;
use super::stream::pair;
use super::view::Subject;
use crate::blocking::Purpose;
use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::happenings::{Action, Subject as Whom};
use crate::sandbox::storage_error;

/// What a new image says of itself.
#[derive(Debug, Clone, Default)]
pub struct CommitConfig {
    /// Its names; it may have none.
    pub names: Vec<Reference>,
    /// The `config` of its document; `null` is that of the container's image, or an empty one.
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

impl Engine {
    /// Makes an image of a container: its own, and on top what it wrote. It may run meanwhile; pause it for files
    /// that fit each other.
    pub async fn commit_container(&self, container: &str, config: CommitConfig) -> Result<Digest> {
        let subject = Subject::find(self, container)?;
        let base = self.image_document(&subject.image).await?;
        let work = move || {
            let new = new_image(config, base);
            let snapshot = subject.snapshot()?;
            let image = subject.shared.storage.capture(&snapshot, new).map_err(|error| {
                storage_error(format!("make an image of container {}", subject.id.short()), error)
            })?;
            tracing::info!(container = %subject.id, image = %image.id, "image made of a container");
            Ok(image.id)
        };
        self.shared().blocking.run(Purpose::Archives, work).await?
    }

    /// Makes an image of a root file system in a tar stream, compressed or not.
    pub async fn import_rootfs(
        &self,
        archive: impl Read + Send + 'static,
        config: CommitConfig,
    ) -> Result<Digest> {
        let shared = Arc::clone(self.shared());
        let work = move || {
            let names = config.names.clone();
            let image = shared
                .storage
                .import_rootfs(Box::new(archive), new_image(config, Value::Null))
                .map_err(|error| storage_error("make an image of a root file system".into(), error))?;
            tell(&shared, &image.id, &names, &Action::Import);
            Ok(image.id)
        };
        self.shared().blocking.run(Purpose::Archives, work).await?
    }

    /// Images as one archive, which is an OCI layout and what `docker save` writes. An image that is asked for by a
    /// name is saved under that name, one that is asked for by its id without any.
    pub async fn save_images(&self, texts: &[String]) -> Result<ArchiveStream> {
        if texts.is_empty() {
            return Err(Error::invalid("no image to save is named"));
        }
        let mut images: Vec<(storage::Image, Vec<Reference>)> = Vec::new();
        for text in texts {
            let found = self.shared().storage.find_image(text);
            let image = found.map_err(|error| storage_error(format!("find image {text}"), error))?;
            let name = text.parse::<Reference>().ok().map(Reference::with_default_tag);
            let name = name.filter(|name| name.digest().is_none() && image.names.contains(name));
            match images.iter_mut().find(|(known, _)| known.id == image.id) {
                Some((_, names)) => names.extend(name),
                None => images.push((image, name.into_iter().collect())),
            }
        }
        let shared = Arc::clone(self.shared());
        shared.storage.can_save(&images).map_err(|error| {
            Error::caused_by(
                ErrorKind::FailedPrecondition,
                "save images whose layers are not kept compressed; pull them again with discard_unpacked_layers off",
                error,
            )
        })?;
        let (sink, stream) = pair();
        let work = {
            let shared = Arc::clone(&shared);
            move || {
                for (image, names) in &images {
                    tell(&shared, &image.id, names, &Action::Save);
                }
                let mut sink = sink;
                if let Err(error) = shared.storage.save(&images, &mut sink) {
                    sink.fail(Error::io("save images", error));
                }
            }
        };
        self.shared().tracker.spawn(async move { drop(shared.blocking.run(Purpose::Archives, work).await) });
        Ok(stream)
    }

    /// The root file system of a container as an archive, without what is mounted in it.
    pub async fn export_container(&self, container: &str) -> Result<ArchiveStream> {
        let subject = Subject::find(self, container)?;
        let (sink, stream) = pair();
        let (told, opened) = tokio::sync::oneshot::channel();
        let shared = Arc::clone(self.shared());
        let work = move || {
            let root = match subject.bare() {
                Ok(root) => root,
                Err(error) => {
                    drop(told.send(Err(error)));
                    return;
                }
            };
            drop(told.send(Ok(())));
            let mut writer = TarWriter::new(sink);
            let maps = subject.maps.as_ref();
            let options = storage::PackOptions { maps, one_file_system: true, ..Default::default() };
            let written = writer.contents(std::os::fd::AsFd::as_fd(&root), b"", options);
            super::end(writer, written, || format!("export container {}", subject.id.short()));
        };
        self.shared().tracker.spawn(async move { drop(shared.blocking.run(Purpose::Archives, work).await) });
        opened.await.map_err(|_| Error::internal("opening the container's file system broke off"))??;
        Ok(stream)
    }
}

fn new_image(config: CommitConfig, base: Value) -> storage::NewImage {
    storage::NewImage {
        names: config.names,
        base,
        config: config.config,
        created_by: config.created_by,
        author: config.author,
        comment: config.comment,
        created: config.created,
    }
}

fn tell(shared: &Shared, id: &Digest, names: &[Reference], action: &Action) {
    let labels =
        shared.images.stored(id).ok().and_then(|image| image.config.config().as_ref()?.labels().clone());
    let labels = Arc::new(labels.unwrap_or_default().into_iter().collect());
    let name = names.first().map(Reference::familiar).unwrap_or_default();
    shared.happenings.publish(Whom::Image { id: id.to_string(), name, labels }, action.clone());
}
