//! Golden plans: the whole script of a container, in words.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use expect_test::{Expect, expect};
use oci::runtime::Spec;
use serde_json::{Value, json};

use crate::host::{CgroupMount, Host};
use crate::{Hold, Request, Rootfs, SeccompCache, Stdio, plan};

fn host() -> Host {
    let mut host = Host::default();
    host.caps.permitted = sys::caps::Set::known();
    host.caps.bounding = sys::caps::Set::known();
    host.cgroups = vec![CgroupMount { path: "/sys/fs/cgroup".into(), controllers: Vec::new() }];
    host
}

fn spec() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["prog", "arg"], "env": ["PATH=/bin:/usr/bin"]},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    })
}

/// The plan, or why there is none. Lines about devices and links that every container has are left out.
fn words(spec: &Value, host: &Host) -> String {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let null = File::open("/dev/null").unwrap();
    let request = Request {
        spec: &spec,
        bundle: Path::new("/bundle"),
        rootfs: Rootfs::Path(Path::new("rootfs")),
        join: Vec::new(),
        mounts: Vec::new(),
        cgroups: vec!["/sys/fs/cgroup/x".into()],
        idmaps: Vec::new(),
        stdio: Stdio::Fds { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() },
        env_bytes: &[],
        program: None,
        hold: Hold::No,
        preserve_fds: 0,
        keyring: None,
        host,
    };
    match plan(&request, &mut SeccompCache::default()) {
        Ok(plan) => {
            let lines: Vec<_> = plan
                .to_string()
                .lines()
                .filter(|line| !line.starts_with("make node /dev/") && !line.starts_with("link /dev/"))
                .map(|line| format!("{line}\n"))
                .chain(plan.warnings().iter().map(|warning| format!("warning: {warning}\n")))
                .collect();
            lines.concat()
        }
        Err(error) => format!("error: {error}\n"),
    }
}

fn check(spec: &Value, expected: Expect) {
    expected.assert_eq(&words(spec, &host()));
}

#[test]
fn the_smallest_container() {
    check(
        &spec(),
        expect![[r#"
        dumpable false
        umask 0000
        write "0" to /sys/fs/cgroup/x/cgroup.procs at cwd
        $0 = open /proc at cwd
        check that $0 is on file system 0x9fa0
        $1 = copy of tree "/bundle/rootfs" at cwd
        new mnt namespace
        change mount /: private; recursive
        change mount $1: private; recursive
        mount $1 over /
        make $1 the root
        new session
        standard streams file0, file1, file2
        give standard streams to user 0
        close all files but 0 and []
        change directory to / (may fail)
        bounding set 0x0
        become user 0 group 0 groups Some([])
        capabilities effective 0x0 permitted 0x0 inheritable 0x0
        ambient capabilities 0x0
        change directory to /
        umask 0022
        execute /bin/prog or /usr/bin/prog
    "#]],
    );
}

#[test]
fn a_container_with_everything() {
    let mut spec = spec();
    spec["hostname"] = json!("name");
    spec["root"]["readonly"] = json!(true);
    spec["process"] = json!({
        "user": {"uid": 1000, "gid": 100, "additionalGids": [7], "umask": 0o27}, "cwd": "/work",
        "args": ["/prog"], "noNewPrivileges": true, "oomScoreAdj": 500,
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"],
                         "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_KILL"]},
    });
    spec["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/data", "type": "bind", "source": "volume", "options": ["rbind", "rro", "nosuid", "rslave"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
    ]);
    spec["linux"] = json!({
        "namespaces": [{"type": "user"}, {"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "uts"},
                       {"type": "cgroup"}],
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "maskedPaths": ["/proc/keys"], "readonlyPaths": ["/proc/sys"],
        "rootfsPropagation": "rslave",
    });
    check(
        &spec,
        expect![[r#"
        dumpable false
        umask 0000
        write "0" to /sys/fs/cgroup/x/cgroup.procs at cwd
        $0 = open /proc at cwd
        check that $0 is on file system 0x9fa0
        write "500" to self/oom_score_adj at $0 in root (may fail)
        limit resource 4 to 0, 0 (may fail)
        $1 = copy of tree "/bundle/rootfs" at cwd
        $2 = new proc [source=proc] [nosuid,nodev,noexec]
        $3 = copy of tree "/bundle/volume" at cwd
        change mount $3: set nosuid
        change mount $3: set ro; recursive
        change mount $3: slave; recursive
        $4 = copy of mount "/dev/null" at cwd
        check that $4 is device 1:3
        $6 = copy of mount "/dev/null" at cwd
        check that $6 is device 1:3
        $7 = copy of mount "/dev/zero" at cwd
        check that $7 is device 1:5
        $8 = copy of mount "/dev/full" at cwd
        check that $8 is device 1:7
        $9 = copy of mount "/dev/random" at cwd
        check that $9 is device 1:8
        $10 = copy of mount "/dev/urandom" at cwd
        check that $10 is device 1:9
        $11 = copy of mount "/dev/tty" at cwd
        check that $11 is device 5:0
        new user namespace
        wait for id maps
        become root of the user namespace
        new mnt+uts+net+cgroup namespace
        set host name "name"
        write "1" to sys/net/ipv4/ip_forward at $0 in root
        change mount /: private; recursive
        change mount $1: slave; recursive
        mount $1 over /
        mount $2 on /proc
        mount $3 on /data
        $12 = new cgroup2 [] [ro]
        mount $12 on /sys/fs/cgroup
        $5 = new tmpfs [] [ro,nosuid,nodev,noexec]
        mount $6 on /dev/null
        mount $7 on /dev/zero
        mount $8 on /dev/full
        mount $9 on /dev/random
        mount $10 on /dev/urandom
        mount $11 on /dev/tty
        make directory /work
        make /proc/sys read-only
        mask /proc/keys
        change mount $1: set ro
        make $1 the root
        change mount /: slave; recursive
        new session
        standard streams file0, file1, file2
        give standard streams to user 1000
        close all files but 0 and []
        change directory to /work (may fail)
        no new privileges
        bounding set 0x21
        become user 1000 group 100 groups Some([7])
        capabilities effective 0x20 permitted 0x20 inheritable 0x20
        ambient capabilities 0x20
        change directory to /work
        umask 0027
        limit resource 7 to 10, 20 (may fail)
        execute /prog
        warning: process.capabilities.inheritable: CAP_CHOWN is not ambient and would serve nothing but attacks: left out
    "#]],
    );
}

#[test]
fn capabilities_that_are_not_held_are_named() {
    let mut spec = spec();
    spec["process"]["capabilities"] = json!({"bounding": ["CAP_SYS_RESOURCE", "CAP_KILL"]});
    let mut host = host();
    host.caps.bounding = sys::caps::Set::known().without(sys::caps::Set::named("SYS_RESOURCE").unwrap());
    let words = words(&spec, &host);
    assert!(words.contains("bounding set 0x20\n"), "{words}");
    assert!(words.contains("warning: the runtime does not hold CAP_SYS_RESOURCE"), "{words}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut cases = Vec::new();
    let mut case = |change: &dyn Fn(&mut Value)| {
        let mut spec = spec();
        change(&mut spec);
        cases.push(words(&spec, &host()));
    };
    case(&|spec| spec["linux"]["namespaces"] = json!([{"type": "pid"}]));
    case(&|spec| {
        spec["mounts"] =
            json!([{"destination": "/proc/1", "type": "bind", "source": "/x", "options": ["bind"]}])
    });
    case(&|spec| spec["mounts"] = json!([{"destination": "/x", "type": "bind", "options": ["bind"]}]));
    case(&|spec| spec["mounts"] = json!([{"destination": "/x", "source": "y"}]));
    case(&|spec| spec["linux"]["sysctl"] = json!({"kernel.pid_max": "1"}));
    case(&|spec| spec["linux"]["rootfsPropagation"] = json!("sideways"));
    case(&|spec| spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "user"}]));
    case(&|spec| spec["process"]["args"] = json!([]));
    case(&|spec| spec["process"]["args"] = json!(["a\0b"]));
    expect![[r#"
        error: a container without a mount namespace of its own is not supported
        error: a mount on /proc/1 would hide the kernel's files
        error: the bind mount on /x has no source
        error: the mount on /x has no type
        error: kernel parameter kernel.pid_max does not belong to a namespace of the container
        error: sideways is no propagation of the root file system
        error: a new user namespace needs maps of users and groups
        error: the specification has no process arguments
        error: a string of the specification holds a NUL byte
    "#]]
    .assert_eq(&cases.concat());
}

#[test]
fn long_strings_are_taken_whole() {
    let mut spec = spec();
    let long = "x".repeat(100_000);
    spec["mounts"] =
        json!([{"destination": "/data", "type": "bind", "source": format!("/{long}"), "options": ["bind"]}]);
    assert!(words(&spec, &host()).contains(&long));
}
