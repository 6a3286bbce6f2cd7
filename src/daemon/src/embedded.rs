//! The image that the daemon carries in itself, so that a first pod needs no registry.
//!
//! It is an OCI image layout in a tar file, made by `build.rs` from `embedded/hello.rs`: the same source,
//! compiler and target give the same bytes.

/// The tar file of the layout: `oci-layout`, `index.json` and `blobs/`.
pub(crate) const EMBEDDED_IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello.tar"));

/// The name it goes by. `index.json` says the same in `org.opencontainers.image.ref.name`.
pub(crate) const EMBEDDED_REFERENCE: &str = "berth.local/hello:latest";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_tar_file_with_the_layout_first() {
        assert_eq!(&EMBEDDED_IMAGE[..10], b"oci-layout");
        assert_eq!(&EMBEDDED_IMAGE[257..262], b"ustar");
        assert_eq!(EMBEDDED_IMAGE.len() % 512, 0);
    }

    #[test]
    fn says_its_name() {
        let name = format!("\"org.opencontainers.image.ref.name\":\"{EMBEDDED_REFERENCE}\"");
        assert!(EMBEDDED_IMAGE.windows(name.len()).any(|window| window == name.as_bytes()));
    }
}
