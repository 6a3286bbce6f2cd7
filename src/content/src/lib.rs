//! Content-addressed blobs on disk, in the layout of the OCI image specification.
//!
//! A blob becomes visible under `blobs/<algorithm>/<hex>` only when all of its bytes have been hashed, have
//! been synced, and hash to its name. What is still arriving lives under `ingest/` and can be resumed after
//! a crash. The store never deletes on its own: [`Store::remove`] is called by whoever knows what is still
//! referenced, and refuses what a [`Lease`] holds.
//!
//! ```text
//! content/oci-layout            the marker of the specification
//! content/index.json            images by name, for other tools; never read back
//! content/blobs/sha256/<hex>    blobs
//! content/ingest/<hash of key>  partial blobs, locked while they are written
//! ```

#![forbid(unsafe_code)]

mod error;
mod fail;
mod hash;
mod ingest;
mod lease;
mod store;

pub use error::{Error, ErrorKind};
pub use hash::Hasher;
pub use ingest::Ingest;
pub use lease::{Lease, Leases};
pub use store::{BlobInfo, Store};

#[cfg(test)]
mod tests;
