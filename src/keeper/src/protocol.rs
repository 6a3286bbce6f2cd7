//! The messages between the daemon and the keeper.
//!
//! Frames travel on a `SOCK_STREAM` unix socket: a little-endian `u32` length, then that many bytes of
//! JSON, with file descriptors attached to the first byte of the frame as `SCM_RIGHTS`. The first request
//! on a connection is [`Request::Hello`]. Fields may be added with `#[serde(default)]`; a change that an
//! older peer would misread raises [`VERSION`].
//!
//! Replies carry the id of their request and may come in any order. Events follow on the connection that
//! asked for them with [`Request::Subscribe`], after the state they tell of is visible to [`Request::List`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of the protocol; the keeper accepts its own and the one before.
pub const VERSION: u32 = 1;

/// Largest frame either side accepts, in bytes.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// What the daemon sends: an id of its choice and the request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Echoed in the reply.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// A request to the keeper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// First message: versions must agree. Reply: [`Reply::Hello`].
    Hello {
        /// The daemon's [`VERSION`].
        version: u32,
    },
    /// From now on send [`Event`]s on this connection. Reply: [`Reply::Done`].
    Subscribe,
    /// Everything the keeper holds. Reply: [`Reply::List`], with the fds its entries index.
    List,
    /// Makes namespaces and keeps them under `key` until [`Request::DropNamespaces`].
    /// Reply: [`Reply::Namespaces`] with one fd per entry, in its order. Idempotent per key.
    CreateNamespaces {
        /// Whose they are: a sandbox id.
        key: String,
        /// Which to make.
        spec: NamespaceSpec,
    },
    /// Forgets the namespaces under `key`; unknown keys are fine. Reply: [`Reply::Done`].
    DropNamespaces {
        /// As given to [`Request::CreateNamespaces`].
        key: String,
    },
    /// Creates and starts a process tree from an OCI bundle. Reply: [`Reply::Started`] once the program
    /// runs, with the pidfd first, then the standard streams that [`Reply::Started`] names.
    Start(Box<Start>),
    /// Runs one more process in a container. Reply: [`Reply::Started`].
    Exec(Box<Exec>),
    /// Takes over a container that another keeper held, with the descriptors its client kept. The log goes on
    /// in its file. Reply: [`Reply::Done`] once its output is taken again; its end is told as that of any
    /// other. A container that is known already is a failure of kind [`FailureKind::Exists`].
    Adopt(Box<Adopt>),
    /// Takes over the namespaces of a sandbox that another keeper held. Reply: [`Reply::Done`].
    AdoptNamespaces(AdoptNamespaces),
    /// Streams a container's output to the two fds attached (stdout, stderr) as well as to its log, from
    /// now on. The other end closing ends it. A reader that takes nothing for two seconds is cut off; until
    /// then the container's output waits for it. The output ending closes the fds. Reply: [`Reply::Done`].
    Attach {
        /// Container id.
        id: String,
    },
    /// Closes the keeper's own copy of a container's standard input, so that the daemon's is the last.
    CloseStdin {
        /// Container id.
        id: String,
    },
    /// Flushes the log, opens its path anew and writes there from the next line on. When the file cannot
    /// be opened the old one stays in use and nothing is created. Reply: [`Reply::Done`].
    ReopenLog {
        /// Container id.
        id: String,
    },
    /// Forgets an exited container or exec session. Reply: [`Reply::Done`]; unknown ids are fine.
    Release {
        /// Container or exec id.
        id: String,
    },
    /// Ends the keeper, if it holds nothing that runs. Reply: [`Reply::Done`], else a failure.
    Shutdown,
    /// Makes the keeper execute its binary anew, which may be a newer one by now; everything it holds stays.
    /// Reply: [`Reply::Done`], after which the connection ends and the client connects again; a failure while
    /// something is being started.
    Upgrade,
}

impl Request {
    /// Its name as it goes over the socket.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Request::Hello { .. } => "hello",
            Request::Subscribe => "subscribe",
            Request::List => "list",
            Request::CreateNamespaces { .. } => "create_namespaces",
            Request::DropNamespaces { .. } => "drop_namespaces",
            Request::Start(_) => "start",
            Request::Exec(_) => "exec",
            Request::Adopt(_) => "adopt",
            Request::AdoptNamespaces(_) => "adopt_namespaces",
            Request::Attach { .. } => "attach",
            Request::CloseStdin { .. } => "close_stdin",
            Request::ReopenLog { .. } => "reopen_log",
            Request::Release { .. } => "release",
            Request::Shutdown => "shutdown",
            Request::Upgrade => "upgrade",
        }
    }
}

/// Which namespaces a sandbox needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceSpec {
    /// A network namespace.
    pub net: bool,
    /// An IPC namespace.
    pub ipc: bool,
    /// A UTS namespace.
    pub uts: bool,
    /// A PID namespace, with the built-in init as its first process.
    pub pid: bool,
    /// A user namespace that owns the others, with these maps.
    #[serde(default)]
    pub user: Option<IdMaps>,
    /// Host name for the UTS namespace.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Namespaced kernel parameters, by dotted or slashed name, written from inside.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Cgroup directories (one per hierarchy on v1) the built-in init joins.
    #[serde(default)]
    pub init_cgroups: Vec<PathBuf>,
    /// Adjustment of the built-in init's OOM score.
    #[serde(default)]
    pub init_oom_score_adj: Option<i32>,
}

/// Maps of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// User ids.
    pub uids: Vec<IdMap>,
    /// Group ids.
    pub gids: Vec<IdMap>,
}

/// One line of a `uid_map` (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id inside.
    pub container_id: u32,
    /// First id outside.
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// A kind of namespace that can be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceKind {
    /// user_namespaces(7)
    User,
    /// network_namespaces(7)
    Net,
    /// ipc_namespaces(7)
    Ipc,
    /// uts_namespaces(7)
    Uts,
    /// pid_namespaces(7)
    Pid,
}

/// Who carries out the OCI operations of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Runtime {
    /// The library that is linked into the keeper.
    #[default]
    BuiltIn,
    /// A runc-compatible program.
    External {
        /// The program.
        path: PathBuf,
        /// Its `--root`.
        root: PathBuf,
        /// Whether to pass `--systemd-cgroup`.
        #[serde(default)]
        systemd_cgroup: bool,
    },
}

/// Starts a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// Container id.
    pub id: String,
    /// The sandbox it belongs to; returned by [`Request::List`].
    pub sandbox: String,
    /// Bundle directory; `config.json` is read from it. For [`Runtime::BuiltIn`] the namespaces without a
    /// path in the spec are made new and `root.path` is ignored when `rootfs_fd` is set.
    pub bundle: PathBuf,
    /// Who does it.
    #[serde(default)]
    pub runtime: Runtime,
    /// Index among the attached fds of a detached mount that becomes the root file system.
    #[serde(default)]
    pub rootfs_fd: Option<usize>,
    /// Indexes among the attached fds of namespaces to join instead of what the spec says.
    #[serde(default)]
    pub join: Vec<(NamespaceKind, usize)>,
    /// Indexes among the attached fds of detached mounts, and where each goes in the container. Applied
    /// after the mounts of the spec whose destination is shorter, in the order given.
    #[serde(default)]
    pub mounts: Vec<(usize, PathBuf)>,
    /// Cgroup directories that exist already and have their limits (one per v1 hierarchy, or the one of
    /// v2). The spec's `cgroupsPath` and resources are left alone by [`Runtime::BuiltIn`].
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// More environment, for values that are not UTF-8: bytes of `NAME=value`.
    #[serde(default)]
    pub env_bytes: Vec<Vec<u8>>,
    /// Standard streams.
    pub stdio: Stdio,
    /// Where output is logged; `None` drops it.
    #[serde(default)]
    pub log: Option<Log>,
    /// Indexes among the attached fds of clients that were attached beforehand, stdout and stderr of each: they get
    /// all output, as if [`Request::Attach`] had come before the first byte.
    #[serde(default)]
    pub taps: Vec<(usize, usize)>,
}

/// A container that another keeper held. Its numbers are indexes among the attached descriptors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Adopt {
    /// Container id.
    pub id: String,
    /// The sandbox it belongs to.
    pub sandbox: String,
    /// As in [`Start`].
    pub bundle: PathBuf,
    /// Who started it.
    #[serde(default)]
    pub runtime: Runtime,
    /// As in [`Start`].
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// Where output is logged.
    #[serde(default)]
    pub log: Option<Log>,
    /// Pid in the host.
    pub pid: u32,
    /// With the pid it names the process for good.
    pub start_time: u64,
    /// When it started, nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
    /// Its pidfd.
    pub pidfd: usize,
    /// Standard input's write end.
    #[serde(default)]
    pub stdin: Option<usize>,
    /// The pty's master.
    #[serde(default)]
    pub terminal: Option<usize>,
    /// Standard output's read end.
    #[serde(default)]
    pub stdout: Option<usize>,
    /// Standard error's read end.
    #[serde(default)]
    pub stderr: Option<usize>,
}

/// Namespaces that another keeper held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdoptNamespaces {
    /// As given to [`Request::CreateNamespaces`].
    pub key: String,
    /// Kinds, and indexes among the attached descriptors.
    pub namespaces: Vec<(NamespaceKind, usize)>,
    /// Pid of the built-in init in the host. Nothing is taken over if it is not of this PID namespace.
    #[serde(default)]
    pub init_pid: Option<u32>,
}

/// How a process' standard streams are set up. With a terminal all three are the pty's slave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// A terminal of this size instead of pipes.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Whether standard input stays open and its write end is returned; else it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns; 0 is unknown.
    pub columns: u16,
    /// Rows; 0 is unknown.
    pub rows: u16,
}

/// Where and how output is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The file; opened with `O_NOFOLLOW`, made with mode 0640.
    pub path: PathBuf,
    /// Its format.
    pub format: LogFormat,
    /// Rotate when it would grow past this many bytes (json-file); `None` leaves that to the client.
    #[serde(default)]
    pub max_bytes: Option<u64>,
    /// How many files to keep when rotating, the current one included.
    #[serde(default)]
    pub max_files: Option<u32>,
}

/// Format of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// `<RFC 3339 with nanoseconds> <stream> <P|F> <bytes>`, split at 16 KiB.
    Cri,
    /// Docker's json-file: one object per line.
    JsonFile,
}

/// Runs one more process in a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// Id of the exec session, unique among containers and sessions.
    pub id: String,
    /// The container.
    pub container: String,
    /// The process, as the OCI runtime specification's `process` object.
    pub process: serde_json::Value,
    /// More environment, for values that are not UTF-8.
    #[serde(default)]
    pub env_bytes: Vec<Vec<u8>>,
    /// A terminal of this size. Without it the three attached fds are stdin, stdout and stderr of the
    /// process; with it no fd is attached and the pty's master is returned.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Cgroup directories to join; empty means those of the container. The session gets a child cgroup of
    /// its own where the engine wants to kill it as a whole.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
}

/// What a request came to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The answer to a request.
    Reply {
        /// The request's.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// The request failed and left nothing behind.
    Failure {
        /// The request's.
        id: u64,
        /// Why.
        failure: Failure,
    },
    /// Something happened.
    Event {
        /// What.
        event: Event,
    },
}

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Done,
    /// To [`Request::Hello`].
    Hello {
        /// The keeper's [`VERSION`].
        version: u32,
        /// The keeper's process id.
        pid: u32,
        /// Release of the keeper's binary.
        release: String,
    },
    /// To [`Request::List`].
    List {
        /// Containers and exec sessions.
        processes: Vec<Held>,
        /// Keys of namespaces and what each holds; their fds follow those of the processes.
        namespaces: Vec<HeldNamespaces>,
    },
    /// To [`Request::CreateNamespaces`]: the kinds, in the order of the fds attached; for a PID namespace
    /// the pid of its init in the host.
    Namespaces {
        /// What the fds are.
        kinds: Vec<NamespaceKind>,
        /// The built-in init.
        #[serde(default)]
        init_pid: Option<u32>,
    },
    /// To [`Request::Start`] and [`Request::Exec`]: fds are the pidfd, then stdin's write end if
    /// `stdin`, then the pty's master if `terminal`, then the read ends of a container's standard output and
    /// standard error. The client reads from neither: they are for the next keeper, should this one be lost.
    Started {
        /// Pid in the host.
        pid: u32,
        /// Field 22 of `/proc/pid/stat`: with the pid it names the process for good.
        start_time: u64,
        /// Whether stdin's write end is attached.
        stdin: bool,
        /// Whether the pty's master is attached.
        terminal: bool,
        /// Whether standard output's read end is attached.
        #[serde(default)]
        stdout: bool,
        /// Whether standard error's read end is attached.
        #[serde(default)]
        stderr: bool,
    },
}

/// A process the keeper holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Held {
    /// Container or exec id.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// The container an exec session runs in.
    #[serde(default)]
    pub exec_in: Option<String>,
    /// Pid in the host.
    pub pid: u32,
    /// With the pid it names the process for good.
    pub start_time: u64,
    /// Index of its pidfd among the attached fds.
    pub pidfd: usize,
    /// Index of stdin's write end.
    #[serde(default)]
    pub stdin: Option<usize>,
    /// Index of the pty's master.
    #[serde(default)]
    pub terminal: Option<usize>,
    /// Index of standard output's read end.
    #[serde(default)]
    pub stdout: Option<usize>,
    /// Index of standard error's read end.
    #[serde(default)]
    pub stderr: Option<usize>,
    /// What the container was started with, for another keeper to adopt it.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// When it started, nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
    /// How it ended, if it has.
    #[serde(default)]
    pub exit: Option<Exit>,
}

/// What a container was started with, as in [`Start`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Origin {
    /// Bundle directory.
    pub bundle: PathBuf,
    /// Who did it.
    #[serde(default)]
    pub runtime: Runtime,
    /// Its cgroup directories.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// Where output is logged.
    #[serde(default)]
    pub log: Option<Log>,
}

/// Namespaces the keeper holds for a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldNamespaces {
    /// As given to [`Request::CreateNamespaces`].
    pub key: String,
    /// Kind and index of the fd.
    pub namespaces: Vec<(NamespaceKind, usize)>,
    /// The built-in init of a PID namespace.
    #[serde(default)]
    pub init_pid: Option<u32>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, or 128 + signal as a shell would report it.
    pub code: i32,
    /// The signal that killed it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// When, nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// Whether code and signal are not known: it ended while no keeper watched, and the kernel does not tell.
    #[serde(default)]
    pub unknown: bool,
}

/// Something happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A container or exec session ended; its log is complete.
    Exited {
        /// Container or exec id.
        id: String,
        /// How.
        exit: Exit,
    },
    /// The built-in init of a sandbox' PID namespace ended.
    InitExited {
        /// The key of the namespaces.
        key: String,
    },
    /// Log bytes were lost or writing failed; logging goes on.
    LogTrouble {
        /// Container id.
        id: String,
        /// What happened.
        message: String,
    },
}

/// Why a request failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// What the caller can act on.
    pub kind: FailureKind,
    /// One sentence with the object and the operation, causes included.
    pub message: String,
    /// The errno of the operation that failed, if one did.
    #[serde(default)]
    pub errno: Option<i32>,
}

/// What the caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request makes no sense (bad spec, unknown version).
    Invalid,
    /// No container, session or key of that name.
    NotFound,
    /// The id is in use.
    Exists,
    /// The program to run was not found in the container (127).
    ProgramNotFound,
    /// The program could not be executed (126).
    ProgramNotExecutable,
    /// A kernel operation failed while the process was set up.
    Setup,
    /// Descriptors, memory or processes ran out.
    Exhausted,
    /// A bug, or a runtime that misbehaved.
    Internal,
}
