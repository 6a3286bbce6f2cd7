//! From a runtime specification to the operations of a child.
//!
//! The order matters more than anything else here:
//!
//! ```text
//!  host       join cgroups, OOM score, limits; copies of every mount source and device   full privilege
//!  enter      user namespace first, then the others, then the new ones
//!  assemble   root over /, mounts by descriptor inside it, /dev, masks, read-only paths
//!  pivot      the old root is gone
//!  process    terminal, streams, close files, working directory, [wait], identity, seccomp, exec
//! ```
//!
//! What needs the host is opened in the first part and only attached later, so that no path of the host is
//! resolved inside, and no path of the container outside.

use std::ffi::{CString, NulError};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci::runtime::{Linux, LinuxNamespaceType};
use sys::mount::Propagation;
use sys::ns::Kind;
use sys::process::{Fd, Files, MountChange, Op, Script, Slot, Step, Target, resolve};

use crate::child::{Child, SpawnError};
use crate::options::Options;
use crate::request::{HookPlan, IdMaps, Request, Rootfs};
use crate::seccomp::SeccompCache;

mod cgroupfs;
pub(crate) mod common;
mod devices;
mod exec;
mod mounts;
mod process;
mod refuse;
#[cfg(test)]
mod tests;

pub use devices::default_device_rules;
pub use exec::plan_exec;

/// What a child will do, ready to run. Its [`fmt::Display`] lists the operations.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(crate) script: Script<'a>,
    pub(crate) maps: IdMaps,
    pub(crate) warnings: Vec<String>,
}

impl Plan<'_> {
    /// Clones the child; exactly one clone3, and no waiting.
    pub fn spawn(self) -> Result<Child, SpawnError> {
        let spawned = self.script.spawn().map_err(SpawnError)?;
        // The child cannot be reaped by anybody else yet, so its entry in /proc is there.
        let start_time = sys::pidfd::start_time(spawned.pid).map_err(SpawnError)?;
        Ok(Child {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            start_time,
            report: spawned.report,
            steps: self.script.steps,
            maps: self.maps,
            console: None,
            warnings: self.warnings,
            executing: false,
        })
    }

    /// What the container cannot have on this machine, and goes without.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl fmt::Display for Plan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.script.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The specification lacks something.
    #[error("the specification has no {0}")]
    Missing(&'static str),
    /// A string of the specification holds a NUL byte.
    #[error("a string of the specification holds a NUL byte")]
    Nul(#[from] NulError),
    /// The specification asks for something that makes no sense or is refused.
    #[error("{0}")]
    Invalid(String),
    /// Something that this runtime does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A seccomp profile that cannot be compiled.
    #[error("compile the seccomp profile")]
    Seccomp(#[source] sys::seccomp::Error),
    /// Something the plan needs could not be prepared.
    #[error("prepare {what}")]
    Prepare {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes the plan of a container without hooks.
pub fn plan<'a>(request: &Request<'a>, cache: &mut SeccompCache) -> Result<Plan<'a>, PlanError> {
    plan_with_hooks(request, &HookPlan::default(), cache)
}

/// Makes the plan of a container.
pub fn plan_with_hooks<'a>(
    request: &Request<'a>,
    hooks: &HookPlan<'a>,
    cache: &mut SeccompCache,
) -> Result<Plan<'a>, PlanError> {
    let mut builder = Builder::new(request)?;
    refuse::container(request.spec, builder.linux, hooks)?;
    refuse::mount_label(builder.linux, request.host)?;
    builder.host()?;
    let mounts = builder.prepare_mounts()?;
    let devices = builder.prepare_devices()?;
    builder.enter()?;
    builder.root()?;
    builder.attach_mounts(mounts)?;
    builder.attach_devices(devices)?;
    builder.protect_paths()?;
    if hooks.pause {
        builder.parts.push(Op::AskToGoOn);
    }
    process::create_container_hooks(&mut builder.parts, hooks)?;
    builder.pivot()?;
    let process = request.spec.process().as_ref().ok_or(PlanError::Missing("process"))?;
    let subject = process::Subject {
        process,
        inherited_capabilities: None,
        seccomp: builder.linux.seccomp().as_ref(),
        personality: builder.linux.personality().as_ref(),
        memory_policy: builder.linux.memory_policy().as_ref(),
        keyring: request.keyring,
        stdio: request.stdio,
        env_bytes: request.env_bytes,
        program: request.program,
        hold: request.hold,
        preserve_fds: request.preserve_fds,
        own_user_namespace: builder.own_user,
        console: true,
        root: ROOT,
        hooks: *hooks,
    };
    process::finish(&mut builder.parts, &subject, request.host, cache)?;
    let Parts { steps, files, warnings, .. } = builder.parts;
    let script = Script {
        clone_flags: builder.clone_flags,
        pid_namespace: builder.pid_namespace,
        cgroup: builder.cgroup,
        steps,
        files,
    };
    Ok(Plan { script, maps: builder.maps, warnings })
}

/// The host's procfs.
const PROC: Slot = Slot(0);
/// The container's root.
const ROOT: Slot = Slot(1);
/// The first slot for other things.
const FIRST_FREE: u16 = 2;

/// A plan in the making: what every part adds to.
#[derive(Debug, Default)]
struct Parts<'a> {
    steps: Vec<Step>,
    files: Files<'a>,
    warnings: Vec<String>,
    next_slot: u16,
}

impl Parts<'_> {
    fn push(&mut self, op: Op) {
        self.steps.push(op.into());
    }

    fn slot(&mut self) -> Slot {
        let slot = Slot(self.next_slot);
        self.next_slot += 1;
        slot
    }
}

#[derive(Debug)]
struct Builder<'r, 'a> {
    request: &'r Request<'a>,
    linux: &'a Linux,
    parts: Parts<'a>,
    clone_flags: i32,
    pid_namespace: Option<Fd>,
    cgroup: Option<Fd>,
    /// Namespaces to join, the user namespace first.
    joins: Vec<(Kind, Fd)>,
    /// Namespaces to make anew after that.
    fresh: Vec<Kind>,
    /// Whether the container has a user namespace other than ours.
    own_user: bool,
    maps: IdMaps,
    /// `/dev/null` and the empty directory that masked paths are hidden behind.
    masks: Option<(Slot, Slot)>,
}

impl<'r, 'a> Builder<'r, 'a> {
    fn new(request: &'r Request<'a>) -> Result<Builder<'r, 'a>, PlanError> {
        let linux = request.spec.linux().as_ref().ok_or(PlanError::Missing("linux section"))?;
        let mut builder = Builder {
            request,
            linux,
            parts: Parts { next_slot: FIRST_FREE, ..Parts::default() },
            clone_flags: 0,
            pid_namespace: None,
            cgroup: None,
            joins: Vec::new(),
            fresh: Vec::new(),
            own_user: false,
            maps: IdMaps::default(),
            masks: None,
        };
        builder.sort_namespaces()?;
        Ok(builder)
    }

    /// Decides which namespaces are joined, which come of the clone and which are made after it.
    fn sort_namespaces(&mut self) -> Result<(), PlanError> {
        for (kind, namespace) in &self.request.join {
            let fd = self.parts.files.borrow(*namespace);
            self.join(*kind, fd);
        }
        for namespace in self.linux.namespaces().as_deref().unwrap_or_default() {
            let kind = kind_of(namespace.typ());
            if self.request.join.iter().any(|(joined, _)| *joined == kind) {
                continue;
            }
            match namespace.path() {
                None => self.make(kind)?,
                Some(path) => {
                    let opened = sys::ns::open_path(path)
                        .map_err(|source| PlanError::Prepare { what: "a namespace given by path", source })?;
                    let fd = self.parts.files.own(opened);
                    self.join(kind, fd);
                }
            }
        }
        self.check_namespaces()?;
        if !self.fresh.contains(&Kind::Mount) {
            return Err(PlanError::Unsupported("a container without a mount namespace of its own".into()));
        }
        self.joins.sort_by_key(|(kind, _)| *kind != Kind::User);
        Ok(())
    }

    fn join(&mut self, kind: Kind, fd: Fd) {
        self.own_user |= kind == Kind::User;
        if kind == Kind::Pid {
            self.pid_namespace = Some(fd);
        } else {
            self.joins.push((kind, fd));
        }
    }

    fn make(&mut self, kind: Kind) -> Result<(), PlanError> {
        match kind {
            // Only a clone puts a process into a new one.
            Kind::Pid => self.clone_flags |= kind.clone_flag(),
            Kind::User => {
                self.own_user = true;
                self.maps = IdMaps::from_spec(
                    self.linux.uid_mappings().as_deref(),
                    self.linux.gid_mappings().as_deref(),
                );
                if self.maps.uids.is_empty() || self.maps.gids.is_empty() {
                    return Err(PlanError::Invalid(
                        "a new user namespace needs maps of users and groups".into(),
                    ));
                }
            }
            Kind::Mount | Kind::Uts | Kind::Ipc | Kind::Net | Kind::Cgroup | Kind::Time => {
                self.fresh.push(kind);
            }
        }
        Ok(())
    }

    /// Whether the clone makes the PID namespace, which then belongs to our user namespace.
    fn fresh_pid(&self) -> bool {
        self.clone_flags & Kind::Pid.clone_flag() != 0
    }

    /// What is done with the privileges of the host.
    fn host(&mut self) -> Result<(), PlanError> {
        self.parts.push(Op::Dumpable(false));
        self.parts.push(Op::Umask(0));
        let joining = common::join_cgroups(&self.request.cgroups, &mut self.parts.files)?;
        self.cgroup = joining.birthplace;
        self.parts.steps.extend(joining.steps);
        self.parts.steps.extend(common::open_proc(PROC));
        let process = self.request.spec.process().as_ref().ok_or(PlanError::Missing("process"))?;
        self.parts.steps.extend(process.oom_score_adj().map(|score| common::oom_score(PROC, score)));
        process::early_rlimits(&mut self.parts, process);
        match self.request.rootfs {
            Rootfs::Path(path) => self.parts.push(Op::CloneTree {
                slot: ROOT,
                directory: Fd::Cwd,
                path: c_path(&self.request.bundle.join(path))?,
                recursive: true,
            }),
            Rootfs::Detached(_) => {}
        }
        Ok(())
    }

    /// The container's namespaces.
    fn enter(&mut self) -> Result<(), PlanError> {
        for (kind, fd) in std::mem::take(&mut self.joins) {
            self.parts.push(Op::Join { fd, flags: kind.clone_flag() });
        }
        if !self.maps.is_empty() {
            self.parts.push(Op::Unshare { flags: Kind::User.clone_flag() });
            self.parts.push(Op::AskForMaps);
        }
        if self.own_user {
            self.parts.push(Op::BecomeRoot);
        }
        let flags = self.fresh.iter().fold(0, |flags, kind| flags | kind.clone_flag());
        self.parts.push(Op::Unshare { flags });
        self.time_offsets()?;
        let spec = self.request.spec;
        let names =
            [(spec.hostname(), Op::Hostname as fn(Vec<u8>) -> Op), (spec.domainname(), Op::Domainname)];
        for (name, op) in names {
            self.parts.steps.extend(name.as_ref().map(|name| op(name.as_bytes().to_vec()).into()));
        }
        // Sorted, so that the plan of one specification is always the same.
        let mut sysctls: Vec<_> = self.linux.sysctl().iter().flatten().collect();
        sysctls.sort();
        for (name, value) in sysctls {
            self.check_sysctl(name)?;
            self.parts.steps.push(common::sysctl(PROC, name, value)?);
        }
        Ok(())
    }

    fn time_offsets(&mut self) -> Result<(), PlanError> {
        if !self.fresh.contains(&Kind::Time) {
            return Ok(());
        }
        let mut offsets: Vec<_> = self.linux.time_offsets().iter().flatten().collect();
        offsets.sort_by_key(|(clock, _)| clock.as_str());
        for (clock, offset) in offsets {
            let line = format!("{clock} {} {}", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            self.parts.steps.push(common::write_proc(PROC, "self/timens_offsets", line.into_bytes())?);
        }
        Ok(())
    }

    /// A parameter that is not the container's own would be changed for the whole machine.
    fn check_sysctl(&self, name: &str) -> Result<(), PlanError> {
        let path = common::sysctl_path(name);
        let own = |kind: Kind| {
            self.fresh.contains(&kind)
                || self
                    .parts
                    .steps
                    .iter()
                    .any(|step| matches!(&step.op, Op::Join { flags, .. } if *flags == kind.clone_flag()))
        };
        let ipc = ["kernel/msg", "kernel/shm", "kernel/sem", "fs/mqueue/"];
        let fine = if path.starts_with("net/") {
            own(Kind::Net)
        } else if ipc.iter().any(|prefix| path.starts_with(prefix)) {
            own(Kind::Ipc)
        } else if path == "kernel/domainname" {
            own(Kind::Uts)
        } else {
            // Those of a user namespace are limits that only shrink.
            path.starts_with("user/") && self.own_user
        };
        if fine && !path.split('/').any(|part| part == "..") {
            return Ok(());
        }
        Err(PlanError::Invalid(format!(
            "kernel parameter {name} does not belong to a namespace of the container"
        )))
    }

    /// Puts the container's root over ours; nothing of either spreads to the other.
    fn root(&mut self) -> Result<(), PlanError> {
        let private = MountChange {
            propagation: Propagation::Private.flag(),
            recursive: true,
            ..MountChange::default()
        };
        self.parts.push(Op::SetRoot { change: private });
        let root = match self.request.rootfs {
            Rootfs::Path(_) => Fd::Slot(ROOT),
            Rootfs::Detached(mount) => self.parts.files.borrow(mount),
        };
        let propagation = match self.rootfs_propagation()? {
            // A shared mount cannot become a root; it is made shared at the end.
            Some((Propagation::Slave, _)) => Propagation::Slave,
            _ => Propagation::Private,
        };
        let change =
            MountChange { propagation: propagation.flag(), recursive: true, ..MountChange::default() };
        self.parts.push(Op::SetMount { fd: root, change });
        self.parts.push(Op::AttachRoot { mount: root });
        // The descriptor may be that of a path; what counts from here on is the mount just attached.
        if let Fd::File(_) = root {
            self.parts.push(Op::Open {
                slot: ROOT,
                directory: root,
                path: c".".into(),
                flags: DIRECTORY_FLAGS,
                resolve: resolve::ANY,
            });
        }
        Ok(())
    }

    fn rootfs_propagation(&self) -> Result<Option<(Propagation, bool)>, PlanError> {
        let Some(word) = self.linux.rootfs_propagation().as_deref().filter(|word| !word.is_empty()) else {
            return Ok(None);
        };
        let parsed = Options::parse(&[word.to_owned()])?;
        match parsed.propagation.first() {
            Some(propagation) => Ok(Some(*propagation)),
            None => Err(PlanError::Invalid(format!("{word} is no propagation of the root file system"))),
        }
    }

    /// Masked and read-only paths; then the root itself.
    fn protect_paths(&mut self) -> Result<(), PlanError> {
        if let Some(process) = self.request.spec.process()
            && process.cwd() != Path::new("/")
        {
            self.parts.push(Op::MakeDirectory { root: Fd::Slot(ROOT), target: Target::new(process.cwd())? });
        }
        for path in self.linux.readonly_paths().as_deref().unwrap_or_default() {
            self.parts.push(Op::Freeze { root: Fd::Slot(ROOT), target: Target::new(Path::new(path))? });
        }
        if let Some((null, empty)) = self.masks {
            for path in self.linux.masked_paths().as_deref().unwrap_or_default() {
                let target = Target::new(Path::new(path))?;
                self.parts.push(Op::Mask { root: Fd::Slot(ROOT), target, null, empty });
            }
        }
        let readonly = self.request.spec.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false));
        if readonly {
            let change = MountChange { set: sys::mount::Attributes::RDONLY.0, ..MountChange::default() };
            self.parts.push(Op::SetMount { fd: Fd::Slot(ROOT), change });
        }
        Ok(())
    }

    fn pivot(&mut self) -> Result<(), PlanError> {
        self.parts.push(Op::Pivot { root: Fd::Slot(ROOT) });
        if let Some((propagation, recursive)) = self.rootfs_propagation()?
            && propagation != Propagation::Private
        {
            let change = MountChange { propagation: propagation.flag(), recursive, ..MountChange::default() };
            self.parts.push(Op::SetRoot { change });
        }
        Ok(())
    }
}

/// `O_PATH | O_DIRECTORY`.
const DIRECTORY_FLAGS: i32 = 0o10_000_000 | DIRECTORY_FLAG;
#[cfg(not(target_arch = "aarch64"))]
const DIRECTORY_FLAG: i32 = 0o200_000;
#[cfg(target_arch = "aarch64")]
const DIRECTORY_FLAG: i32 = 0o40_000;

fn kind_of(typ: LinuxNamespaceType) -> Kind {
    match typ {
        LinuxNamespaceType::Mount => Kind::Mount,
        LinuxNamespaceType::Cgroup => Kind::Cgroup,
        LinuxNamespaceType::Uts => Kind::Uts,
        LinuxNamespaceType::Ipc => Kind::Ipc,
        LinuxNamespaceType::User => Kind::User,
        LinuxNamespaceType::Pid => Kind::Pid,
        LinuxNamespaceType::Network => Kind::Net,
        LinuxNamespaceType::Time => Kind::Time,
    }
}

fn c_path(path: &Path) -> Result<CString, NulError> {
    CString::new(path.as_os_str().as_bytes())
}

/// `path` as it is named inside the root, without `.` and `..`.
fn inside(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}
