//! `berth-runtime` as its callers see it: a bundle, a command line, a program that says what it got.
//!
//! As root on the real kernel; network devices are those of namespaces that the test makes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use sys::netlink::{AddressFlags, Batch, LinkChange, LinkRef, Route, Veth};

struct Bundle {
    directory: tempfile::TempDir,
    id: String,
    spec: Value,
}

impl Bundle {
    fn new(name: &str) -> Bundle {
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("rootfs");
        for path in ["bin", "proc", "sys", "dev", "tmp"] {
            std::fs::create_dir_all(rootfs.join(path)).unwrap();
        }
        let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).is_file());
        let busybox = busybox.expect("these tests need a static busybox (Debian: busybox-static)");
        std::fs::copy(busybox, rootfs.join("bin/busybox")).unwrap();
        for link in ["sh", "cat", "ip", "grep", "cut", "ls", "readlink", "hostname", "touch", "taskset"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(link)).unwrap();
        }
        let id = format!("berth-test-{name}-{}", std::process::id());
        let spec = json!({
            "ociVersion": "1.2.0", "root": {"path": "rootfs"}, "hostname": "inside",
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "args": ["sh", "-c", "true"]},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"cgroupsPath": format!("/{id}"),
                      "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "network"}]},
        });
        Bundle { directory, id, spec }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self) {
        std::fs::write(self.path("config.json"), self.spec.to_string()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth-runtime"));
        command.arg("--root").arg(self.path("state")).args(arguments);
        command
    }

    /// Runs a shell script as the container's program, to its end.
    fn shell(&mut self, script: &str) -> Output {
        self.spec["process"]["args"] = json!(["sh", "-c", script]);
        self.write();
        let bundle = self.directory.path().to_str().unwrap().to_owned();
        self.command(&["run", "--bundle", &bundle, &self.id]).output().unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", &self.id]).output();
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn network_devices_move_into_the_container_with_their_addresses() {
    let mut bundle = Bundle::new("netdev");
    bundle.spec["linux"]["netDevices"] = json!({"bt0": {"name": "eth%d"}, "bt1": {}});
    let (here, elsewhere) = (sys::ns::new_netns().unwrap(), sys::ns::new_netns().unwrap());
    let work = || {
        let mut route = Route::open().unwrap();
        for (name, last) in [("bt0", 7), ("bt1", 8)] {
            let mut batch = Batch::new();
            batch.veth(&Veth {
                name,
                peer_name: name,
                peer_netns: elsewhere.as_fd(),
                peer_mac: None,
                master: None,
                mtu: None,
            });
            route.apply(batch).unwrap();
            let index = route.link(name).unwrap().unwrap().index;
            let mut batch = Batch::new();
            batch.change(LinkRef::Index(index), LinkChange { up: true, ..LinkChange::default() });
            batch.address(index, ([10, 9, 8, last].into(), 24), AddressFlags::default());
            route.apply(batch).unwrap();
        }
        let output = bundle.shell("ip -o -4 addr; ip -o link");
        let left = route.link("bt0").unwrap().is_some() || route.link("bt1").unwrap().is_some();
        (output, left)
    };
    let (output, left) = sys::ns::in_netns(here.as_fd(), work).unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for (name, address) in [("eth0", "10.9.8.7/24"), ("bt1", "10.9.8.8/24")] {
        let line = text.lines().find(|line| line.contains(name) && line.contains(address));
        assert!(line.is_some(), "{name}: {text}");
        let line = text.lines().find(|line| line.contains(&format!(" {name}")) && line.contains("mtu"));
        assert!(line.is_some_and(|line| line.contains("UP")), "{name}: {text}");
    }
    assert!(!left, "the devices are still here");
    // The namespace of the container is gone, and its devices with it: nothing to move, which is an error.
    let output = sys::ns::in_netns(here.as_fd(), || bundle.shell("true")).unwrap();
    let error = self::text(&output);
    assert!(!output.status.success() && error.contains("there is no network device bt0"), "{error}");
}

#[test]
fn hooks_run_where_the_specification_says() {
    let mut bundle = Bundle::new("hooks");
    let script = bundle.path("hook");
    let log = bundle.path("log");
    // What the hook sees: its host name, whether the host's files are there, and the state it reads.
    let body = format!(
        "#!/bin/sh\nread state\necho \"$1 $(hostname) $([ -e {} ] && echo host) $(echo $state | grep -c '\"status\":\"creat')\" >> {}\n",
        log.display(),
        log.display()
    );
    std::fs::write(&log, "").unwrap();
    std::fs::write(&script, body).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hook = |name: &str| json!([{"path": script, "args": ["hook", name], "env": ["PATH=/usr/bin:/bin"]}]);
    bundle.spec["hooks"] = json!({"createRuntime": hook("runtime"), "createContainer": hook("container"),
                                  "poststop": hook("stop")});
    let output = bundle.shell("echo started");
    assert!(output.status.success(), "{}", text(&output));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim();
    let expected = format!("runtime {host} host 1\ncontainer inside host 1\nstop {host} host 0\n");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);

    bundle.spec["hooks"] = json!({"createContainer": [{"path": "/bin/false"}]});
    let output = bundle.shell("echo started");
    assert!(!output.status.success() && !text(&output).contains("started"), "{}", text(&output));
}

#[test]
fn members_are_refused_by_name_and_unknown_ones_told() {
    let mut bundle = Bundle::new("refused");
    bundle.spec["linux"]["intelRdt"] = json!({"closID": "x"});
    let output = bundle.shell("echo started");
    assert!(!output.status.success() && text(&output).contains("linux.intelRdt"), "{}", text(&output));
    bundle.spec["linux"].as_object_mut().unwrap().remove("intelRdt");
    bundle.spec["linux"]["fromTheFuture"] = json!(1);
    let output = bundle.shell("echo started");
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("ignored: linux.fromTheFuture"), "{}", text(&output));
}

#[test]
fn a_container_has_a_session_keyring_that_its_exec_sessions_share() {
    let mut bundle = Bundle::new("keys");
    let name = format!("_ses.{}", bundle.id);
    let keys = |flags: &[&str], bundle: &mut Bundle| {
        bundle.spec["process"]["args"] = json!(["sh", "-c", "while :; do sleep 1; done"]);
        bundle.spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
        bundle.write();
        let path = bundle.directory.path().to_str().unwrap().to_owned();
        let mut arguments = vec!["run", "--detach", "--bundle", &path];
        arguments.extend(flags);
        let id = bundle.id.clone();
        arguments.push(&id);
        // A shell keeps no pipe of ours open.
        let status = bundle.command(&arguments).stdout(std::process::Stdio::null()).status().unwrap();
        assert!(status.success());
        let script = "cat /proc/keys; grep Cpus_allowed_list /proc/self/status";
        let output = bundle.command(&["exec", &id, "sh", "-c", script]).output().unwrap();
        let deleted = bundle.command(&["delete", "--force", &id]).output().unwrap();
        assert!(deleted.status.success(), "{}", text(&deleted));
        text(&output)
    };
    let found = keys(&[], &mut bundle);
    assert!(found.contains(&name), "{found}");
    assert!(found.contains("Cpus_allowed_list:\t0\n"), "{found}");
    // The kernel forgets keyrings in its own time: under another name, that none of them had.
    bundle.id.push_str("-none");
    let name = format!("_ses.{}", bundle.id);
    assert!(!keys(&["--no-new-keyring"], &mut bundle).contains(&name));
}
