//! An image is not trusted: whatever its layers and its configuration say, the host keeps what it has.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use cri_api::v1 as cri;
use e2e::archive::{Entry, archive, kind};
use e2e::canary::Canary;
use e2e::catalog::Programs;
use e2e::image::{Blob, Compression, Config, Format, Image, Layer, digest};
use e2e::{Lab, Node, NodeOptions, Registry, container, pod, summarize};

/// What must come of a pull.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It fails.
    Refused,
    /// It works, and what the image asks for stays inside of it.
    Contained,
    /// Either.
    Any,
}

/// A name, what must come of it, and the layers, lowest first.
type Attack = (&'static str, Fate, Vec<Vec<Entry>>);

const UP: &str = "../../../../../../../../../../canary";

/// Names and symbolic links that try to reach out while they are unpacked.
fn names_and_links() -> Vec<Attack> {
    let up = UP;
    vec![
        ("absolute name", Fate::Any, vec![vec![Entry::file("/canary/planted", "x")]]),
        ("dot-dot name", Fate::Any, vec![vec![Entry::file(&format!("{up}/planted"), "x")]]),
        ("dot-dot in the middle", Fate::Any, vec![vec![Entry::file(&format!("dir/{up}/planted"), "x")]]),
        (
            "write through an absolute link",
            Fate::Any,
            vec![vec![Entry::symlink("link", "/canary"), Entry::file("link/planted", "x")]],
        ),
        (
            "write through a relative link",
            Fate::Any,
            vec![vec![Entry::symlink("link", up), Entry::file("link/planted", "x")]],
        ),
        (
            "write through a link of a lower layer",
            Fate::Any,
            vec![vec![Entry::symlink("link", "/canary")], vec![Entry::file("link/planted", "x")]],
        ),
        (
            "overwrite through a link to a file",
            Fate::Any,
            vec![vec![Entry::symlink("file", "/canary/file"), Entry::file("file", "overwritten")]],
        ),
        (
            "directory over a link",
            Fate::Any,
            vec![vec![Entry::symlink("link", "/canary/private"), Entry::dir("link").mode(0o777)]],
        ),
        (
            "chain of links",
            Fate::Any,
            vec![vec![
                Entry::symlink("a", "/"),
                Entry::symlink("b", "a/canary"),
                Entry::symlink("c", "b/dir"),
                Entry::file("c/planted", "x"),
            ]],
        ),
    ]
}

/// Hard links and whiteouts that try the same.
fn hard_links_and_whiteouts() -> Vec<Attack> {
    let up = UP;
    vec![
        (
            "hard link to the host",
            Fate::Any,
            vec![vec![Entry::hardlink("hard", "/canary/private/secret").mode(0o777)]],
        ),
        ("hard link by dot-dot", Fate::Any, vec![vec![Entry::hardlink("hard", &format!("{up}/file"))]]),
        (
            "hard link through a link",
            Fate::Any,
            vec![vec![Entry::symlink("link", "/canary"), Entry::hardlink("hard", "link/private/secret")]],
        ),
        (
            "write through a hard-linked link",
            Fate::Any,
            vec![vec![
                Entry::symlink("link", "/canary/file"),
                Entry::hardlink("hard", "link"),
                Entry::file("hard", "overwritten"),
            ]],
        ),
        (
            "hard link to a later entry",
            Fate::Refused,
            vec![vec![Entry::hardlink("hard", "later"), Entry::file("later", "x")]],
        ),
        (
            "whiteout through a link",
            Fate::Any,
            vec![vec![Entry::symlink("link", "/canary")], vec![Entry::file("link/.wh.file", "")]],
        ),
        (
            "whiteout of dot-dot",
            Fate::Any,
            vec![vec![Entry::file(".wh...", "")], vec![Entry::file("a/.wh...", "")]],
        ),
        ("whiteout of nothing", Fate::Any, vec![vec![Entry::file(".wh.", "")]]),
        (
            "opaque mark through a link",
            Fate::Any,
            vec![vec![Entry::symlink("l", "/canary")], vec![Entry::file("l/.wh..wh..opq", "")]],
        ),
    ]
}

/// Entries that a careless reader trips over.
fn oddities() -> Vec<Attack> {
    vec![
        ("name of 1 MiB", Fate::Any, vec![vec![Entry::new(kind::FILE, vec![b'n'; 1 << 20])]]),
        ("10 000 components", Fate::Any, vec![vec![Entry::new(kind::FILE, b"d/".repeat(10_000))]]),
        (
            "bytes that are no text",
            Fate::Contained,
            vec![vec![Entry::new(kind::FILE, vec![b'a', 0xff, 0xfe, b'z'])]],
        ),
        ("empty name", Fate::Any, vec![vec![Entry::new(kind::FILE, Vec::new())]]),
        ("the root as a file", Fate::Any, vec![vec![Entry::file("./", "x")], vec![Entry::file(".", "x")]]),
        (
            "the root as a link",
            Fate::Any,
            vec![vec![Entry::symlink("./", "/canary")], vec![Entry::file("planted", "x")]],
        ),
        (
            "overlay's own attributes",
            Fate::Any,
            vec![vec![
                Entry::dir("dir").pax("SCHILY.xattr.trusted.overlay.redirect", "/canary"),
                Entry::dir("opaque").pax("SCHILY.xattr.trusted.overlay.opaque", "y"),
                Entry::file("meta", "").pax("SCHILY.xattr.trusted.overlay.metacopy", ""),
                Entry::file("user", "").pax("SCHILY.xattr.user.overlay.redirect", "/canary"),
            ]],
        ),
        (
            "PAX size that is not the header's",
            Fate::Any,
            vec![vec![Entry::file("a", vec![b'x'; 1024]).pax("size", "0"), Entry::file("planted", "x")]],
        ),
        (
            "negative size",
            Fate::Refused,
            vec![vec![Entry { claimed_size: Some(u64::MAX), ..Entry::file("a", "x") }]],
        ),
        (
            "size past the end",
            Fate::Refused,
            vec![vec![Entry { claimed_size: Some(1 << 40), ..Entry::file("a", "x") }]],
        ),
        (
            "PAX name with a NUL",
            Fate::Any,
            vec![vec![Entry::file("a", "x").pax("path", b"a\0/canary".to_vec())]],
        ),
        (
            "odd kinds of entries",
            Fate::Any,
            vec![vec![
                Entry::new(b'7', "contiguous"),
                Entry::new(b'Z', "unknown"),
                Entry::new(b'V', "volume"),
            ]],
        ),
        (
            "special files",
            Fate::Contained,
            vec![vec![
                Entry::new(kind::FIFO, "fifo"),
                Entry { device: (1, 3), ..Entry::new(kind::CHARACTER, "null") },
                Entry::file("setuid", "x").mode(0o4755),
                Entry::file("capable", "x").pax(
                    "SCHILY.xattr.security.capability",
                    b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
                ),
            ]],
        ),
    ]
}

struct Scene {
    node: Node,
    registry: Registry,
    canary: Canary,
    programs: Programs,
    passed: u32,
    failed: Vec<String>,
}

impl Scene {
    fn push(&self, tag: &str, image: &Image) -> Result<String> {
        self.registry.push("evil/image", &[tag], image)?;
        Ok(format!("registry.k8s.io/evil/image:{tag}"))
    }

    /// Pulls, and checks what came of it, the canary, the daemon's memory and the time it took.
    fn attack(&mut self, name: &str, fate: Fate, image: &Image) -> bool {
        let tag = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_lowercase();
        let before = memory(self.node.daemon_pid());
        let start = Instant::now();
        let outcome = self.push(&tag, image).and_then(|reference| self.node.client.pull(&reference));
        let took = start.elapsed();
        let grown = memory(self.node.daemon_pid()).saturating_sub(before);
        println!("{name}: {took:?}, {}", if outcome.is_ok() { "accepted" } else { "refused" });
        self.canary.assert_unharmed(name);
        let mut complaints = Vec::new();
        match (fate, &outcome) {
            (Fate::Refused, Ok(_)) => complaints.push("it was accepted".to_owned()),
            (Fate::Contained, Err(error)) => complaints.push(format!("it was refused: {error:#}")),
            _ => {}
        }
        if took > Duration::from_secs(20) {
            complaints.push(format!("it took {took:?}"));
        }
        if grown > 64 << 20 {
            complaints.push(format!("it cost {} MiB of memory", grown >> 20));
        }
        self.verdict(name, &complaints);
        outcome.is_ok()
    }

    fn verdict(&mut self, name: &str, complaints: &[String]) {
        if complaints.is_empty() {
            self.passed += 1;
        } else {
            println!("FAILED {name}: {}", complaints.join("; "));
            self.failed.push(name.to_owned());
        }
    }

    /// Runs the image's own command or another in a pod; what it printed, or why it did not start.
    fn run(&self, reference: &str, command: &[&str]) -> Result<String> {
        let config = pod("evil", self.node.logs());
        let pod = self.node.client.run_pod(&config)?;
        let mut main = container("main", reference, command);
        main.log_path = format!("{}.log", &pod[..12]);
        let log = self.node.logs().join(&main.log_path);
        let outcome = self.node.client.run(&pod, &config, &main);
        let output = outcome.map(|id| {
            let ended = || {
                let state = self.node.client.state(&id);
                state.is_ok_and(|status| status.state() == cri::ContainerState::ContainerExited)
            };
            e2e::wait_until("the container to end", Duration::from_secs(20), ended);
            std::fs::read_to_string(&log).unwrap_or_default()
        });
        self.node.client.remove_pod(&pod)?;
        output
    }

    /// busybox with layers of the test's own above.
    fn busybox(&self, config: &Config, above: &[Entry]) -> Image {
        let base = self.programs.base_layer().expect("a base layer");
        let layer = Layer::new(above, Compression::Gzip, Format::Oci).expect("a layer");
        Image::new(config, &[base, layer], Format::Oci)
    }
}

#[test]
fn hostile_images() {
    let lab = Lab::enter("attack-image");
    let canary = Canary::plant().expect("plant the canary");
    let registry = lab.registry().expect("start the registry");
    let node = Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    let programs =
        Programs::load(&Lab::tool("busybox").expect("find busybox"), lab.work()).expect("load the programs");
    let mut scene = Scene { node, registry, canary, programs, passed: 0, failed: Vec::new() };
    unpacking(&mut scene);
    streams(&mut scene);
    users(&mut scene);
    account_files(&mut scene);
    directories(&mut scene);
    summarize(&format!(
        "attacks by images: {} passed, {} failed, 0 skipped",
        scene.passed,
        scene.failed.len()
    ));
    assert!(scene.failed.is_empty(), "{:?}\n{}", scene.failed, scene.node.last_words());
}

fn unpacking(scene: &mut Scene) {
    for (name, fate, layers) in [names_and_links(), hard_links_and_whiteouts(), oddities()].concat() {
        let layers: Vec<Layer> = layers
            .iter()
            .map(|entries| Layer::new(entries, Compression::Gzip, Format::Oci).expect("a layer"))
            .collect();
        let image = Image::new(&Config::default(), &layers, Format::Oci);
        scene.attack(name, fate, &image);
    }
}

/// Streams that are broken, or far larger than they look.
fn streams(scene: &mut Scene) {
    let tar = archive(&[Entry::file("file", "content")]);
    let good = Layer::from_tar(&tar, Compression::Gzip, Format::Oci).expect("a layer");
    let raw = |bytes: Vec<u8>, diff_id: String| {
        let blob = Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", bytes);
        Image::new(&Config::default(), &[Layer { blob, diff_id }], Format::Oci)
    };
    let bytes = good.blob.bytes.clone();
    let truncated = raw(bytes[..bytes.len() - 12].to_vec(), good.diff_id.clone());
    scene.attack("truncated gzip", Fate::Refused, &truncated);
    let trailing = raw([bytes.clone(), b"garbage".to_vec()].concat(), good.diff_id.clone());
    scene.attack("garbage after gzip", Fate::Any, &trailing);
    scene.attack("no gzip at all", Fate::Refused, &raw(b"no gzip at all".to_vec(), good.diff_id.clone()));
    let second = Layer::from_tar(&tar[..512], Compression::Gzip, Format::Oci).expect("a layer").blob.bytes;
    let rest = Layer::from_tar(&tar[512..], Compression::Gzip, Format::Oci).expect("a layer").blob.bytes;
    let members = raw([second, rest].concat(), good.diff_id.clone());
    scene.attack("two gzip members", Fate::Contained, &members);
    let half = raw(bytes, digest(b"another stream"));
    scene.attack("another stream's diff id", Fate::Refused, &half);

    // 256 MiB of zeros in 1 MiB, and not what it is said to be: the disk must get it back.
    let used = used_space(scene);
    let image = raw(bomb(256 << 20), digest(b"bomb"));
    scene.attack("gzip bomb", Fate::Refused, &image);
    e2e::wait_until("the space to come back", Duration::from_secs(30), || {
        used_space(scene) < used + (32 << 20)
    });
}

/// An archive of one file of zeros, compressed.
fn bomb(size: u64) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let header = archive(&[Entry { claimed_size: Some(size), ..Entry::file("zeros", "") }]);
    encoder.write_all(&header[..512]).expect("compress");
    let block = vec![0_u8; 1 << 20];
    for _ in 0..size >> 20 {
        encoder.write_all(&block).expect("compress");
    }
    encoder.write_all(&[0; 1024]).and_then(|()| encoder.finish()).expect("compress")
}

/// Bytes that the node's files take, by their blocks.
fn used_space(scene: &Scene) -> u64 {
    let text =
        e2e::run(std::process::Command::new("du").args(["-s", "-B1"]).arg(scene.node.root())).expect("du");
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

/// User names that a careless parser takes for root.
fn users(scene: &mut Scene) {
    let tricky = [
        "2147483648",
        "4294967295",
        "4294967296",
        "0x0",
        "-1",
        "1000 ",
        "+0",
        "1:-1",
        "99999999999999999999",
    ];
    for user in tricky {
        let passwd = format!("root:x:0:0:root:/root:/bin/sh\n{user}:x:0:0::/:/bin/sh\n");
        let config = Config { user: user.to_owned(), ..Config::default() };
        let image = scene.busybox(&config, &[Entry::file("etc/passwd", passwd)]);
        let name = format!("user {user:?}");
        let reference = scene.push(&format!("user-{}", digest(user.as_bytes()).replace(':', "-")), &image);
        let outcome = reference.and_then(|reference| {
            scene.node.client.pull(&reference)?;
            scene.run(&reference, &["id", "-u"])
        });
        let complaints: Vec<String> = match outcome {
            Ok(output) if output.split_whitespace().last() == Some("0") => vec!["it ran as root".to_owned()],
            _ => Vec::new(),
        };
        scene.verdict(&name, &complaints);
    }
}

/// `/etc/passwd` and `/etc/group` that are huge, not files, or somebody else's.
fn account_files(scene: &mut Scene) {
    let huge = vec![b'x'; 64 << 20];
    let attacks = [
        ("passwd of one long line", vec![Entry::file("etc/passwd", huge.clone())]),
        ("group of one long line", vec![Entry::file("etc/group", huge)]),
        ("passwd is a FIFO", vec![Entry::new(kind::FIFO, "etc/passwd")]),
        ("group is a FIFO", vec![Entry::new(kind::FIFO, "etc/group")]),
        ("passwd is /dev/zero", vec![Entry { device: (1, 5), ..Entry::new(kind::CHARACTER, "etc/passwd") }]),
        ("passwd is a link to /dev/zero", vec![Entry::symlink("etc/passwd", "/dev/zero")]),
        ("passwd is a link to the host", vec![Entry::symlink("etc/passwd", "/canary/private/secret")]),
        ("etc is a link to the host", vec![Entry::file(".wh.etc", ""), Entry::symlink("etc", "/canary")]),
    ];
    for (name, entries) in attacks {
        let config = Config { user: "nobody".to_owned(), ..Config::default() };
        let image = scene.busybox(&config, &entries);
        if !scene.attack(name, Fate::Any, &image) {
            continue;
        }
        let tag = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_lowercase();
        let before = memory(scene.node.daemon_pid());
        let start = Instant::now();
        let outcome = scene.run(&format!("registry.k8s.io/evil/image:{tag}"), &["cat", "/etc/passwd"]);
        let took = start.elapsed();
        let mut complaints = Vec::new();
        if outcome.as_ref().is_ok_and(|output| output.contains("CANARY-SECRET")) {
            complaints.push("it read the host's file".to_owned());
        }
        if took > Duration::from_secs(10) {
            complaints.push(format!("starting took {took:?}"));
        }
        let grown = memory(scene.node.daemon_pid()).saturating_sub(before);
        if grown > 32 << 20 {
            complaints.push(format!("starting cost {} MiB", grown >> 20));
        }
        scene.canary.assert_unharmed(name);
        scene.verdict(&format!("start with {name}"), &complaints);
    }
}

/// Working directories, volumes and system directories that lead out.
fn directories(scene: &mut Scene) {
    let work = |dir: &str| Config { working_dir: dir.to_owned(), ..Config::default() };
    let volumes = |list: &[&str]| Config {
        volumes: list.iter().map(|&volume| volume.to_owned()).collect(),
        ..Config::default()
    };
    let mut attacks = vec![
        ("volume by dot-dot", volumes(&["/../../../../canary"]), vec![]),
        ("volume through a link", volumes(&["/link/canary"]), vec![Entry::symlink("link", "/")]),
        (
            "dev is a link",
            Config::default(),
            vec![Entry::file(".wh.dev", ""), Entry::symlink("dev", "/canary")],
        ),
        (
            "proc is a link",
            Config::default(),
            vec![Entry::file(".wh.proc", ""), Entry::symlink("proc", "/canary")],
        ),
        (
            "sys is a link",
            Config::default(),
            vec![Entry::file(".wh.sys", ""), Entry::symlink("sys", "/canary")],
        ),
        ("dev/null is a link", Config::default(), vec![Entry::symlink("dev/null", "/canary/file")]),
        ("hosts is a link", Config::default(), vec![Entry::symlink("etc/hosts", "/canary/file")]),
        ("mtab is a link", Config::default(), vec![Entry::symlink("etc/mtab", "/canary/mtab")]),
        ("resolv.conf is a link", Config::default(), vec![Entry::symlink("etc/resolv.conf", "/canary/new")]),
        ("working directory through a link", work("/link/made"), vec![Entry::symlink("link", "/canary")]),
        ("working directory by dot-dot", work("/../../../../canary/made"), vec![]),
    ];
    for number in [3, 5, 7, 8, 9, 10, 12, 16] {
        let name: &'static str =
            Box::leak(format!("working directory is descriptor {number}").into_boxed_str());
        attacks.push((name, work(&format!("/proc/self/fd/{number}")), vec![]));
    }
    let look = "pwd; ls -la . ../../../../canary /canary 2>&1; cat private/secret ../../../../canary/private/secret \
                /canary/private/secret 2>&1; ls -l /proc/1/fd /proc/self/fd; ls /link 2>&1";
    for (name, config, entries) in attacks {
        let image = scene.busybox(&config, &entries);
        if !scene.attack(name, Fate::Any, &image) {
            continue;
        }
        let tag = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_lowercase();
        let outcome = scene.run(&format!("registry.k8s.io/evil/image:{tag}"), &["sh", "-c", look]);
        scene.canary.assert_unharmed(name);
        let complaints: Vec<String> = match outcome {
            Ok(output) if output.contains("CANARY-SECRET") => vec![format!("it read the host: {output}")],
            _ => Vec::new(),
        };
        scene.verdict(&format!("start with {name}"), &complaints);
    }
}

/// Resident memory of a process, in bytes.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a daemon");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}
