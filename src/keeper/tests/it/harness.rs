//! A keeper of its own for each test, and a bundle to run in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use keeper::client::{Receiver, Sender, connect};
use keeper::protocol::{
    Event, Exit, Failure, Log, LogFormat, Reply, Request, Runtime, ServerMessage, Start, Stdio,
};

/// Long enough for a loaded machine; reached only by a test that fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Keeper {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) child: Child,
    /// What a keeper that was killed has left running.
    orphans: Vec<OwnedFd>,
}

impl Keeper {
    pub(crate) fn new() -> Keeper {
        assert!(is_root(), "these tests start containers and need root");
        let directory = tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap();
        let child = spawn(directory.path());
        let keeper = Keeper { directory, child, orphans: Vec::new() };
        wait_for("the keeper to listen", || keeper.socket().try_exists().unwrap().then_some(()));
        keeper
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("keeper.sock")
    }

    pub(crate) fn connect(&self) -> Client {
        let (sender, receiver) = connect(&self.socket()).unwrap();
        Client { sender, receiver, last: 0, events: Vec::new() }
    }

    /// Kills the keeper as a crash would; what it leaves running ends with the test.
    pub(crate) fn crash(&mut self) {
        self.orphans.extend(self.descendants());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts another one where this one was.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.directory.path());
        wait_for("the keeper to listen", || connect(&self.socket()).ok());
    }

    /// Everything below the keeper in the tree of processes.
    fn descendants(&self) -> Vec<OwnedFd> {
        let mut found = Vec::new();
        let mut parents = vec![self.child.id()];
        while let Some(parent) = parents.pop() {
            let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
            for task in tasks {
                let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                    found.extend(sys::pidfd::open(pid));
                    parents.push(pid);
                }
            }
        }
        found
    }

    /// Descriptors the keeper has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Children of the keeper, zombies included.
    pub(crate) fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        std::fs::read_to_string(path).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut left = std::mem::take(&mut self.orphans);
        left.extend(self.descendants());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pidfd in &left {
            // Most have ended by then.
            let _ = sys::pidfd::signal(pidfd.as_fd(), 9);
        }
        for pidfd in left {
            let ended = sys::pidfd::wait_readable(pidfd.as_fd(), 10_000).unwrap();
            assert!(ended || std::thread::panicking(), "a process of this test survives it");
        }
    }
}

pub(crate) fn spawn(directory: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_berth-keeper"))
        .arg("--socket")
        .arg(directory.join("keeper.sock"))
        .arg("--state")
        .arg(directory.join("state"))
        .spawn()
        .unwrap()
}

pub(crate) struct Client {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    last: u64,
    events: Vec<Event>,
}

impl Client {
    pub(crate) fn ask(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        self.last += 1;
        self.sender.send(self.last, request, fds).unwrap();
        loop {
            let (message, fds) = self.receiver.recv().unwrap().expect("the keeper closed the connection");
            match message {
                ServerMessage::Reply { id, reply } if id == self.last => return Ok((reply, fds)),
                ServerMessage::Failure { id, failure } if id == self.last => return Err(failure),
                ServerMessage::Event { event } => self.events.push(event),
                ServerMessage::Reply { .. } | ServerMessage::Failure { .. } => panic!("an answer to nothing"),
            }
        }
    }

    pub(crate) fn subscribe(&mut self) {
        assert!(matches!(self.ask(&Request::Subscribe, &[]), Ok((Reply::Done, _))));
    }

    /// The exit of a process, once it is told.
    pub(crate) fn exit_of(&mut self, process: &str) -> Exit {
        loop {
            let found = self.events.iter().find_map(|event| match event {
                Event::Exited { id, exit } if id == process => Some(*exit),
                Event::Exited { .. } | Event::InitExited { .. } | Event::LogTrouble { .. } => None,
            });
            if let Some(exit) = found {
                return exit;
            }
            let (message, _) = self.receiver.recv().unwrap().expect("the keeper closed the connection");
            match message {
                ServerMessage::Event { event } => self.events.push(event),
                ServerMessage::Reply { .. } | ServerMessage::Failure { .. } => panic!("an answer to nothing"),
            }
        }
    }

    pub(crate) fn next_event(&mut self) -> Event {
        if self.events.is_empty() {
            match self.receiver.recv().unwrap().expect("the keeper closed the connection").0 {
                ServerMessage::Event { event } => return event,
                ServerMessage::Reply { .. } | ServerMessage::Failure { .. } => panic!("an answer to nothing"),
            }
        }
        self.events.remove(0)
    }

    pub(crate) fn release(&mut self, id: &str) {
        let reply = self.ask(&Request::Release { id: id.into() }, &[]);
        assert!(matches!(reply, Ok((Reply::Done, _))), "{reply:?}");
    }
}

/// Whether the tests of whole containers use the runtime library; else Debian's runc.
pub(crate) const BUILT_IN: bool = true;

pub(crate) fn runtime(keeper: &Keeper) -> Runtime {
    if BUILT_IN { Runtime::BuiltIn } else { runc(keeper) }
}

pub(crate) fn runc(keeper: &Keeper) -> Runtime {
    let path = Path::new("/usr/sbin/runc");
    assert!(path.try_exists().unwrap(), "these tests need Debian's runc");
    Runtime::External { path: path.into(), root: keeper.path("runc"), systemd_cgroup: false }
}

/// An id that no other run of these tests uses.
pub(crate) fn unique(name: &str) -> String {
    format!("berth-test-{name}-{}", std::process::id())
}

/// A bundle with busybox in its root file system.
pub(crate) fn bundle(directory: &Path, name: &str, args: &[&str], terminal: bool) -> PathBuf {
    let bundle = directory.join(format!("bundle-{name}"));
    let rootfs = directory.join("rootfs");
    if !rootfs.try_exists().unwrap() {
        for dir in ["bin", "proc", "dev", "sys", "tmp"] {
            std::fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        let busybox = Path::new("/bin/busybox");
        assert!(busybox.try_exists().unwrap(), "these tests need Debian's busybox-static");
        std::fs::copy(busybox, rootfs.join("bin/busybox")).unwrap();
        for applet in ["sh", "echo", "sleep", "cat", "true", "stty", "seq", "kill", "head", "yes", "tr"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
    }
    std::fs::create_dir_all(&bundle).unwrap();
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": terminal,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": { "path": rootfs, "readonly": false },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
        ],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }] },
    });
    std::fs::write(bundle.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    bundle
}

pub(crate) fn start(id: &str, bundle: PathBuf, log: Option<PathBuf>, runtime: Runtime) -> Start {
    Start {
        id: id.into(),
        sandbox: "berth-test-sandbox".into(),
        bundle,
        runtime,
        rootfs_fd: None,
        join: Vec::new(),
        mounts: Vec::new(),
        cgroups: Vec::new(),
        env_bytes: Vec::new(),
        stdio: Stdio::default(),
        log: log.map(|path| Log { path, format: LogFormat::Cri, max_bytes: None, max_files: None }),
        taps: Vec::new(),
    }
}

/// The lines of a CRI log without their times.
pub(crate) fn lines(log: &Path) -> Vec<String> {
    let text = String::from_utf8(std::fs::read(log).unwrap()).unwrap();
    text.split_terminator('\n').map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

/// Polls a condition; panics when it does not come true.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_root() -> bool {
    sys::reaper::effective_uid() == 0
}
