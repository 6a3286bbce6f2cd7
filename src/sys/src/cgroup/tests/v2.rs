//! v2 in temporary directories.

use std::fs;

use super::super::*;
use super::fake::Host;
use super::{resources, usage, usage_part};

const ALL: &str = "cpuset cpu io memory hugetlb pids rdma misc\n";

fn plan(group: &Cgroup, json: &str) -> Vec<(String, String)> {
    let plan = plan::Plan::new(group, &resources(json)).unwrap();
    plan.steps
        .into_iter()
        .map(|step| (step.path.file_name().unwrap().to_str().unwrap().to_owned(), step.value))
        .collect()
}

fn check(group: &Cgroup, json: &str, expected: &[(&str, &str)]) {
    let planned = plan(group, json);
    let planned: Vec<_> = planned.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(planned, expected, "{json}");
}

#[test]
fn converts_fields() {
    let host = Host::v2(ALL);
    let names = [
        "memory.max",
        "memory.low",
        "memory.swap.max",
        "cpu.weight",
        "cpu.max",
        "cpu.max.burst",
        "cpu.idle",
        "cpuset.cpus",
        "cpuset.mems",
        "pids.max",
        "io.weight",
        "io.max",
        "hugetlb.2MB.max",
        "memory.high",
        "rdma.max",
    ];
    let content: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
    let group = host.group("/g", &content);
    check(
        &group,
        r#"{"memory":{"limit":100,"swap":150,"reservation":50}}"#,
        &[("memory.swap.max", "50"), ("memory.max", "100"), ("memory.low", "50")],
    );
    check(&group, r#"{"memory":{"limit":-1}}"#, &[("memory.swap.max", "max"), ("memory.max", "max")]);
    check(&group, r#"{"cpu":{"shares":1024,"idle":0}}"#, &[("cpu.idle", "0"), ("cpu.weight", "100")]);
    check(&group, r#"{"cpu":{"quota":5000,"period":10000}}"#, &[("cpu.max", "5000 10000")]);
    check(&group, r#"{"cpu":{"quota":-1}}"#, &[("cpu.max", "max")]);
    check(&group, r#"{"cpu":{"period":20000}}"#, &[("cpu.max", "max 20000")]);
    check(&group, r#"{"cpu":{"cpus":"0-1","mems":"0"}}"#, &[("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]);
    check(&group, r#"{"pids":{"limit":7}}"#, &[("pids.max", "7")]);
    check(
        &group,
        r#"{"blockIO":{"weight":1000,"weightDevice":[{"major":8,"minor":0,"weight":10}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}],"throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#,
        &[
            ("io.weight", "10000"),
            ("io.weight", "8:0 1"),
            ("io.max", "8:0 rbps=9"),
            ("io.max", "8:0 wiops=max"),
        ],
    );
    check(&group, r#"{"hugepageLimits":[{"pageSize":"2MB","limit":8}]}"#, &[("hugetlb.2MB.max", "8")]);
    check(&group, r#"{"unified":{"memory.high":"77"}}"#, &[("memory.high", "77")]);
    check(
        &group,
        r#"{"rdma":{"mlx5_1":{"hcaHandles":3}}}"#,
        &[("rdma.max", "mlx5_1 hca_handle=3 hca_object=max")],
    );
}

#[test]
fn what_v2_lacks_is_named() {
    let host = Host::v2("memory cpu io");
    let group = host.group("/g", &[("memory.max", "")]);
    let error = |json: &str| group.apply(&resources(json)).unwrap_err().to_string();
    let text = |controller, field| format!("cgroup controller {controller} on this host cannot set {field}");
    assert_eq!(error(r#"{"memory":{"swappiness":5}}"#), text("memory", "memory.swappiness"));
    assert_eq!(error(r#"{"memory":{"disableOOMKiller":true}}"#), text("memory", "memory.disableOOMKiller"));
    assert_eq!(error(r#"{"cpu":{"realtimeRuntime":5}}"#), text("cpu", "cpu.realtimeRuntime"));
    assert_eq!(error(r#"{"blockIO":{"leafWeight":50}}"#), text("io", "blockIO.leafWeight"));
    assert_eq!(error(r#"{"network":{"classID":1}}"#), text("net_cls", "network.classID"));
    assert_eq!(error(r#"{"pids":{"limit":1}}"#), text("pids", "pids.limit"));
    assert_eq!(error(r#"{"unified":{"pids.max":"1"}}"#), text("pids", "unified[pids.max]"));
    assert_eq!(error(r#"{"unified":{"memory.nothing":"1"}}"#), text("memory", "unified[memory.nothing]"));
    assert_eq!(error(r#"{"unified":{"../memory.max":"1"}}"#), "cgroup: unified cannot be \"../memory.max\"");
    assert_eq!(error(r#"{"blockIO":{"weight":5}}"#), "cgroup: blockIO.weight cannot be \"5\"");
    assert_eq!(error(r#"{"memory":{"limit":9,"swap":5}}"#), "cgroup: memory.swap cannot be \"5\"");
}

#[test]
fn enables_controllers_on_the_way() {
    let host = Host::v2("memory pids");
    fs::create_dir_all(host.path("a/b")).unwrap();
    fs::write(host.path("a/cgroup.subtree_control"), "memory").unwrap();
    fs::write(host.path("a/b/cgroup.subtree_control"), "memory pids").unwrap();
    host.layout.create("/a/b/c").unwrap();
    assert_eq!(host.read("a/cgroup.subtree_control"), "memory", "the parent has all there is");
    fs::write(host.path("a/b/cgroup.subtree_control"), "memory").unwrap();
    host.layout.create("/a/b/c").unwrap();
    assert_eq!(host.read("a/cgroup.subtree_control"), "+pids");
    assert_eq!(host.read("a/b/cgroup.subtree_control"), "+pids");
    fs::write(host.path("cgroup.subtree_control"), "memory").unwrap();
    host.layout.create("/d").unwrap();
    assert_eq!(host.read("cgroup.subtree_control"), "+pids");
}

#[test]
fn reads_statistics_and_limits() {
    let host = Host::v2(ALL);
    let files = [
        (
            "cpu.stat",
            "usage_usec 3\nuser_usec 2\nsystem_usec 1\nnr_periods 5\nnr_throttled 4\nthrottled_usec 6\n",
        ),
        ("cpu.weight", "100\n"),
        ("cpu.max", "max 100000\n"),
        ("memory.current", "1000\n"),
        ("memory.peak", "1500\n"),
        ("memory.max", "4096\n"),
        ("memory.swap.max", "max\n"),
        ("memory.swap.current", "12\n"),
        ("memory.low", "0\n"),
        (
            "memory.stat",
            "anon 10\nfile 20\nkernel 30\nfile_mapped 5\ninactive_file 100\npgfault 7\npgmajfault 1\n",
        ),
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n"),
        ("pids.current", "2\n"),
        ("pids.max", "100\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0 \n"),
        ("hugetlb.2MB.current", "0\n"),
        ("hugetlb.2MB.events", "max 4\n"),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
        ),
        ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
    ];
    let group = host.group("/g", &files);
    let mut reader = group.reader();
    // Usage first: it must not need what everything has opened.
    let first = usage(&mut reader);
    let stats = reader.read(Detail::Everything).unwrap();
    assert_eq!(first, usage_part(&stats));
    assert_eq!((stats.cpu.unwrap().usage_ns, stats.cpu.unwrap().throttled_ns), (3000, 6000));
    let memory = stats.memory.unwrap();
    assert_eq!((memory.working_set_bytes, memory.rss_bytes, memory.kernel_bytes), (900, 10, 30));
    assert_eq!(
        (memory.max_usage_bytes, memory.limit_bytes, memory.swap_bytes),
        (Some(1500), Some(4096), Some(12))
    );
    assert_eq!((memory.fail_count, memory.oom_kills), (3, 1));
    assert_eq!(stats.io.as_ref().unwrap().devices.len(), 2);
    assert_eq!(stats.io.as_ref().unwrap().total().write_bytes, 2);
    assert_eq!(stats.hugetlb[0].fail_count, 4);
    let pressure = stats.pressure.cpu.unwrap();
    assert_eq!((pressure.some.total_us, pressure.full.total_us), (123, 9));
    assert!((pressure.some.avg10 - 1.5).abs() < 1e-9);
    assert!(stats.pressure.memory.is_some() && stats.pressure.io.is_none());
    assert_eq!(usage(&mut reader), usage_part(&stats));
    let limits = group.limits().unwrap();
    assert_eq!((limits.cpu_shares, limits.cpu_quota_us), (Some(1024), Some(-1)));
    assert_eq!((limits.memory_bytes, limits.memory_and_swap_bytes), (Some(4096), Some(-1)));
    assert_eq!(limits.pids, Some(100));
    assert_eq!(group.oom_kills().unwrap(), 1);
    assert!(host.layout.open("/gone").unwrap().limits().is_err());
}
