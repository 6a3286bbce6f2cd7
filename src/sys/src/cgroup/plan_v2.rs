//! Writes for v2 controllers, and the conversions from v1's units.

use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxMemory};

use super::group::{Cgroup, Place};
use super::layout::Controller;
use super::plan::Plan;
use super::plan_v1::{check_retired, check_usage, current, set};
use super::{Error, files};

const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const MIN_WEIGHT: u64 = 1;
const MAX_WEIGHT: u64 = 10_000;

fn limit_text(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

pub(super) fn memory(plan: &mut Plan, dir: &Path, memory: &LinuxMemory) -> Result<(), Error> {
    check_retired(memory)?;
    let limit = set(memory.limit());
    check_usage(&dir.join("memory.current"), memory, limit)?;
    let put = |plan: &mut Plan, field: &str, file: &str, value: i64| {
        plan.push(Controller::Memory, field, dir.join(file), limit_text(value))
    };
    for (field, is_set) in [
        ("memory.swappiness", memory.swappiness().is_some()),
        ("memory.disableOOMKiller", set(memory.disable_oom_killer()).is_some()),
        ("memory.kernelTCP", set(memory.kernel_tcp()).is_some()),
    ] {
        if is_set {
            return Err(Error::Unsupported { controller: "memory", field: field.to_owned() });
        }
    }
    if let Some(swap) = swap_alone(limit, set(memory.swap()))? {
        put(plan, "memory.swap", "memory.swap.max", swap)?;
    }
    if let Some(limit) = limit {
        put(plan, "memory.limit", "memory.max", limit)?;
    }
    if let Some(reservation) = set(memory.reservation()) {
        put(plan, "memory.reservation", "memory.low", reservation)?;
    }
    Ok(())
}

/// The limit of swap alone, from that of memory and that of both together.
pub(super) fn swap_alone(limit: Option<i64>, both: Option<i64>) -> Result<Option<i64>, Error> {
    let wrong = |both: i64| Error::Invalid { field: "memory.swap".to_owned(), value: both.to_string() };
    match (limit, both) {
        (Some(limit), None) if limit < 0 => Ok(Some(-1)),
        (_, None) => Ok(None),
        (_, Some(both)) if both < 0 => Ok(Some(-1)),
        (Some(limit), Some(both)) if limit >= 0 && both >= limit => Ok(Some(both - limit)),
        (_, Some(both)) => Err(wrong(both)),
    }
}

pub(super) fn cpu(plan: &mut Plan, dir: &Path, cpu: &LinuxCpu) -> Result<(), Error> {
    for (field, is_set) in [
        ("cpu.realtimePeriod", set(cpu.realtime_period()).is_some()),
        ("cpu.realtimeRuntime", set(cpu.realtime_runtime()).is_some()),
    ] {
        if is_set {
            return Err(Error::Unsupported { controller: "cpu", field: field.to_owned() });
        }
    }
    let mut put =
        |field: &str, file: &str, value: String| plan.push(Controller::Cpu, field, dir.join(file), value);
    if let Some(idle) = cpu.idle() {
        put("cpu.idle", "cpu.idle", idle.to_string())?;
    }
    if let Some(shares) = set(cpu.shares()).filter(|_| cpu.idle() != Some(1)) {
        put("cpu.shares", "cpu.weight", shares_to_weight(shares).to_string())?;
    }
    let (quota, period) = (set(cpu.quota()), set(cpu.period()));
    let bandwidth = match (quota, period) {
        (Some(quota), Some(period)) => Some(format!("{} {period}", limit_text(quota))),
        (Some(quota), None) => Some(limit_text(quota)),
        (None, Some(period)) => {
            let text = files::read_optional(&dir.join("cpu.max")).unwrap_or_default();
            Some(format!("{} {period}", text.split_whitespace().next().unwrap_or("max")))
        }
        (None, None) => None,
    };
    let bandwidth = bandwidth.map(|value| ("cpu.quota", "cpu.max", value));
    let burst = cpu.burst().map(|b| ("cpu.burst", "cpu.max.burst", b.to_string()));
    // Burst may not exceed quota: a smaller one first, a larger one last.
    let smaller = cpu.burst().is_some_and(|b| b <= current(&dir.join("cpu.max.burst")));
    let order = if smaller { [burst, bandwidth] } else { [bandwidth, burst] };
    order.into_iter().flatten().try_for_each(|(field, file, value)| put(field, file, value))
}

pub(super) fn unified(plan: &mut Plan, group: &Cgroup, file: &str, value: &str) -> Result<(), Error> {
    let Some((name, _)) = file.split_once('.').filter(|_| !file.contains('/')) else {
        return Err(Error::Invalid { field: "unified".to_owned(), value: file.to_owned() });
    };
    let field = format!("unified[{file}]");
    let unsupported = |controller| Error::Unsupported { controller, field: field.clone() };
    let dir = if name == "cgroup" {
        group.unified_dir().ok_or_else(|| unsupported("v2"))?
    } else {
        let known = Controller::V2.into_iter().find(|c| c.name() == name);
        let controller =
            known.ok_or_else(|| Error::Invalid { field: field.clone(), value: value.to_owned() })?;
        match group.require(controller, &field)? {
            Place::V2(dir) => dir,
            Place::V1(_) => return Err(unsupported("v2")),
        }
    };
    let controller = Controller::V2.into_iter().find(|c| c.name() == name).unwrap_or(Controller::Misc);
    plan.push(controller, &field, dir.join(file), value)
}

/// The v2 weight that corresponds to v1 shares: a curve through (2, 1), (1024, 100) and (262144, 10000),
/// the one Kubernetes and the OCI runtimes agree on.
#[must_use]
pub(super) fn shares_to_weight(shares: u64) -> u64 {
    if shares <= MIN_SHARES {
        return MIN_WEIGHT;
    }
    if shares >= MAX_SHARES {
        return MAX_WEIGHT;
    }
    let log = as_float(shares).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The curve meets whole numbers; rounding errors must not lift it above them.
    as_integer((10_f64.powf(exponent) - 1e-9).ceil()).clamp(MIN_WEIGHT, MAX_WEIGHT)
}

/// The inverse of [`shares_to_weight`], to the nearest share.
#[must_use]
pub(super) fn weight_to_shares(weight: u64) -> u64 {
    let log = as_float(weight.clamp(MIN_WEIGHT, MAX_WEIGHT)).log10();
    let root = (125.0_f64 * 125.0 + 4.0 * 612.0 * (log + 7.0 / 34.0)).sqrt();
    as_integer(((root - 125.0) / 2.0).exp2().round()).clamp(MIN_SHARES, MAX_SHARES)
}

#[expect(clippy::cast_precision_loss, reason = "weights and shares are far below 2^52")]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive and at most MAX_SHARES"
)]
fn as_integer(value: f64) -> u64 {
    value as u64
}
