//! Layers, images and container file systems.
//!
//! A *layer* is the unpacked content of one layer of an image: a directory that is a lower directory for
//! overlayfs as it stands, named by the digest of its uncompressed archive (its diff id). Layers know nothing
//! of each other, so all layers of an image unpack at the same time, and an image is a record: an ordered
//! list of diff ids and a set of names. A *snapshot* is the writable part of one container on top of such a
//! list. Mounts are made detached; this crate never puts one anywhere unless asked to.
//!
//! ```text
//! storage/lock                     held while a store is open
//! storage/images.redb              records of layers and images: what is not in here does not exist
//! storage/layers/<algorithm>/<hex> layers
//! storage/adapters/<hex>/          what a list of layers needs besides them, see `adapter`
//! storage/snapshots/<id>/          upper, work, snapshot.json
//! storage/tmp/                     layers that are being unpacked; swept on open
//! storage/trash/                   what was removed and waits for deletion
//! storage/empty/                   the lower directory of images without layers
//! ```
//!
//! A layer's files are synced before it is renamed into place, and its record is written after that. A crash
//! leaves things without a record, which the next open moves to the trash, and never a record without
//! its files.

#![forbid(unsafe_code)]

mod adapter;
mod archive;
mod capture;
mod error;
mod fail;
mod gc;
mod image;
mod import;
mod layer;
mod options;
mod overlay;
mod persist;
mod records;
mod save;
mod snapshot;
mod store;
mod trash;
mod usage;
mod writeback;

pub use archive::{ArchiveError, Limit, PackOptions, PlaceOptions, TarWriter, place};
pub use capture::NewImage;
pub use error::{Error, ErrorKind};
pub use gc::{GcOptions, GcReport, Problem};
pub use image::{Image, ImageLayer, ImageTarget, Removal};
pub use layer::Layer;
pub use options::{Limits, Options};
pub use overlay::{MountOptions, ViewOptions};
pub use snapshot::{IdMap, IdMaps, Snapshot, SnapshotOptions};
pub use store::Store;
pub use sys::tree::Usage;
pub use trash::Trash;
pub use usage::FsInfo;

#[cfg(test)]
mod tests;
