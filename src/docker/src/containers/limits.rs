//! Limits of a container.

use engine::{NodeInfo, Resources, Rlimit};

use super::body::{Limits, Ulimit};
use crate::http::{ApiError, Result};

/// The smallest limit on memory that programs can start in.
const MIN_MEMORY: i64 = 6 << 20;
/// Limits of processes by their usual names.
const ULIMITS: [&str; 15] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "sigpending",
    "stack",
];
/// The period of a limit in processors.
const PERIOD_US: u64 = 100_000;

/// Limits as the engine is asked for them. What the host cannot do is left out with a warning.
pub(super) fn convert(
    asked: &Limits,
    oom_score_adj: Option<i32>,
    node: &NodeInfo,
    warnings: &mut Vec<String>,
) -> Result<Resources> {
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    let (memory, swap) = (set(asked.memory), set(asked.memory_swap));
    if memory.is_some_and(|memory| memory > 0 && memory < MIN_MEMORY) {
        return Err(ApiError::bad("Minimum memory limit allowed is 6MB"));
    }
    match (memory, swap) {
        (None, Some(1..)) => {
            return Err(ApiError::bad(
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ));
        }
        (Some(memory), Some(swap)) if swap > 0 && swap < memory => {
            return Err(ApiError::bad(
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ));
        }
        _ => {}
    }
    let reservation = set(asked.memory_reservation);
    if let (Some(memory), Some(reservation)) = (memory, reservation)
        && memory > 0
        && memory < reservation
    {
        return Err(ApiError::bad(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    // As much swap as memory, unless somebody says otherwise.
    let mut swap = swap.or(memory.filter(|memory| *memory > 0).map(|memory| memory.saturating_mul(2)));
    if swap.is_some() && !node.swap_limit {
        if set(asked.memory_swap).is_some_and(|swap| swap > 0) {
            warnings.push(
                "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.".to_owned(),
            );
        }
        swap = memory;
    }
    let (cpu_period_us, cpu_quota_us) = processors(asked, node)?;
    Ok(Resources {
        cpu_period_us,
        cpu_quota_us,
        cpu_shares: positive("CPU shares", asked.cpu_shares)?,
        cpuset_cpus: asked.cpuset_cpus.clone(),
        cpuset_mems: asked.cpuset_mems.clone(),
        memory_limit_bytes: memory,
        memory_swap_limit_bytes: swap,
        memory_reservation_bytes: reservation,
        pids_limit: set(asked.pids_limit).map(|limit| limit.max(-1)),
        oom_score_adj,
        ..Resources::default()
    })
}

fn positive(what: &str, value: Option<i64>) -> Result<Option<u64>> {
    match value {
        None | Some(0) => Ok(None),
        Some(value) => u64::try_from(value)
            .map(Some)
            .map_err(|_| ApiError::bad(format!("invalid {what} ({value}): it must be positive"))),
    }
}

/// Period and quota, also of a number of processors.
fn processors(asked: &Limits, node: &NodeInfo) -> Result<(Option<u64>, Option<i64>)> {
    let period = positive("CPU period", asked.cpu_period)?;
    let quota = asked.cpu_quota.filter(|quota| *quota != 0);
    let Some(nano) = positive("NanoCPUs", asked.nano_cpus)? else { return Ok((period, quota)) };
    if period.is_some() || quota.is_some() {
        return Err(ApiError::bad(
            "Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set",
        ));
    }
    if nano > u64::from(node.cpus) * 1_000_000_000 {
        return Err(ApiError::bad(format!(
            "range of CPUs is from 0.01 to {}.00, as there are only {} CPUs available",
            node.cpus, node.cpus
        )));
    }
    let quota = i64::try_from(nano.saturating_mul(PERIOD_US) / 1_000_000_000).unwrap_or(i64::MAX);
    if quota < 1000 {
        return Err(ApiError::bad(format!(
            "range of CPUs is from 0.01 to {}.00, as there are only {} CPUs available",
            node.cpus, node.cpus
        )));
    }
    Ok((Some(PERIOD_US), Some(quota)))
}

/// Limits of processes. Less than none is without limit.
pub(super) fn rlimits(ulimits: &[Ulimit]) -> Result<Vec<Rlimit>> {
    let limit = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    ulimits
        .iter()
        .map(|asked| {
            let (soft, hard) = (limit(asked.soft), limit(asked.hard));
            let name = asked.name.to_ascii_lowercase();
            if !ULIMITS.contains(&name.as_str()) {
                return Err(ApiError::bad(format!("invalid ulimit type: {}", asked.name)));
            }
            if soft > hard {
                return Err(ApiError::bad(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    asked.soft, asked.hard
                )));
            }
            Ok(Rlimit { name, soft, hard })
        })
        .collect()
}

/// A size as people write it: `10m`, `1g`; `-1` is without limit.
#[allow(clippy::option_option, reason = "none given, none meant, and a number are three things")]
pub(super) fn size(text: &str) -> Option<Option<u64>> {
    if text == "-1" {
        return Some(None);
    }
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(swap_limit: bool) -> NodeInfo {
        NodeInfo { cpus: 4, swap_limit, ..NodeInfo::default() }
    }

    fn of(asked: Limits, swap_limit: bool) -> (Result<Resources>, Vec<String>) {
        let mut warnings = Vec::new();
        (convert(&asked, None, &node(swap_limit), &mut warnings), warnings)
    }

    #[test]
    fn memory_comes_with_as_much_swap() {
        let asked = Limits { memory: Some(100 << 20), ..Limits::default() };
        let (with, _) = of(asked.clone(), true);
        assert_eq!(with.unwrap().memory_swap_limit_bytes, Some(200 << 20));
        let (without, warnings) = of(asked, false);
        assert_eq!((without.unwrap().memory_swap_limit_bytes, warnings.len()), (Some(100 << 20), 0));
        let asked = Limits { memory: Some(100 << 20), memory_swap: Some(150 << 20), ..Limits::default() };
        assert_eq!(of(asked, false).1.len(), 1);
    }

    #[test]
    fn limits_must_fit_together() {
        let refused = |asked| of(asked, true).0.unwrap_err().message().to_owned();
        assert!(refused(Limits { memory: Some(1), ..Limits::default() }).contains("6MB"));
        assert!(
            refused(Limits { memory_swap: Some(1), ..Limits::default() })
                .contains("always set the Memory limit")
        );
        assert!(
            refused(Limits { nano_cpus: Some(5_000_000_000), ..Limits::default() }).contains("only 4 CPUs")
        );
        assert!(refused(Limits { nano_cpus: Some(1), ..Limits::default() }).contains("0.01"));
        let both = Limits { nano_cpus: Some(1_000_000_000), cpu_quota: Some(5), ..Limits::default() };
        assert!(refused(both).contains("Conflicting options"));
    }

    #[test]
    fn processors_become_a_quota() {
        let (limits, _) = of(Limits { nano_cpus: Some(1_500_000_000), ..Limits::default() }, true);
        let limits = limits.unwrap();
        assert_eq!((limits.cpu_period_us, limits.cpu_quota_us), (Some(100_000), Some(150_000)));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("10m"), Some(Some(10 << 20)));
        assert_eq!(size("1GB"), Some(Some(1 << 30)));
        assert_eq!(size("-1"), Some(None));
        assert_eq!((size("x"), size("0"), size("")), (None, None, None));
    }

    #[test]
    fn ulimits_are_pairs() {
        let one = |soft, hard| rlimits(&[Ulimit { name: "NOFILE".into(), soft, hard }]);
        let limit = &one(1, -1).unwrap()[0];
        assert_eq!((limit.name.as_str(), limit.soft, limit.hard), ("nofile", 1, u64::MAX));
        assert!(one(5, 2).is_err());
        assert!(rlimits(&[Ulimit { name: "files".into(), soft: 1, hard: 1 }]).is_err());
    }
}
