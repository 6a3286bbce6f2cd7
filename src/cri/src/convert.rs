//! Values that several messages share.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use cri_api::v1;
use engine::{AppArmor, GroupsPolicy, IdMap, IdMaps, NamespaceMode, Resources, Seccomp, SelinuxLabel};

use crate::error::Invalid;

/// First and last realtime signal (signal(7)).
const RT: std::ops::RangeInclusive<i32> = 34..=64;

/// Signals by their names on Linux; several names may have one number, the first is the one to report.
const SIGNALS: [(&str, i32); 36] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

pub(crate) fn sorted(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

pub(crate) fn hashed(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Whether an object's labels have all that a selector asks for.
pub(crate) fn selects(selector: &HashMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

pub(crate) fn uint(value: u64) -> v1::UInt64Value {
    v1::UInt64Value { value }
}

/// `None`: the runtime chooses.
pub(crate) fn stop_signal(signal: i32) -> Result<Option<i32>, Invalid> {
    let known =
        v1::Signal::try_from(signal).map_err(|_| Invalid::new(format!("unknown stop signal {signal}")))?;
    if known == v1::Signal::RuntimeDefault {
        return Ok(None);
    }
    let name = known.as_str_name().trim_start_matches("SIGNAL_SIG");
    let number = SIGNALS.iter().find(|(n, _)| *n == name).map(|(_, number)| *number).or_else(|| {
        let offset = |prefix| name.strip_prefix(prefix).and_then(|n| n.parse::<i32>().ok());
        offset("RTMINPLUS").map(|n| RT.start() + n).or_else(|| offset("RTMAXMINUS").map(|n| RT.end() - n))
    });
    number.map(Some).ok_or_else(|| Invalid::new(format!("unknown stop signal {}", known.as_str_name())))
}

/// The interface's name for a signal number of Linux.
pub(crate) fn signal_name(number: i32) -> v1::Signal {
    let name = match SIGNALS.iter().find(|(_, n)| *n == number) {
        Some((name, _)) => format!("SIGNAL_SIG{name}"),
        // As the shell has it: the lower half counts from the first, the upper half from the last.
        None if number < 50 => format!("SIGNAL_SIGRTMINPLUS{}", number - RT.start()),
        None => format!("SIGNAL_SIGRTMAXMINUS{}", RT.end() - number),
    };
    v1::Signal::from_str_name(&name).unwrap_or_default()
}

fn maps_of(mappings: &[v1::IdMapping]) -> Vec<IdMap> {
    mappings
        .iter()
        .map(|m| IdMap { container_id: m.container_id, host_id: m.host_id, size: m.length })
        .collect()
}

fn mappings_of(maps: &[IdMap]) -> Vec<v1::IdMapping> {
    maps.iter()
        .map(|m| v1::IdMapping { container_id: m.container_id, host_id: m.host_id, length: m.size })
        .collect()
}

pub(crate) fn id_maps(uids: &[v1::IdMapping], gids: &[v1::IdMapping]) -> IdMaps {
    IdMaps { uids: maps_of(uids), gids: maps_of(gids) }
}

pub(crate) fn id_mappings(maps: &IdMaps) -> (Vec<v1::IdMapping>, Vec<v1::IdMapping>) {
    (mappings_of(&maps.uids), mappings_of(&maps.gids))
}

/// The namespace of process ids, the one that can be another container's.
pub(crate) fn pid_mode(options: &v1::NamespaceOption) -> Result<NamespaceMode, Invalid> {
    let is_target = options.pid == i32::from(v1::NamespaceMode::Target);
    if !is_target && !options.target_id.is_empty() {
        return Err(Invalid::new("target_id goes with process ids of mode TARGET"));
    }
    namespace_mode(options.pid, &options.target_id)
}

/// `target`: the container of mode TARGET.
pub(crate) fn namespace_mode(mode: i32, target: &str) -> Result<NamespaceMode, Invalid> {
    let mode = v1::NamespaceMode::try_from(mode)
        .map_err(|_| Invalid::new(format!("unknown namespace mode {mode}")))?;
    Ok(match mode {
        v1::NamespaceMode::Pod => NamespaceMode::Sandbox,
        v1::NamespaceMode::Container => NamespaceMode::Container,
        v1::NamespaceMode::Node => NamespaceMode::Host,
        v1::NamespaceMode::Target => {
            let id = target.parse().map_err(|error| Invalid::new(format!("target_id: {error}")))?;
            NamespaceMode::Target(id)
        }
    })
}

/// Mode and target.
pub(crate) fn namespace_mode_name(mode: &NamespaceMode) -> (v1::NamespaceMode, String) {
    match mode {
        NamespaceMode::Sandbox => (v1::NamespaceMode::Pod, String::new()),
        NamespaceMode::Container => (v1::NamespaceMode::Container, String::new()),
        NamespaceMode::Host => (v1::NamespaceMode::Node, String::new()),
        NamespaceMode::Target(id) => (v1::NamespaceMode::Target, id.to_string()),
    }
}

/// An optional id: user or group ids that do not fit are refused, not wrapped.
pub(crate) fn id32(name: &str, value: Option<i64>) -> Result<Option<u32>, Invalid> {
    value.map(|id| checked_id(name, id)).transpose()
}

pub(crate) fn ids32(name: &str, values: &[i64]) -> Result<Vec<u32>, Invalid> {
    values.iter().map(|id| checked_id(name, *id)).collect()
}

fn checked_id(name: &str, id: i64) -> Result<u32, Invalid> {
    // The kernel keeps the largest value for "no id" (setuid(2)), and most programs use 31 bits.
    u32::try_from(id)
        .ok()
        .filter(|id| *id <= i32::MAX.unsigned_abs())
        .ok_or_else(|| Invalid::new(format!("{name} {id} is not between 0 and {}", i32::MAX)))
}

pub(crate) fn groups_policy(policy: i32) -> Result<GroupsPolicy, Invalid> {
    match v1::SupplementalGroupsPolicy::try_from(policy) {
        Ok(v1::SupplementalGroupsPolicy::Merge) => Ok(GroupsPolicy::Merge),
        Ok(v1::SupplementalGroupsPolicy::Strict) => Ok(GroupsPolicy::Strict),
        Err(_) => Err(Invalid::new(format!("unknown supplementary groups policy {policy}"))),
    }
}

pub(crate) fn selinux(options: Option<v1::SeLinuxOption>) -> Option<SelinuxLabel> {
    options
        .map(|o| SelinuxLabel { user: o.user, role: o.role, type_: o.r#type, level: o.level })
        .filter(|label| *label != SelinuxLabel::default())
}

/// The new field wins over the deprecated path; without either there is no filter.
pub(crate) fn seccomp(profile: Option<&v1::SecurityProfile>, deprecated: &str) -> Result<Seccomp, Invalid> {
    use v1::security_profile::ProfileType;
    let Some(profile) = profile else {
        return match deprecated {
            "" | "unconfined" => Ok(Seccomp::Unconfined),
            "runtime/default" | "docker/default" => Ok(Seccomp::RuntimeDefault),
            other => match other.strip_prefix("localhost/").filter(|path| !path.is_empty()) {
                Some(path) => Ok(Seccomp::File(PathBuf::from(path))),
                None => Err(Invalid::new(format!("unknown seccomp profile {other:?}"))),
            },
        };
    };
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Seccomp::RuntimeDefault),
        Ok(ProfileType::Unconfined) => Ok(Seccomp::Unconfined),
        Ok(ProfileType::Localhost) if profile.localhost_ref.is_empty() => {
            Err(Invalid::new("a localhost seccomp profile needs its path in localhost_ref"))
        }
        Ok(ProfileType::Localhost) => {
            // Callers of the deprecated form put its prefix into the new one, too.
            let path = profile.localhost_ref.strip_prefix("localhost/").unwrap_or(&profile.localhost_ref);
            Ok(Seccomp::File(PathBuf::from(path)))
        }
        Err(_) => Err(Invalid::new(format!("unknown seccomp profile type {}", profile.profile_type))),
    }
}

/// The new field wins over the deprecated name.
pub(crate) fn apparmor(profile: Option<&v1::SecurityProfile>, deprecated: &str) -> Result<AppArmor, Invalid> {
    use v1::security_profile::ProfileType;
    let named = |name: &str| {
        let name = name.strip_prefix("localhost/").unwrap_or(name);
        if name.is_empty() {
            return Err(Invalid::new("a localhost AppArmor profile needs its name"));
        }
        Ok(AppArmor::Profile(name.to_owned()))
    };
    let Some(profile) = profile else {
        return match deprecated {
            "" => Ok(AppArmor::Default),
            "unconfined" => Ok(AppArmor::Unconfined),
            "runtime/default" => Ok(AppArmor::RuntimeDefault),
            other if other.starts_with("localhost/") => named(other),
            other => Err(Invalid::new(format!("unknown AppArmor profile {other:?}"))),
        };
    };
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(AppArmor::RuntimeDefault),
        Ok(ProfileType::Unconfined) => Ok(AppArmor::Unconfined),
        Ok(ProfileType::Localhost) => named(&profile.localhost_ref),
        Err(_) => Err(Invalid::new(format!("unknown AppArmor profile type {}", profile.profile_type))),
    }
}

/// Limits of a new container: 0 means "not set", except for the OOM score.
pub(crate) fn resources(limits: v1::LinuxContainerResources) -> Result<Resources, Invalid> {
    let oom_score_adj =
        i32::try_from(limits.oom_score_adj).ok().filter(|score| (-1000..=1000).contains(score)).ok_or_else(
            || Invalid::new(format!("oom_score_adj {} is not between -1000 and 1000", limits.oom_score_adj)),
        )?;
    let unsigned = |name: &str, value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Invalid::new(format!("{name} {value} is negative"))),
    };
    // Every negative value means "no limit".
    let limit = |value: i64| (value != 0).then_some(value.max(-1));
    Ok(Resources {
        cpu_period_us: unsigned("cpu_period", limits.cpu_period)?,
        cpu_quota_us: limit(limits.cpu_quota),
        cpu_shares: unsigned("cpu_shares", limits.cpu_shares)?,
        cpuset_cpus: limits.cpuset_cpus,
        cpuset_mems: limits.cpuset_mems,
        memory_limit_bytes: limit(limits.memory_limit_in_bytes),
        memory_swap_limit_bytes: limit(limits.memory_swap_limit_in_bytes),
        memory_reservation_bytes: None,
        pids_limit: None,
        oom_score_adj: Some(oom_score_adj),
        hugepage_limits: limits.hugepage_limits.into_iter().map(|h| (h.page_size, h.limit)).collect(),
        unified: sorted(limits.unified),
    })
}

/// Changed limits: an OOM score of 0 cannot be told from none and leaves the score alone.
pub(crate) fn changed_resources(limits: v1::LinuxContainerResources) -> Result<Resources, Invalid> {
    let resources = resources(limits)?;
    Ok(Resources { oom_score_adj: resources.oom_score_adj.filter(|score| *score != 0), ..resources })
}

/// Limits in effect.
pub(crate) fn linux_resources(limits: &Resources) -> v1::LinuxContainerResources {
    let signed = |value: Option<u64>| value.map_or(0, |value| i64::try_from(value).unwrap_or(i64::MAX));
    v1::LinuxContainerResources {
        cpu_period: signed(limits.cpu_period_us),
        cpu_quota: limits.cpu_quota_us.unwrap_or_default(),
        cpu_shares: signed(limits.cpu_shares),
        memory_limit_in_bytes: limits.memory_limit_bytes.unwrap_or_default(),
        oom_score_adj: limits.oom_score_adj.unwrap_or_default().into(),
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        hugepage_limits: limits
            .hugepage_limits
            .iter()
            .map(|(size, limit)| v1::HugepageLimit { page_size: size.clone(), limit: *limit })
            .collect(),
        unified: hashed(&limits.unified),
        memory_swap_limit_in_bytes: limits.memory_swap_limit_bytes.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_signals_translate() {
        for value in 1..=65 {
            let number = stop_signal(value).unwrap().unwrap();
            assert!((1..=64).contains(&number), "{value} is {number}");
            let back = stop_signal(signal_name(number) as i32).unwrap();
            assert_eq!(back, Some(number), "{value} is {number}");
        }
        assert_eq!(stop_signal(0).unwrap(), None);
        assert!(stop_signal(66).is_err());
        assert_eq!(stop_signal(v1::Signal::Sigterm as i32).unwrap(), Some(15));
        assert_eq!(stop_signal(v1::Signal::Sigrtminplus3 as i32).unwrap(), Some(37));
        assert_eq!(stop_signal(v1::Signal::Sigrtmaxminus2 as i32).unwrap(), Some(62));
        assert_eq!(signal_name(6), v1::Signal::Sigabrt);
    }

    #[test]
    fn ids_are_not_wrapped() {
        assert_eq!(id32("uid", Some(1000)), Ok(Some(1000)));
        assert_eq!(id32("uid", None), Ok(None));
        for id in [-1, 1 << 31, (1 << 32) - 1, 1 << 32, i64::MIN] {
            assert!(id32("uid", Some(id)).is_err(), "{id}");
        }
    }

    #[test]
    fn profiles_prefer_the_new_field() {
        use v1::security_profile::ProfileType;
        let profile = |kind: ProfileType, path: &str| v1::SecurityProfile {
            profile_type: kind as i32,
            localhost_ref: path.into(),
        };
        assert_eq!(seccomp(None, ""), Ok(Seccomp::Unconfined));
        assert_eq!(seccomp(None, "runtime/default"), Ok(Seccomp::RuntimeDefault));
        assert_eq!(seccomp(None, "localhost//a/b.json"), Ok(Seccomp::File("/a/b.json".into())));
        assert!(seccomp(None, "localhost/").is_err());
        assert!(seccomp(None, "strict").is_err());
        let new = profile(ProfileType::Unconfined, "");
        assert_eq!(seccomp(Some(&new), "runtime/default"), Ok(Seccomp::Unconfined));
        assert!(seccomp(Some(&profile(ProfileType::Localhost, "")), "").is_err());
        assert_eq!(apparmor(None, ""), Ok(AppArmor::Default));
        assert_eq!(apparmor(None, "localhost/strict"), Ok(AppArmor::Profile("strict".into())));
        let new = profile(ProfileType::Localhost, "other");
        assert_eq!(apparmor(Some(&new), "localhost/strict"), Ok(AppArmor::Profile("other".into())));
        assert!(apparmor(None, "strict").is_err());
    }

    #[test]
    fn resources_round_trip() {
        let limits = v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 26,
            oom_score_adj: -998,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 4 }],
            unified: HashMap::from([("memory.high".into(), "1".into())]),
            memory_swap_limit_in_bytes: 1 << 27,
        };
        assert_eq!(linux_resources(&resources(limits.clone()).unwrap()), limits);
        assert_eq!(linux_resources(&resources(v1::LinuxContainerResources::default()).unwrap()).cpu_quota, 0);
        assert!(resources(v1::LinuxContainerResources { cpu_shares: -1, ..limits.clone() }).is_err());
        assert!(resources(v1::LinuxContainerResources { oom_score_adj: 1001, ..limits }).is_err());
        let changed = changed_resources(v1::LinuxContainerResources::default()).unwrap();
        assert_eq!(changed, Resources::default());
    }
}
