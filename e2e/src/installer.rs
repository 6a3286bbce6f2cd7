//! The image of the chart's installer, as an archive with an OCI image layout.
//!
//! | in the image | what |
//! |---|---|
//! | `/bin` | busybox with its applets, `kubectl` |
//! | `/berth/programs` | what is installed on nodes |
//! | `/berth/units` | the systemd units for it |
//! | `/berth/crictl` | ends a node's pods when it changes its runtime |

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::archive::{Entry, archive};
use crate::image::{Blob, Compression, Config, Format, Image, Layer};
use crate::lab::checkout;
use crate::process::run;

/// Where its parts come from.
#[derive(Debug)]
pub struct Parts {
    /// Directory of `berth`, `berth-keeper` and `berth-runtime`.
    pub programs: PathBuf,
    /// Directory of `busybox`, `kubectl` and `crictl`.
    pub tools: PathBuf,
    /// How its layers are compressed.
    pub compression: Compression,
}

/// Writes the archive of the image, under a name such as `registry.example.com/berth/installer:1.0`.
pub fn write(parts: &Parts, reference: &str, out: &Path) -> Result<()> {
    ensure!(
        reference.contains('/') && !reference.contains(char::is_whitespace),
        "{reference:?} is no name of an image"
    );
    // What changes with every build comes last.
    let layer = |entries: Vec<Entry>| Layer::new(&entries, parts.compression, Format::Oci);
    let layers = [layer(tools(&parts.tools)?)?, layer(programs(&parts.programs)?)?];
    let config = Config { cmd: vec!["/bin/sh".to_owned()], ..Config::default() };
    let image = Image::new(&config, &layers, Format::Oci);
    let mut descriptor = image.manifest.descriptor();
    descriptor["platform"] = json!({"os": "linux", "architecture": config.architecture});
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": reference});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor],
    });
    let mut entries = vec![
        Entry::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        Entry::file("index.json", index.to_string()),
    ];
    let blob =
        |blob: &Blob| Entry::file(&format!("blobs/{}", blob.digest.replace(':', "/")), blob.bytes.clone());
    entries.push(blob(&image.manifest));
    entries.push(blob(&image.config));
    entries.extend(image.layers.iter().map(|layer| blob(&layer.blob)));
    std::fs::write(out, archive(&entries)).with_context(|| format!("write {}", out.display()))
}

fn program(dir: &Path, name: &str, place: &str) -> Result<Entry> {
    let path = dir.join(name);
    let content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(Entry::file(&format!("{place}/{name}"), content).mode(0o755))
}

fn tools(dir: &Path) -> Result<Vec<Entry>> {
    let mut entries = vec![
        Entry::dir("bin"),
        Entry::dir("berth"),
        Entry::dir("etc"),
        Entry::dir("tmp").mode(0o1777),
        Entry::file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        Entry::file("etc/group", "root:x:0:\nnobody:x:65534:\n"),
        program(dir, "busybox", "bin")?,
        program(dir, "kubectl", "bin")?,
        program(dir, "crictl", "berth")?,
    ];
    let applets = run(Command::new(dir.join("busybox")).arg("--list"))?;
    let links = applets.lines().filter(|applet| *applet != "busybox");
    entries.extend(links.map(|applet| Entry::symlink(&format!("bin/{applet}"), "busybox")));
    Ok(entries)
}

fn programs(dir: &Path) -> Result<Vec<Entry>> {
    let mut entries = vec![Entry::dir("berth/programs"), Entry::dir("berth/units")];
    for name in ["berth", "berth-keeper", "berth-runtime"] {
        entries.push(program(dir, name, "berth/programs")?);
    }
    for name in ["berth.service", "berth-keeper.service"] {
        let path = checkout().join("config").join(name);
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        entries.push(Entry::file(&format!("berth/units/{name}"), text));
    }
    Ok(entries)
}
