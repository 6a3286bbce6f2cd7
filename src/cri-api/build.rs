//! Compiles `proto/cri.proto` without a `protoc` binary.

use std::error::Error;

const PROTO: &str = "cri.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    println!("cargo:rerun-if-changed={root}/{PROTO}");
    let descriptors = protox::compile([PROTO], [root])?;
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(std::path::Path::new(&out).join("cri.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // No default stubs: an RPC that nobody implements is a compile error.
    tonic_prost_build::configure()
        // Derived `Debug` would print passwords: prost does not know `debug_redact`.
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}
