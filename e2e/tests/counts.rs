//! What one pod costs in system calls, counted exactly; and that two hundred pods leave nothing behind.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::baseline::{Snapshot, assert_back_to};
use e2e::catalog::{APPLIANCE, BUSYBOX};
use e2e::trace::Tracer;
use e2e::{Lab, Node, NodeOptions, Percentiles, container, pod, summarize};

/// Most a pod may cost from RunPodSandbox to StartContainer.
const MAX_EXECS: u32 = 1;
const MAX_CLONES: u32 = 4;
const MAX_SYNCS: u32 = 3;

fn node(lab: &Lab, image: &str) -> (e2e::Registry, Node) {
    let registry = lab.registry().expect("start the registry");
    let node = Node::start(lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    node.client.pull(image).expect("pull");
    (registry, node)
}

/// Runs a pod with one container and returns its id.
fn start(node: &Node, command: &[&str], image: &str) -> Result<(String, String)> {
    let config = pod("counts", node.logs());
    let pod = node.client.run_pod(&config)?;
    let container = node.client.run(&pod, &config, &container("main", image, command))?;
    Ok((pod, container))
}

#[test]
fn system_calls_of_one_pod() {
    let lab = Lab::enter("counts");
    let (_registry, node) = node(&lab, APPLIANCE);
    // The first pods make what all share: the bridge, the table, caches, the pool's threads.
    for _ in 0..3 {
        let (pod, _) = start(&node, &["/usr/bin/pause"], APPLIANCE).expect("start a pod");
        node.client.remove_pod(&pod).expect("remove it");
    }
    let trace = lab.work().join("trace");
    let tracer = Tracer::attach(&[node.keeper_pid(), node.daemon_pid()], &trace).expect("attach the tracer");
    let started = start(&node, &["/usr/bin/pause"], APPLIANCE);
    let (counts, text) = tracer.finish().expect("count");
    let (pod, _) = started.unwrap_or_else(|error| panic!("{error:#}\n{}", node.last_words()));
    node.client.remove_pod(&pod).expect("remove the pod");
    summarize(&format!(
        "system calls of one pod: {} execve, {} clone, {} fsync, {} mount",
        counts.execs(),
        counts.clones(),
        counts.syncs(),
        counts.mounts()
    ));
    assert!(counts.execs() == MAX_EXECS, "{} programs were run\n{text}", counts.execs());
    assert!(counts.clones() <= MAX_CLONES, "{} clones\n{text}", counts.clones());
    assert!(counts.syncs() <= MAX_SYNCS, "{} waits for a disk\n{text}", counts.syncs());
}

#[test]
fn two_hundred_pods_leave_nothing() {
    let lab = Lab::enter("cycles");
    let (_registry, node) = node(&lab, BUSYBOX);
    for _ in 0..3 {
        cycle(&node).expect("warm up");
    }
    let before = Snapshot::take(&node).expect("look around");
    for number in 0..200 {
        if let Err(error) = cycle(&node) {
            panic!("cycle {number}: {error:#}\n{}", node.last_words());
        }
    }
    assert_back_to(&before, &node, Duration::from_secs(20));
    let grown = resident(node.daemon_pid()).expect("read the daemon's memory");
    summarize(&format!(
        "200 pod cycles leave nothing: 1 passed, 0 failed, 0 skipped (daemon {} MiB)",
        grown >> 20
    ));
}

/// A pod's whole life: container, exec, exit.
fn cycle(node: &Node) -> Result<()> {
    let (pod, container) = start(node, &["sleep", "1000"], BUSYBOX)?;
    node.client.exec_ok(&container, &["true"])?;
    node.client.remove_pod(&pod)?;
    // The kubelet removes logs; here the suite does.
    let log = node.logs().join("main.log");
    std::fs::remove_file(&log).with_context(|| format!("remove {}", log.display()))
}

fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

#[test]
fn latency_of_fifty_pods() {
    let lab = Lab::enter("latency");
    let (_registry, node) = node(&lab, BUSYBOX);
    let mut up = Vec::new();
    let mut exec = Vec::new();
    let mut down = Vec::new();
    let (mut run, mut create) = (Vec::new(), Vec::new());
    let mut empty = Vec::new();
    for number in 0..52 {
        // What the connection alone costs, to read the others by.
        let start = Instant::now();
        node.client.version(cri::VersionRequest::default()).expect("ask for the version");
        empty.push(start.elapsed());
        let figures = measure(&node).unwrap_or_else(|error| panic!("{error:#}\n{}", node.last_words()));
        // The first two warm caches.
        if number >= 2 {
            run.push(figures.0);
            create.push(figures.1);
            up.push(figures.2);
            exec.push(figures.3);
            down.push(figures.4);
        }
    }
    for (name, samples) in [
        ("pod up", up),
        ("  of it RunPodSandbox", run),
        ("  of it CreateContainer", create),
        ("ExecSync", exec),
        ("pod down", down),
        ("an empty call", empty),
    ] {
        summarize(&format!("{name}: {}", Percentiles::of(samples)));
    }
}

/// Run, run and create together less run, all up, exec, down.
type Figures = (Duration, Duration, Duration, Duration, Duration);

fn measure(node: &Node) -> Result<Figures> {
    let config = pod("latency", node.logs());
    let main = container("main", BUSYBOX, &["sleep", "1000"]);
    let start = Instant::now();
    let pod = node.client.run_pod(&config)?;
    let run = start.elapsed();
    let id = node.client.create(&pod, &config, &main)?;
    let create = start.elapsed() - run;
    node.client.start_container(cri::StartContainerRequest { container_id: id.clone() })?;
    let up = start.elapsed();
    let start = Instant::now();
    let answer = node.client.exec_any(&id, &["true"])?;
    let exec = start.elapsed();
    ensure!(answer.exit_code == 0, "exec ended with {}", answer.exit_code);
    let start = Instant::now();
    node.client.remove_pod(&pod)?;
    Ok((run, create, up, exec, start.elapsed()))
}
