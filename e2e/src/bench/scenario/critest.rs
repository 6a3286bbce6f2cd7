//! Row 35: the benchmark of cri-tools, which measures each operation by itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bench::turn::Turn;
use crate::lab::Lab;
use crate::process::Process;

/// Of the row: containers 100, 2 at a time; pods 1 at a time, 200 where the row says 1000, which take a peer
/// six minutes and tell no more.
const PARAMETERS: &str = "containersNumber: 100\ncontainersNumberParallel: 2\ncontainerBenchmarkTimeoutSeconds: 300\n\
                          podsNumber: 200\npodsNumberParallel: 1\npodBenchmarkTimeoutSeconds: 600\n";

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let engine = turn.engine()?;
    let dir = engine.dir().join("critest");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    std::fs::write(dir.join("parameters.yml"), PARAMETERS)?;
    let mut command = Command::new(Lab::tool("critest")?);
    command.arg(format!("--runtime-endpoint={}", engine.endpoint())).args([
        "--benchmark",
        "--ginkgo.no-color",
        "--ginkgo.focus=benchmark about (basic operations on Container|lifecycle of PodSandbox)",
    ]);
    command.arg(format!("--benchmarking-params-file={}", dir.join("parameters.yml").display()));
    command.arg(format!("--benchmarking-output-dir={}", dir.display()));
    command.current_dir(&dir);
    let log = dir.join("log");
    let mut process = Process::spawn(command, &log)?;
    crate::wait_until("critest to end", Duration::from_secs(900), || process.exited().is_some());
    for (file, keys) in [
        (
            "container_benchmark_data.json",
            [
                ("35", "CreateContainer"),
                ("35b", "StartContainer"),
                ("35c", "StopContainer"),
                ("35d", "RemoveContainer"),
            ]
            .as_slice(),
        ),
        (
            "pod_benchmark_data.json",
            [("35e", "CreatePod"), ("35f", "StopPod"), ("35g", "RemovePod")].as_slice(),
        ),
    ] {
        let found = operations(&dir.join(file)).with_context(|| process.tail(30))?;
        for (key, operation) in keys {
            let Some((_, samples)) = found.iter().find(|(name, _)| name.contains(operation)) else {
                bail!("{file} has no {operation}: {:?}", found.keys());
            };
            for &ns in samples {
                turn.sample(key, ns / 1e6);
            }
        }
    }
    Ok(())
}

/// Nanoseconds of each operation.
fn operations(path: &Path) -> Result<BTreeMap<String, Vec<f64>>> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let report: Value = serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
    let names: Vec<String> =
        serde_json::from_value(report["operationsNames"].clone()).context("operationsNames")?;
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for point in report["datapoints"].as_array().context("no datapoints")? {
        let spans: Vec<f64> =
            serde_json::from_value(point["operationsDurationsNs"].clone()).context("durations")?;
        for (name, span) in names.iter().zip(spans) {
            found.entry(name.clone()).or_default().push(span);
        }
    }
    Ok(found)
}
