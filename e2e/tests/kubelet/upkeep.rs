//! What kubelet does for the node: rotating logs, pulling by policy, and removing what nobody uses.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::kubelet::{LOG_FILES, LOG_LIMIT};
use e2e::write_mirror;
use serde_json::{Value, json};

use super::scene::*;

pub(crate) const GROUP: Group = Group {
    name: "upkeep",
    pods,
    once: &[("pull policies", policies)],
    steady: &[("logs are rotated, no line is lost", rotation)],
    midway: &[],
};

/// What changes kubelet's configuration, and so comes after everything else.
pub(crate) const LAST: [(&str, Work); 4] = [
    ("eviction by memory spares static pods", memory_pressure),
    ("eviction by disk removes dead containers and unused images", disk_pressure),
    ("image garbage collection", image_collection),
    ("container garbage collection", container_collection),
];

/// Images that no pod but those here uses.
const UNUSED: &str = "gcr.io/k8s-staging-cri-tools/test-image-1:latest";
const OTHER_UNUSED: &str = "gcr.io/k8s-staging-cri-tools/test-image-2:latest";
const ABSENT: &str = "gcr.io/k8s-staging-cri-tools/test-image-3:latest";
/// An image of a registry that goes away.
const LEAVING: &str = "leaving.test/library/busybox:1";

fn of_image(name: &str, image: &str, policy: &str) -> Value {
    pod(
        name,
        json!({"containers": [with(shell("main", WAIT), json!({"image": image, "imagePullPolicy": policy}))]}),
    )
}

fn pods(_: &Scene) -> Vec<Value> {
    let line = "x".repeat(90);
    let talk = format!("i=0; while true; do echo $i {line}; i=$((i+1)); usleep 5000; done");
    vec![
        pod("talker", json!({"containers": [shell("main", &talk)]})),
        of_image("never-pulled", ABSENT, "Never"),
    ]
}

fn policies(s: &mut Scene) -> Result<()> {
    s.container("never-pulled", "main", "is refused", |status| {
        status["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    })?;
    s.kubelet.take("never-pulled")?;
    let hosts = s.node.dir().join("certs.d");
    write_mirror(&hosts, "leaving.test", &format!("http://{}", s.registry.address()))?;
    s.kubelet.put(&of_image("pulled", LEAVING, "IfNotPresent"))?;
    s.ready("pulled")?;
    // Nobody listens there.
    write_mirror(&hosts, "leaving.test", "http://127.0.0.1:9")?;
    for name in ["present", "always-pulled"] {
        s.kubelet.put(&of_image(name, LEAVING, if name == "present" { "IfNotPresent" } else { "Always" }))?;
    }
    s.ready("present")?;
    s.container("always-pulled", "main", "backs off", |status| {
        status["state"]["waiting"]["reason"] == "ImagePullBackOff"
    })?;
    write_mirror(&hosts, "leaving.test", &format!("http://{}", s.registry.address()))?;
    s.ready("always-pulled")?;
    for name in ["pulled", "present", "always-pulled"] {
        s.kubelet.take(name)?;
    }
    Ok(())
}

/// A log's files, the oldest first: `0.log.TIME.gz`, `0.log.TIME`, `0.log`.
fn log_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Files that are being compressed are there twice for a moment.
        if name.starts_with("0.log") && !name.ends_with(".tmp") {
            files.push(name);
        }
    }
    files.sort_by_key(|name| (name == "0.log", name.clone()));
    Ok(files.into_iter().map(|name| dir.join(name)).collect())
}

fn read_log(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text)?;
    } else {
        text = String::from_utf8(bytes)?;
    }
    Ok(text)
}

/// All kept files of a log as one text: read between two rotations.
fn whole_log(dir: &Path) -> Result<(Vec<PathBuf>, String)> {
    let mut taken = (Vec::new(), String::new());
    wait("a log that is not rotated while it is read", || {
        let files = log_files(dir)?;
        let text = files.iter().map(|path| read_log(path)).collect::<Result<String>>()?;
        let settled = files == log_files(dir)?;
        taken = (files, text);
        Ok(settled)
    })?;
    Ok(taken)
}

fn rotation(s: &mut Scene) -> Result<()> {
    let pod = s.ready("talker")?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let dir = s.kubelet.logs().join(format!("default_{}_{uid}/main", full_name(&pod)));
    let newest = |files: &[PathBuf]| files.iter().rev().nth(1).cloned();
    let before = newest(&log_files(&dir)?);
    wait("another rotation", || {
        let files = log_files(&dir)?;
        let compressed = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "gz");
        Ok(newest(&files) != before && files.len() == LOG_FILES && files.first().is_some_and(compressed))
    })?;
    let (files, text) = whole_log(&dir)?;
    ensure!(files.len() <= LOG_FILES + 1, "{files:?}");
    let current = std::fs::metadata(dir.join("0.log"))?.len();
    ensure!(current < 20 * LOG_LIMIT, "it wrote {current} bytes without a rotation");
    let end = text.rfind('\n').unwrap_or(0);
    let number = |line: &str| line.split(' ').nth(3).and_then(|word| word.parse::<u64>().ok());
    let numbers: Vec<u64> = text.get(..end).unwrap_or_default().lines().filter_map(number).collect();
    ensure!(numbers.len() > 200, "only {} lines", numbers.len());
    for pair in numbers.windows(2) {
        ensure!(pair[1] == pair[0] + 1, "after line {} comes line {}", pair[0], pair[1]);
    }
    Ok(())
}

fn has_image(s: &Scene, reference: &str) -> Result<bool> {
    let image = cri::ImageSpec { image: reference.to_owned(), ..Default::default() };
    let request = cri::ImageStatusRequest { image: Some(image), verbose: false };
    Ok(s.node.client.image_status(request)?.image.is_some())
}

/// Containers that have ended, by id.
fn dead(s: &Scene) -> Result<BTreeSet<String>> {
    let all = s.node.client.list_containers(cri::ListContainersRequest::default())?.containers;
    let ended = all.into_iter().filter(|found| found.state() == cri::ContainerState::ContainerExited);
    Ok(ended.map(|found| found.id).collect())
}

fn none_left(s: &Scene, before: &BTreeSet<String>) -> Result<bool> {
    Ok(dead(s)?.is_disjoint(before))
}

/// Members that make nothing scarce.
fn plenty() -> Value {
    json!({"memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi"})
}

/// More than is left of any machine's memory.
fn memory_pressure(s: &mut Scene) -> Result<()> {
    let evictions = with(plenty(), json!({"memory.available": "99%"}));
    s.kubelet.reconfigure(json!({"evictionHard": evictions}), &[])?;
    let pod = s.ready("guaranteed")?;
    // It ranks pods by what the node's statistics say of them.
    wait("kubelet to look for pods to evict", || {
        let log = s.kubelet.log()?;
        Ok(log.contains("Eviction manager: cannot evict a critical pod")
            && log.contains("Eviction manager: pods ranked for eviction"))
    })?;
    let after = s.ready("guaranteed")?;
    ensure!(container_id(&pod, "main")? == container_id(&after, "main")?, "a static pod was evicted");
    s.kubelet.reconfigure(json!({"evictionHard": plenty()}), &[])
}

fn disk_pressure(s: &mut Scene) -> Result<()> {
    s.node.client.pull(UNUSED)?;
    // Of pods that are over. What has ended in others is kept once, for its log.
    let mut over = BTreeSet::new();
    for name in ["never", "on-failure", "by-rule", "messages"] {
        for status in s.ended(name)?["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let id = status["containerID"].as_str().unwrap_or_default();
            over.insert(id.trim_start_matches("berth://").to_owned());
        }
    }
    ensure!(over.is_subset(&dead(s)?), "containers of pods that are over are not listed: {over:?}");
    let evictions = with(plenty(), json!({"imagefs.available": "99.9%", "nodefs.available": "99.9%"}));
    s.kubelet.reconfigure(json!({"evictionHard": evictions, "imageMinimumGCAge": "1ms"}), &[])?;
    wait("the unused image to go", || Ok(!has_image(s, UNUSED)?))?;
    wait("the dead containers to go", || none_left(s, &over))?;
    s.ready("guaranteed")?;
    s.kubelet.reconfigure(json!({"evictionHard": plenty()}), &[])
}

fn image_collection(s: &mut Scene) -> Result<()> {
    s.node.client.pull(OTHER_UNUSED)?;
    let thresholds = json!({"imageGCHighThresholdPercent": 1, "imageGCLowThresholdPercent": 0});
    // It looks once when it starts, and gives up when a container vanishes while it looks.
    s.end("always")?;
    let mut collected = false;
    for _ in 0..5 {
        s.kubelet.reconfigure(thresholds.clone(), &["--minimum-image-ttl-duration=0s"])?;
        collected = soon(|| Ok(!has_image(s, OTHER_UNUSED)?))?;
        if collected {
            break;
        }
    }
    ensure!(collected, "the unused image is still there");
    ensure!(has_image(s, e2e::catalog::BUSYBOX)?, "an image that is used is gone");
    s.kubelet.reconfigure(json!({"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99}), &[])
}

fn container_collection(s: &mut Scene) -> Result<()> {
    s.kubelet
        .put(&pod("short", json!({"restartPolicy": "Never", "containers": [shell("main", "exit 0")]})))?;
    let pod = s.ended("short")?;
    let id = container_id(&pod, "main")?;
    let before = dead(s)?;
    ensure!(before.contains(&id), "the container is not listed");
    s.kubelet.reconfigure(
        json!({}),
        &["--maximum-dead-containers-per-container=0", "--minimum-container-ttl-duration=0s"],
    )?;
    wait("the dead containers to go", || none_left(s, &before))?;
    s.kubelet.take("short")?;
    s.kubelet.reconfigure(json!({}), &[])?;
    Ok(())
}
