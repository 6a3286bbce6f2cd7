//! Durable containers with a keeper, an image and a kernel, on a host of their own. Needs root and Debian's
//! busybox-static.

mod archive;
mod crash;
mod life;
mod session;
mod volumes;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use oci::ContainerId;

use crate::engine::Engine;
use crate::happenings::{Action, Happenings, Subject};
use crate::model::*;

const CGROUP: &str = "/berth-test-durable";

async fn open(dir: &Path) -> Engine {
    let config = crate::testing::config(dir, CGROUP);
    Engine::open(config, &crate::metrics::Registry::new()).await.unwrap_or_else(|e| panic!("{}", e.chain()))
}

/// Puts an image with busybox in the store, under the name `box`.
async fn import_box(engine: &Engine, dir: &Path) {
    let work = dir.join("image");
    let rootfs = work.join("rootfs");
    for sub in ["bin", "tmp", "etc"] {
        std::fs::create_dir_all(rootfs.join(sub)).unwrap();
    }
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for applet in ["sh", "sleep", "cat", "wc", "echo", "kill", "true", "head", "stty", "test", "ls"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
    let tar = |args: &[&str]| {
        assert!(Command::new("tar").current_dir(&work).args(args).status().unwrap().success());
    };
    tar(&["--owner=0", "--group=0", "-C", "rootfs", "-cf", "layer.tar", "."]);
    let sum = Command::new("sha256sum").arg(work.join("layer.tar")).output().unwrap().stdout;
    let layer = format!("sha256:{}", std::str::from_utf8(&sum[..64]).unwrap());
    let config = serde_json::json!({
        "architecture": oci::Platform::host().architecture, "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    });
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": ["box:latest"], "Layers": ["layer.tar"]}]);
    std::fs::write(work.join("config.json"), config.to_string()).unwrap();
    std::fs::write(work.join("manifest.json"), manifest.to_string()).unwrap();
    tar(&["-cf", "image.tar", "manifest.json", "config.json", "layer.tar"]);
    let archive = std::fs::File::open(work.join("image.tar")).unwrap();
    engine.import_images(archive, Vec::new()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
}

/// A container that runs a line of shell, without a network.
fn shell(name: &str, line: &str) -> DurableConfig {
    let container = ContainerConfig {
        image: "box".into(),
        command: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        ..ContainerConfig::default()
    };
    let sandbox = SandboxConfig { user_networking: Some(Box::default()), ..SandboxConfig::default() };
    DurableConfig { name: name.into(), container, sandbox, ..DurableConfig::default() }
}

async fn create(engine: &Engine, config: DurableConfig) -> ContainerId {
    engine.create_durable(config).await.unwrap_or_else(|e| panic!("{}", e.chain())).id
}

async fn start(engine: &Engine, name: &str) {
    let started = engine.start_durable(name).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert_eq!(started, Started::Now);
}

/// Runs it to its end.
async fn run(engine: &Engine, name: &str) -> i32 {
    let wait = engine.wait_durable(name, WaitFor::NextExit).unwrap();
    start(engine, name).await;
    wait.await.code
}

fn status(engine: &Engine, name: &str) -> Arc<DurableStatus> {
    engine.durable(name).unwrap()
}

async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !check() {
        assert!(std::time::Instant::now() < deadline, "timed out waiting for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn until_phase(engine: &Engine, name: &str, phase: DurablePhase) {
    until(&format!("{name} to be {phase:?}"), || engine.durable(name).is_ok_and(|s| s.phase == phase)).await;
}

async fn until_gone(engine: &Engine, name: &str) {
    until(&format!("{name} to be gone"), || engine.durable(name).is_err()).await;
}

/// What has happened to a container, up to and with `last`.
async fn told(happenings: &mut Happenings, name: &str, last: &Action) -> Vec<Action> {
    let mut actions = Vec::new();
    while actions.last() != Some(last) {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), happenings.next()).await;
        let happening = next.unwrap_or_else(|_| panic!("only {actions:?}")).unwrap().unwrap();
        if matches!(&happening.subject, Subject::Container { name: of, .. } if of == name) {
            actions.push(happening.action.clone());
        }
    }
    actions
}

fn log(engine: &Engine, name: &str) -> String {
    std::fs::read_to_string(&status(engine, name).log_path).unwrap()
}
