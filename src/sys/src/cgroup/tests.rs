//! Groups in temporary directories and, below groups of our own, in the kernel.

mod device;
mod fake;
mod kernel;
mod v1;
mod v2;

use oci_spec::runtime::{LinuxResources, LinuxResourcesBuilder};

use super::*;

/// Resources from the JSON of a runtime spec.
fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// What of a reading of everything is usage.
fn usage_part(all: &Stats) -> Stats {
    Stats {
        timestamp_ns: 0,
        cpu: all.cpu.map(|cpu| Cpu { usage_ns: cpu.usage_ns, ..Cpu::default() }),
        memory: all.memory.map(|memory| Memory {
            max_usage_bytes: None,
            cache_bytes: 0,
            mapped_file_bytes: 0,
            kernel_bytes: 0,
            fail_count: 0,
            oom_kills: 0,
            ..memory
        }),
        pressure: all.pressure,
        ..Stats::default()
    }
}

/// A reading of usage.
fn usage(reader: &mut Reader) -> Stats {
    Stats { timestamp_ns: 0, ..reader.read(Detail::Usage).unwrap() }
}

#[test]
fn paths_are_normalised_and_may_not_climb() {
    assert_eq!(path::normalized("a//b/./c/").unwrap(), "/a/b/c");
    for bad in ["", "/", "/../a", "a/..", "a\nb"] {
        assert!(path::normalized(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn systemd_names_become_paths() {
    let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7.slice";
    assert_eq!(slice_path("kubepods-burstable-pod7.slice").unwrap(), pod);
    assert_eq!(slice_path("-.slice").unwrap(), "");
    assert_eq!(
        systemd_path("kubepods-burstable-pod7.slice:berth:abc").unwrap(),
        format!("{pod}/berth-abc.scope")
    );
    assert_eq!(systemd_path(":berth:abc").unwrap(), "/system.slice/berth-abc.scope");
    assert_eq!(systemd_path("a.slice::x").unwrap(), "/a.slice/x.scope");
    for bad in ["abc", "a:b", "a:b:c", "a.slice:b:", "a.slice:b:c/d", "a--b.slice:x:y"] {
        assert!(systemd_path(bad).is_err(), "{bad}");
    }
}

#[test]
fn shares_and_weights() {
    for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (1_000_000, 10_000)] {
        assert_eq!(plan_v2::shares_to_weight(shares), weight, "{shares}");
    }
    for (weight, shares) in [(1, 2), (100, 1024), (10_000, 262_144)] {
        assert_eq!(plan_v2::weight_to_shares(weight), shares);
    }
    for weight in 1..=10_000 {
        let back = plan_v2::shares_to_weight(plan_v2::weight_to_shares(weight));
        assert!(back.abs_diff(weight) <= 1 + weight / 100, "{weight} {back}");
    }
    let increasing = (2..262_144).step_by(97).map(plan_v2::shares_to_weight).is_sorted();
    assert!(increasing);
}

#[test]
fn swap_limits() {
    let alone = |limit, both| plan_v2::swap_alone(limit, both).ok();
    assert_eq!(alone(Some(100), Some(100)), Some(Some(0)));
    assert_eq!(alone(Some(100), Some(250)), Some(Some(150)));
    assert_eq!(alone(Some(100), Some(-1)), Some(Some(-1)));
    assert_eq!(alone(Some(-1), None), Some(Some(-1)));
    assert_eq!(alone(Some(100), None), Some(None));
    assert_eq!(alone(Some(100), Some(50)), None);
    assert_eq!(alone(None, Some(50)), None);
}

#[test]
fn empty_resources_need_no_controller() {
    let host = fake::Host::v2("");
    let group = host.group("/g", &[]);
    let empty = LinuxResourcesBuilder::default().build().unwrap();
    group.apply(&empty).unwrap();
    group
        .apply(&resources(
            r#"{"memory":{"limit":0,"swap":0},"cpu":{"shares":0,"cpus":""},"pids":{"limit":0}}"#,
        ))
        .unwrap();
}
