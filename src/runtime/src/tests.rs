//! Containers on the real kernel, as root: a busybox root file system, one clone each.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use oci::runtime::Spec;
use serde_json::{Value, json};
use sys::ns::Kind;

use super::*;

mod attacks;
mod lifecycle;

/// A bundle in a temporary directory, removed when it goes out of scope.
struct Bundle {
    path: PathBuf,
    spec: Value,
}

/// How a program ended, with what it wrote.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: i32,
    output: String,
}

impl Bundle {
    fn new() -> Bundle {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("berth-test-runtime-{}-{number}", std::process::id()));
        for directory in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
            std::fs::create_dir_all(path.join("rootfs").join(directory)).unwrap();
        }
        let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).is_file());
        let busybox = busybox.expect("these tests need a static busybox (Debian: busybox-static)");
        // A link where that goes: a child that another test clones during a copy keeps the file open for
        // writing until its exec, and meanwhile it cannot be executed (ETXTBSY).
        let own = path.join("rootfs/bin/busybox");
        std::fs::hard_link(busybox, &own).or_else(|_| std::fs::copy(busybox, &own).map(drop)).unwrap();
        for name in [
            "hostname", "cut", "tr", "stty", "echo", "sh", "cat", "ls", "id", "mkdir", "stat", "readlink",
            "mount", "grep", "true", "tty", "ps", "sleep", "ionice",
        ] {
            symlink("busybox", path.join("rootfs/bin").join(name)).unwrap();
        }
        Bundle { path, spec: default_spec() }
    }

    fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Runs a shell script as the container's program.
    fn shell(&mut self, script: &str) -> Ran {
        self.spec["process"]["args"] = json!(["sh", "-c", script]);
        self.run()
    }

    fn run(&self) -> Ran {
        self.try_run()
            .unwrap_or_else(|error| panic!("{error}: {}", std::error::Error::source(&error).unwrap()))
    }

    fn try_run(&self) -> Result<Ran, ChildError> {
        let spec = self.spec();
        let idmaps = prepare_idmaps(&spec).unwrap();
        let (mut reader, writer) = pipe();
        let mut child = self.spawn(&spec, &idmaps, &writer, Vec::new());
        drop(writer);
        let result = settle(&mut child);
        let mut output = String::new();
        if result.is_ok() {
            reader.read_to_string(&mut output).unwrap();
        }
        let code = sys::pidfd::wait_blocking(child.pidfd.as_fd()).unwrap().code();
        result.map(|()| Ran { code, output })
    }

    fn spec(&self) -> Spec {
        serde_json::from_value(self.spec.clone()).unwrap()
    }

    fn spawn(
        &self,
        spec: &Spec,
        idmaps: &[(usize, OwnedFd)],
        output: &File,
        join: Vec<(Kind, std::os::fd::BorrowedFd<'_>)>,
    ) -> Child {
        let null = File::open("/dev/null").unwrap();
        let host = Host::detect().unwrap();
        let request = Request {
            spec,
            bundle: &self.path,
            rootfs: Rootfs::Path(Path::new("rootfs")),
            join,
            mounts: Vec::new(),
            cgroups: Vec::new(),
            idmaps: idmaps.iter().map(|(index, fd)| (*index, fd.as_fd())).collect(),
            stdio: Stdio::Fds { stdin: null.as_fd(), stdout: output.as_fd(), stderr: output.as_fd() },
            env_bytes: &[],
            program: None,
            hold: Hold::No,
            preserve_fds: 0,
            keyring: None,
            host: &host,
        };
        plan(&request, &mut SeccompCache::default()).unwrap().spawn().unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = sys::fs::remove_tree(&self.path);
        // Each test has a thread of its own, and these are the processes that it has cloned.
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let pidfd = sys::pidfd::open(pid).unwrap();
            let _ = sys::pidfd::signal(pidfd.as_fd(), 9);
            let _ = sys::pidfd::wait_blocking(pidfd.as_fd());
        }
        assert!(
            children.is_empty() || std::thread::panicking(),
            "processes of this test survive it: {children}"
        );
    }
}

fn pipe() -> (File, File) {
    let (reader, writer) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)))
}

/// Until the program runs.
fn settle(child: &mut Child) -> Result<(), ChildError> {
    while child.wait_blocking()? != Progress::Running {
        child.start().unwrap();
    }
    Ok(())
}

fn default_spec() -> Value {
    let caps = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"];
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "berth-test",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/", "noNewPrivileges": true,
            "args": ["true"], "env": ["PATH=/bin"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                           {"type": "mount"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/proc/timer_list", "/sys/firmware", "/proc/nothing"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/nothing"],
        },
    })
}

fn ran(code: i32, output: &str) -> Ran {
    Ran { code, output: output.to_owned() }
}
