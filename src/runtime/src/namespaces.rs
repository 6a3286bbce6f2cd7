//! Namespaces for a sandbox, made by one short-lived child or, with a PID namespace, by the built-in init.
//!
//! The child makes everything and says so; the caller opens the namespaces by its id and lets it go on. Then
//! it exits, or becomes the init: a program of its own in an empty read-only root, without capabilities,
//! without files and closed to inspection.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use sys::mount::{Attributes, Propagation};
use sys::ns::Kind;
use sys::process::{
    Capabilities, Exec, Files, Message, MountChange, Op, Program, Report, Script, Slot, Step,
};

use crate::child::{ChildError, SpawnError, failed, lost};
use crate::plan::{PlanError, common};
use crate::request::IdMaps;

/// Which namespaces to make.
#[derive(Debug, Clone, Default)]
pub struct NamespaceRequest {
    /// A network namespace.
    pub net: bool,
    /// An IPC namespace.
    pub ipc: bool,
    /// A UTS namespace.
    pub uts: bool,
    /// A PID namespace with the built-in init.
    pub pid: bool,
    /// A user namespace that owns the others.
    pub user: Option<IdMaps>,
    /// Host name.
    pub hostname: Option<String>,
    /// Namespaced kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Cgroup directories the init joins.
    pub init_cgroups: Vec<PathBuf>,
    /// Adjustment of the init's OOM score.
    pub init_oom_score_adj: Option<i32>,
}

/// A child that makes namespaces.
#[derive(Debug)]
pub struct NamespaceChild {
    /// Its id in our PID namespace; with a PID namespace it is the init.
    pub pid: u32,
    /// The same, by descriptor.
    pub pidfd: OwnedFd,
    report: Report,
    steps: Vec<Step>,
    kinds: Vec<Kind>,
    maps: IdMaps,
}

/// Namespaces that are made.
#[derive(Debug)]
pub struct Made {
    /// One descriptor for each.
    pub namespaces: Vec<(Kind, OwnedFd)>,
    /// Whether the child stays as the init of the PID namespace. Otherwise it ends and must be reaped.
    pub has_init: bool,
}

/// Starts to make namespaces. Watch [`NamespaceChild::report_fd`].
pub fn namespaces(request: &NamespaceRequest) -> Result<NamespaceChild, NamespaceError> {
    let script = script(request)?;
    let spawned = script.spawn().map_err(SpawnError)?;
    Ok(NamespaceChild {
        pid: spawned.pid,
        pidfd: spawned.pidfd,
        report: spawned.report,
        steps: script.steps,
        kinds: kinds(request),
        maps: request.user.clone().unwrap_or_default(),
    })
}

/// Why namespaces cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// What is asked for makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The clone failed.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

fn kinds(request: &NamespaceRequest) -> Vec<Kind> {
    let wanted = [
        (request.user.is_some(), Kind::User),
        (request.net, Kind::Net),
        (request.ipc, Kind::Ipc),
        (request.uts, Kind::Uts),
        (request.pid, Kind::Pid),
    ];
    wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, kind)| kind).collect()
}

fn script(request: &NamespaceRequest) -> Result<Script<'static>, PlanError> {
    let mut files = Files::default();
    let mut steps: Vec<Step> = vec![Op::Dumpable(false).into()];
    // With an init the clone makes both, so that the user namespace owns the PID namespace.
    let in_clone = |kind: &Kind| matches!(kind, Kind::User | Kind::Pid);
    let flags = |kinds: Vec<Kind>| kinds.into_iter().fold(0, |flags, kind| flags | kind.clone_flag());
    let clone_flags = flags(kinds(request).into_iter().filter(in_clone).collect());
    let rest = flags(kinds(request).into_iter().filter(|kind| !in_clone(kind)).collect());

    let proc = Slot(0);
    let mut cgroup = None;
    steps.extend(common::open_proc(proc));
    if request.pid {
        let joining = common::join_cgroups(&request.init_cgroups, &mut files)?;
        cgroup = joining.birthplace;
        steps.extend(joining.steps);
        steps.extend(request.init_oom_score_adj.map(|score| common::oom_score(proc, score)));
    }
    if request.user.is_some() {
        steps.push(Op::AskForMaps.into());
        steps.push(Op::BecomeRoot.into());
    }
    if rest != 0 {
        steps.push(Op::Unshare { flags: rest }.into());
    }
    steps.extend(request.hostname.as_ref().map(|name| Op::Hostname(name.as_bytes().to_vec()).into()));
    for (name, value) in &request.sysctls {
        steps.push(common::sysctl(proc, name, value)?);
    }
    if request.pid {
        become_init(&mut steps, &mut files)?;
    } else {
        steps.push(Op::ExitWhenTold.into());
    }
    Ok(Script { clone_flags, cgroup, steps, files, ..Script::default() })
}

/// The steps from a child in new namespaces to the built-in init.
fn become_init(steps: &mut Vec<Step>, files: &mut Files<'_>) -> Result<(), PlanError> {
    let file = |source| PlanError::Prepare { what: "the built-in init", source };
    let image = sys::memfd::sealed_executable("berth-init", &sys::process::init_image()).map_err(file)?;
    // Executable and not readable: then the kernel makes the process non-dumpable.
    std::fs::File::from(image.try_clone().map_err(file)?)
        .set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o111))
        .map_err(file)?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(file)?;
    let (init, null) = (files.own(image), files.own(null.into()));
    let root = Slot(1);
    let private =
        MountChange { propagation: Propagation::Private.flag(), recursive: true, ..MountChange::default() };
    let locked = Attributes::RDONLY.with(Attributes::NOSUID).with(Attributes::NODEV).with(Attributes::NOEXEC);
    let exec = Exec {
        program: Program::File(init),
        arguments: vec![CString::from(c"berth-init")],
        environment: Vec::new(),
    };
    let ops = [
        Op::Unshare { flags: Kind::Mount.clone_flag() },
        Op::SetRoot { change: private },
        Op::NewFs { slot: root, fstype: c"tmpfs".into(), options: Vec::new(), attributes: locked.0 },
        Op::AttachRoot { mount: sys::process::Fd::Slot(root) },
        Op::Pivot { root: sys::process::Fd::Slot(root) },
        Op::NewSession,
        Op::Stdio([null, null, null]),
        Op::CloseOthers { keep: vec![init], preserve: 0 },
        Op::NoNewPrivileges,
        Op::Bounding { keep: 0 },
        Op::Capabilities(Capabilities::default()),
        Op::Hold { listener: None },
        Op::BlockSignals,
        Op::Exec(exec),
    ];
    steps.extend(ops.map(Step::from));
    Ok(())
}

impl NamespaceChild {
    /// Becomes readable when there is something for [`NamespaceChild::advance`].
    #[must_use]
    pub fn report_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// The namespaces, once they are made; never waits.
    pub fn advance(&mut self) -> Result<Option<Made>, ChildError> {
        loop {
            match self.report.next() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(lost("read the report of a child", error)),
                Ok(message) => {
                    if let Some(made) = self.take(message)? {
                        return Ok(Some(made));
                    }
                }
            }
        }
    }

    /// Like [`NamespaceChild::advance`], but waits.
    pub fn wait_blocking(&mut self) -> Result<Made, ChildError> {
        loop {
            let message =
                self.report.next_blocking().map_err(|error| lost("read the report of a child", error))?;
            if let Some(made) = self.take(message)? {
                return Ok(made);
            }
        }
    }

    fn take(&mut self, message: Option<Message>) -> Result<Option<Made>, ChildError> {
        match message {
            None => {
                Err(lost("the child ended before its namespaces were made", io::ErrorKind::BrokenPipe.into()))
            }
            Some(Message::Failed { step, errno }) => Err(failed(&self.steps, step, errno)),
            Some(Message::NeedsMaps) => {
                self.maps
                    .write(self.pid)
                    .map_err(|error| lost("write the maps of a user namespace", error))?;
                self.report.go_on().map_err(|error| lost("answer a child", error))?;
                Ok(None)
            }
            Some(Message::Ready) => self.collect().map(Some),
            Some(Message::Waiting | Message::Console(_) | Message::Warning { .. } | Message::Executing) => {
                Ok(None)
            }
        }
    }

    fn collect(&mut self) -> Result<Made, ChildError> {
        let mut namespaces = Vec::new();
        for kind in &self.kinds {
            let namespace =
                sys::ns::open_of(self.pid, *kind).map_err(|error| lost("open a new namespace", error))?;
            namespaces.push((*kind, namespace));
        }
        self.report.go_on().map_err(|error| lost("answer a child", error))?;
        Ok(Made { namespaces, has_init: self.kinds.contains(&Kind::Pid) })
    }
}
