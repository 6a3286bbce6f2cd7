//! The daemon is killed at any moment; containers, their logs and their exit codes do not notice.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::baseline::{Snapshot, assert_back_to};
use e2e::catalog::BUSYBOX;
use e2e::{Lab, Node, NodeOptions, container, log_messages, pod, summarize, wait_until};

const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn containers_outlive_the_daemon() {
    let lab = Lab::enter("restart");
    let registry = lab.registry().expect("start the registry");
    let mut node =
        Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    node.client.pull(BUSYBOX).expect("pull");
    warm_up(&node);
    let before = Snapshot::take(&node).expect("look around");
    if let Err(error) = outlive(&mut node) {
        panic!("{error:#}\n{}", node.last_words());
    }
    assert_back_to_but_new_daemon(&before, &node);
    summarize("daemon killed and restarted: 1 passed, 0 failed, 0 skipped");
}

fn outlive(node: &mut Node) -> Result<()> {
    let config = pod("restart", node.logs());
    let pod_id = node.client.run_pod(&config)?;
    let counting = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.02; done";
    let talker = node.client.run(&pod_id, &config, &container("talker", BUSYBOX, &["sh", "-c", counting]))?;
    let leaver =
        container("leaver", BUSYBOX, &["sh", "-c", "while [ ! -e /go ]; do sleep 0.02; done; exit 42"]);
    let leaver = node.client.run(&pod_id, &config, &leaver)?;
    let killed = node.client.run(&pod_id, &config, &container("killed", BUSYBOX, &["sleep", "1000"]))?;
    let stayer = node.client.run(&pod_id, &config, &container("stayer", BUSYBOX, &["top"]))?;
    let log = node.logs().join("talker.log");
    wait_until("the first lines", PATIENCE, || log_messages(&log).is_ok_and(|lines| lines.len() > 5));
    let address = sandbox(node, &pod_id)?.network.context("no network")?.ip;
    let pid = node.client.exec_ok(&stayer, &["sh", "-c", "readlink /proc/self/ns/net"])?;

    // Exits while nobody but the keeper looks.
    let leaver_root = process_of(node, "leaver")?;
    let killed_process = process_of(node, "killed")?;
    node.kill9_daemon();
    std::fs::write(format!("/proc/{leaver_root}/root/go"), "").context("tell the leaver to go")?;
    e2e::signal(killed_process, "KILL");
    let seen = log_messages(&log)?.len();
    wait_until("lines while the daemon is down", PATIENCE, || {
        log_messages(&log).is_ok_and(|now| now.len() > seen + 20)
    });
    let took = node.restart_daemon()?;
    println!("the daemon served again after {took:?}");

    wait_until("the exit of the leaver", PATIENCE, || node.client.has_exited(&leaver));
    wait_until("the exit of the killed one", PATIENCE, || node.client.has_exited(&killed));
    ensure!(node.client.state(&leaver)?.exit_code == 42, "{:?}", node.client.state(&leaver)?);
    ensure!(node.client.state(&killed)?.exit_code == 137, "{:?}", node.client.state(&killed)?);
    for id in [&talker, &stayer] {
        let state = node.client.state(id)?.state();
        ensure!(state == cri::ContainerState::ContainerRunning, "{id} is {state:?}");
    }
    ensure!(sandbox(node, &pod_id)?.network.context("no network")?.ip == address, "the address changed");
    ensure!(
        node.client.exec_ok(&stayer, &["sh", "-c", "readlink /proc/self/ns/net"])? == pid,
        "another namespace"
    );

    // Not a line lost, none twice.
    let request = cri::StopContainerRequest { container_id: talker.clone(), timeout: 0 };
    node.client.stop_container(request)?;
    let lines = log_messages(&log)?;
    for (number, line) in lines.iter().enumerate() {
        ensure!(line == &format!("line {number}"), "line {number} is {line:?}");
    }
    // The daemon's hand is on what it found again.
    node.client.exec_ok(&stayer, &["true"])?;
    node.client.remove_pod(&pod_id)
}

/// Kills the daemon in the middle of starting pods, many times at random moments: in the end every pod that
/// was promised is whole, and nothing of the others is left.
#[test]
fn killed_in_the_middle() {
    let lab = Lab::enter("killed");
    let registry = lab.registry().expect("start the registry");
    let mut node =
        Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    node.client.pull(BUSYBOX).expect("pull");
    warm_up(&node);
    let before = Snapshot::take(&node).expect("look around");
    for round in 0..20_u64 {
        if let Err(error) = interrupted(&mut node, round) {
            panic!("round {round}: {error:#}\n{}", node.last_words());
        }
    }
    assert_back_to_but_new_daemon(&before, &node);
    summarize("daemon killed while starting pods: 20 passed, 0 failed, 0 skipped");
}

fn interrupted(node: &mut Node, round: u64) -> Result<()> {
    let config = pod("killed", node.logs());
    let socket = node.socket().to_owned();
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let create = container("main", BUSYBOX, &["sleep", "1000"]);
    let worker = std::thread::spawn(move || -> Result<String> {
        let client = e2e::Client::connect(&socket)?;
        let id = client.run_pod_sandbox(request)?.pod_sandbox_id;
        client.run(&id, &config, &create)?;
        Ok(id)
    });
    // From before the request arrives to after it is done.
    std::thread::sleep(Duration::from_micros(round * 1500));
    node.kill9_daemon();
    let promised = worker.join().map_err(|_| anyhow::anyhow!("the client panicked"))?.ok();
    node.restart_daemon()?;
    let list = node.client.list_pod_sandbox(cri::ListPodSandboxRequest::default())?.items;
    let ids: BTreeSet<&str> = list.iter().map(|pod| pod.id.as_str()).collect();
    if let Some(id) = &promised {
        ensure!(ids.contains(id.as_str()), "a pod that was promised is gone");
    }
    for id in ids {
        node.client.remove_pod(id)?;
    }
    Ok(())
}

/// A first pod makes what all pods share: the bridge, the tables.
fn warm_up(node: &Node) {
    let config = pod("warm", node.logs());
    let start = || {
        let pod = node.client.run_pod(&config)?;
        node.client.run(&pod, &config, &container("warm", BUSYBOX, &["top"]))?;
        node.client.remove_pod(&pod)
    };
    start().unwrap_or_else(|error: anyhow::Error| panic!("{error:#}\n{}", node.last_words()));
}

/// A restarted daemon has other descriptors and another pid; what counts is what pods leave.
fn assert_back_to_but_new_daemon(before: &Snapshot, node: &Node) {
    assert_back_to(&before.clone().without_daemon(), node, PATIENCE);
}

fn sandbox(node: &Node, id: &str) -> Result<cri::PodSandboxStatus> {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    node.client.pod_sandbox_status(request)?.status.context("no status")
}

/// The host's process id of a container's first process, found by what it runs.
fn process_of(node: &Node, name: &str) -> Result<u32> {
    let needle = if name == "leaver" { "exit 42" } else { "sleep\x001000" };
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let child = status.lines().any(|line| line == format!("PPid:\t{}", node.keeper_pid()));
        if child && String::from_utf8_lossy(&command).contains(needle) {
            return Ok(pid);
        }
    }
    anyhow::bail!("no child of the keeper runs {needle:?}")
}
