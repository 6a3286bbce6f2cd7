//! Builds the image that the daemon embeds (see `src/embedded.rs`): compiles `embedded/hello.rs` to a
//! static program and packs it, with all times and owners zero, as an OCI image layout in a tar file.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// As in `src/embedded.rs`, which has a test that compares them.
const REFERENCE: &str = "berth.local/hello:latest";

fn main() {
    println!("cargo::rerun-if-changed=embedded/hello.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(variable("OUT_DIR"));
    let program = compile(&out);
    let image = image(&program);
    let path = out.join("hello.tar");
    std::fs::write(&path, image).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|error| panic!("cargo sets {name}: {error}"))
}

/// Compiles the program for the daemon's own target and returns its bytes. The image has no C library,
/// so a program that is not static would be of no use.
fn compile(out: &Path) -> Vec<u8> {
    let program = out.join("hello");
    let source = Path::new(&variable("CARGO_MANIFEST_DIR")).join("embedded/hello.rs");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition=2024", "--crate-name=hello", "--target", &variable("TARGET")]);
    rustc.args(["-Copt-level=z", "-Ctarget-feature=+crt-static", "-Cpanic=abort", "-Cstrip=symbols"]);
    // Position independence is of no use here, and only costs relocations.
    rustc.args(["-Crelocation-model=static", "-Ccodegen-units=1"]);
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.display()));
    }
    let status = rustc.arg("-o").arg(&program).arg(&source).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("rustc could not build {}: {status}", source.display()),
        Err(error) => panic!("run rustc for {}: {error}", source.display()),
    }
    std::fs::read(&program).unwrap_or_else(|error| panic!("read {}: {error}", program.display()))
}

/// The layout: blobs and the two files that name them.
fn image(program: &[u8]) -> Vec<u8> {
    let layer = layer(program);
    let config = format!(
        concat!(
            r#"{{"architecture":"{}","os":"linux","config":{{"User":"0","#,
            r#""Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"#,
            r#""Entrypoint":["/hello"],"WorkingDir":"/"}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#
        ),
        architecture(),
        digest(&layer)
    );
    let manifest = format!(
        concat!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
            r#""config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"#,
            r#""layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#
        ),
        digest(config.as_bytes()),
        config.len(),
        digest(&layer),
        layer.len()
    );
    let index = format!(
        concat!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#,
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{},"#,
            r#""annotations":{{"org.opencontainers.image.ref.name":"{}"}}}}]}}"#
        ),
        digest(manifest.as_bytes()),
        manifest.len(),
        REFERENCE
    );
    let mut tar = Tar::default();
    tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    tar.file("index.json", 0o644, index.as_bytes());
    for blob in [manifest.as_bytes(), config.as_bytes(), &layer] {
        tar.file(&format!("blobs/{}", digest(blob).replace(':', "/")), 0o644, blob);
    }
    tar.finish()
}

fn layer(program: &[u8]) -> Vec<u8> {
    let mut tar = Tar::default();
    tar.directory("etc", 0o755);
    tar.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
    tar.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/hello\nnobody:x:65534:65534:nobody:/:/hello\n");
    tar.file("hello", 0o755, program);
    tar.directory("tmp", 0o1777);
    tar.finish()
}

/// OCI's word for the target's architecture.
fn architecture() -> String {
    match variable("CARGO_CFG_TARGET_ARCH").as_str() {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "x86" => "386".to_owned(),
        other => other.to_owned(),
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A writer of ustar archives: regular files and directories with short names, owned by root.
#[derive(Default)]
struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.header(name, mode, content.len(), b'0');
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    fn directory(&mut self, name: &str, mode: u32) {
        self.header(&format!("{name}/"), mode, 0, b'5');
    }

    fn header(&mut self, name: &str, mode: u32, size: usize, kind: u8) {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, value: &[u8]| header[at..at + value.len()].copy_from_slice(value);
        assert!(name.len() < 100, "{name} needs a longer header");
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{size:011o}").as_bytes());
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
    }

    /// Two empty blocks end the archive.
    fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}
