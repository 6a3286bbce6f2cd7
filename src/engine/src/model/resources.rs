//! Limits of a container.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits and weights; `None` and 0-length mean "leave alone".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Length of the period of [`Resources::cpu_quota_us`], in microseconds.
    #[serde(default)]
    pub cpu_period_us: Option<u64>,
    /// CPU time per period, in microseconds; -1 is unlimited.
    #[serde(default)]
    pub cpu_quota_us: Option<i64>,
    /// Relative weight, 2 to 262144, in the unit of cgroup v1.
    #[serde(default)]
    pub cpu_shares: Option<u64>,
    /// CPUs it may use, as a list.
    #[serde(default)]
    pub cpuset_cpus: String,
    /// Memory nodes it may use, as a list.
    #[serde(default)]
    pub cpuset_mems: String,
    /// Memory, in bytes; -1 is unlimited.
    #[serde(default)]
    pub memory_limit_bytes: Option<i64>,
    /// Memory and swap together, in bytes; -1 is unlimited.
    #[serde(default)]
    pub memory_swap_limit_bytes: Option<i64>,
    /// Memory the kernel tries to leave it, in bytes.
    #[serde(default)]
    pub memory_reservation_bytes: Option<i64>,
    /// Processes and threads; -1 is unlimited.
    #[serde(default)]
    pub pids_limit: Option<i64>,
    /// Adjustment of the OOM score.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// Bytes by size of huge page, as `2MB`.
    #[serde(default)]
    pub hugepage_limits: BTreeMap<String, u64>,
    /// Files of cgroup v2 and what to write to each.
    #[serde(default)]
    pub unified: BTreeMap<String, String>,
}
