//! The images that conformance tests name, made here: each as little as the tests need of it.
//!
//! Hosts are left out: a mirror configuration sends every host to the one registry that holds them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive::Entry;
use crate::image::{Compression, Config, Format, Image, Layer, index, native_architecture};
use crate::process::run;
use crate::registry::Registry;

/// Prefix of the images of critest's authors, as on `gcr.io`.
const CRI_TOOLS: &str = "k8s-staging-cri-tools";
/// Prefix of Kubernetes' own test images, as on `registry.k8s.io`.
const E2E: &str = "e2e-test-images";

/// The image most tests run.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
/// A web server on port 80.
pub const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.14-2";
/// A program that does nothing until told to end.
pub const PAUSE: &str = "registry.k8s.io/pause:3.9";
/// Programs of the suites' own in `/usr/bin`: `flood`, `pause` and `probe`; and busybox.
pub const APPLIANCE: &str = "registry.k8s.io/berth/appliance:1";

/// The programs that images are made of.
#[derive(Debug)]
pub struct Programs {
    busybox: Vec<u8>,
    applets: Vec<String>,
    appliance: Vec<u8>,
}

impl Programs {
    /// Reads busybox and compiles the servers, with `work` for the compiler's output.
    pub fn load(busybox: &Path, work: &Path) -> Result<Programs> {
        let applets = run(Command::new(busybox).arg("--list-full"))?.lines().map(str::to_owned).collect();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/appliance.c");
        let program = work.join("appliance");
        run(Command::new("cc").args(["-static", "-Os", "-s", "-o"]).arg(&program).arg(&source))?;
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        Ok(Programs { busybox: read(busybox)?, applets, appliance: read(&program)? })
    }

    /// The lowest layer of every busybox image, for images of a test's own.
    pub fn base_layer(&self) -> Result<Layer> {
        Layer::new(&self.base(), Compression::Gzip, Format::Oci)
    }

    /// Uploads an image of a static program, which lies in its root directory and is its entry point.
    pub fn publish_program(&self, registry: &Registry, name: &str, tag: &str, program: &Path) -> Result<()> {
        let file = program.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
        let bytes = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
        let layer = Layer::new(&[Entry::file(file, bytes).mode(0o755)], Compression::Gzip, Format::Oci)?;
        let config = Config {
            entrypoint: vec![format!("/{file}")],
            // Another tag is another image.
            labels: vec![("tag".to_owned(), tag.to_owned())],
            ..Config::default()
        };
        registry.push(name, &[tag], &Image::new(&config, &[self.base_layer()?, layer], Format::Oci))
    }

    /// What every busybox image is based on.
    fn base(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = [
            "bin", "dev", "etc", "home", "proc", "root", "run", "sbin", "sys", "usr", "usr/bin", "usr/sbin",
            "var",
        ]
        .map(Entry::dir)
        .into();
        entries.push(Entry::dir("tmp").mode(0o1777));
        entries.push(Entry::dir("var/log"));
        entries.push(Entry::symlink("var/run", "../run"));
        entries.push(Entry::file("etc/passwd", PASSWD));
        entries.push(Entry::file("etc/group", GROUP));
        entries.push(Entry::file("bin/busybox", self.busybox.clone()).mode(0o755));
        // Hard links, as in the well-known image: a mask over one applet must not mask them all.
        for applet in self.applets.iter().filter(|applet| applet.as_str() != "bin/busybox") {
            entries.push(Entry::hardlink(applet, "bin/busybox").mode(0o755));
        }
        entries
    }

    fn appliance(&self, name: &str) -> Entry {
        Entry::file(name, self.appliance.clone()).mode(0o755)
    }
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                      www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnobody:x:65534:\n";
const PREDEFINED_PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home/default-user:/bin/sh\nnobody:x:65534:65534::/home:/bin/false\n";
const PREDEFINED_GROUP: &str =
    "root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\nnobody:x:65534:\n";

/// Uploads every image of the catalog.
pub fn publish(programs: &Programs, registry: &Registry) -> Result<()> {
    let oci = Layer::new(&programs.base(), Compression::Gzip, Format::Oci)?;
    let docker = Layer::new(&programs.base(), Compression::Gzip, Format::Docker)?;
    publish_busybox(registry, &oci)?;
    publish_servers(registry, programs, &oci, &docker)?;
    publish_users(registry, &docker)?;
    publish_image_specs(registry, programs, &oci, &docker)?;
    let pause = Layer::new(&[programs.appliance("pause")], Compression::Gzip, Format::Docker)?;
    let config = Config { entrypoint: strings(&["/pause"]), ..Config::default() };
    registry.push("pause", &["3.9"], &Image::new(&config, std::slice::from_ref(&pause), Format::Docker))?;
    // Another image for runtimes that start one of their own: it must not count as a tag of the one above.
    let config = Config { labels: vec![("for".to_owned(), "sandboxes".to_owned())], ..config };
    registry.push("pause", &["3.10", "3.10.1", "3.10.2"], &Image::new(&config, &[pause], Format::Docker))
}

/// An index of two platforms and an attestation, as a registry serves a popular image.
fn publish_busybox(registry: &Registry, base: &Layer) -> Result<()> {
    let native = Image::new(&shell(), std::slice::from_ref(base), Format::Oci);
    let other = if native_architecture() == "arm64" { "amd64" } else { "arm64" };
    let layer = Layer::new(&[Entry::file("wrong-architecture", "")], Compression::Gzip, Format::Oci)?;
    let foreign = Image::new(&Config { architecture: other.to_owned(), ..shell() }, &[layer], Format::Oci);
    let images = [foreign, native];
    let index = index(&images);
    registry.push_index(&format!("{E2E}/busybox"), "1.29-2", &images, &index)?;
    registry.push_index("library/busybox", "latest", &images, &index)?;
    registry.push_index("library/busybox", "1", &images, &index)
}

fn publish_servers(registry: &Registry, programs: &Programs, oci: &Layer, docker: &Layer) -> Result<()> {
    let server = |path: &str, format, mode| -> Result<Image> {
        let layer = Layer::new(
            &[programs.appliance(path.trim_start_matches('/')).mode(mode)],
            Compression::Gzip,
            format,
        )?;
        let base = if format == Format::Oci { oci } else { docker };
        let config = Config { cmd: strings(&[path]), ..Config::default() };
        Ok(Image::new(&config, &[base.clone(), layer], format))
    };
    let nginx = server("/usr/sbin/nginx", Format::Oci, 0o755)?;
    registry.push(&format!("{E2E}/nginx"), &["1.14-2"], &nginx)?;
    registry.push("library/nginx", &["latest"], &nginx)?;
    let httpd = server("/usr/sbin/httpd", Format::Docker, 0o755)?;
    registry.push(&format!("{E2E}/httpd"), &["2.4.39-4"], &httpd)?;
    let nonewprivs = server("/nonewprivs", Format::Docker, 0o4755)?;
    registry.push(&format!("{E2E}/nonewprivs"), &["1.3"], &nonewprivs)?;
    let hostnet = server("/usr/sbin/hostnet-nginx", Format::Docker, 0o755)?;
    let name = format!("{CRI_TOOLS}/hostnet-nginx-{}", native_architecture());
    registry.push(&name, &["latest"], &hostnet)?;
    let tools = ["usr/bin/pause", "usr/bin/flood", "usr/bin/probe"].map(|path| programs.appliance(path));
    let layer = Layer::new(&tools, Compression::Zstd, Format::Oci)?;
    let config = Config { cmd: strings(&["/usr/bin/pause"]), ..Config::default() };
    registry.push("berth/appliance", &["1"], &Image::new(&config, &[oci.clone(), layer], Format::Oci))
}

fn publish_users(registry: &Registry, base: &Layer) -> Result<()> {
    for (name, user) in [
        ("user-uid", "1002"),
        ("user-username", "www-data"),
        ("user-uid-group", "1003:1004"),
        ("user-username-group", "www-data:1004"),
    ] {
        let config = Config { user: user.to_owned(), ..shell() };
        let image = Image::new(&config, std::slice::from_ref(base), Format::Docker);
        registry.push(&format!("{CRI_TOOLS}/test-image-{name}"), &["latest"], &image)?;
    }
    let files = [
        Entry::file("etc/passwd", PREDEFINED_PASSWD),
        Entry::file("etc/group", PREDEFINED_GROUP),
        Entry::dir("home/default-user").owner(1000, 1000),
    ];
    let layer = Layer::new(&files, Compression::Gzip, Format::Docker)?;
    let config = Config { user: "1000".to_owned(), ..shell() };
    let image = Image::new(&config, &[base.clone(), layer], Format::Docker);
    registry.push(&format!("{CRI_TOOLS}/test-image-predefined-group"), &["latest"], &image)
}

/// The images of the image specs: what matters is which of them are the same and which are not.
fn publish_image_specs(registry: &Registry, programs: &Programs, oci: &Layer, docker: &Layer) -> Result<()> {
    let marked = |mark: &str, compression, format| -> Result<Image> {
        let layer = Layer::new(&[Entry::file(mark, format!("{mark}\n"))], compression, format)?;
        let base = match (format, compression) {
            (Format::Oci, Compression::Zstd) => Layer::new(&programs.base(), Compression::Zstd, Format::Oci)?,
            (Format::Oci, _) => oci.clone(),
            (Format::Docker, _) => docker.clone(),
        };
        Ok(Image::new(&shell(), &[base, layer], format))
    };
    let name = |name: &str| format!("{CRI_TOOLS}/test-image-{name}");
    registry.push(&name("tag"), &["test"], &marked("tag-test", Compression::Gzip, Format::Docker)?)?;
    registry.push(&name("tag"), &["all"], &marked("tag-all", Compression::Gzip, Format::Oci)?)?;
    registry.push(&name("latest"), &["latest"], &marked("latest", Compression::Gzip, Format::Oci)?)?;
    registry.push(&name("digest"), &["latest"], &marked("digest", Compression::Gzip, Format::Oci)?)?;
    registry.push(&name("1"), &["latest"], &marked("1", Compression::Gzip, Format::Docker)?)?;
    registry.push(&name("2"), &["latest"], &marked("2", Compression::Zstd, Format::Oci)?)?;
    registry.push(&name("3"), &["latest"], &marked("3", Compression::None, Format::Oci)?)?;
    registry.push(&name("tags"), &["1", "2", "3"], &marked("tags", Compression::Gzip, Format::Docker)?)
}

fn shell() -> Config {
    Config { cmd: strings(&["sh"]), ..Config::default() }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
