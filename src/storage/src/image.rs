//! Images: records that give names to ordered lists of layers.

use std::collections::BTreeSet;

use oci::{Digest, Reference};

use crate::store::{State, Store};
use crate::{Error, Trash};

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// The digest of the compressed archive.
    pub blob: Digest,
    /// The size of the compressed archive.
    pub size: u64,
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
}

/// What a name points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTarget {
    /// The manifest of this platform.
    pub manifest: Digest,
    /// The image configuration; its digest is the image's id.
    pub config: Digest,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// Other blobs to keep with the image, such as the index it was found in.
    pub extra_blobs: Vec<Digest>,
    /// The user its configuration asks for.
    pub user: String,
    /// Whether nobody but an administrator may remove it.
    pub pinned: bool,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration.
    pub id: Digest,
    /// The manifests it is known by, the latest last.
    pub manifests: Vec<Digest>,
    /// Its tags and `repository@digest` names.
    pub names: BTreeSet<Reference>,
    /// Its layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// Other blobs kept with it.
    pub extra_blobs: Vec<Digest>,
    /// Bytes of its blobs.
    pub size: u64,
    /// The user its configuration asks for.
    pub user: String,
    /// Whether nobody but an administrator may remove it.
    pub pinned: bool,
    /// When it was first stored, in nanoseconds since 1970.
    pub created_ns: i64,
}

impl Image {
    /// Its layers' diff ids, lowest first.
    pub fn diff_ids(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().map(|layer| &layer.diff_id)
    }

    /// Bytes of its unpacked layers: needs the store for their sizes.
    pub fn unpacked_bytes(&self, store: &Store) -> u64 {
        let state = store.state();
        self.diff_ids().filter_map(|id| state.layers.get(id)).map(|layer| layer.bytes).sum()
    }

    /// Every blob it needs to be pushed or inspected; the layers' last.
    pub(crate) fn metadata_blobs(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.id).chain(&self.manifests).chain(&self.extra_blobs)
    }
}

/// What a removal did.
#[derive(Debug, Default)]
pub struct Removal {
    /// Names that are gone.
    pub names: Vec<Reference>,
    /// The image, if it went with its last name.
    pub image: Option<Digest>,
    /// Layers that nothing needed any more.
    pub layers: Vec<Digest>,
    /// What is to be deleted in the background.
    pub trash: Trash,
}

impl Store {
    /// Records that `names` stand for an image whose blobs and layers are all here, durably. A name that
    /// stood for another image is taken from it. An image may have no name at all.
    ///
    /// A name with both tag and digest is kept by its digest.
    pub fn put_image(&self, names: &[Reference], target: ImageTarget) -> Result<Image, Error> {
        let _writing = self.writing();
        let names: BTreeSet<Reference> = names.iter().map(stored_name).collect();
        let mut image = self.image_of(target)?;
        let diff_ids: Vec<Digest> = image.diff_ids().cloned().collect();
        self.adapt(&diff_ids)?;
        let mut changed = Vec::new();
        {
            let state = self.state();
            if let Some(old) = state.images.get(&image.id) {
                image.merge(old);
            }
            for name in &names {
                let Some(owner) = state.names.get(name).filter(|owner| **owner != image.id) else { continue };
                let known = changed.iter().position(|other: &Image| other.id == *owner);
                let at = known.or_else(|| {
                    changed.push(state.images.get(owner)?.clone());
                    Some(changed.len() - 1)
                });
                if let Some(at) = at {
                    changed[at].names.remove(name);
                }
            }
        }
        image.names.extend(names);
        changed.push(image.clone());
        self.records().put_images(&changed, &[])?;
        let mut state = self.state();
        for image in changed {
            state.set_image(image);
        }
        drop(state);
        self.write_index();
        Ok(image)
    }

    /// Checks that everything the target names is here.
    fn image_of(&self, target: ImageTarget) -> Result<Image, Error> {
        let mut size: u64 = target.layers.iter().map(|layer| layer.size).sum();
        for digest in [&target.config, &target.manifest].into_iter().chain(&target.extra_blobs) {
            let found = self.content().stat(digest);
            size += found.ok_or_else(|| Error::BlobNotFound { digest: digest.clone() })?;
        }
        for layer in &target.layers {
            if !self.has_layer(&layer.diff_id) {
                return Err(Error::LayerNotFound { diff_id: layer.diff_id.clone() });
            }
        }
        Ok(Image {
            id: target.config,
            manifests: vec![target.manifest],
            names: BTreeSet::new(),
            layers: target.layers,
            extra_blobs: target.extra_blobs,
            size,
            user: target.user,
            pinned: target.pinned,
            created_ns: sys::fs::now_ns(),
        })
    }

    /// The image with this id.
    pub fn image(&self, id: &Digest) -> Option<Image> {
        self.state().images.get(id).cloned()
    }

    /// The image that a name stands for, exactly as given but for a tag next to a digest.
    pub fn image_named(&self, name: &Reference) -> Option<Image> {
        let state = self.state();
        state.names.get(&stored_name(name)).and_then(|id| state.images.get(id)).cloned()
    }

    /// The image that a user's text stands for: an id with or without `sha256:`, a name (`latest` if it has
    /// no tag), or the start of exactly one id.
    pub fn find_image(&self, text: &str) -> Result<Image, Error> {
        if let Some(image) = as_id(text).and_then(|id| self.image(&id)) {
            return Ok(image);
        }
        let name: Option<Reference> = text.parse().ok();
        if let Some(image) = name.and_then(|name| self.image_named(&name.with_default_tag())) {
            return Ok(image);
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let is_prefix = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_hexdigit());
        let state = self.state();
        let mut found = state.images.values().filter(|image| is_prefix && image.id.hex().starts_with(prefix));
        match (found.next(), found.count()) {
            (Some(image), 0) => Ok(image.clone()),
            (Some(_), others) => Err(Error::Ambiguous { prefix: text.to_owned(), count: others + 1 }),
            (None, _) => Err(Error::ImageNotFound { name: text.to_owned() }),
        }
    }

    /// All images, by id.
    pub fn images(&self) -> Vec<Image> {
        self.state().images.values().cloned().collect()
    }

    /// Says whether an image is pinned.
    pub fn set_pinned(&self, id: &Digest, pinned: bool) -> Result<(), Error> {
        let _writing = self.writing();
        let mut image =
            self.image(id).ok_or_else(|| Error::ImageNotFound { name: id.as_str().to_owned() })?;
        image.pinned = pinned;
        self.records().put_images(std::slice::from_ref(&image), &[])?;
        self.state().set_image(image);
        Ok(())
    }

    /// Takes a name away; an image without a name left goes with it. The name not being there is fine.
    pub fn remove_name(&self, name: &Reference) -> Result<Removal, Error> {
        let name = stored_name(name);
        let Some(image) = self.image_named(&name) else { return Ok(Removal::default()) };
        if image.names.len() == 1 {
            return self.remove_image(&image.id);
        }
        let _writing = self.writing();
        let Some(mut image) = self.image_named(&name) else { return Ok(Removal::default()) };
        image.names.remove(&name);
        self.records().put_images(std::slice::from_ref(&image), &[])?;
        self.state().set_image(image);
        self.write_index();
        Ok(Removal { names: vec![name], ..Removal::default() })
    }

    /// Removes an image with all its names, and the layers and blobs that nothing else needs: containers,
    /// other images and leases keep theirs. The image not being there is fine.
    pub fn remove_image(&self, id: &Digest) -> Result<Removal, Error> {
        let _writing = self.writing();
        let Some(image) = self.image(id) else { return Ok(Removal::default()) };
        self.records().put_images(&[], std::slice::from_ref(id))?;
        self.state().remove_image(id);
        self.write_index();
        let mut removal = self.collect_of(&image)?;
        removal.names = image.names.into_iter().collect();
        removal.image = Some(image.id);
        Ok(removal)
    }

    /// Tells other tools which images there are. They read a copy; failing to write it harms nothing here.
    fn write_index(&self) {
        let manifests: Vec<serde_json::Value> =
            self.state().images.values().flat_map(index_entries).collect();
        let manifests: Vec<_> = manifests
            .into_iter()
            .filter_map(|mut entry| {
                let digest: Digest = entry["digest"].as_str()?.parse().ok()?;
                entry["size"] = self.content().stat(&digest)?.into();
                Some(entry)
            })
            .collect();
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        if let Err(error) = self.content().write_index(index.to_string().as_bytes()) {
            tracing::warn!(%error, "the list of images for other tools is out of date");
        }
    }
}

fn index_entries(image: &Image) -> Vec<serde_json::Value> {
    let Some(manifest) = image.manifests.last() else { return Vec::new() };
    let tags = image.names.iter().filter(|name| name.tag().is_some());
    tags.map(|name| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest.as_str(),
            "annotations": { "org.opencontainers.image.ref.name": name.to_string() },
        })
    })
    .collect()
}

impl Image {
    /// Keeps what an earlier record of the same image knew.
    fn merge(&mut self, old: &Self) {
        self.names.clone_from(&old.names);
        self.created_ns = old.created_ns;
        self.pinned |= old.pinned;
        let earlier = |kept: &mut Vec<Digest>, old: &[Digest]| {
            let mut all: Vec<Digest> = old.iter().filter(|digest| !kept.contains(digest)).cloned().collect();
            all.append(kept);
            *kept = all;
        };
        earlier(&mut self.manifests, &old.manifests);
        earlier(&mut self.extra_blobs, &old.extra_blobs);
    }
}

impl State {
    pub(crate) fn set_image(&mut self, image: Image) {
        self.remove_image(&image.id);
        for name in &image.names {
            self.names.insert(name.clone(), image.id.clone());
        }
        self.images.insert(image.id.clone(), image);
    }

    pub(crate) fn remove_image(&mut self, id: &Digest) {
        self.images.remove(id);
        self.names.retain(|_, owner| owner != id);
    }
}

/// The name under which a reference is kept: a digest says more than the tag next to it.
fn stored_name(name: &Reference) -> Reference {
    match name.digest() {
        Some(digest) => name.at_digest(digest),
        None => name.clone().with_default_tag(),
    }
}

fn as_id(text: &str) -> Option<Digest> {
    if text.contains(':') { text.parse().ok() } else { format!("sha256:{text}").parse().ok() }
}
