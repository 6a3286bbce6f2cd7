//! Row 32: what many pods leave. Peers run fewer of them, for each takes them half a second.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::engine::{Engine, Kind};
use crate::bench::images::PROGRAM;
use crate::bench::machine::{self, CGROUP};
use crate::bench::turn::{Turn, container, pod, start_pod};

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let engine = turn.engine()?;
    let (warm, cycles) = if turn.kind == Kind::Berth { (100, 2000) } else { (20, 200) };
    for _ in 0..warm {
        cycle(&engine)?;
    }
    let before = Left::count(&engine)?;
    for _ in 0..cycles {
        cycle(&engine)?;
    }
    // What is put off may take its time, but not for ever.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut after = Left::count(&engine)?;
    while after.beyond(&before) > 0.0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(500));
        after = Left::count(&engine)?;
    }
    turn.sample("32", after.rss_mib - before.rss_mib);
    turn.sample("32b", after.beyond(&before));
    turn.note(format!("row 32: {} ran {cycles} pods after {warm} to warm up", turn.kind.name()));
    Ok(())
}

fn cycle(engine: &Engine) -> Result<()> {
    let config = pod(engine, "churn")?;
    let (pod, container) = start_pod(&engine.client, &config, &container(&["idle"]))?;
    engine.client.exec_ok(&container, &[PROGRAM, "true"])?;
    engine.client.remove_pod(&pod)?;
    // As the kubelet does.
    std::fs::remove_dir_all(&config.log_directory).context("remove the pod's logs")
}

/// Counts of what pods are made of.
struct Left {
    rss_mib: f64,
    counts: [usize; 5],
}

impl Left {
    fn count(engine: &Engine) -> Result<Left> {
        let pids = engine.pids();
        let descriptors = pids.iter().map(|pid| entries(Path::new(&format!("/proc/{pid}/fd")))).sum();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mounts")?.lines().count();
        let cgroups =
            ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(|root| below(&Path::new(root).join(CGROUP)));
        Ok(Left {
            rss_mib: machine::rss_mib(&pids)?,
            counts: [descriptors, mounts, namespaces(), cgroups.into_iter().sum(), below(engine.state())],
        })
    }

    /// How many things there are more of.
    fn beyond(&self, before: &Left) -> f64 {
        let more = self.counts.iter().zip(before.counts).map(|(now, before)| now.saturating_sub(before));
        f64::from(u32::try_from(more.sum::<usize>()).unwrap_or(u32::MAX))
    }
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Files and directories below a directory.
fn below(dir: &Path) -> usize {
    let mut count = 0;
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            count += 1;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            }
        }
    }
    count
}

/// Network namespaces that some process is in.
fn namespaces() -> usize {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        found.extend(std::fs::read_link(entry.path().join("ns/net")).ok());
    }
    found.len()
}
