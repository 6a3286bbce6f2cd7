//! Runtimes of others behind handlers: Debian's runc does what the bundled one does.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::baseline::{Snapshot, assert_back_to};
use e2e::catalog::BUSYBOX;
use e2e::{Lab, Node, NodeOptions, container, pod, summarize, wait_until};

#[test]
fn runc() {
    let lab = Lab::enter("handlers");
    let program = ["/usr/sbin/runc", "/usr/bin/runc"].into_iter().find(|path| Path::new(path).is_file());
    let program = program.expect("Debian's runc is not installed: apt-get install runc");
    let config =
        format!("[runtimes.berth]\n[runtimes.runc]\npath = {program:?}\nroot = \"/run/berth/runc\"\n");
    let registry = lab.registry().expect("start the registry");
    let options = NodeOptions { config, ..NodeOptions::default() };
    let node = Node::start(&lab, "node", Some(&registry), options).expect("start the node");
    node.client.pull(BUSYBOX).expect("pull");
    if let Err(error) = lifecycle(&node).and_then(|()| {
        let before = Snapshot::take(&node)?;
        lifecycle(&node)?;
        assert_back_to(&before, &node, Duration::from_secs(15));
        unknown(&node)
    }) {
        panic!("{error:#}\n{}", node.last_words());
    }
    summarize("pods by runc: 1 passed, 0 failed, 0 skipped");
}

fn lifecycle(node: &Node) -> Result<()> {
    let config = pod("runc", node.logs());
    let request =
        cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: "runc".to_owned() };
    let pod = node.client.run_pod_sandbox(request).context("run sandbox")?.pod_sandbox_id;
    let script = "echo started; while [ ! -e /go ]; do sleep 0.05; done; exit 7";
    let id = node.client.run(&pod, &config, &container("main", BUSYBOX, &["sh", "-c", script]))?;
    ensure!(node.client.exec_ok(&id, &["hostname"])?.trim() == "runc", "another host name");
    let failed = node.client.exec_any(&id, &["sh", "-c", "echo oops >&2; exit 9"])?;
    ensure!(failed.exit_code == 9 && failed.stderr == b"oops\n", "{failed:?}");
    node.client.exec_ok(&id, &["touch", "/go"])?;
    wait_until("the container to end", Duration::from_secs(10), || {
        node.client.state(&id).is_ok_and(|status| status.state() == cri::ContainerState::ContainerExited)
    });
    ensure!(node.client.state(&id)?.exit_code == 7, "{:?}", node.client.state(&id)?);
    let log = std::fs::read_to_string(node.logs().join("main.log"))?;
    ensure!(log.contains("stdout F started"), "{log}");
    node.client.remove_pod(&pod)?;
    std::fs::remove_file(node.logs().join("main.log")).context("remove the log")
}

/// A handler that nobody configured is refused by name.
fn unknown(node: &Node) -> Result<()> {
    let config = pod("unknown", node.logs());
    let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: "no-such".to_owned() };
    let Err(status) = node.client.run_pod_sandbox(request) else { anyhow::bail!("it was accepted") };
    ensure!(status.message().contains("no-such"), "{status}");
    Ok(())
}
