//! The conformance suite of cri-tools: in order, in parallel and random, and over WebSockets.
//!
//! Every spec that this kernel can run must pass, without a second try.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::ginkgo::Report;
use e2e::{Lab, Node, NodeOptions, Process, summarize};

/// What may be skipped, by a part of its name, and why.
const MAY_SKIP: [(&str, &str); 4] = [
    ("public image with digest", "its digest is a constant that no other image can have"),
    ("AppArmor", "the kernel has no AppArmor"),
    ("SELinux", "the kernel has no SELinux policy"),
    ("NRI", "plugins of the node resource interface are not served yet"),
];

/// A run is broken off after this long; a good one takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(600);

#[test]
fn sequential() {
    run("sequential", &[]);
}

#[test]
fn parallel_and_random() {
    run("parallel", &["--parallel=2", "--ginkgo.randomize-all"]);
}

#[test]
fn over_websockets() {
    run("websocket", &["--websocket-exec", "--websocket-attach", "--websocket-portforward"]);
}

/// Runs critest against a node of its own and judges the report.
fn run(variant: &str, arguments: &[&str]) {
    let lab = Lab::enter(&format!("critest-{variant}"));
    let registry = lab.registry().expect("start the registry");
    let node = Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    let json = lab.work().join("report.json");
    let log = lab.work().join("critest.log");
    let start = Instant::now();
    critest(&node.endpoint(), arguments, &json, &log);
    let took = start.elapsed();
    let mut report = match Report::load(&json) {
        Ok(report) => report,
        Err(error) => {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("critest left no report: {error:#}\n{text}\n{}", node.last_words());
        }
    };
    // Benchmarks are not validation.
    report.skipped.retain(|(name, _)| !name.contains("benchmark"));
    judge(variant, &report, took, &node);
}

fn critest(endpoint: &str, arguments: &[&str], json: &Path, log: &Path) {
    let program = Lab::tool("critest").expect("find critest");
    let tools = program.parent().expect("a directory of tools");
    Lab::tool("ginkgo").expect("find ginkgo");
    // The parallel variant runs `ginkgo` from the path.
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(&program);
    command.env("PATH", path).current_dir(log.parent().expect("a directory for the log"));
    command
        .arg(format!("--runtime-endpoint={endpoint}"))
        .arg(format!("--ginkgo.json-report={}", json.display()));
    command.args(["--ginkgo.no-color", "--ginkgo.skip=public image with digest"]).args(arguments);
    let mut process = Process::spawn(command, log).expect("run critest");
    e2e::wait_until("critest to end", PATIENCE, || process.exited().is_some());
}

fn judge(variant: &str, report: &Report, took: Duration, node: &Node) {
    for (name, message) in &report.failed {
        println!("FAILED {name}\n    {}", message.trim().replace('\n', "\n    "));
    }
    let mut unexpected = Vec::new();
    for (name, message) in &report.skipped {
        match MAY_SKIP.iter().find(|(part, _)| name.contains(part)) {
            Some((_, reason)) => println!("skipped {name}: {reason}"),
            None => unexpected.push(format!("{name}: {message}")),
        }
    }
    summarize(&format!(
        "critest {variant}: {} passed, {} failed, {} skipped ({:.1} s)",
        report.passed.len(),
        report.failed.len(),
        report.skipped.len(),
        took.as_secs_f64()
    ));
    assert!(report.failed.is_empty(), "{} specs failed\n{}", report.failed.len(), node.last_words());
    assert!(unexpected.is_empty(), "skipped without leave:\n{}", unexpected.join("\n"));
    assert!(report.passed.len() >= 100, "only {} specs ran", report.passed.len());
}
