//! One more process in a container that runs.

use std::os::fd::{AsFd, BorrowedFd};

use sys::ns::Kind;
use sys::process::{Fd, Op, Script, resolve};

use super::process::{self, Subject, early_rlimits, finish};
use super::{DIRECTORY_FLAGS, FIRST_FREE, PROC, Parts, Plan, PlanError, ROOT, common};
use crate::request::{ExecRequest, Hold, HookPlan, IdMaps};
use crate::seccomp::SeccompCache;

/// Makes the plan of a process in a container.
///
/// The child is born in the container's PID namespace and joins all others at once by the pidfd, so it
/// cannot end up in those of another container that got the same pid.
pub fn plan_exec<'a>(request: &ExecRequest<'a>, cache: &mut SeccompCache) -> Result<Plan<'a>, PlanError> {
    let kinds = foreign_namespaces(request.pid)
        .map_err(|source| PlanError::Prepare { what: "the namespaces of the container", source })?;
    build(request, &kinds, cache)
}

fn build<'a>(
    request: &ExecRequest<'a>,
    kinds: &[Kind],
    cache: &mut SeccompCache,
) -> Result<Plan<'a>, PlanError> {
    let linux = request.spec.linux().as_ref().ok_or(PlanError::Missing("linux section"))?;
    let mut parts = Parts { next_slot: FIRST_FREE, ..Parts::default() };
    let container = parts.files.borrow(request.pidfd);
    let own_user = kinds.contains(&Kind::User);

    parts.push(Op::Dumpable(false));
    // The affinity of the way into the cgroup; there the cgroup's own takes its place.
    let affinity = request.process.exec_cpu_affinity().as_ref();
    let initial = affinity.and_then(|affinity| affinity.initial().as_deref());
    let last = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref());
    process::affinity(&mut parts, "process.execCPUAffinity.initial", initial)?;
    let joining = common::join_cgroups(&request.cgroups, &mut parts.files)?;
    parts.steps.extend(joining.steps);
    process::affinity(&mut parts, "process.execCPUAffinity.final", last)?;
    parts.steps.extend(common::open_proc(PROC));
    let score = request
        .process
        .oom_score_adj()
        .or_else(|| request.spec.process().as_ref().and_then(oci::runtime::Process::oom_score_adj));
    parts.steps.extend(score.map(|score| common::oom_score(PROC, score)));
    early_rlimits(&mut parts, request.process);
    let joined = kinds.iter().filter(|kind| **kind != Kind::Pid);
    let flags = joined.fold(0, |flags, kind| flags | kind.clone_flag());
    if flags != 0 {
        parts.push(Op::Join { fd: container, flags });
    }
    if own_user {
        parts.push(Op::BecomeRoot);
    }
    parts.push(Op::Open {
        slot: ROOT,
        directory: Fd::Cwd,
        path: c"/".into(),
        flags: DIRECTORY_FLAGS,
        resolve: resolve::ANY,
    });
    let container_process = request.spec.process().as_ref();
    let subject = Subject {
        process: request.process,
        inherited_capabilities: container_process.and_then(|process| process.capabilities().as_ref()),
        seccomp: linux.seccomp().as_ref(),
        personality: linux.personality().as_ref(),
        memory_policy: linux.memory_policy().as_ref(),
        keyring: request.keyring,
        stdio: request.stdio,
        env_bytes: request.env_bytes,
        program: None,
        hold: Hold::No,
        preserve_fds: request.preserve_fds,
        own_user_namespace: own_user,
        console: false,
        root: ROOT,
        hooks: HookPlan::default(),
    };
    finish(&mut parts, &subject, request.host, cache)?;
    let Parts { steps, files, warnings, .. } = parts;
    let pid_namespace = kinds.contains(&Kind::Pid).then_some(container);
    let script = Script { clone_flags: 0, pid_namespace, cgroup: joining.birthplace, steps, files };
    Ok(Plan { script, maps: IdMaps::default(), warnings })
}

/// Which namespaces of a process are not ours.
fn foreign_namespaces(pid: u32) -> std::io::Result<Vec<Kind>> {
    let mut kinds = Vec::new();
    for kind in Kind::ALL {
        let (own, theirs) = match (sys::ns::open_self(kind), sys::ns::open_of(pid, kind)) {
            (Ok(own), Ok(theirs)) => (own, theirs),
            // A kernel without this kind.
            (Err(error), _) if error.kind() == std::io::ErrorKind::NotFound => continue,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let identity = |fd: BorrowedFd<'_>| sys::ns::identity(fd);
        if identity(own.as_fd())? != identity(theirs.as_fd())? {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}
