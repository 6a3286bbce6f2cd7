//! What the kernel says of memory, processor time and what others do meanwhile.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Cgroup of a turn and all that it starts: what runs outside it is foreign load. `hack/bench` makes it.
pub(super) const CGROUP: &str = "berth-bench";
/// Parent of pods' cgroups.
pub(super) const POD_CGROUP: &str = "/berth-bench/pods";

/// Ids of the processes whose name is one of `names`. A turn has a PID namespace of its own, so there are no
/// others of that name.
pub(super) fn processes(names: &[&str]) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // Gone meanwhile: not one of them.
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if names.contains(&name.trim_end()) {
            found.push(pid);
        }
    }
    found
}

/// Number of a `NAME: N kB` line, in MiB.
fn field_mib(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// Proportional set size of some processes together, in MiB.
pub(super) fn pss_mib(pids: &[u32]) -> Result<f64> {
    sum(pids, |pid| {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        field_mib(&text, "Pss").with_context(|| format!("no Pss in {path}"))
    })
}

/// Resident set size of some processes, added up, in MiB.
pub(super) fn rss_mib(pids: &[u32]) -> Result<f64> {
    sum(pids, |pid| {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        field_mib(&text, "VmRSS").with_context(|| format!("no VmRSS in {path}"))
    })
}

/// Time that the threads of some processes ran, in seconds, to the nanosecond. Threads that ended count no
/// more: for spans in which an engine's threads live on.
pub(super) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    sum(pids, |pid| {
        let mut total = 0.0;
        let dir = format!("/proc/{pid}/task");
        for task in std::fs::read_dir(&dir).with_context(|| format!("read {dir}"))?.flatten() {
            // A thread may end while the others are read.
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let ran = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
            total += ran.unwrap_or_default() / 1e9;
        }
        Ok(total)
    })
}

/// User and system time of whole processes, ended threads and reaped children included, in seconds.
pub(super) fn process_cpu_seconds(pids: &[u32]) -> Result<f64> {
    sum(pids, |pid| {
        let path = format!("/proc/{pid}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let rest = text.rsplit(") ").next().unwrap_or_default();
        let ticks: f64 = rest.split(' ').skip(11).take(4).filter_map(|word| word.parse::<f64>().ok()).sum();
        Ok(ticks / 100.0)
    })
}

fn sum(pids: &[u32], read: impl Fn(u32) -> Result<f64>) -> Result<f64> {
    pids.iter().map(|&pid| read(pid)).sum()
}

/// `MemAvailable`, in MiB.
pub(super) fn available_mib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    field_mib(&text, "MemAvailable").context("no MemAvailable")
}

/// Time that the machine's processors were busy since it booted, in seconds.
pub(super) fn busy_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy: f64 =
        ticks.iter().take(8).enumerate().filter(|(at, _)| !(3..=4).contains(at)).map(|(_, t)| t).sum();
    Ok(busy / 100.0)
}

/// Bytes that the loopback device received.
pub(super) fn loopback_bytes() -> Result<f64> {
    let path = "/sys/class/net/lo/statistics/rx_bytes";
    let text = std::fs::read_to_string("/proc/net/dev").context("read /proc/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("no loopback device")?;
    let bytes = line.split_whitespace().next().unwrap_or_default();
    bytes.parse().with_context(|| format!("{path} is {bytes:?}"))
}

/// Free bytes of the file system that a path is on.
pub(super) fn free_bytes(path: &Path) -> Result<f64> {
    let mut command = std::process::Command::new("df");
    let text = crate::run(command.args(["--output=avail", "-B1"]).arg(path))?;
    let figure = text.lines().nth(1).unwrap_or_default().trim().to_owned();
    figure.parse().with_context(|| format!("df says {figure:?}"))
}

/// How much of the machine others used, since it began to look.
#[derive(Debug)]
pub(super) struct ForeignLoad {
    start: Instant,
    root: f64,
    own: f64,
}

impl ForeignLoad {
    /// Begins to look. `None` when the kernel does not tell processor time per cgroup.
    pub(super) fn begin() -> Option<ForeignLoad> {
        let (root, own) = ForeignLoad::read()?;
        Some(ForeignLoad { start: Instant::now(), root, own })
    }

    /// Processors that others kept busy on average.
    pub(super) fn processors(&self) -> Option<f64> {
        let (root, own) = ForeignLoad::read()?;
        let foreign = (root - self.root) - (own - self.own);
        Some((foreign / self.start.elapsed().as_secs_f64()).max(0.0))
    }

    /// Seconds of the whole machine and of the turn's own cgroup.
    fn read() -> Option<(f64, f64)> {
        let at = |dir: PathBuf| -> Option<f64> {
            if let Ok(text) = std::fs::read_to_string(dir.join("cpuacct.usage")) {
                return text.trim().parse::<f64>().ok().map(|ns| ns / 1e9);
            }
            let text = std::fs::read_to_string(dir.join("cpu.stat")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
            line.parse::<f64>().ok().map(|us| us / 1e6)
        };
        ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup"]
            .into_iter()
            .find_map(|root| Some((at(PathBuf::from(root))?, at(Path::new(root).join(CGROUP))?)))
    }
}

/// Milliseconds of a span.
pub(super) fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
