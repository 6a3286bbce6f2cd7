//! The keeper is killed; another one takes over from the daemon what the first one held.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::baseline::{Snapshot, assert_back_to};
use e2e::catalog::BUSYBOX;
use e2e::{Lab, Node, NodeOptions, container, log_messages, pod, summarize, wait_until};

/// Says which namespaces it runs in.
const PLACES: &str = "readlink /proc/self/ns/net; readlink /proc/self/ns/pid";

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn containers_outlive_the_keeper() {
    let lab = Lab::enter("keeper-crash");
    let registry = lab.registry().expect("start the registry");
    let mut node =
        Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    node.client.pull(BUSYBOX).expect("pull");
    outlive(&mut node).unwrap_or_else(|error| panic!("{error:#}\n{}", node.last_words()));
    // What the first round left for good is there by now.
    let before = Snapshot::take(&node).expect("look around");
    for round in 0..3 {
        outlive(&mut node).unwrap_or_else(|error| panic!("round {round}: {error:#}\n{}", node.last_words()));
    }
    assert_back_to(&before, &node, PATIENCE);
    summarize("keeper killed under running containers: 4 passed, 0 failed, 0 skipped");
}

fn outlive(node: &mut Node) -> Result<()> {
    let mut config = pod("crash", node.logs());
    let linux = config.linux.get_or_insert_default();
    let options = linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default();
    options.pid = cri::NamespaceMode::Pod.into();
    for name in ["talker", "leaver"] {
        // Of the round before; the first one has none.
        let _ = std::fs::remove_file(node.logs().join(name).with_extension("log"));
    }
    let pod_id = node.client.run_pod(&config)?;
    let counting = "i=0; while [ ! -e /stop ]; do echo line $i; i=$((i+1)); sleep 0.02; done; exit 7";
    let talker = node.client.run(&pod_id, &config, &container("talker", BUSYBOX, &["sh", "-c", counting]))?;
    let leaving = "while [ ! -e /go ]; do sleep 0.02; done; echo gone; exit 42";
    let leaver = node.client.run(&pod_id, &config, &container("leaver", BUSYBOX, &["sh", "-c", leaving]))?;
    let stayer = node.client.run(&pod_id, &config, &container("stayer", BUSYBOX, &["top"]))?;
    let log = node.logs().join("talker.log");
    wait_until("the first lines", PATIENCE, || log_messages(&log).is_ok_and(|lines| lines.len() > 5));
    let place = node.client.exec_ok(&stayer, &["sh", "-c", PLACES])?;
    let leaver_root = root_of(node)?;

    node.replace_keeper()?;
    std::fs::write(leaver_root.join("go"), "").context("tell the leaver to go")?;
    let seen = log_messages(&log)?.len();
    wait_until("more lines", PATIENCE, || log_messages(&log).is_ok_and(|now| now.len() > seen + 20));
    wait_until("the exit of the leaver", PATIENCE, || node.client.has_exited(&leaver));
    ensure!(node.client.state(&leaver)?.exit_code == 42, "{:?}", node.client.state(&leaver)?);
    ensure!(
        log_messages(&node.logs().join("leaver.log"))? == ["gone"],
        "the last line of the leaver is lost"
    );
    for id in [&talker, &stayer] {
        let state = node.client.state(id)?.state();
        ensure!(state == cri::ContainerState::ContainerRunning, "{id} is {state:?}");
    }
    // New processes run where the old ones do, and containers start in the same pod.
    let again = node.client.exec_ok(&stayer, &["sh", "-c", PLACES])?;
    ensure!(again == place, "{again} is not {place}");
    let late = node.client.run(&pod_id, &config, &container("late", BUSYBOX, &["sh", "-c", "exit 3"]))?;
    wait_until("the exit of the late one", PATIENCE, || node.client.has_exited(&late));
    ensure!(node.client.state(&late)?.exit_code == 3, "{:?}", node.client.state(&late)?);

    node.client.exec_ok(&talker, &["touch", "/stop"])?;
    wait_until("the exit of the talker", PATIENCE, || node.client.has_exited(&talker));
    ensure!(node.client.state(&talker)?.exit_code == 7, "{:?}", node.client.state(&talker)?);
    let lines = log_messages(&log)?;
    let mut missing = 0;
    let mut next = 0;
    for line in &lines {
        let number: u64 = line.strip_prefix("line ").context("no line of ours")?.parse()?;
        ensure!(number >= next, "line {number} came after line {next}");
        missing += number - next;
        next = number + 1;
    }
    // Only what the keeper has read and not yet written when it is killed can be lost: at most one read.
    ensure!(missing <= 1, "{missing} lines are lost: {lines:?}");
    let request = cri::StopContainerRequest { container_id: stayer, timeout: 0 };
    node.client.stop_container(request)?;
    node.client.remove_pod(&pod_id)
}

/// The root directory of a container, by a process that runs `leaving` in it.
fn root_of(node: &Node) -> Result<std::path::PathBuf> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let child = status.lines().any(|line| line == format!("PPid:\t{}", node.keeper_pid()));
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if child && String::from_utf8_lossy(&command).contains("exit 42") {
            return Ok(entry.path().join("root"));
        }
    }
    anyhow::bail!("no child of the keeper is the leaver")
}
