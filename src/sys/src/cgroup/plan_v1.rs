//! Writes for v1 controllers. The order matters where the kernel ties two limits to each other.

use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxNetwork};

use super::group::Cgroup;
use super::layout::Controller;
use super::plan::Plan;
use super::{Error, files};

const LIMIT: &str = "memory.limit_in_bytes";
const SWAP: &str = "memory.memsw.limit_in_bytes";

/// A number in a file; -1 and what is not there are as large as can be.
pub(super) fn current(path: &Path) -> u64 {
    files::read_optional(path).and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

/// A limit as a magnitude: negative is unlimited.
fn magnitude(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

/// `Some` unless the value stands for "not set".
pub(super) fn set<T: Copy + Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

pub(super) fn memory_is_unset(memory: &LinuxMemory) -> bool {
    set(memory.limit()).is_none()
        && set(memory.swap()).is_none()
        && set(memory.reservation()).is_none()
        && memory.swappiness().is_none()
        && set(memory.disable_oom_killer()).is_none()
        && set(memory.kernel_tcp()).is_none()
        && !has_retired(memory)
}

/// Fields that no kernel has any more: a limit of the kernel's own memory, and accounting without hierarchy.
#[allow(deprecated)] // that is why they are looked for
fn has_retired(memory: &LinuxMemory) -> bool {
    set(memory.kernel()).is_some() || memory.use_hierarchy() == Some(false)
}

/// Refuses them.
pub(super) fn check_retired(memory: &LinuxMemory) -> Result<(), Error> {
    if !has_retired(memory) {
        return Ok(());
    }
    let field = if memory.use_hierarchy() == Some(false) { "memory.useHierarchy" } else { "memory.kernel" };
    Err(Error::Unsupported { controller: "memory", field: field.to_owned() })
}

pub(super) fn memory(plan: &mut Plan, dir: &Path, memory: &LinuxMemory) -> Result<(), Error> {
    check_retired(memory)?;
    let limit = set(memory.limit());
    check_usage(&dir.join("memory.usage_in_bytes"), memory, limit)?;
    let put = |plan: &mut Plan, field: &str, file: &str, value: i64| {
        plan.push(Controller::Memory, field, dir.join(file), value)
    };
    let mut swap = set(memory.swap());
    if limit == Some(-1) && swap.is_none() && files::is_there(&dir.join(SWAP)) {
        // Memory without a limit cannot have one together with swap.
        swap = Some(-1);
    }
    // The limit of both may never be below that of memory, so what grows is written first.
    let grows = swap.is_some_and(|swap| magnitude(swap) > current(&dir.join(SWAP)) || swap < 0);
    if let (Some(swap), true) = (swap, grows) {
        put(plan, "memory.swap", SWAP, swap)?;
    }
    if let Some(limit) = limit {
        put(plan, "memory.limit", LIMIT, limit)?;
    }
    if let (Some(swap), false) = (swap, grows) {
        put(plan, "memory.swap", SWAP, swap)?;
    }
    if let Some(reservation) = set(memory.reservation()) {
        put(plan, "memory.reservation", "memory.soft_limit_in_bytes", reservation)?;
    }
    if let Some(tcp) = set(memory.kernel_tcp()) {
        put(plan, "memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", tcp)?;
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            let value = swappiness.to_string();
            return Err(Error::Invalid { field: "memory.swappiness".to_owned(), value });
        }
        plan.push(Controller::Memory, "memory.swappiness", dir.join("memory.swappiness"), swappiness)?;
    }
    if let Some(disable) = memory.disable_oom_killer() {
        let (field, path) = ("memory.disableOOMKiller", dir.join("memory.oom_control"));
        let text = files::read_optional(&path).unwrap_or_default();
        let before = files::keyed(&text, "oom_kill_disable").unwrap_or(0).to_string();
        plan.push_line(Controller::Memory, field, path, ("", &before), u8::from(disable).to_string())?;
    }
    Ok(())
}

/// Refuses a limit below usage if the resources ask for that check.
pub(super) fn check_usage(usage: &Path, memory: &LinuxMemory, limit: Option<i64>) -> Result<(), Error> {
    let Some(limit) = limit.and_then(|limit| u64::try_from(limit).ok()) else { return Ok(()) };
    if memory.check_before_update() == Some(true) {
        let usage = files::read_optional(usage).and_then(|text| text.parse().ok()).unwrap_or(0);
        if limit < usage {
            return Err(Error::BelowUsage { limit, usage });
        }
    }
    Ok(())
}

pub(super) fn cpu_is_unset(cpu: &LinuxCpu) -> bool {
    set(cpu.shares()).is_none()
        && set(cpu.quota()).is_none()
        && set(cpu.period()).is_none()
        && cpu.burst().is_none()
        && cpu.idle().is_none()
        && set(cpu.realtime_runtime()).is_none()
        && set(cpu.realtime_period()).is_none()
}

pub(super) fn cpu(plan: &mut Plan, dir: &Path, cpu: &LinuxCpu) -> Result<(), Error> {
    let mut put =
        |field: &str, file: &str, value: String| plan.push(Controller::Cpu, field, dir.join(file), value);
    if let Some(period) = set(cpu.realtime_period()) {
        put("cpu.realtimePeriod", "cpu.rt_period_us", period.to_string())?;
    }
    if let Some(runtime) = set(cpu.realtime_runtime()) {
        put("cpu.realtimeRuntime", "cpu.rt_runtime_us", runtime.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        put("cpu.idle", "cpu.idle", idle.to_string())?;
    }
    // An idle group has the least weight there is, and the kernel refuses to give it another.
    if let Some(shares) = set(cpu.shares()).filter(|_| cpu.idle() != Some(1)) {
        put("cpu.shares", "cpu.shares", shares.to_string())?;
    }
    let quota = set(cpu.quota()).map(|q| ("cpu.quota", "cpu.cfs_quota_us", q.max(-1).to_string()));
    let period = set(cpu.period()).map(|p| ("cpu.period", "cpu.cfs_period_us", p.to_string()));
    let burst = cpu.burst().map(|b| ("cpu.burst", "cpu.cfs_burst_us", b.to_string()));
    // The ratio of quota to period may at no moment exceed the parent's: a longer period first, a shorter
    // one last. Burst may not exceed quota: a smaller one first, a larger one last.
    let longer = set(cpu.period()).is_some_and(|p| p >= current(&dir.join("cpu.cfs_period_us")));
    let unlimited = current(&dir.join("cpu.cfs_quota_us")) == u64::MAX;
    let smaller = cpu.burst().is_some_and(|b| b <= current(&dir.join("cpu.cfs_burst_us")));
    let mut order = if longer || unlimited { vec![period, quota] } else { vec![quota, period] };
    order.insert(if smaller { 0 } else { 2 }, burst);
    order.into_iter().flatten().try_for_each(|(field, file, value)| put(field, file, value))
}

pub(super) fn network(plan: &mut Plan, group: &Cgroup, network: &LinuxNetwork) -> Result<(), Error> {
    if let Some(class) = set(network.class_id()) {
        let dir = group.require(Controller::NetCls, "network.classID")?.dir();
        plan.push(Controller::NetCls, "network.classID", dir.join("net_cls.classid"), class)?;
    }
    for priority in network.priorities().iter().flatten() {
        let field = "network.priorities";
        let path = group.require(Controller::NetPrio, field)?.dir().join("net_prio.ifpriomap");
        let name = priority.name();
        let value = format!("{name} {}", priority.priority());
        plan.push_line(Controller::NetPrio, field, path, (name, &format!("{name} 0")), value)?;
    }
    Ok(())
}
