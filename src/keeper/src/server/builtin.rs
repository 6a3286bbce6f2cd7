//! The runtime library, seen from the keeper's loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use oci::runtime::{Process, Spec};
use runtime::{
    ErrorKind, ExecRequest, Hold, Host, NamespaceRequest, Progress, Request, Rootfs, SeccompCache,
};
use sys::ns::Kind;

use super::births::ChildEnds;
use super::failure::{chain, invalid, io, kind_of};
use super::namespaces::{Init, Pinned};
use super::requests::Attached;
use super::{Keeper, Target, warn};
use crate::protocol::{
    Exec, Failure, FailureKind, IdMap, Log, NamespaceKind, NamespaceSpec, Start, TerminalSize,
};

/// What the runtime needs from one start to the next.
#[derive(Debug, Default)]
pub(super) struct Workshop {
    host: Host,
    seccomp: SeccompCache,
}

impl Workshop {
    pub(super) fn new() -> std::io::Result<Workshop> {
        Ok(Workshop { host: Host::detect()?, seccomp: SeccompCache::default() })
    }
}

/// What a container was started with, as far as its exec sessions need it. The specification is read again
/// for them: kept in memory, its seccomp profile would be most of what a container costs.
#[derive(Debug, Default)]
pub(super) struct Setup {
    pub(super) bundle: PathBuf,
    pub(super) cgroups: Vec<PathBuf>,
    pub(super) log: Option<Log>,
}

impl Setup {
    fn spec(&self) -> Result<Spec, Failure> {
        let path = self.bundle.join("config.json");
        let json = std::fs::read(&path).map_err(|error| io(&format!("read {}", path.display()), &error))?;
        serde_json::from_slice(&json).map_err(|error| invalid(format!("{}: {error}", path.display())))
    }
}

/// Standard streams of a process to come.
pub(super) enum Streams<'a> {
    Pipes(&'a ChildEnds),
    Terminal(TerminalSize),
}

impl<'a> Streams<'a> {
    fn for_runtime(&self) -> runtime::Stdio<'a> {
        match self {
            Streams::Pipes(ends) => runtime::Stdio::Fds {
                stdin: ends.stdin.as_fd(),
                stdout: ends.stdout.as_fd(),
                stderr: ends.stderr.as_fd(),
            },
            Streams::Terminal(size) => runtime::Stdio::Terminal { columns: size.columns, rows: size.rows },
        }
    }
}

/// The container an exec session runs in.
pub(super) struct ExecIn<'a> {
    pub(super) pid: u32,
    pub(super) pidfd: &'a OwnedFd,
    pub(super) setup: &'a Setup,
}

/// A process by number and descriptor.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) start_time: u64,
}

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Pending,
    SetUp,
    Running,
}

/// A process on its way.
#[derive(Debug)]
pub(super) struct Builtin {
    child: runtime::Child,
}

impl Builtin {
    pub(super) fn pid(&self) -> u32 {
        self.child.pid
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    pub(super) fn report_fd(&self) -> BorrowedFd<'_> {
        self.child.report_fd()
    }

    /// Takes what the child has reported; never waits.
    pub(super) fn advance(&mut self) -> Result<Step, Failure> {
        loop {
            match self.child.advance().map_err(|error| child_failure(&error))? {
                Progress::Pending => return Ok(Step::Pending),
                Progress::Waiting => self.start()?,
                Progress::NeedsStart => return Ok(Step::SetUp),
                Progress::Running => return Ok(Step::Running),
            }
        }
    }

    /// Lets the child run its program.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        self.child.start().map_err(|error| io("start the program", &error))
    }

    pub(super) fn into_parts(mut self) -> (Parts, Option<OwnedFd>) {
        for warning in self.child.take_warnings() {
            warn(&format!("process {}: {warning}", self.child.pid));
        }
        let console = self.child.take_console();
        let runtime::Child { pid, pidfd, start_time, .. } = self.child;
        (Parts { pid, pidfd, start_time }, console)
    }
}

/// A process that makes namespaces.
#[derive(Debug)]
pub(super) struct NamespaceChild {
    child: runtime::NamespaceChild,
}

impl NamespaceChild {
    pub(super) fn pid(&self) -> u32 {
        self.child.pid
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    pub(super) fn report_fd(&self) -> BorrowedFd<'_> {
        self.child.report_fd()
    }

    /// The namespaces, once they are made; never waits.
    pub(super) fn advance(&mut self) -> Result<Option<Pinned>, Failure> {
        let Some(made) = self.child.advance().map_err(|error| child_failure(&error))? else {
            return Ok(None);
        };
        let fds =
            made.namespaces.into_iter().filter_map(|(kind, fd)| Some((protocol_kind(kind)?, Rc::new(fd))));
        let init = if made.has_init {
            let pidfd =
                sys::pipe::duplicate(&self.child.pidfd).map_err(|error| io("duplicate a pidfd", &error))?;
            Some(Init { pid: self.child.pid, pidfd, watch: None })
        } else {
            None
        };
        Ok(Some(Pinned { fds: fds.collect(), init }))
    }
}

/// Clones a container; it waits to be started only if its log is still being opened.
pub(super) fn start(
    start: &Start,
    setup: &Setup,
    streams: Streams<'_>,
    attached: &mut Attached,
    workshop: &mut Workshop,
) -> Result<Builtin, Failure> {
    let spec = setup.spec()?;
    let rootfs = start.rootfs_fd.map(|index| attached.take(index)).transpose()?;
    let join = take_all(&start.join, |(kind, index)| Ok((runtime_kind(*kind), attached.take(*index)?)))?;
    let mounts = take_all(&start.mounts, |(index, path)| Ok((attached.take(*index)?, path.clone())))?;
    let idmaps = runtime::prepare_idmaps(&spec).map_err(|error| io("make maps for mounts", &error))?;
    let path = spec.root().as_ref().map(|root| setup.bundle.join(root.path()));
    let keyring = keyring_of(&start.id);
    let request = Request {
        spec: &spec,
        bundle: &setup.bundle,
        rootfs: match (&rootfs, &path) {
            (Some(fd), _) => Rootfs::Detached(fd.as_fd()),
            (None, Some(path)) => Rootfs::Path(path),
            (None, None) => return Err(invalid(format!("{} has no root file system", start.id))),
        },
        join: join.iter().map(|(kind, fd)| (*kind, fd.as_fd())).collect(),
        mounts: mounts.iter().map(|(fd, path)| (fd.as_fd(), path.clone())).collect(),
        cgroups: start.cgroups.clone(),
        idmaps: idmaps.iter().map(|(index, fd)| (*index, fd.as_fd())).collect(),
        stdio: streams.for_runtime(),
        env_bytes: &start.env_bytes,
        program: None,
        hold: if start.log.is_some() { Hold::UntilStarted } else { Hold::No },
        preserve_fds: 0,
        keyring: Some(&keyring),
        host: &workshop.host,
    };
    let plan = runtime::plan(&request, &mut workshop.seccomp).map_err(|error| invalid(chain(&error)))?;
    spawn(plan)
}

/// A session keyring for each container, as OCI runtimes name it: the keys of the node stay the node's.
fn keyring_of(container: &str) -> String {
    format!("_ses.{container}")
}

/// Clones an exec session.
pub(super) fn exec(
    exec: &Exec,
    within: &ExecIn<'_>,
    streams: Streams<'_>,
    workshop: &mut Workshop,
) -> Result<Builtin, Failure> {
    let spec = within.setup.spec()?;
    let process: Process = serde_json::from_value(exec.process.clone())
        .map_err(|error| invalid(format!("process of {}: {error}", exec.id)))?;
    let cgroups = if exec.cgroups.is_empty() { &within.setup.cgroups } else { &exec.cgroups };
    let keyring = keyring_of(&exec.container);
    let request = ExecRequest {
        pid: within.pid,
        pidfd: within.pidfd.as_fd(),
        process: &process,
        spec: &spec,
        cgroups: cgroups.clone(),
        stdio: streams.for_runtime(),
        env_bytes: &exec.env_bytes,
        preserve_fds: 0,
        keyring: Some(&keyring),
        host: &workshop.host,
    };
    let plan = runtime::plan_exec(&request, &mut workshop.seccomp).map_err(|error| invalid(chain(&error)))?;
    spawn(plan)
}

/// Clones a process that makes namespaces.
pub(super) fn namespaces(spec: &NamespaceSpec) -> Result<NamespaceChild, Failure> {
    let request = NamespaceRequest {
        net: spec.net,
        ipc: spec.ipc,
        uts: spec.uts,
        pid: spec.pid,
        user: spec.user.as_ref().map(runtime_maps),
        hostname: spec.hostname.clone(),
        sysctls: spec.sysctls.clone(),
        init_cgroups: spec.init_cgroups.clone(),
        init_oom_score_adj: spec.init_oom_score_adj,
    };
    let child = runtime::namespaces(&request).map_err(|error| match &error {
        runtime::NamespaceError::Plan(_) => invalid(chain(&error)),
        runtime::NamespaceError::Spawn(spawn) => {
            Failure { kind: kind_of(spawn.errno()), message: chain(&error), errno: spawn.errno() }
        }
    })?;
    Ok(NamespaceChild { child })
}

impl Keeper {
    /// Waits for what a child reports. A child that cannot be watched is killed and reaped as an orphan.
    pub(super) fn watch_report(&mut self, number: u64, child: &Builtin) -> Result<u64, Failure> {
        self.watch(&child.report_fd(), Target::Report(number)).map_err(|error| {
            self.owners.remove(&child.pid());
            // It may be gone already.
            let _ = sys::pidfd::signal(child.pidfd(), super::SIGKILL);
            io("watch the set-up of a process", &error)
        })
    }
}

fn spawn(plan: runtime::Plan<'_>) -> Result<Builtin, Failure> {
    let child = plan.spawn().map_err(|error| Failure {
        kind: kind_of(error.errno()),
        message: chain(&error),
        errno: error.errno(),
    })?;
    Ok(Builtin { child })
}

fn child_failure(error: &runtime::ChildError) -> Failure {
    let errno = Some(error.errno).filter(|errno| *errno != 0);
    let kind = match error.kind {
        ErrorKind::ProgramNotFound => FailureKind::ProgramNotFound,
        ErrorKind::NotExecutable => FailureKind::ProgramNotExecutable,
        ErrorKind::Setup => kind_of(errno),
    };
    Failure { kind, message: chain(error), errno }
}

fn take_all<T, U>(list: &[T], take: impl FnMut(&T) -> Result<U, Failure>) -> Result<Vec<U>, Failure> {
    list.iter().map(take).collect()
}

fn runtime_kind(kind: NamespaceKind) -> Kind {
    match kind {
        NamespaceKind::User => Kind::User,
        NamespaceKind::Net => Kind::Net,
        NamespaceKind::Ipc => Kind::Ipc,
        NamespaceKind::Uts => Kind::Uts,
        NamespaceKind::Pid => Kind::Pid,
    }
}

fn protocol_kind(kind: Kind) -> Option<NamespaceKind> {
    match kind {
        Kind::User => Some(NamespaceKind::User),
        Kind::Net => Some(NamespaceKind::Net),
        Kind::Ipc => Some(NamespaceKind::Ipc),
        Kind::Uts => Some(NamespaceKind::Uts),
        Kind::Pid => Some(NamespaceKind::Pid),
        Kind::Mount | Kind::Cgroup | Kind::Time => None,
    }
}

fn runtime_maps(maps: &crate::protocol::IdMaps) -> runtime::IdMaps {
    let convert =
        |map: &IdMap| runtime::IdMap { container_id: map.container_id, host_id: map.host_id, size: map.size };
    runtime::IdMaps {
        uids: maps.uids.iter().map(convert).collect(),
        gids: maps.gids.iter().map(convert).collect(),
    }
}
