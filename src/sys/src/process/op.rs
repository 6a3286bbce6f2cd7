//! What a child can be told to do.

use std::ffi::{CString, NulError};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// How openat2(2) may resolve a path.
pub mod resolve {
    /// Symbolic links and mounts are followed: for paths of the host.
    pub const ANY: u64 = 0;
    /// The directory is the root, for `..` and absolute links as well; no magic links.
    pub const IN_ROOT: u64 = 0x10 | 0x02;
    /// [`IN_ROOT`], and no symbolic links at all.
    pub const IN_ROOT_NO_LINKS: u64 = IN_ROOT | 0x04;
    /// Below the directory, on its own file system, without links: for files of a verified procfs.
    pub const STRICT: u64 = 0x01 | 0x02 | 0x04 | 0x08;
    /// No magic links, like those in `/proc/self/fd`.
    pub const NO_MAGIC_LINKS: u64 = 0x02;
}

/// A place for a descriptor that the child opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

/// A descriptor that an operation works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fd {
    /// The working directory, and what absolute paths start from.
    Cwd,
    /// An open file of the parent: an index into [`super::Files`].
    File(u16),
    /// What an earlier operation opened.
    Slot(Slot),
}

/// One step of a script.
#[derive(Debug, Clone)]
pub struct Step {
    /// What to do.
    pub op: Op,
    /// Errnos that are reported as a warning, after which the child goes on.
    pub tolerate: &'static [i32],
}

impl From<Op> for Step {
    fn from(op: Op) -> Step {
        Step { op, tolerate: &[] }
    }
}

/// A path below some root, with what is needed to create it component by component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// For each component: the path up to it, and its name. Empty for the root itself.
    pub(super) components: Vec<(CString, CString)>,
    /// Whether symbolic links are followed, inside the root.
    pub(super) follow: bool,
}

impl Target {
    /// From a path that is taken as absolute; `.` and `..` are resolved by name. Links are followed within
    /// the root.
    pub fn new(path: &Path) -> Result<Target, NulError> {
        Self::with(path, true)
    }

    /// Like [`Target::new`], but a symbolic link anywhere in it is an error (`ELOOP`).
    pub fn without_links(path: &Path) -> Result<Target, NulError> {
        Self::with(path, false)
    }

    fn with(path: &Path, follow: bool) -> Result<Target, NulError> {
        let mut names: Vec<&[u8]> = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(name.as_bytes()),
                Component::ParentDir => drop(names.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        let mut components = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            components.push((CString::new(names[..=index].join(&b'/'))?, CString::new(*name)?));
        }
        Ok(Target { components, follow })
    }

    /// The whole path, relative to its root; empty for the root.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.components.last().map_or(b"", |(path, _)| path.as_bytes())
    }
}

/// An option of a new file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FsOption {
    /// The option alone.
    Flag(CString),
    /// With a value.
    Text(CString, CString),
}

/// What mount_setattr(2) changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountChange {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// `MS_…` flag of the propagation to change to; 0 keeps it.
    pub propagation: u64,
    /// The user namespace to map ids by.
    pub idmap: Option<Fd>,
    /// Whether the mounts below change as well.
    pub recursive: bool,
}

impl MountChange {
    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation == 0 && self.idmap.is_none()
    }
}

/// Sets of capabilities, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// CapEff
    pub effective: u64,
    /// CapPrm
    pub permitted: u64,
    /// CapInh
    pub inheritable: u64,
}

/// Scheduling of a process, as in sched_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduler {
    /// `SCHED_…`
    pub policy: u32,
    /// `SCHED_FLAG_…`
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Priority of the real-time policies.
    pub priority: u32,
    /// Deadline policy: runtime, deadline and period in nanoseconds.
    pub deadline_ns: [u64; 3],
}

/// An argument list for execve(2).
pub type Argument = CString;

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The first of these paths that can be executed, as execvp(3) chooses.
    Paths(Vec<CString>),
    /// An open file.
    File(Fd),
}

/// The program that replaces the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Which.
    pub program: Program,
    /// Arguments, the name first.
    pub arguments: Vec<Argument>,
    /// Environment.
    pub environment: Vec<CString>,
}

/// A program that the child runs before it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The program.
    pub exec: Exec,
    /// What it reads as standard input: rewound before it starts.
    pub stdin: Fd,
    /// It is killed when it takes longer; 0 is no limit.
    pub timeout_seconds: u32,
}

/// An operation of a child.
#[derive(Debug, Clone)]
pub enum Op {
    /// setns(2): with a namespace, or a pidfd and several flags.
    Join {
        /// The namespace or pidfd.
        fd: Fd,
        /// `CLONE_NEW…`
        flags: i32,
    },
    /// unshare(2).
    Unshare {
        /// `CLONE_NEW…`
        flags: i32,
    },
    /// Has the parent write the maps of the user namespace just made, and waits for it.
    AskForMaps,
    /// Tells the parent that this point is reached, and waits until it says to go on.
    AskToGoOn,
    /// Becomes user and group 0 of the user namespace.
    BecomeRoot,
    /// openat2(2).
    Open {
        /// Where the descriptor goes.
        slot: Slot,
        /// The path is relative to this.
        directory: Fd,
        /// What to open.
        path: CString,
        /// `O_…`; close-on-exec is always set.
        flags: i32,
        /// One of [`resolve`].
        resolve: u64,
    },
    /// Fails with `EINVAL` unless the file lies on a file system of this type.
    RequireFs {
        /// The file.
        fd: Fd,
        /// As in statfs(2).
        magic: u64,
    },
    /// Fails with `ENODEV` unless the file is this device.
    RequireDevice {
        /// The file.
        fd: Fd,
        /// `S_IFCHR` or `S_IFBLK`.
        kind: u32,
        /// Device number.
        device: u64,
    },
    /// Writes a whole value to an existing file.
    Write {
        /// The path is relative to this.
        directory: Fd,
        /// The file.
        path: CString,
        /// One of [`resolve`].
        resolve: u64,
        /// Written with one write(2).
        bytes: Vec<u8>,
    },
    /// Writes to an open file with one write(2).
    WriteTo {
        /// The file.
        fd: Fd,
        /// What.
        bytes: Vec<u8>,
    },
    /// sethostname(2).
    Hostname(Vec<u8>),
    /// setdomainname(2).
    Domainname(Vec<u8>),
    /// A detached copy of a mount.
    CloneTree {
        /// Where its descriptor goes.
        slot: Slot,
        /// The path is relative to this.
        directory: Fd,
        /// What becomes its root; empty for `directory`.
        path: CString,
        /// With the mounts below.
        recursive: bool,
    },
    /// A detached mount of a new file system.
    NewFs {
        /// Where its descriptor goes.
        slot: Slot,
        /// Type.
        fstype: CString,
        /// Options.
        options: Vec<FsOption>,
        /// `MOUNT_ATTR_…`
        attributes: u64,
    },
    /// Changes a mount.
    SetMount {
        /// The mount, or a path on it with `path`.
        fd: Fd,
        /// The change.
        change: MountChange,
    },
    /// Changes the mount that is the root directory.
    SetRoot {
        /// The change.
        change: MountChange,
    },
    /// Attaches a detached mount over the root directory.
    AttachRoot {
        /// The mount.
        mount: Fd,
    },
    /// Attaches a detached mount below `root`; a missing mount point is made: a directory or a file, as
    /// the root of the mount is.
    Attach {
        /// The mount.
        mount: Fd,
        /// The directory that is the root of `target`.
        root: Fd,
        /// Where.
        target: Target,
    },
    /// Makes a directory and its parents; one that is there is fine.
    MakeDirectory {
        /// The root of `target`.
        root: Fd,
        /// Which.
        target: Target,
    },
    /// Makes a device or FIFO, in place of whatever file is there.
    MakeNode {
        /// The root of `target`.
        root: Fd,
        /// Which.
        target: Target,
        /// Type and permissions.
        mode: u32,
        /// Device number.
        device: u64,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Makes a symbolic link; anything there is left alone.
    MakeLink {
        /// The root of `target`.
        root: Fd,
        /// Where the link lies.
        target: Target,
        /// What it says.
        to: CString,
    },
    /// Makes what is at a path unreadable: an empty read-only directory or `/dev/null` is mounted there.
    /// Nothing there is fine.
    Mask {
        /// The root of `target`.
        root: Fd,
        /// What.
        target: Target,
        /// A mount of `/dev/null`.
        null: Slot,
        /// A mount of an empty, read-only directory.
        empty: Slot,
    },
    /// Makes the tree at a path read-only. Nothing there is fine.
    Freeze {
        /// The root of `target`.
        root: Fd,
        /// What.
        target: Target,
    },
    /// Makes the directory the root of this mount namespace and unmounts the old one.
    Pivot {
        /// The root of an attached mount.
        root: Fd,
    },
    /// Opens a new terminal in the devpts below `root`.
    OpenTerminal {
        /// The root of the container.
        root: Fd,
        /// Where the master goes.
        master: Slot,
        /// Where the slave goes.
        slave: Slot,
        /// Columns and rows.
        size: (u16, u16),
        /// The user who owns the slave.
        uid: u32,
    },
    /// Hands a terminal's master to the parent and closes it.
    SendConsole {
        /// The master.
        master: Slot,
    },
    /// Mounts a terminal's slave on a file below `root`.
    BindConsole {
        /// The root of the container.
        root: Fd,
        /// The slave.
        slave: Slot,
        /// Where: `/dev/console`.
        target: Target,
    },
    /// setsid(2).
    NewSession,
    /// Makes a terminal the controlling one.
    ControllingTerminal {
        /// The slave.
        slave: Slot,
    },
    /// Makes these the standard streams.
    Stdio([Fd; 3]),
    /// Gives the standard streams, as far as they are pipes or the like, to a user.
    OwnStdio {
        /// The user.
        uid: u32,
    },
    /// Changes the working directory, which must lie inside the root.
    Chdir {
        /// Absolute.
        path: CString,
    },
    /// setrlimit(2); without the privilege to raise a hard limit, what is there is kept and a warning given.
    Rlimit {
        /// `RLIMIT_…`
        resource: u32,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    },
    /// umask(2).
    Umask(u32),
    /// personality(2).
    Personality(u64),
    /// ioprio_set(2), for this process.
    IoPriority(u32),
    /// sched_setattr(2).
    Scheduler(Scheduler),
    /// sched_setaffinity(2): a mask of CPUs.
    CpuAffinity(Vec<u8>),
    /// set_mempolicy(2).
    MemoryPolicy {
        /// `MPOL_…`, with `MPOL_F_…`.
        mode: u32,
        /// A mask of memory nodes.
        nodes: Vec<u8>,
    },
    /// Joins the session keyring of this name, or makes it (keyctl_join_session_keyring(3)), and lets its user
    /// find it.
    SessionKeyring(CString),
    /// `PR_SET_DUMPABLE`: 0 hides the process' memory and files from others of the same user.
    Dumpable(bool),
    /// Drops every capability that is not named from the bounding set.
    Bounding {
        /// What stays.
        keep: u64,
    },
    /// Becomes a user, keeping capabilities.
    Identity {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Supplementary groups; `None` where setgroups(2) is denied.
        groups: Option<Vec<u32>>,
    },
    /// capset(2).
    Capabilities(Capabilities),
    /// Raises these in the ambient set, after clearing it.
    Ambient(u64),
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// Closes every descriptor but the standard streams, the socket to the parent and those named.
    CloseOthers {
        /// What stays open until exec.
        keep: Vec<Fd>,
        /// How many descriptors from 3 on the program inherits.
        preserve: u32,
    },
    /// Runs a program and waits for it.
    RunHook(Hook),
    /// Tells the parent that all is set up and waits: for the parent, or for a connection to a listening
    /// socket, which from then on takes the place of the parent's.
    Hold {
        /// The listening socket.
        listener: Option<Fd>,
    },
    /// Installs a seccomp filter: one `sock_filter` per element.
    Seccomp {
        /// The program.
        program: std::sync::Arc<[u64]>,
        /// `SECCOMP_FILTER_FLAG_…`
        flags: u64,
        /// Sends the notification descriptor to this connected socket, with these bytes.
        notify: Option<(Fd, Vec<u8>)>,
    },
    /// Blocks every signal; the mask survives exec. Otherwise none is blocked.
    BlockSignals,
    /// Replaces the child by a program. The last step.
    Exec(Exec),
    /// Waits until the parent says to go on, then exits. The last step of a child that only makes
    /// namespaces.
    ExitWhenTold,
}

impl Op {
    /// The highest slot that the operation fills.
    pub(super) fn highest_slot(&self) -> Option<Slot> {
        match self {
            Op::Open { slot, .. } | Op::CloneTree { slot, .. } | Op::NewFs { slot, .. } => Some(*slot),
            Op::OpenTerminal { master, slave, .. } => Some(*master.max(slave)),
            _ => None,
        }
    }
}
