//! A registry is not trusted: not with credentials that are another's, nor with memory, disk or time, nor
//! with what an image is said to be.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cri_api::v1 as cri;
use e2e::archive::Entry;
use e2e::evil::{EvilRegistry, Reply};
use e2e::image::{Blob, Compression, Config, Format, Image, Layer};
use e2e::{Lab, Node, NodeOptions, summarize};
use serde_json::json;

const USER: &str = "berth-user";
const PASSWORD: &str = "berth-password-secret";
/// `base64("berth-user:berth-password-secret")`.
const BASIC: &str = "Basic YmVydGgtdXNlcjpiZXJ0aC1wYXNzd29yZC1zZWNyZXQ=";

struct Scene {
    node: Node,
    evil: EvilRegistry,
    /// Another host, that must never be shown a credential.
    other: EvilRegistry,
    passed: u32,
}

impl Scene {
    fn image(&self, tag: &str) -> String {
        format!("{}/evil:{tag}", self.evil.address())
    }

    fn pull(&self, tag: &str, credentials: bool) -> Result<String, tonic::Status> {
        let auth = credentials.then(|| cri::AuthConfig {
            username: USER.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        });
        let image = cri::ImageSpec { image: self.image(tag), ..Default::default() };
        let request = cri::PullImageRequest { image: Some(image), auth, ..Default::default() };
        self.node.client.pull_image(request).map(|answer| answer.image_ref)
    }

    /// A pull that must fail soon, leaving no image, no blob and a daemon of its old size.
    fn refused(&mut self, tag: &str, within: Duration) -> tonic::Status {
        let before = memory(self.node.daemon_pid());
        let start = Instant::now();
        let status = match self.pull(tag, false) {
            Ok(id) => panic!("{tag} was pulled as {id}\n{}", self.node.last_words()),
            Err(status) => status,
        };
        let took = start.elapsed();
        assert!(took < within, "{tag} took {took:?}: {status}");
        let grown = memory(self.node.daemon_pid()).saturating_sub(before);
        assert!(grown < 64 << 20, "{tag} cost {} MiB of memory", grown >> 20);
        let image = cri::ImageSpec { image: self.image(tag), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(image), verbose: false };
        let answer = self.node.client.image_status(request).expect("ask for the image");
        assert!(answer.image.is_none(), "{tag} is there: {answer:?}");
        self.passed += 1;
        println!("{tag}: refused in {took:?}: {}", status.message());
        status
    }
}

/// An image like no other: what one test fetched is no help to the next.
fn small() -> Image {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let content = format!("content {}", NEXT.fetch_add(1, Ordering::Relaxed));
    let layer = Layer::new(&[Entry::file("file", content)], Compression::Gzip, Format::Oci).expect("a layer");
    Image::new(&Config::default(), &[layer], Format::Oci)
}

#[test]
fn hostile_registry() {
    let lab = Lab::enter("attack-registry");
    let evil = EvilRegistry::start().expect("start the registry");
    let other = EvilRegistry::start().expect("start the other host");
    let hosts = lab.work().join("certs.d");
    for host in [evil.address(), other.address()] {
        let dir = hosts.join(host);
        std::fs::create_dir_all(&dir).expect("make a directory for hosts.toml");
        let text = format!("server = \"http://{host}\"\n");
        std::fs::write(dir.join("hosts.toml"), text).expect("write hosts.toml");
    }
    let options = NodeOptions { hosts: Some(hosts), ..NodeOptions::default() };
    let node = Node::start(&lab, "node", None, options).expect("start the node");
    let mut scene = Scene { node, evil, other, passed: 0 };
    credentials_stay_home(&mut scene);
    secrets_are_not_repeated(&mut scene, &lab);
    lies_about_content(&mut scene);
    ambiguous_documents(&mut scene);
    endless_answers(&mut scene);
    let images =
        scene.node.client.list_images(cri::ListImagesRequest::default()).expect("list images").images;
    assert!(images.iter().all(|image| !image.repo_tags.is_empty()), "images without a name: {images:?}");
    summarize(&format!("attacks by a registry: {} passed, 0 failed, 0 skipped", scene.passed));
}

/// A blob that is elsewhere is fetched without the credentials of here.
fn credentials_stay_home(scene: &mut Scene) {
    let image = small();
    scene.evil.image("evil", "redirect", &image);
    scene.other.image("evil", "redirect", &image);
    let blob = format!("/v2/evil/blobs/{}", image.layers[0].blob.digest);
    let elsewhere = format!("http://{}{blob}", scene.other.address());
    scene.evil.reply(&blob, Reply::redirect(&elsewhere));
    let needed = |request: &e2e::evil::Request| {
        (request.authorization.as_deref() != Some(BASIC)).then(|| {
            Reply::new(401, "application/json", "{}").header("WWW-Authenticate", "Basic realm=\"evil\"")
        })
    };
    scene.evil.hook(needed);
    scene.pull("redirect", true).unwrap_or_else(|error| panic!("{error}\n{}", scene.node.last_words()));
    let asked = scene.other.requests();
    assert!(asked.iter().any(|request| request.target.starts_with(&blob)), "the redirect was not followed");
    let leaked: Vec<_> = asked.iter().filter(|request| request.authorization.is_some()).collect();
    assert!(leaked.is_empty(), "credentials went to another host: {leaked:?}");
    scene.passed += 1;

    // Nor to the address that a manifest names for its layer, if it is used at all.
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).expect("JSON");
    let foreign =
        Layer::new(&[Entry::file("foreign", "layer")], Compression::Gzip, Format::Docker).expect("a layer");
    let media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    manifest["layers"][0] = json!({"mediaType": media_type, "digest": foreign.blob.digest,
        "size": foreign.blob.bytes.len(), "urls": [format!("http://{}/foreign", scene.other.address())]});
    let manifest = Blob::new(&image.manifest.media_type, manifest.to_string().into_bytes());
    scene.evil.manifest("evil", "foreign", &manifest);
    // Whether it succeeds does not matter: only who was told.
    let _ = scene.pull("foreign", true);
    let leaked: Vec<_> =
        scene.other.requests().into_iter().filter(|one| one.authorization.is_some()).collect();
    assert!(leaked.is_empty(), "credentials went to a layer's address: {leaked:?}");
    scene.evil.hook(|_| None);
    scene.passed += 1;
}

/// An address with a signature in it is not quoted in errors nor in the log.
fn secrets_are_not_repeated(scene: &mut Scene, lab: &Lab) {
    let image = small();
    scene.evil.image("evil", "signed", &image);
    let secret = "SIGNATURE-SECRET-0123456789";
    let to = format!("http://user:{secret}@{}/blob?X-Signature={secret}", scene.other.address());
    for layer in image.layers.iter().map(|layer| &layer.blob).chain([&image.config]) {
        scene.evil.reply(&format!("/v2/evil/blobs/{}", layer.digest), Reply::redirect(&to));
    }
    let status = scene.refused("signed", Duration::from_secs(60));
    assert!(!format!("{status:?}").contains(secret), "the error quotes the address: {status:?}");
    let log = std::fs::read_to_string(lab.work().join("node/daemon.log")).expect("read the log");
    for word in [secret, PASSWORD, &BASIC[6..]] {
        assert!(!log.contains(word), "the log quotes a secret");
    }
    scene.passed += 1;
}

fn lies_about_content(scene: &mut Scene) {
    let image = small();
    let layer = image.layers[0].clone();
    let lie = |scene: &Scene, tag: &str, bytes: Vec<u8>| {
        // A digest of its own for each, so that no lie profits from another's truth.
        let other = Layer::new(&[Entry::file(tag, tag)], Compression::Gzip, Format::Oci).expect("a layer");
        let image = Image::new(&Config::default(), &[other], Format::Oci);
        scene.evil.image("evil", tag, &image);
        let blob = format!("/v2/evil/blobs/{}", image.layers[0].blob.digest);
        let mut reply = Reply::new(200, "application/octet-stream", bytes);
        reply.claimed_length = Some(image.layers[0].blob.bytes.len() as u64);
        scene.evil.reply(&blob, reply);
    };
    lie(scene, "other-bytes", vec![b'x'; layer.blob.bytes.len()]);
    lie(scene, "too-short", layer.blob.bytes[..10].to_vec());
    lie(scene, "too-long", vec![b'x'; 1 << 20]);
    for tag in ["other-bytes", "too-short", "too-long"] {
        scene.refused(tag, Duration::from_secs(60));
    }

    // The manifest itself is not what its digest says.
    let honest = small();
    scene.evil.image("evil", "lying-manifest", &honest);
    let wrong = Reply::new(200, &honest.manifest.media_type, honest.manifest.bytes.clone())
        .header("Docker-Content-Digest", &format!("sha256:{}", "0".repeat(64)));
    scene.evil.reply("/v2/evil/manifests/lying-manifest", wrong);
    scene.refused("lying-manifest", Duration::from_secs(60));

    // The layer is not what the configuration says.
    let mut config: serde_json::Value = serde_json::from_slice(&honest.config.bytes).expect("JSON");
    config["rootfs"]["diff_ids"] = json!([format!("sha256:{}", "1".repeat(64))]);
    scene.evil.image("evil", "wrong-diff-id", &with_config(&honest, &config));
    scene.refused("wrong-diff-id", Duration::from_secs(60));
    config["rootfs"]["diff_ids"] = json!([]);
    scene.evil.image("evil", "no-diff-id", &with_config(&honest, &config));
    scene.refused("no-diff-id", Duration::from_secs(60));
}

/// The image with another configuration, and a manifest that fits.
fn with_config(image: &Image, config: &serde_json::Value) -> Image {
    let config = Blob::new(&image.config.media_type, config.to_string().into_bytes());
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).expect("JSON");
    manifest["config"] = config.descriptor();
    let manifest = Blob::new(&image.manifest.media_type, manifest.to_string().into_bytes());
    Image { config, manifest, ..image.clone() }
}

/// A document that is two things is neither.
fn ambiguous_documents(scene: &mut Scene) {
    let image = small();
    scene.evil.image("evil", "honest", &image);
    let index_type = "application/vnd.oci.image.index.v1+json";
    let mut both: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).expect("JSON");
    both["manifests"] = json!([]);
    scene.evil.manifest(
        "evil",
        "both",
        &Blob::new(&image.manifest.media_type, both.to_string().into_bytes()),
    );
    scene.refused("both", Duration::from_secs(30));
    let disguised = Blob::new(index_type, image.manifest.bytes.clone());
    scene.evil.manifest("evil", "disguised", &disguised);
    scene.refused("disguised", Duration::from_secs(30));
    let unknown = Blob::new("text/html", b"<html>a login page</html>".to_vec());
    scene.evil.manifest("evil", "page", &unknown);
    scene.refused("page", Duration::from_secs(30));
    // An index that leads to itself cannot exist; one that leads nowhere can.
    let nowhere = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": []});
    scene.evil.manifest("evil", "nowhere", &Blob::new(index_type, nowhere.to_string().into_bytes()));
    scene.refused("nowhere", Duration::from_secs(30));
    for (tag, digest) in [("bad-digest", "sha256:../../../../canary"), ("odd-digest", "md5:00")] {
        let manifest = String::from_utf8_lossy(&image.manifest.bytes).replace(&image.config.digest, digest);
        scene.evil.manifest("evil", tag, &Blob::new(&image.manifest.media_type, manifest.into_bytes()));
        scene.refused(tag, Duration::from_secs(30));
    }
}

/// Answers far larger than anything they may be.
fn endless_answers(scene: &mut Scene) {
    let image = small();
    let megabytes = |status, count| {
        let mut reply = Reply::new(status, &image.manifest.media_type, vec![b' '; 1 << 20]);
        reply.repeat = count;
        reply
    };
    scene.evil.reply("/v2/evil/manifests/huge-manifest", megabytes(200, 256));
    scene.refused("huge-manifest", Duration::from_secs(30));
    scene.evil.reply("/v2/evil/manifests/huge-error", megabytes(400, 256));
    scene.refused("huge-error", Duration::from_secs(30));
    let mut config: serde_json::Value = serde_json::from_slice(&image.config.bytes).expect("JSON");
    config["config"]["Labels"] = json!({"large": "x".repeat(64 << 20)});
    scene.evil.image("evil", "huge-config", &with_config(&image, &config));
    scene.refused("huge-config", Duration::from_secs(60));
    scene.evil.reply("/v2/evil/manifests/around", Reply::redirect("/v2/evil/manifests/around"));
    scene.refused("around", Duration::from_secs(60));
}

/// Resident memory of a process, in bytes.
fn memory(pid: u32) -> u64 {
    let text =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).expect("a daemon");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}
