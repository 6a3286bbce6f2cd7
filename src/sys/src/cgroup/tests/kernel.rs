//! The kernel's own control groups, below groups of our own. Needs root.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::*;
use super::{resources, usage, usage_part};

/// A group that is removed with its processes at the end.
struct Guard(Cgroup);

impl Drop for Guard {
    fn drop(&mut self) {
        _ = self.0.kill(libc::SIGKILL);
        _ = self.0.remove();
        _ = self.outer().remove();
    }
}

fn layout() -> Layout {
    Layout::detect(Path::new("/sys/fs/cgroup"), Path::new("/proc")).expect("control groups are mounted")
}

fn group(name: &str) -> Guard {
    let path = format!("/berth-test-{}-{name}/inner", std::process::id());
    Guard(layout().create(&path).expect("this test needs root and writable control groups"))
}

impl Guard {
    /// Removes the outer group too.
    fn finish(self) {
        self.0.kill(libc::SIGKILL).unwrap();
        self.0.remove().unwrap();
        self.outer().remove().unwrap();
        assert!(!self.0.exists() && !self.outer().exists());
    }

    fn outer(&self) -> Cgroup {
        layout().open(Path::new(self.0.path()).parent().unwrap().to_str().unwrap()).unwrap()
    }
}

/// A shell in a group that ignores polite signals and has a child. It makes the child once it is in the group:
/// one made before would be left behind.
fn stubborn(group: &Cgroup) -> Child {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", "read -r _; trap '' TERM; sleep 300 & while :; do sleep 1; done"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    group.join(shell.id()).unwrap();
    drop(shell.stdin.take());
    shell
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn created_groups_take_processes_and_are_removed() {
    let guard = group("life");
    let group = &guard.0;
    assert!(group.dirs().iter().all(|dir| dir.is_dir()));
    assert_eq!(layout().create(group.path()).unwrap(), *group, "creating again is fine");
    let mut child = Command::new("/bin/sleep").arg("300").spawn().unwrap();
    group.join(child.id()).unwrap();
    assert_eq!(group.procs().unwrap(), [child.id()]);
    for dir in group.dirs() {
        let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        assert_eq!(text.trim(), child.id().to_string(), "{}", dir.display());
    }
    assert!(matches!(group.remove(), Err(Error::Remove { .. })), "a group in use stays");
    group.kill(libc::SIGKILL).unwrap();
    child.wait().unwrap();
    assert!(group.procs().unwrap().is_empty());
    guard.finish();
}

#[test]
fn kills_what_forks_and_ignores_signals() {
    let guard = group("kill");
    let mut child = stubborn(&guard.0);
    wait_for("a grandchild", || guard.0.procs().unwrap().len() >= 2);
    guard.0.kill(libc::SIGTERM).unwrap();
    assert!(guard.0.procs().unwrap().contains(&child.id()));
    let start = Instant::now();
    guard.0.kill(libc::SIGKILL).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    child.wait().unwrap();
    guard.finish();
}

#[test]
fn freezes_thaws_and_kills_frozen() {
    let guard = group("freeze");
    let mut child = stubborn(&guard.0);
    guard.0.freeze().unwrap();
    guard.0.freeze().unwrap();
    guard.0.thaw().unwrap();
    guard.0.freeze().unwrap();
    guard.0.kill(libc::SIGKILL).unwrap();
    child.wait().unwrap();
    guard.finish();
}

#[test]
fn limits_are_in_force_and_read_back() {
    let guard = group("limits");
    let host = layout();
    let limits = r#"{"memory":{"limit":67108864},"cpu":{"shares":512,"quota":50000,"period":100000},"pids":{"limit":33}}"#;
    if ![Controller::Memory, Controller::Cpu, Controller::Pids].iter().all(|c| host.has(*c)) {
        assert!(matches!(guard.0.apply(&resources(limits)), Err(Error::Unsupported { .. })));
        return guard.finish();
    }
    guard.0.apply(&resources(limits)).unwrap();
    let read = guard.0.limits().unwrap();
    assert_eq!((read.memory_bytes, read.pids), (Some(67_108_864), Some(33)));
    assert_eq!((read.cpu_quota_us, read.cpu_period_us), (Some(50_000), Some(100_000)));
    assert!(read.cpu_shares.unwrap().abs_diff(512) < 16);
    // All directions a resize can take.
    for (quota, period, memory) in
        [(20_000, 200_000, 33_554_432), (9_000, 10_000, 134_217_728), (-1, 50_000, 33_554_432)]
    {
        let json = format!(
            r#"{{"memory":{{"limit":{memory},"swap":{memory}}},"cpu":{{"quota":{quota},"period":{period}}}}}"#
        );
        if host.has_swap_accounting() {
            guard.0.apply(&resources(&json)).unwrap();
            let read = guard.0.limits().unwrap();
            assert_eq!((read.memory_bytes, read.memory_and_swap_bytes), (Some(memory), Some(memory)));
            assert_eq!((read.cpu_quota_us, read.cpu_period_us), (Some(quota), Some(period)));
        }
    }
    guard.finish();
}

#[test]
fn a_refused_write_takes_the_others_back() {
    let guard = group("undo");
    let host = layout();
    if !host.has(Controller::Pids) || !host.has(Controller::Cpu) {
        return guard.finish();
    }
    guard.0.apply(&resources(r#"{"cpu":{"quota":50000,"period":100000},"pids":{"limit":33}}"#)).unwrap();
    // The period is far too short; the writes before it are fine.
    let error = guard.0.apply(&resources(r#"{"cpu":{"quota":60000,"period":1},"pids":{"limit":44}}"#));
    assert!(matches!(error, Err(Error::Write { .. })));
    let read = guard.0.limits().unwrap();
    assert_eq!((read.cpu_quota_us, read.cpu_period_us, read.pids), (Some(50_000), Some(100_000), Some(33)));
    guard.finish();
}

#[test]
fn statistics_grow() {
    let guard = group("stats");
    let mut child = Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    guard.0.join(child.id()).unwrap();
    let mut reader = guard.0.reader();
    let first = reader.read(Detail::Everything).unwrap().cpu.unwrap().usage_ns;
    wait_for("processor time", || {
        reader.read(Detail::Everything).unwrap().cpu.unwrap().usage_ns > first + 1_000_000
    });
    let stats = reader.read(Detail::Everything).unwrap();
    if layout().has(Controller::Pids) {
        assert_eq!(stats.pids.unwrap().current, 1);
    }
    assert_eq!(stats.memory.is_some(), layout().has(Controller::Memory));
    assert_eq!(guard.0.oom_kills().ok(), layout().has(Controller::Memory).then_some(0));
    if layout().unified_root().is_some() {
        assert!(stats.pressure.cpu.is_some());
    }
    guard.0.kill(libc::SIGKILL).unwrap();
    child.wait().unwrap();
    let gone = guard.0.clone();
    guard.finish();
    assert_eq!(reader.read(Detail::Everything).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert!(gone.procs().unwrap().is_empty());
}

#[test]
fn usage_is_a_part_of_everything() {
    let guard = group("usage");
    // It works once a second: in between the figures stand still.
    let mut child = stubborn(&guard.0);
    let mut reader = guard.0.reader();
    wait_for("the same figures by both readings", || {
        let part = usage(&mut reader);
        let all = reader.read(Detail::Everything).unwrap();
        part == usage_part(&all) && all.cpu.is_some_and(|cpu| cpu.usage_ns > 0)
    });
    guard.0.kill(libc::SIGKILL).unwrap();
    child.wait().unwrap();
    guard.finish();
    assert_eq!(reader.read(Detail::Usage).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn processes_are_counted_with_those_below() {
    let guard = group("count");
    let mut reader = guard.0.reader();
    assert_eq!(reader.count_processes().unwrap(), 0);
    let sleep = || Command::new("/bin/sleep").arg("300").spawn().unwrap();
    let mut children = [sleep(), sleep(), sleep()];
    guard.0.join(children[0].id()).unwrap();
    guard.0.join(children[1].id()).unwrap();
    assert_eq!(reader.count_processes().unwrap(), 2);
    // By hand: the group has processes, so that v2 gives those below no controllers.
    let below = guard.0.dirs().last().unwrap().join("below");
    std::fs::create_dir(&below).unwrap();
    std::fs::write(below.join("cgroup.procs"), children[2].id().to_string()).unwrap();
    assert_eq!(reader.count_processes().unwrap(), 3);
    guard.0.kill(libc::SIGKILL).unwrap();
    for child in &mut children {
        child.wait().unwrap();
    }
    wait_for("an empty group", || reader.count_processes().unwrap() == 0);
    guard.finish();
    assert_eq!(reader.count_processes().unwrap(), 0);
}

#[test]
fn out_of_memory_is_counted() {
    let guard = group("oom");
    let host = layout();
    if !host.has(Controller::Memory) {
        assert!(guard.0.oom_kills().is_err());
        return guard.finish();
    }
    let json = if host.has_swap_accounting() {
        r#"{"memory":{"limit":16777216,"swap":16777216}}"#
    } else {
        r#"{"memory":{"limit":16777216}}"#
    };
    guard.0.apply(&resources(json)).unwrap();
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read line; text=$(head -c 50000000 /dev/zero | tr '\\0' x); echo ${#text}"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    guard.0.join(child.id()).unwrap();
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success());
    wait_for("the counter", || guard.0.oom_kills().unwrap() >= 1);
    assert!(guard.0.reader().read(Detail::Everything).unwrap().memory.unwrap().oom_kills >= 1);
    guard.finish();
}

const ONLY_NULL: &str = r#"{"devices":[{"allow":false,"access":"rwm"},
    {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]}"#;

fn reads(group: &Cgroup, device: &str) -> bool {
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("read line; head -c1 {device} >/dev/null")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    group.join(child.id()).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap().success()
}

#[test]
fn devices_are_judged() {
    let guard = group("devices");
    assert!(reads(&guard.0, "/dev/zero"));
    guard.0.apply(&resources(ONLY_NULL)).unwrap();
    assert!(!reads(&guard.0, "/dev/zero") && reads(&guard.0, "/dev/null"));
    // A second application replaces the first; an empty list changes nothing.
    guard.0.apply(&resources(r#"{"devices":[]}"#)).unwrap();
    assert!(!reads(&guard.0, "/dev/zero"));
    let more = ONLY_NULL.replace("}]}", r#"},{"allow":true,"type":"c","major":1,"minor":5,"access":"r"}]}"#);
    guard.0.apply(&resources(&more)).unwrap();
    assert!(reads(&guard.0, "/dev/zero") && !reads(&guard.0, "/dev/random"));
    guard.0.apply(&resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#)).unwrap();
    assert!(reads(&guard.0, "/dev/random"));
    guard.finish();
}

#[test]
fn device_programs_are_judged_and_replaced() {
    let Some(root) = layout().unified_root().map(Path::to_owned) else {
        return;
    };
    let guard = group("bpf");
    let dir = guard.0.unified_dir().unwrap();
    assert!(dir.starts_with(&root));
    let attached = || bpf::count_attached(File::open(dir).unwrap().as_fd()).unwrap();
    let policy = |json: &str| DevicePolicy::new(resources(json).devices().as_ref().unwrap()).unwrap();
    bpf::attach(dir, &policy(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#)).unwrap();
    assert_eq!(attached(), 0, "to allow everything needs no program");
    bpf::attach(dir, &policy(ONLY_NULL)).unwrap();
    assert_eq!(attached(), 1);
    assert!(!reads(&guard.0, "/dev/zero") && reads(&guard.0, "/dev/null"));
    let more = ONLY_NULL.replace("}]}", r#"},{"allow":true,"type":"c","major":1,"minor":5,"access":"r"}]}"#);
    bpf::attach(dir, &policy(&more)).unwrap();
    assert_eq!(attached(), 1);
    assert!(reads(&guard.0, "/dev/zero") && !reads(&guard.0, "/dev/random"));
    guard.finish();
}
