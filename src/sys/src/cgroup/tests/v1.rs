//! v1 in temporary directories.

use std::fs;

use super::super::*;
use super::fake::Host;
use super::{resources, usage, usage_part};

const ALL: [&str; 9] =
    ["cpu,cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "name=systemd"];

/// The writes a plan makes: file names and values.
fn plan(group: &Cgroup, json: &str) -> Vec<(String, String)> {
    let plan = plan::Plan::new(group, &resources(json)).unwrap();
    plan.steps
        .into_iter()
        .map(|step| (step.path.file_name().unwrap().to_str().unwrap().to_owned(), step.value))
        .collect()
}

fn names(group: &Cgroup, json: &str) -> Vec<String> {
    plan(group, json).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn detects_hierarchies() {
    let host = Host::v1(&ALL);
    assert_eq!(host.layout.version(), Version::V1);
    assert!(host.layout.has(Controller::Cpuacct) && host.layout.has(Controller::Io));
    assert!(!host.layout.has(Controller::Rdma) && host.layout.unified_root().is_none());
    let hybrid = Host::new(&["memory"], Some("cpu io"));
    assert_eq!(hybrid.layout.version(), Version::Hybrid);
    assert!(hybrid.layout.has(Controller::Memory) && hybrid.layout.has(Controller::Cpu));
    assert!(hybrid.layout.has(Controller::Devices) && hybrid.layout.has(Controller::Freezer));
    let empty = tempfile::tempdir().unwrap();
    fs::create_dir(empty.path().join("self")).unwrap();
    fs::write(empty.path().join("self/mountinfo"), "").unwrap();
    assert!(Layout::detect(empty.path(), empty.path()).is_err());
}

#[test]
fn creates_in_every_hierarchy_and_fills_cpusets() {
    let host = Host::v1(&ALL);
    for (dir, cpus) in [("cpuset", "0-3"), ("cpuset/a", ""), ("cpuset/a/b", "")] {
        fs::create_dir_all(host.path(dir)).unwrap();
        fs::write(host.path(dir).join("cpuset.cpus"), cpus).unwrap();
        fs::write(host.path(dir).join("cpuset.mems"), if cpus.is_empty() { "" } else { "0" }).unwrap();
    }
    let group = host.layout.create("/a/b").unwrap();
    assert_eq!(group.dirs().len(), ALL.len());
    assert!(group.dirs().iter().all(|dir| dir.is_dir()));
    assert_eq!(host.read("cpuset/a/cpuset.cpus"), "0-3");
    assert_eq!(host.read("cpuset/a/b/cpuset.cpus"), "0-3");
    assert_eq!(host.read("cpuset/a/b/cpuset.mems"), "0");
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let host = Host::v1(&["memory", "cpuset"]);
    // The new cpuset lacks its files, so it cannot be filled.
    assert!(matches!(host.layout.create("/a/b"), Err(Error::Read { .. })));
    assert!(!host.path("memory/a").is_dir() && !host.path("cpuset/a").is_dir());
}

#[test]
fn memory_and_swap_are_ordered() {
    let host = Host::v1(&ALL);
    let files = [("memory/memory.limit_in_bytes", "1000"), ("memory/memory.memsw.limit_in_bytes", "2000")];
    let group = host.group("/g", &files);
    let (limit, swap) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
    assert_eq!(names(&group, r#"{"memory":{"limit":3000,"swap":4000}}"#), [swap, limit]);
    assert_eq!(names(&group, r#"{"memory":{"limit":500,"swap":600}}"#), [limit, swap]);
    assert_eq!(names(&group, r#"{"memory":{"limit":500,"swap":-1}}"#), [swap, limit]);
    assert_eq!(names(&group, r#"{"memory":{"limit":-1}}"#), [swap, limit]);
    assert_eq!(names(&group, r#"{"memory":{"limit":1500}}"#), [limit]);
}

#[test]
fn bandwidth_is_ordered() {
    let host = Host::v1(&ALL);
    let files = [
        ("cpu,cpuacct/cpu.cfs_quota_us", "50000"),
        ("cpu,cpuacct/cpu.cfs_period_us", "100000"),
        ("cpu,cpuacct/cpu.cfs_burst_us", "1000"),
        ("cpu,cpuacct/cpu.shares", "1024"),
        ("cpu,cpuacct/cpu.idle", "0"),
    ];
    let group = host.group("/g", &files);
    let (quota, period, burst) = ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us");
    assert_eq!(names(&group, r#"{"cpu":{"quota":1000,"period":200000}}"#), [period, quota]);
    assert_eq!(names(&group, r#"{"cpu":{"quota":1000,"period":5000}}"#), [quota, period]);
    assert_eq!(names(&group, r#"{"cpu":{"quota":1000,"burst":500}}"#), [burst, quota]);
    assert_eq!(names(&group, r#"{"cpu":{"quota":9000,"burst":5000}}"#), [quota, burst]);
    assert_eq!(names(&group, r#"{"cpu":{"shares":2,"idle":1}}"#), ["cpu.idle"]);
    assert_eq!(names(&group, r#"{"cpu":{"shares":2,"idle":0}}"#), ["cpu.idle", "cpu.shares"]);
}

#[test]
fn other_controllers() {
    let host = Host::v1(&ALL);
    let files = [
        ("blkio/blkio.bfq.weight", "100"),
        ("blkio/blkio.bfq.weight_device", ""),
        ("blkio/blkio.throttle.read_bps_device", ""),
        ("blkio/blkio.throttle.write_iops_device", ""),
        ("hugetlb/hugetlb.2MB.limit_in_bytes", "0"),
        ("hugetlb/hugetlb.2MB.rsvd.limit_in_bytes", "0"),
        ("pids/pids.max", "max"),
    ];
    let group = host.group("/g", &files);
    let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":300}],
        "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1024}],
        "throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":0}]},
        "hugepageLimits":[{"pageSize":"2MB","limit":4096}],"pids":{"limit":-1}}"#;
    let expected = [
        ("pids.max", "max"),
        ("blkio.bfq.weight", "500"),
        ("blkio.bfq.weight_device", "8:0 300"),
        ("blkio.throttle.read_bps_device", "8:0 1024"),
        ("blkio.throttle.write_iops_device", "8:1 0"),
        ("hugetlb.2MB.limit_in_bytes", "4096"),
        ("hugetlb.2MB.rsvd.limit_in_bytes", "4096"),
    ];
    let planned = plan(&group, json);
    let planned: Vec<_> = planned.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(planned, expected);
}

#[test]
fn what_is_missing_is_named_before_anything_changes() {
    let host = Host::v1(&["memory", "blkio", "cpu"]);
    let group = host.group("/g", &[("memory/memory.limit_in_bytes", "1")]);
    let error = |json: &str| group.apply(&resources(json)).unwrap_err().to_string();
    let text = |controller, field| format!("cgroup controller {controller} on this host cannot set {field}");
    assert_eq!(error(r#"{"memory":{"limit":5},"pids":{"limit":5}}"#), text("pids", "pids.limit"));
    assert_eq!(host.read("memory/g/memory.limit_in_bytes"), "1");
    assert_eq!(error(r#"{"blockIO":{"weight":100}}"#), text("io", "blockIO.weight"));
    assert_eq!(error(r#"{"cpu":{"cpus":"0"}}"#), text("cpuset", "cpu.cpus"));
    assert_eq!(error(r#"{"memory":{"swap":9}}"#), text("memory", "memory.swap"));
    let hugepages = r#"{"hugepageLimits":[{"pageSize":"1GB","limit":0}]}"#;
    assert_eq!(error(hugepages), text("hugetlb", "hugepageLimits[1GB]"));
    assert_eq!(error(r#"{"unified":{"memory.high":"1"}}"#), text("v2", "unified[memory.high]"));
    assert_eq!(error(r#"{"network":{"classID":1}}"#), text("net_cls", "network.classID"));
    let devices = r#"{"devices":[{"allow":false,"access":"rwm"}]}"#;
    assert_eq!(error(devices), text("devices", "devices"));
}

#[test]
fn a_failed_write_restores_the_others() {
    let host = Host::v1(&ALL);
    let files = [("memory/memory.limit_in_bytes", "1000"), ("memory/memory.soft_limit_in_bytes", "7")];
    let group = host.group("/g", &files);
    // A directory in the place of the file: it is there, and cannot be written.
    fs::create_dir(host.path("pids/g/pids.max")).unwrap();
    let error = group.apply(&resources(r#"{"memory":{"limit":5,"reservation":4},"pids":{"limit":9}}"#));
    assert!(matches!(error, Err(Error::Write { .. })));
    assert_eq!(host.read("memory/g/memory.limit_in_bytes"), "1000");
    assert_eq!(host.read("memory/g/memory.soft_limit_in_bytes"), "7");
}

#[test]
fn a_limit_below_usage_can_be_refused() {
    let host = Host::v1(&ALL);
    let files = [("memory/memory.limit_in_bytes", "1000"), ("memory/memory.usage_in_bytes", "800")];
    let group = host.group("/g", &files);
    let checked = r#"{"memory":{"limit":700,"checkBeforeUpdate":true}}"#;
    assert!(matches!(group.apply(&resources(checked)), Err(Error::BelowUsage { limit: 700, usage: 800 })));
    group.apply(&resources(r#"{"memory":{"limit":700}}"#)).unwrap();
}

#[test]
fn reads_statistics_and_limits() {
    let host = Host::v1(&ALL);
    let files = [
        ("cpu,cpuacct/cpuacct.usage", "300\n"),
        ("cpu,cpuacct/cpuacct.usage_user", "200\n"),
        ("cpu,cpuacct/cpuacct.usage_sys", "100\n"),
        ("cpu,cpuacct/cpu.stat", "nr_periods 5\nnr_throttled 2\nthrottled_time 77\n"),
        ("cpu,cpuacct/cpu.shares", "512\n"),
        ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
        ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ("memory/memory.usage_in_bytes", "1000\n"),
        ("memory/memory.max_usage_in_bytes", "2000\n"),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory/memory.failcnt", "3\n"),
        (
            "memory/memory.stat",
            "cache 1\ntotal_cache 50\ntotal_rss 60\ntotal_inactive_file 400\ntotal_pgfault 9\n",
        ),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("pids/pids.current", "4\n"),
        ("pids/pids.max", "max\n"),
        ("blkio/blkio.throttle.io_service_bytes", "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n"),
        ("blkio/blkio.throttle.io_serviced", "8:0 Read 1\n8:0 Write 2\n"),
        ("hugetlb/hugetlb.2MB.usage_in_bytes", "6\n"),
        ("hugetlb/hugetlb.2MB.max_usage_in_bytes", "7\n"),
        ("hugetlb/hugetlb.2MB.failcnt", "8\n"),
        ("hugetlb/hugetlb.2MB.limit_in_bytes", "99\n"),
    ];
    let group = host.group("/g", &files);
    let mut reader = group.reader();
    let stats = reader.read(Detail::Everything).unwrap();
    let cpu = Cpu {
        usage_ns: 300,
        user_ns: 200,
        system_ns: 100,
        periods: 5,
        throttled_periods: 2,
        throttled_ns: 77,
    };
    assert_eq!(stats.cpu, Some(cpu));
    let memory = stats.memory.unwrap();
    assert_eq!((memory.usage_bytes, memory.working_set_bytes, memory.limit_bytes), (1000, 600, None));
    assert_eq!((memory.rss_bytes, memory.cache_bytes, memory.oom_kills), (60, 50, 2));
    assert_eq!((memory.fail_count, memory.page_faults, memory.swap_bytes), (3, 9, None));
    assert_eq!(stats.pids, Some(Pids { current: 4, limit: None }));
    let io = stats.io.clone().unwrap();
    let disk = Device { major: 8, minor: 0, read_bytes: 10, write_bytes: 20, reads: 1, writes: 2 };
    assert_eq!(io.devices, [disk]);
    assert_eq!(stats.hugetlb[0].max_usage_bytes, Some(7));
    assert_eq!(stats.pressure, Pressures::default());
    assert_eq!(usage(&mut reader), usage_part(&stats));
    // The files stay open and are read anew.
    fs::write(host.path("pids/g/pids.current"), "5").unwrap();
    assert_eq!(reader.read(Detail::Everything).unwrap().pids.unwrap().current, 5);
    let limits = group.limits().unwrap();
    assert_eq!(
        (limits.cpu_shares, limits.cpu_quota_us, limits.cpu_period_us),
        (Some(512), Some(-1), Some(100_000))
    );
    assert_eq!((limits.memory_bytes, limits.memory_and_swap_bytes, limits.pids), (Some(-1), None, Some(-1)));
    assert_eq!(limits.hugepages, [("2MB".to_owned(), 99)]);
    assert_eq!(group.oom_kills().unwrap(), 2);
}
