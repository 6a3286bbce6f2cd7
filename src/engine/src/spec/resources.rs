//! Limits in the runtime specification's form.

use oci::runtime::{
    LinuxCpuBuilder, LinuxHugepageLimitBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder,
};

use super::{Input, bug, devices};
use crate::error::{Error, Result};
use crate::model::Resources;

pub(super) fn linux(input: &Input<'_>) -> Result<LinuxResources> {
    let mut resources = limits(&input.config.resources)?;
    resources.set_devices(Some(devices::rules(input)?));
    Ok(resources)
}

/// Limits alone, without device rules: for a new container and for updates.
pub(crate) fn limits(asked: &Resources) -> Result<LinuxResources> {
    check(asked)?;
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(period) = asked.cpu_period_us.filter(|p| *p > 0) {
        cpu = cpu.period(period);
    }
    if let Some(quota) = asked.cpu_quota_us.filter(|q| *q != 0) {
        cpu = cpu.quota(quota);
    }
    if let Some(shares) = asked.cpu_shares.filter(|s| *s > 0) {
        cpu = cpu.shares(shares);
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(asked.cpuset_cpus.clone());
    }
    if !asked.cpuset_mems.is_empty() {
        cpu = cpu.mems(asked.cpuset_mems.clone());
    }
    let mut memory = LinuxMemoryBuilder::default();
    if let Some(limit) = asked.memory_limit_bytes.filter(|l| *l != 0) {
        memory = memory.limit(limit);
        // Without a word about swap a limit on memory is one on both, so that it holds where swap is on.
        memory = memory.swap(asked.memory_swap_limit_bytes.filter(|s| *s != 0).unwrap_or(limit));
    } else if let Some(swap) = asked.memory_swap_limit_bytes.filter(|s| *s != 0) {
        memory = memory.swap(swap);
    }
    if let Some(reservation) = asked.memory_reservation_bytes.filter(|r| *r != 0) {
        memory = memory.reservation(reservation);
    }
    let hugepages = asked
        .hugepage_limits
        .iter()
        .map(|(size, bytes)| {
            let limit = i64::try_from(*bytes).unwrap_or(i64::MAX);
            LinuxHugepageLimitBuilder::default().page_size(size.clone()).limit(limit).build().map_err(bug)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut builder = LinuxResourcesBuilder::default()
        .cpu(cpu.build().map_err(bug)?)
        .memory(memory.build().map_err(bug)?)
        .hugepage_limits(hugepages);
    if let Some(pids) = asked.pids_limit.filter(|p| *p != 0) {
        builder = builder.pids(LinuxPidsBuilder::default().limit(pids).build().map_err(bug)?);
    }
    if !asked.unified.is_empty() {
        builder =
            builder.unified(asked.unified.clone().into_iter().collect::<std::collections::HashMap<_, _>>());
    }
    let mut resources = builder.build().map_err(bug)?;
    resources.set_devices(None);
    Ok(resources)
}

/// Leaves out what this host cannot do and nobody would miss: a limit on swap that only repeats the one on
/// memory, and limits of huge pages that are all zero where there are none. Anything else stays, and is an
/// error when it is applied.
pub(crate) fn fit(resources: &mut LinuxResources, swap_accounting: bool, hugetlb: bool) {
    if !swap_accounting && let Some(mut memory) = *resources.memory() {
        if memory.swap() == memory.limit() {
            memory.set_swap(None);
        }
        resources.set_memory(Some(memory));
    }
    let none_asked =
        |limits: &Vec<oci::runtime::LinuxHugepageLimit>| limits.iter().all(|limit| limit.limit() == 0);
    if !hugetlb && resources.hugepage_limits().as_ref().is_some_and(none_asked) {
        resources.set_hugepage_limits(None);
    }
}

/// What is in force after an update: what was, overlaid by what is asked for.
pub(crate) fn update(current: &Resources, asked: &Resources) -> Resources {
    fn text(asked: &str, current: &str) -> String {
        if asked.is_empty() { current.to_owned() } else { asked.to_owned() }
    }
    let mut hugepage_limits = current.hugepage_limits.clone();
    hugepage_limits.extend(asked.hugepage_limits.clone());
    let mut unified = current.unified.clone();
    unified.extend(asked.unified.clone());
    Resources {
        cpu_period_us: asked.cpu_period_us.filter(|v| *v != 0).or(current.cpu_period_us),
        cpu_quota_us: asked.cpu_quota_us.filter(|v| *v != 0).or(current.cpu_quota_us),
        cpu_shares: asked.cpu_shares.filter(|v| *v != 0).or(current.cpu_shares),
        cpuset_cpus: text(&asked.cpuset_cpus, &current.cpuset_cpus),
        cpuset_mems: text(&asked.cpuset_mems, &current.cpuset_mems),
        memory_limit_bytes: asked.memory_limit_bytes.filter(|v| *v != 0).or(current.memory_limit_bytes),
        memory_swap_limit_bytes: asked
            .memory_swap_limit_bytes
            .filter(|v| *v != 0)
            .or(current.memory_swap_limit_bytes),
        memory_reservation_bytes: asked.memory_reservation_bytes.or(current.memory_reservation_bytes),
        pids_limit: asked.pids_limit.or(current.pids_limit),
        oom_score_adj: asked.oom_score_adj.or(current.oom_score_adj),
        hugepage_limits,
        unified,
    }
}

fn check(asked: &Resources) -> Result<()> {
    if let Some(score) = asked.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return Err(Error::invalid(format!("oom_score_adj {score} is not between -1000 and 1000")));
    }
    for (name, limit) in
        [("memory limit", asked.memory_limit_bytes), ("swap limit", asked.memory_swap_limit_bytes)]
    {
        if limit.is_some_and(|l| l < -1) {
            return Err(Error::invalid(format!("{name} is below -1; use -1 for no limit")));
        }
    }
    if let (Some(memory), Some(swap)) = (asked.memory_limit_bytes, asked.memory_swap_limit_bytes)
        && swap > 0
        && memory > swap
    {
        return Err(Error::invalid(format!(
            "the limit of memory and swap together ({swap} bytes) is below that of memory alone ({memory} bytes)"
        )));
    }
    if asked.cpu_quota_us.is_some_and(|q| q < -1 || (q > 0 && q < 1000)) {
        return Err(Error::invalid("cpu quota must be -1, 0 or at least 1000 microseconds"));
    }
    if let Some(period) = asked.cpu_period_us.filter(|p| *p != 0)
        && !(1000..=1_000_000).contains(&period)
    {
        return Err(Error::invalid(format!(
            "cpu period {period} is not between 1000 and 1000000 microseconds"
        )));
    }
    if let Some(key) = asked.unified.keys().find(|k| k.contains('/') || k.is_empty()) {
        return Err(Error::invalid(format!("unified key {key:?} is not the name of a cgroup file")));
    }
    Ok(())
}
