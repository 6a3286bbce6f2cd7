//! Names and documents of the Open Container Initiative.
//!
//! Pure data: nothing here opens a file or a socket. Every checked string has one fallible constructor;
//! whoever holds the type needs not check again. The documents themselves (runtime configuration, image
//! manifest, index, configuration) are those of the `oci-spec` crate, re-exported as [`runtime`] and
//! [`image`] so that the workspace agrees on one version.
#![forbid(unsafe_code)]

mod digest;
mod id;
mod media;
mod platform;
mod reference;

pub use digest::{Algorithm, Digest, InvalidDigest};
pub use id::{ContainerId, ExecId, InvalidId, SandboxId};
pub use media::{Compression, MediaKind};
pub use oci_spec::{image, runtime};
pub use platform::Platform;
pub use reference::{InvalidReference, Reference};
