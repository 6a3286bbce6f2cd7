//! What a caller asks for.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use oci::runtime::{Hook, LinuxIdMapping, Process, Spec};
use sys::ns::Kind;

use crate::host::Host;

/// A container to make.
#[derive(Debug)]
pub struct Request<'a> {
    /// What the container is.
    pub spec: &'a Spec,
    /// Relative paths in the specification start here.
    pub bundle: &'a Path,
    /// Its root file system.
    pub rootfs: Rootfs<'a>,
    /// Namespaces to join instead of what the specification says.
    pub join: Vec<(Kind, BorrowedFd<'a>)>,
    /// Detached mounts to attach besides those of the specification, each before the first mount of the
    /// specification that lies below it.
    pub mounts: Vec<(BorrowedFd<'a>, PathBuf)>,
    /// Cgroup directories, with their limits set, that the container is put into: one for each hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// User namespaces for idmapped mounts, by index in the specification's mounts ([`crate::prepare_idmaps`]).
    pub idmaps: Vec<(usize, BorrowedFd<'a>)>,
    /// Standard streams.
    pub stdio: Stdio<'a>,
    /// More environment, `NAME=value`, that need not be UTF-8.
    pub env_bytes: &'a [Vec<u8>],
    /// An open program to run instead of looking for the first argument.
    pub program: Option<BorrowedFd<'a>>,
    /// Whether the program waits to be started.
    pub hold: Hold<'a>,
    /// How many descriptors from 3 on the program inherits from this process.
    pub preserve_fds: u32,
    /// Name of its session keyring; without one it keeps the caller's.
    pub keyring: Option<&'a str>,
    /// The machine it is made on.
    pub host: &'a Host,
}

/// A root file system.
#[derive(Debug, Clone, Copy)]
pub enum Rootfs<'a> {
    /// A directory.
    Path(&'a Path),
    /// A mount that is attached nowhere.
    Detached(BorrowedFd<'a>),
}

/// Standard streams of a process.
#[derive(Debug, Clone, Copy)]
pub enum Stdio<'a> {
    /// Three open files.
    Fds {
        /// Standard input.
        stdin: BorrowedFd<'a>,
        /// Standard output.
        stdout: BorrowedFd<'a>,
        /// Standard error.
        stderr: BorrowedFd<'a>,
    },
    /// A new terminal in the container's devpts, whose master comes back ([`crate::Child::take_console`]).
    Terminal {
        /// 0 is unknown.
        columns: u16,
        /// 0 is unknown.
        rows: u16,
    },
}

/// Whether a container waits between being created and being started.
#[derive(Debug, Clone, Copy)]
pub enum Hold<'a> {
    /// It does not.
    No,
    /// Until [`crate::Child::start`].
    UntilStarted,
    /// Until somebody connects to this listening `SOCK_SEQPACKET` socket, who gets the reports from then on.
    UntilConnected(BorrowedFd<'a>),
}

/// What happens at the hook points of a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct HookPlan<'a> {
    /// Whether the child waits ([`crate::Progress::Waiting`]) once namespaces and mounts are made, before the
    /// old root goes. The caller says so if it runs the hooks of the host and moves network devices; a
    /// specification that has any is refused otherwise.
    pub pause: bool,
    /// Programs of the host that run in the namespaces of the container after that, the old root still being
    /// there.
    pub create_container: &'a [Hook],
    /// Programs of the container that run when it is started, before its own.
    pub start_container: &'a [Hook],
    /// A file from which both read the container's state; it may be filled until the child goes on.
    pub state: Option<BorrowedFd<'a>>,
}

/// A process to run in a container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The container's first process.
    pub pid: u32,
    /// The same, by descriptor.
    pub pidfd: BorrowedFd<'a>,
    /// What to run. Without capabilities of its own it gets those of the container.
    pub process: &'a Process,
    /// What the container was made of.
    pub spec: &'a Spec,
    /// Cgroup directories to join.
    pub cgroups: Vec<PathBuf>,
    /// Standard streams.
    pub stdio: Stdio<'a>,
    /// More environment, `NAME=value`, that need not be UTF-8.
    pub env_bytes: &'a [Vec<u8>],
    /// How many descriptors from 3 on the program inherits from this process.
    pub preserve_fds: u32,
    /// Name of the container's session keyring; without one it keeps the caller's.
    pub keyring: Option<&'a str>,
    /// The machine.
    pub host: &'a Host,
}

/// Maps of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct IdMaps {
    /// User ids.
    pub uids: Vec<IdMap>,
    /// Group ids.
    pub gids: Vec<IdMap>,
}

/// One line of a `uid_map` (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdMap {
    /// First id inside.
    pub container_id: u32,
    /// First id outside.
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

impl IdMaps {
    /// From the specification's lists.
    #[must_use]
    pub fn from_spec(uids: Option<&[LinuxIdMapping]>, gids: Option<&[LinuxIdMapping]>) -> IdMaps {
        let convert = |list: Option<&[LinuxIdMapping]>| {
            let map = |m: &LinuxIdMapping| IdMap {
                container_id: m.container_id(),
                host_id: m.host_id(),
                size: m.size(),
            };
            list.unwrap_or_default().iter().map(map).collect()
        };
        IdMaps { uids: convert(uids), gids: convert(gids) }
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Writes them for a child that has just made a user namespace.
    pub(crate) fn write(&self, pid: u32) -> std::io::Result<()> {
        for (file, maps) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            let lines: Vec<_> =
                maps.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect();
            std::fs::write(format!("/proc/{pid}/{file}"), lines.concat())?;
        }
        Ok(())
    }
}
