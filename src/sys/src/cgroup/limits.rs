//! Reading limits back, in the units of the OCI resources whatever the version.

use std::io;
use std::path::Path;

use super::group::{Cgroup, Place};
use super::layout::Controller;
use super::{files, plan_v2};

/// v1 shows "no limit" as the largest multiple of the page size.
pub(super) const NO_LIMIT: u64 = 0x7fff_ffff_ffff_0000;

/// Limits in force. `None`: the host cannot tell; -1: unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative weight, in v1's shares. On v2 computed from the weight.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time per period.
    pub cpu_quota_us: Option<i64>,
    /// The period, in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Whether the group runs only when nothing else wants to.
    pub cpu_idle: Option<bool>,
    /// Processors.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Memory, in bytes.
    pub memory_bytes: Option<i64>,
    /// Memory that is protected or reclaimed last, in bytes.
    pub memory_reservation_bytes: Option<i64>,
    /// Memory and swap together, in bytes.
    pub memory_and_swap_bytes: Option<i64>,
    /// Processes and threads.
    pub pids: Option<i64>,
    /// Huge pages: size and bytes.
    pub hugepages: Vec<(String, i64)>,
}

pub(super) fn read(group: &Cgroup) -> io::Result<Limits> {
    if !group.exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut limits = Limits::default();
    match group.place(Controller::Cpu) {
        Some(Place::V1(dir)) => {
            limits.cpu_shares = number(dir, "cpu.shares").and_then(|n| u64::try_from(n).ok());
            limits.cpu_quota_us = number(dir, "cpu.cfs_quota_us");
            limits.cpu_period_us = number(dir, "cpu.cfs_period_us").and_then(|n| u64::try_from(n).ok());
        }
        Some(Place::V2(dir)) => cpu_v2(dir, &mut limits),
        None => {}
    }
    if let Some(place) = group.place(Controller::Cpu) {
        limits.cpu_idle = number(place.dir(), "cpu.idle").map(|idle| idle != 0);
    }
    if let Some(place) = group.place(Controller::Cpuset) {
        limits.cpuset_cpus = files::read_optional(&place.dir().join("cpuset.cpus"));
        limits.cpuset_mems = files::read_optional(&place.dir().join("cpuset.mems"));
    }
    match group.place(Controller::Memory) {
        Some(Place::V1(dir)) => {
            limits.memory_bytes = number(dir, "memory.limit_in_bytes");
            limits.memory_reservation_bytes = number(dir, "memory.soft_limit_in_bytes");
            limits.memory_and_swap_bytes = number(dir, "memory.memsw.limit_in_bytes");
        }
        Some(Place::V2(dir)) => {
            limits.memory_bytes = number(dir, "memory.max");
            limits.memory_reservation_bytes = number(dir, "memory.low");
            limits.memory_and_swap_bytes = number(dir, "memory.swap.max")
                .zip(limits.memory_bytes)
                .map(|(swap, memory)| if swap < 0 || memory < 0 { -1 } else { swap.saturating_add(memory) });
        }
        None => {}
    }
    limits.pids = group.place(Controller::Pids).and_then(|place| number(place.dir(), "pids.max"));
    limits.hugepages = hugepages(group);
    Ok(limits)
}

fn cpu_v2(dir: &Path, limits: &mut Limits) {
    let weight = number(dir, "cpu.weight").and_then(|n| u64::try_from(n).ok());
    limits.cpu_shares = weight.map(|weight| match weight {
        // An idle group shows weight 0.
        0 => 2,
        weight => plan_v2::weight_to_shares(weight),
    });
    let text = files::read_optional(&dir.join("cpu.max")).unwrap_or_default();
    let mut fields = text.split_whitespace();
    limits.cpu_quota_us = fields.next().and_then(parse);
    limits.cpu_period_us = fields.next().and_then(|period| period.parse().ok());
}

fn hugepages(group: &Cgroup) -> Vec<(String, i64)> {
    let Some(place) = group.place(Controller::Hugetlb) else { return Vec::new() };
    let suffix = if matches!(place, Place::V1(_)) { "limit_in_bytes" } else { "max" };
    page_sizes(place.dir(), suffix)
        .into_iter()
        .filter_map(|size| {
            let limit = number(place.dir(), &format!("hugetlb.{size}.{suffix}"))?;
            Some((size, limit))
        })
        .collect()
}

/// Sizes of huge pages for which there is a file `hugetlb.SIZE.suffix`, sorted.
pub(super) fn page_sizes(dir: &Path, suffix: &str) -> Vec<String> {
    let size = |name: &str| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.strip_suffix('.')?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut sizes: Vec<String> = entries.filter_map(|entry| size(entry.file_name().to_str()?)).collect();
    sizes.sort_unstable();
    sizes
}

fn number(dir: &Path, file: &str) -> Option<i64> {
    parse(&files::read_optional(&dir.join(file))?)
}

/// A number or `max`; what is too large to be meant is unlimited.
pub(super) fn parse(text: &str) -> Option<i64> {
    if text == "max" {
        return Some(-1);
    }
    if text.starts_with('-') {
        return text.parse().ok();
    }
    let value: u64 = text.parse().ok()?;
    if value >= NO_LIMIT { Some(-1) } else { i64::try_from(value).ok() }
}
