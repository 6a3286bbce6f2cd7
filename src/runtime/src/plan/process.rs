//! The last part of every plan: from a root file system to a program.

use std::ffi::{CString, NulError};
use std::os::fd::BorrowedFd;

use oci::runtime::{
    Capabilities as Names, Hook, IOPriorityClass, LinuxCapabilities, LinuxMemoryPolicy, LinuxPersonality,
    LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, LinuxSeccomp, MemoryPolicyFlagType,
    MemoryPolicyModeType, PosixRlimitType, Process,
};
use sys::caps::Set;
use sys::process::{Capabilities, Exec, Fd, Op, Program, Scheduler, Slot, Step, Target};

use super::{PROC, Parts, PlanError, common, refuse};
use crate::bits;
use crate::host::Host;
use crate::request::{Hold, HookPlan, Stdio};
use crate::seccomp::SeccompCache;

const EPERM: i32 = 1;
const EACCES: i32 = 13;

/// A process to run, and where.
pub(super) struct Subject<'s, 'a> {
    pub(super) process: &'s Process,
    /// Capabilities of a process that names none of its own.
    pub(super) inherited_capabilities: Option<&'s LinuxCapabilities>,
    pub(super) seccomp: Option<&'s LinuxSeccomp>,
    pub(super) personality: Option<&'s LinuxPersonality>,
    pub(super) memory_policy: Option<&'s LinuxMemoryPolicy>,
    /// Name of its session keyring.
    pub(super) keyring: Option<&'s str>,
    pub(super) stdio: Stdio<'a>,
    pub(super) env_bytes: &'s [Vec<u8>],
    pub(super) program: Option<BorrowedFd<'a>>,
    pub(super) hold: Hold<'a>,
    pub(super) preserve_fds: u32,
    /// Whether it lives in a user namespace other than ours, where it can hold every capability.
    pub(super) own_user_namespace: bool,
    /// Whether the terminal becomes `/dev/console`.
    pub(super) console: bool,
    pub(super) root: Slot,
    pub(super) hooks: HookPlan<'a>,
}

/// Limits that do not get in the way of the set-up.
pub(super) fn early_rlimits(parts: &mut Parts<'_>, process: &Process) {
    rlimits(parts, process, |typ| typ != PosixRlimitType::RlimitNofile);
}

fn rlimits(parts: &mut Parts<'_>, process: &Process, wanted: impl Fn(PosixRlimitType) -> bool) {
    for limit in process.rlimits().as_deref().unwrap_or_default() {
        if !wanted(limit.typ()) {
            continue;
        }
        let op = Op::Rlimit { resource: resource(limit.typ()), soft: limit.soft(), hard: limit.hard() };
        // Raising a hard limit takes a privilege; without it the limit stays what it is.
        parts.steps.push(Step { op, tolerate: &[EPERM] });
    }
}

/// Everything after the mounts.
pub(super) fn finish<'a>(
    parts: &mut Parts<'a>,
    subject: &Subject<'_, 'a>,
    host: &Host,
    cache: &mut SeccompCache,
) -> Result<(), PlanError> {
    let process = subject.process;
    refuse::process(process, host)?;
    let mut keep = Vec::new();
    let labels = open_labels(parts, process, &mut keep)?;
    streams(parts, subject)?;
    let program = program(parts, subject, &mut keep)?;
    let listener = match subject.hold {
        Hold::UntilConnected(socket) => Some(parts.files.borrow(socket)),
        Hold::No | Hold::UntilStarted => None,
    };
    keep.extend(listener);
    let hooks = hooks(parts, subject, &mut keep)?;
    parts.push(Op::CloseOthers { keep, preserve: subject.preserve_fds });
    let cwd = super::c_path(process.cwd())?;
    let tolerant = Step { op: Op::Chdir { path: cwd.clone() }, tolerate: &[EACCES] };
    parts.steps.push(tolerant);
    attributes(parts, subject)?;
    if !matches!(subject.hold, Hold::No) {
        parts.push(Op::Hold { listener });
    }
    parts.steps.extend(hooks);
    for (label, bytes) in labels {
        parts.push(Op::WriteTo { fd: label, bytes });
    }
    identity(parts, subject, host)?;
    // Root may have been refused where the user is not, as on a network file system.
    parts.push(Op::Chdir { path: cwd });
    parts.push(Op::Umask(process.user().umask().unwrap_or(0o022)));
    rlimits(parts, process, |typ| typ == PosixRlimitType::RlimitNofile);
    if let Some(profile) = subject.seccomp {
        seccomp(parts, profile, cache)?;
    }
    let exec = Exec {
        program,
        arguments: arguments(process)?,
        environment: environment(process, subject.env_bytes)?,
    };
    parts.push(Op::Exec(exec));
    Ok(())
}

/// Opens where the labels of security modules are written, while the procfs is the host's.
fn open_labels(
    parts: &mut Parts<'_>,
    process: &Process,
    keep: &mut Vec<Fd>,
) -> Result<Vec<(Fd, Vec<u8>)>, PlanError> {
    let apparmor =
        process.apparmor_profile().as_deref().filter(|name| !name.is_empty() && *name != "unconfined");
    let selinux = process.selinux_label().as_deref().filter(|label| !label.is_empty());
    let labels = [
        ("self/attr/apparmor/exec", apparmor.map(|name| format!("exec {name}"))),
        ("self/attr/exec", selinux.map(str::to_owned)),
    ];
    let mut opened = Vec::new();
    for (path, label) in labels {
        let Some(label) = label else { continue };
        let slot = parts.slot();
        parts.steps.push(common::open_in_proc(PROC, slot, path)?);
        keep.push(Fd::Slot(slot));
        opened.push((Fd::Slot(slot), label.into_bytes()));
    }
    Ok(opened)
}

/// Sets the processors that the child may use.
pub(super) fn affinity(parts: &mut Parts<'_>, what: &str, list: Option<&str>) -> Result<(), PlanError> {
    if let Some(list) = list.filter(|list| !list.is_empty()) {
        parts.push(Op::CpuAffinity(bits::mask(what, list)?));
    }
    Ok(())
}

/// The programs of the host that run in the namespaces of the container while it is created.
pub(super) fn create_container_hooks<'a>(
    parts: &mut Parts<'a>,
    hooks: &HookPlan<'a>,
) -> Result<(), PlanError> {
    let Some(state) = hooks.state.filter(|_| !hooks.create_container.is_empty()) else { return Ok(()) };
    let stdin = parts.files.borrow(state);
    for hook in hooks.create_container {
        parts.steps.push(run_hook(hook, stdin)?);
    }
    Ok(())
}

/// The programs that run in the container before its own.
fn hooks<'a>(
    parts: &mut Parts<'a>,
    subject: &Subject<'_, 'a>,
    keep: &mut Vec<Fd>,
) -> Result<Vec<Step>, PlanError> {
    let Some(state) = subject.hooks.state else { return Ok(Vec::new()) };
    let stdin = parts.files.borrow(state);
    keep.push(stdin);
    subject.hooks.start_container.iter().map(|hook| run_hook(hook, stdin)).collect()
}

fn run_hook(hook: &Hook, stdin: Fd) -> Result<Step, PlanError> {
    let texts = |texts: &Option<Vec<String>>| {
        texts.iter().flatten().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, NulError>>()
    };
    let path = super::c_path(hook.path())?;
    let mut arguments = texts(hook.args())?;
    if arguments.is_empty() {
        arguments.push(path.clone());
    }
    let exec = Exec { program: Program::Paths(vec![path]), arguments, environment: texts(hook.env())? };
    let timeout_seconds = match hook.timeout() {
        None => 0,
        Some(seconds) => u32::try_from(seconds).ok().filter(|seconds| *seconds > 0).ok_or_else(|| {
            PlanError::Invalid(format!("the timeout of hook {} is not above 0", hook.path().display()))
        })?,
    };
    Ok(Op::RunHook(sys::process::Hook { exec, stdin, timeout_seconds }).into())
}

fn streams<'a>(parts: &mut Parts<'a>, subject: &Subject<'_, 'a>) -> Result<(), PlanError> {
    let uid = subject.process.user().uid();
    let root = Fd::Slot(subject.root);
    match subject.stdio {
        Stdio::Fds { stdin, stdout, stderr } => {
            parts.push(Op::NewSession);
            let files = [stdin, stdout, stderr].map(|stream| parts.files.borrow(stream));
            parts.push(Op::Stdio(files));
            parts.push(Op::OwnStdio { uid });
        }
        Stdio::Terminal { columns, rows } => {
            let (master, slave) = (parts.slot(), parts.slot());
            parts.push(Op::OpenTerminal { root, master, slave, size: (columns, rows), uid });
            parts.push(Op::SendConsole { master });
            if subject.console {
                let target = Target::without_links(std::path::Path::new("/dev/console"))?;
                parts.push(Op::BindConsole { root, slave, target });
            }
            parts.push(Op::NewSession);
            parts.push(Op::ControllingTerminal { slave });
            parts.push(Op::Stdio([Fd::Slot(slave); 3]));
        }
    }
    Ok(())
}

fn attributes(parts: &mut Parts<'_>, subject: &Subject<'_, '_>) -> Result<(), PlanError> {
    let process = subject.process;
    if let Some(name) = subject.keyring {
        /// A kernel without keys.
        const ENOSYS: i32 = 38;
        let op = Op::SessionKeyring(CString::new(name)?);
        parts.steps.push(Step { op, tolerate: &[ENOSYS] });
    }
    if let Some(policy) = subject.memory_policy {
        parts.push(memory_policy(policy)?);
    }
    if let Some(personality) = subject.personality {
        refuse::personality(personality)?;
        /// `PER_LINUX32`.
        const LINUX32: u64 = 8;
        parts.push(Op::Personality(match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => LINUX32,
        }));
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u32::try_from(priority.priority())
            .ok()
            .filter(|level| *level < 8)
            .ok_or_else(|| PlanError::Invalid(format!("{} is no io priority", priority.priority())))?;
        parts.push(Op::IoPriority(class << 13 | level));
    }
    if let Some(scheduler) = process.scheduler() {
        parts.push(Op::Scheduler(scheduler_of(scheduler)?));
    }
    Ok(())
}

/// As set_mempolicy(2) numbers them.
fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<Op, PlanError> {
    let mode: u32 = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1_u32 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let flags = policy.flags().iter().flatten().fold(0, |flags, one| flags | flag(one));
    let nodes = match policy.nodes().as_deref().filter(|nodes| !nodes.is_empty()) {
        Some(nodes) => bits::mask("linux.memoryPolicy.nodes", nodes)?,
        None => Vec::new(),
    };
    Ok(Op::MemoryPolicy { mode: mode | flags, nodes })
}

fn scheduler_of(scheduler: &oci::runtime::Scheduler) -> Result<Scheduler, PlanError> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    let priority = scheduler.priority().unwrap_or(0);
    let priority = u32::try_from(priority)
        .map_err(|_| PlanError::Invalid(format!("{priority} is no priority of process.scheduler")))?;
    Ok(Scheduler {
        policy,
        flags: scheduler.flags().iter().flatten().fold(0, |flags, one| flags | flag(one)),
        nice: scheduler.nice().unwrap_or(0),
        priority,
        deadline_ns: [scheduler.runtime(), scheduler.deadline(), scheduler.period()]
            .map(|time| time.unwrap_or(0)),
    })
}

/// Privileges go down to what the program gets. A filter needs the right to install it to the end; exec takes
/// that away, since it is neither in the bounding nor in the ambient set.
fn identity(parts: &mut Parts<'_>, subject: &Subject<'_, '_>, host: &Host) -> Result<(), PlanError> {
    let process = subject.process;
    let user = process.user();
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let wanted = process.capabilities().as_ref().or(subject.inherited_capabilities);
    let grantable = if subject.own_user_namespace { Set::known() } else { host.grantable() };
    let set = |names: Option<&Names>| names.map_or(Set::EMPTY, numbers);
    let (bounding, effective, permitted, ambient) = match wanted {
        Some(caps) => (
            set(caps.bounding().as_ref()),
            set(caps.effective().as_ref()),
            set(caps.permitted().as_ref()),
            set(caps.ambient().as_ref()),
        ),
        None => Default::default(),
    };
    let inheritable = wanted.map_or(Set::EMPTY, |caps| set(caps.inheritable().as_ref()));
    let beyond = inheritable.without(ambient);
    if !beyond.is_empty() {
        let names: Vec<_> = beyond.names().collect();
        parts.warnings.push(format!(
            "process.capabilities.inheritable: {} is not ambient and would serve nothing but attacks: left out",
            names.join(", ")
        ));
    }
    let missing = (bounding | effective | permitted | ambient).without(grantable);
    if !missing.is_empty() {
        let names: Vec<_> = missing.names().collect();
        parts
            .warnings
            .push(format!("the runtime does not hold {}: the process goes without", names.join(", ")));
    }
    let mut ambient = ambient & grantable;
    let mut permitted = permitted & grantable;
    let mut effective = effective & permitted;
    ambient = ambient & permitted;
    if no_new_privileges {
        parts.push(Op::NoNewPrivileges);
    } else if subject.seccomp.is_some() {
        let install = Set::named("SYS_ADMIN").unwrap_or_default();
        permitted = permitted | install;
        effective = effective | install;
    }
    let groups = user.additional_gids().clone().unwrap_or_default();
    parts.push(Op::Bounding { keep: (bounding & grantable).0 });
    parts.push(Op::Identity { uid: user.uid(), gid: user.gid(), groups: Some(groups) });
    parts.push(Op::Capabilities(Capabilities {
        effective: effective.0,
        permitted: permitted.0,
        // Inheritable capabilities beyond the ambient ones serve nothing but attacks.
        inheritable: ambient.0,
    }));
    parts.push(Op::Ambient(ambient.0));
    Ok(())
}

fn numbers(names: &Names) -> Set {
    names.iter().filter_map(|name| Set::named(&name.to_string())).fold(Set::EMPTY, |set, one| set | one)
}

fn seccomp(parts: &mut Parts<'_>, profile: &LinuxSeccomp, cache: &mut SeccompCache) -> Result<(), PlanError> {
    refuse::seccomp(profile)?;
    let program = cache.program(profile).map_err(PlanError::Seccomp)?;
    if program.notifies() {
        return Err(PlanError::Unsupported("a seccomp profile with notifications".into()));
    }
    // Names that no architecture of the profile has are left out without a word: profiles are written for all
    // architectures, and a call that does not exist needs no rule.
    let flags = u64::from(program.flags().bits());
    parts.push(Op::Seccomp { program: program.instructions().into(), flags, notify: None });
    Ok(())
}

fn program<'a>(
    parts: &mut Parts<'a>,
    subject: &Subject<'_, 'a>,
    keep: &mut Vec<Fd>,
) -> Result<Program, PlanError> {
    if let Some(file) = subject.program {
        let file = parts.files.borrow(file);
        keep.push(file);
        return Ok(Program::File(file));
    }
    let name = subject.process.args().as_deref().unwrap_or_default().first().filter(|name| !name.is_empty());
    let name = name.ok_or(PlanError::Missing("process arguments"))?;
    if name.contains('/') {
        return Ok(Program::Paths(vec![CString::new(name.as_str())?]));
    }
    let path = search_path(subject);
    let candidate = |directory: &[u8]| CString::new([directory, b"/", name.as_bytes()].concat());
    let directories = path.split(|byte| *byte == b':').filter(|directory| directory.starts_with(b"/"));
    Ok(Program::Paths(directories.map(candidate).collect::<Result<_, NulError>>()?))
}

/// The `PATH` of the program's own environment.
fn search_path(subject: &Subject<'_, '_>) -> Vec<u8> {
    const FALLBACK: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let texts = subject.process.env().iter().flatten().map(|entry| entry.as_bytes());
    let all = texts.chain(subject.env_bytes.iter().map(Vec::as_slice));
    let mut paths = all.filter_map(|entry| entry.strip_prefix(b"PATH="));
    paths.next_back().unwrap_or(FALLBACK).to_vec()
}

fn arguments(process: &Process) -> Result<Vec<CString>, NulError> {
    process.args().iter().flatten().map(|argument| CString::new(argument.as_str())).collect()
}

fn environment(process: &Process, bytes: &[Vec<u8>]) -> Result<Vec<CString>, NulError> {
    let texts = process.env().iter().flatten().map(|entry| CString::new(entry.as_str()));
    texts.chain(bytes.iter().map(|entry| CString::new(entry.clone()))).collect()
}

fn resource(typ: PosixRlimitType) -> u32 {
    match typ {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}
