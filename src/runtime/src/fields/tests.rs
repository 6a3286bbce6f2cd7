//! No member of a specification is ignored without a word: the table names every one that the types know, and
//! what is said to be honoured changes the plan, the cgroup's limits, or is an error that names it.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use oci::runtime::{LinuxResources, Process, Spec};
use serde_json::{Value, json};

use super::*;
use crate::host::Host;
use crate::{
    ExecRequest, Hold, HookPlan, Request, Rootfs, SeccompCache, Stdio, plan, plan_exec, plan_with_hooks,
};

mod members_of;

#[test]
fn the_table_names_every_member_of_the_types() {
    let known: BTreeSet<&str> = MEMBERS.iter().map(|(path, _)| *path).collect();
    assert_eq!(known.len(), MEMBERS.len(), "a member is in the table twice");
    let of_types = members_of::members_of::<Spec>();
    assert!(of_types.len() > 100, "the types were not walked: {of_types:?}");
    let sections: Vec<&str> = MEMBERS
        .iter()
        .filter(|(_, how)| matches!(how, Handling::Refused(_)))
        .map(|(path, _)| *path)
        .collect();
    let in_section = |path: &str| {
        sections.iter().any(|section| {
            path.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    let missing: Vec<&String> =
        of_types.iter().filter(|path| !known.contains(path.as_str()) && !in_section(path)).collect();
    assert!(missing.is_empty(), "say in the table what becomes of {missing:#?}");
    // What the types lack is refused, for nobody could honour it.
    let lacking: Vec<&&str> =
        known.iter().filter(|path| !of_types.contains(**path) && !sections.contains(path)).collect();
    assert!(lacking.is_empty(), "the types do not have {lacking:#?}");
}

fn host() -> Host {
    let mut host = Host { apparmor: true, selinux: true, ..Host::default() };
    host.caps.permitted = sys::caps::Set::known();
    host.caps.bounding = sys::caps::Set::known();
    host
}

fn base() -> Value {
    json!({
        "ociVersion": "1.2.0", "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/prog"]},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "time"},
                                 {"type": "network"}]},
    })
}

/// The plan in words, or the error.
fn words(spec: &Value) -> String {
    let spec: Spec = match serde_json::from_value(spec.clone()) {
        Ok(spec) => spec,
        Err(error) => return format!("error: {error}"),
    };
    let null = File::open("/dev/null").unwrap();
    let (host, bundle) = (host(), Path::new("/bundle"));
    let stdio = Stdio::Fds { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
    let request = Request {
        spec: &spec,
        bundle,
        rootfs: Rootfs::Path(spec.root().as_ref().map_or(bundle, |root| root.path())),
        join: Vec::new(),
        mounts: Vec::new(),
        cgroups: Vec::new(),
        idmaps: Vec::new(),
        stdio,
        env_bytes: &[],
        program: None,
        hold: Hold::No,
        preserve_fds: 0,
        keyring: None,
        host: &host,
    };
    match plan(&request, &mut SeccompCache::default()) {
        // Environment and filters are not in the words.
        Ok(plan) => format!("{plan}{:?}{:?}", plan.warnings(), plan.script.steps),
        Err(error) => format!("error: {error}"),
    }
}

/// A value for each member that the plan heeds, put into an otherwise small specification. `Some` names what
/// has to be there besides.
fn samples() -> Vec<(&'static str, Value, Option<Value>)> {
    let profile = |rule: Value| {
        json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
               "syscalls": [rule]}}})
    };
    let rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                      "args": [{"index": 0, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]});
    let device = json!({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2}]}});
    let mount =
        json!({"mounts": [{"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}]});
    let scheduler = json!({"process": {"scheduler": {"policy": "SCHED_FIFO", "priority": 1}}});
    vec![
        ("root.path", json!("other"), None),
        ("root.readonly", json!(true), None),
        ("hostname", json!("name"), None),
        ("domainname", json!("name"), None),
        ("mounts[].destination", json!("/n"), Some(mount.clone())),
        ("mounts[].type", json!("ramfs"), Some(mount.clone())),
        ("mounts[].source", json!("other"), Some(mount.clone())),
        ("mounts[].options[]", json!("noexec"), Some(mount)),
        ("process.user.uid", json!(5), None),
        ("process.user.gid", json!(5), None),
        ("process.user.umask", json!(7), None),
        (
            "process.user.additionalGids[]",
            json!(7),
            Some(json!({"process": {"user": {"additionalGids": [1]}}})),
        ),
        ("process.args[]", json!("/other"), None),
        ("process.env[]", json!("A=b"), Some(json!({"process": {"env": ["B=c"]}}))),
        ("process.cwd", json!("/work"), None),
        ("process.capabilities.bounding[]", json!("CAP_KILL"), Some(caps("bounding"))),
        ("process.capabilities.effective[]", json!("CAP_KILL"), Some(caps("effective"))),
        ("process.capabilities.inheritable[]", json!("CAP_KILL"), Some(caps("inheritable"))),
        ("process.capabilities.permitted[]", json!("CAP_KILL"), Some(caps("permitted"))),
        ("process.capabilities.ambient[]", json!("CAP_KILL"), Some(caps("ambient"))),
        ("process.rlimits[].type", json!("RLIMIT_CPU"), Some(rlimit())),
        ("process.rlimits[].hard", json!(9), Some(rlimit())),
        ("process.rlimits[].soft", json!(8), Some(rlimit())),
        ("process.noNewPrivileges", json!(true), None),
        ("process.apparmorProfile", json!("profile"), None),
        ("process.oomScoreAdj", json!(5), None),
        ("process.selinuxLabel", json!("label"), None),
        ("process.ioPriority.class", json!("IOPRIO_CLASS_IDLE"), Some(io_priority())),
        ("process.ioPriority.priority", json!(3), Some(io_priority())),
        ("process.scheduler.policy", json!("SCHED_RR"), Some(scheduler.clone())),
        ("process.scheduler.nice", json!(3), Some(scheduler.clone())),
        ("process.scheduler.priority", json!(3), Some(scheduler.clone())),
        ("process.scheduler.flags[]", json!("SCHED_FLAG_RECLAIM"), Some(scheduler.clone())),
        ("process.scheduler.runtime", json!(1), Some(scheduler.clone())),
        ("process.scheduler.deadline", json!(1), Some(scheduler.clone())),
        ("process.scheduler.period", json!(1), Some(scheduler)),
        ("linux.sysctl.{}", json!("1"), Some(json!({"linux": {"sysctl": {"net.x": "0"}}}))),
        ("linux.namespaces[].type", json!("user"), None),
        ("linux.namespaces[].path", json!("/proc/self/ns/pid"), None),
        ("linux.devices[].path", json!("/dev/y"), Some(device.clone())),
        ("linux.devices[].type", json!("b"), Some(device.clone())),
        ("linux.devices[].major", json!(7), Some(device.clone())),
        ("linux.devices[].minor", json!(7), Some(device.clone())),
        ("linux.devices[].fileMode", json!(0o600), Some(device.clone())),
        ("linux.devices[].uid", json!(7), Some(device.clone())),
        ("linux.devices[].gid", json!(7), Some(device)),
        ("linux.seccomp.defaultAction", json!("SCMP_ACT_ERRNO"), Some(profile(rule.clone()))),
        ("linux.seccomp.defaultErrnoRet", json!(9), Some(deny_by_default())),
        ("linux.seccomp.architectures[]", json!("SCMP_ARCH_X86"), Some(profile(rule.clone()))),
        ("linux.seccomp.flags[]", json!("SECCOMP_FILTER_FLAG_LOG"), Some(profile(rule.clone()))),
        ("linux.seccomp.syscalls[].names[]", json!("rmdir"), Some(profile(rule.clone()))),
        ("linux.seccomp.syscalls[].action", json!("SCMP_ACT_KILL"), Some(profile(rule.clone()))),
        ("linux.seccomp.syscalls[].errnoRet", json!(9), Some(profile(rule.clone()))),
        ("linux.seccomp.syscalls[].args[].index", json!(2), Some(profile(rule.clone()))),
        ("linux.seccomp.syscalls[].args[].value", json!(3), Some(profile(rule.clone()))),
        ("linux.seccomp.syscalls[].args[].valueTwo", json!(0), Some(profile(rule.clone()))),
        ("linux.seccomp.syscalls[].args[].op", json!("SCMP_CMP_NE"), Some(profile(rule))),
        ("linux.rootfsPropagation", json!("shared"), None),
        ("linux.maskedPaths[]", json!("/x"), Some(json!({"linux": {"maskedPaths": ["/y"]}}))),
        ("linux.readonlyPaths[]", json!("/x"), Some(json!({"linux": {"readonlyPaths": ["/y"]}}))),
        (
            "linux.mountLabel",
            json!("label"),
            Some(json!({"mounts": [{"destination": "/m", "type": "tmpfs"}]})),
        ),
        ("linux.memoryPolicy.mode", json!("MPOL_INTERLEAVE"), Some(policy())),
        ("linux.memoryPolicy.nodes", json!("1"), Some(policy())),
        ("linux.memoryPolicy.flags[]", json!("MPOL_F_STATIC_NODES"), Some(policy())),
        (
            "linux.personality.domain",
            json!("LINUX32"),
            Some(json!({"linux": {"personality": {"domain": "LINUX"}}})),
        ),
        (
            "linux.timeOffsets.{}.secs",
            json!(5),
            Some(json!({"linux": {"timeOffsets": {"monotonic": {"secs": 1}}}})),
        ),
        (
            "linux.timeOffsets.{}.nanosecs",
            json!(5),
            Some(json!({"linux": {"timeOffsets": {"monotonic": {"secs": 1}}}})),
        ),
    ]
}

fn caps(set: &str) -> Value {
    let mut sets = json!({"bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN", "CAP_KILL"]});
    sets[set] = json!(["CAP_CHOWN"]);
    json!({"process": {"capabilities": sets}})
}

fn rlimit() -> Value {
    json!({"process": {"rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]}})
}

fn io_priority() -> Value {
    json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1}}})
}

fn policy() -> Value {
    json!({"linux": {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}}})
}

fn deny_by_default() -> Value {
    json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
           "syscalls": [{"names": ["read", "execve"], "action": "SCMP_ACT_ALLOW"}]}}})
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Sets the member at `path`: in the first of each list, one more where the path ends with a list, in the only
/// entry of a map.
fn put(spec: &mut Value, path: &str, value: Value) {
    let mut at = spec;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let (name, is_list) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
        if at.is_null() {
            *at = json!({});
        }
        at = if name == "{}" {
            at.as_object_mut().unwrap().values_mut().next().unwrap()
        } else {
            at.as_object_mut().unwrap().entry(name).or_insert(Value::Null)
        };
        if !is_list {
            continue;
        }
        if at.is_null() {
            *at = json!([]);
        }
        let list = at.as_array_mut().unwrap();
        if parts.peek().is_none() {
            return if path == "process.args[]" { list.insert(0, value) } else { list.push(value) };
        }
        at = &mut list[0];
    }
    *at = value;
}

#[test]
fn every_member_of_the_plan_changes_it() {
    let mut left: BTreeSet<&str> =
        MEMBERS.iter().filter(|(_, how)| *how == Handling::Plan).map(|(path, _)| *path).collect();
    for (path, value, besides) in samples() {
        left.remove(path);
        let mut spec = base();
        besides.into_iter().for_each(|besides| merge(&mut spec, besides));
        let before = words(&spec);
        put(&mut spec, path, value);
        let after = words(&spec);
        assert_ne!(before, after, "{path} changes nothing");
        assert!(
            !after.starts_with("error: ") || after.contains(path.split('.').next_back().unwrap()) || {
                // A new user namespace wants maps; an unknown one cannot be joined.
                path.starts_with("linux.namespaces") || path.starts_with("linux.uidMappings")
            },
            "{path}: {after}"
        );
    }
    assert!(left.is_empty(), "give a sample for {left:#?}");
}

#[test]
fn every_member_of_an_exec_session_changes_its_plan() {
    let null = File::open("/dev/null").unwrap();
    let (pidfd, host) = (sys::pidfd::open(std::process::id()).unwrap(), host());
    let spec: Spec = serde_json::from_value(base()).unwrap();
    let words = |process: Value| {
        let process: Process = serde_json::from_value(process).unwrap();
        let request = ExecRequest {
            pid: std::process::id(),
            pidfd: pidfd.as_fd(),
            process: &process,
            spec: &spec,
            cgroups: Vec::new(),
            stdio: Stdio::Fds { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() },
            env_bytes: &[],
            preserve_fds: 0,
            keyring: Some("_ses.x"),
            host: &host,
        };
        plan_exec(&request, &mut SeccompCache::default()).map(|plan| plan.to_string())
    };
    let process = base()["process"].clone();
    let before = words(process.clone()).unwrap();
    assert!(before.contains("session keyring _ses.x"), "{before}");
    for (path, how) in MEMBERS.iter().filter(|(_, how)| *how == Handling::Exec) {
        let mut changed = json!({"process": process});
        put(&mut changed, path, json!("0"));
        let after = words(changed["process"].clone()).unwrap();
        assert!(after.contains("cpu affinity [1, 0, 0, 0, 0, 0, 0, 0]") && after != before, "{path} {how:?}");
    }
    let mut wrong = process;
    wrong["execCPUAffinity"] = json!({"initial": "3-1"});
    let error = words(wrong).unwrap_err().to_string();
    assert_eq!(error, "process.execCPUAffinity.initial: \"3-1\" is no list of numbers like 0-3,7");
}

#[test]
fn every_refused_member_is_an_error_that_names_it() {
    for (path, how) in MEMBERS {
        let Handling::Refused(_) = how else { continue };
        let value = match *path {
            "linux.personality.flags[]" => json!("flag"),
            "linux.intelRdt" | "solaris" | "windows" | "vm" | "zos" | "freebsd" | "uidMappings"
            | "gidMappings" => json!({}),
            _ => json!("x"),
        };
        let mut spec = base();
        if path.starts_with("linux.personality") {
            spec["linux"]["personality"] = json!({"domain": "LINUX"});
        }
        put(&mut spec, path, value);
        let name = path.trim_end_matches("[]");
        let raw = check_members(&spec).unwrap_err().to_string();
        assert!(raw.contains(name) && raw.ends_with("is not supported"), "{path}: {raw}");
    }
}

#[test]
fn what_only_a_command_does_is_refused_without_it() {
    for (path, value, expected) in [
        ("hooks.prestart[]", json!({"path": "/hook"}), "hooks"),
        ("hooks.createContainer[]", json!({"path": "/hook"}), "hooks"),
        ("hooks.poststop[]", json!({"path": "/hook"}), "hooks"),
        ("linux.netDevices", json!({"eth7": {}}), "linux.netDevices"),
        ("linux.intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
        ("linux.seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}), "listenerPath"),
        ("linux.personality", json!({"domain": "LINUX", "flags": ["x"]}), "linux.personality.flags"),
        ("uidMappings[]", json!({"containerID": 0, "hostID": 1, "size": 1}), "uidMappings"),
        ("process.commandLine", json!("x y"), "process.commandLine"),
        ("process.user.username", json!("x"), "process.user.username"),
        ("linux.timeOffsets", json!({"monotonic": {"secs": 1}}), "linux.timeOffsets"),
        ("linux.uidMappings[]", json!({"containerID": 0, "hostID": 1, "size": 1}), "linux.uidMappings"),
        ("hostname", json!("x"), "hostname"),
        ("mounts[]", json!({"destination": "/x", "type": "tmpfs", "uidMappings": []}), "uidMappings"),
        (
            "mounts[]",
            json!({"destination": "/x", "type": "bind", "source": "/", "options": ["size=1"]}),
            "size",
        ),
    ] {
        let mut spec = base();
        spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
        put(&mut spec, path, value);
        let words = words(&spec);
        assert!(words.starts_with("error: ") && words.contains(expected), "{path}: {words}");
    }
}

#[test]
fn hooks_in_the_container_come_before_the_old_root_goes() {
    let mut spec = base();
    spec["hooks"] = json!({"createContainer": [{"path": "/bin/inside", "timeout": 3}]});
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let null = File::open("/dev/null").unwrap();
    let host = host();
    let request = Request {
        spec: &spec,
        bundle: Path::new("/bundle"),
        rootfs: Rootfs::Path(Path::new("rootfs")),
        join: Vec::new(),
        mounts: Vec::new(),
        cgroups: Vec::new(),
        idmaps: Vec::new(),
        stdio: Stdio::Fds { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() },
        env_bytes: &[],
        program: None,
        hold: Hold::No,
        preserve_fds: 0,
        keyring: None,
        host: &host,
    };
    let hooks = HookPlan {
        pause: true,
        create_container: spec.hooks().as_ref().unwrap().create_container().as_deref().unwrap(),
        start_container: &[],
        state: Some(null.as_fd()),
    };
    let plan = plan_with_hooks(&request, &hooks, &mut SeccompCache::default()).unwrap().to_string();
    let order = ["mount $1 over /", "wait for the runtime", "run hook /bin/inside", "make $1 the root"];
    let places: Vec<usize> = order.iter().map(|line| plan.find(line).expect(line)).collect();
    assert!(places.is_sorted(), "{plan}");
}

#[test]
fn flags_have_the_names_of_the_specification() {
    let mut spec = base();
    let flags = ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"];
    spec["process"]["scheduler"] = json!({"policy": "SCHED_DEADLINE", "flags": flags});
    correct_names(&mut spec);
    let after = words(&spec);
    assert!(after.contains("scheduler Scheduler { policy: 6, flags: 5,"), "{after}");
}

#[test]
fn unknown_members_are_told() {
    let mut spec = base();
    spec["linux"]["future"] = json!({"a": 1});
    spec["process"]["user"]["shell"] = json!("/bin/sh");
    spec["annotations"] = json!({"any.thing/goes": "here"});
    spec["hooks"] = json!({"prestart": [{"path": "/x", "when": {}}]});
    let mut unknown = check_members(&spec).unwrap();
    unknown.sort();
    assert_eq!(unknown, ["hooks.prestart[].when", "linux.future", "process.user.shell"]);
    assert_eq!(check_process_members(&json!({"user": {"x": 1}, "args": ["a"]})).unwrap(), ["process.user.x"]);
    for version in [json!(null), json!("2.0"), json!("0.9"), json!("")] {
        spec["ociVersion"] = version;
        check_members(&spec).unwrap_err();
    }
}

#[test]
fn every_limit_is_a_write_or_an_error() {
    let directory = std::env::temp_dir().join(format!("berth-test-fields-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("proc/self")).unwrap();
    std::fs::create_dir_all(directory.join("cgroup")).unwrap();
    // One hierarchy, of the freezer alone.
    let mounts = format!("1 1 0:1 / {} rw - cgroup cgroup rw,freezer\n", directory.join("cgroup").display());
    std::fs::write(directory.join("proc/self/mountinfo"), mounts).unwrap();
    let group = sys::cgroup::Layout::detect(&directory, &directory.join("proc")).unwrap();
    let group = group.create("/x").unwrap();
    let mut checked = 0;
    for (path, _) in MEMBERS.iter().filter(|(_, how)| *how == Handling::Cgroup) {
        let Some(resources) = limit(path) else { continue };
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        // Nothing is there to hold a limit, so whatever heeds the member fails, and says which it was.
        let error = group.apply(&resources).expect_err(path);
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            text = format!("{text}: {next}");
            cause = next.source();
        }
        assert!(!text.is_empty(), "{path}");
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
    sys::fs::remove_tree(&directory).unwrap();
}

/// The resources with only this member set; `None` for the parts of a member that mean nothing alone.
fn limit(path: &str) -> Option<Value> {
    let rest = path.strip_prefix("linux.resources.")?;
    let (section, member) = rest.split_once('.')?;
    let section = if rest.starts_with("hugepageLimits") { "hugepageLimits[]" } else { section };
    let device = |member: &str, value: Value| json!([{"major": 8, "minor": 0, member: value}]);
    Some(match (section, member) {
        // A condition of other members.
        ("memory", "checkBeforeUpdate") => return None,
        ("memory", "disableOOMKiller") => json!({"memory": {"disableOOMKiller": true}}),
        ("memory", "useHierarchy") => json!({"memory": {"useHierarchy": false}}),
        ("memory" | "cpu", member) if matches!(member, "cpus" | "mems") => json!({section: {member: "0"}}),
        ("memory" | "cpu" | "pids", member) => json!({section: {member: 50}}),
        ("blockIO", "weight" | "leafWeight") => json!({"blockIO": {member: 100}}),
        ("blockIO", "weightDevice[].weight") => {
            json!({"blockIO": {"weightDevice": device("weight", json!(100))}})
        }
        ("blockIO", "weightDevice[].leafWeight") => {
            json!({"blockIO": {"weightDevice": device("leafWeight", json!(100))}})
        }
        ("blockIO", member) => {
            let list = member.strip_suffix("[].rate")?;
            json!({"blockIO": {list: device("rate", json!(1000))}})
        }
        ("network", "classID") => json!({"network": {"classID": 1}}),
        ("network", "priorities[].priority") => {
            json!({"network": {"priorities": [{"name": "lo", "priority": 1}]}})
        }
        ("hugepageLimits[]", "limit") => json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}),
        ("rdma", "{}.hcaHandles") => json!({"rdma": {"x": {"hcaHandles": 1}}}),
        ("rdma", "{}.hcaObjects") => json!({"rdma": {"x": {"hcaObjects": 1}}}),
        ("unified", "{}") => json!({"unified": {"memory.high": "1"}}),
        _ => return None,
    })
}
