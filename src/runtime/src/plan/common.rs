//! Operations that plans of several kinds have in common.

use std::ffi::{CString, NulError};
use std::path::PathBuf;

use sys::process::{Fd, Files, Op, Slot, Step, resolve};

use super::{DIRECTORY_FLAGS, PlanError, c_path};

/// Files of a verified procfs, `self` being followed.
const WITHIN: u64 = 0x01 | 0x02 | 0x08;
const PROC_SUPER_MAGIC: u64 = 0x9fa0;
const EPERM: i32 = 1;
const EACCES: i32 = 13;

/// Opens the host's procfs and makes sure that it is one.
pub(crate) fn open_proc(slot: Slot) -> [Step; 2] {
    let path = CString::from(c"/proc");
    [
        Op::Open { slot, directory: Fd::Cwd, path, flags: DIRECTORY_FLAGS, resolve: resolve::ANY }.into(),
        Op::RequireFs { fd: Fd::Slot(slot), magic: PROC_SUPER_MAGIC }.into(),
    ]
}

/// Writes to a file below the host's procfs.
pub(crate) fn write_proc(proc: Slot, path: &str, bytes: Vec<u8>) -> Result<Step, NulError> {
    let path = CString::new(path)?;
    Ok(Op::Write { directory: Fd::Slot(proc), path, resolve: WITHIN, bytes }.into())
}

/// Opens a file below the host's procfs for writing later.
pub(crate) fn open_in_proc(proc: Slot, slot: Slot, path: &str) -> Result<Step, NulError> {
    const WRITE_ONLY: i32 = 1;
    let path = CString::new(path)?;
    Ok(Op::Open { slot, directory: Fd::Slot(proc), path, flags: WRITE_ONLY, resolve: WITHIN }.into())
}

/// Sets the OOM score. Below that of the runtime it takes a privilege; without it ours is kept.
pub(crate) fn oom_score(proc: Slot, score: i32) -> Step {
    let path = CString::from(c"self/oom_score_adj");
    let bytes = score.to_string().into_bytes();
    let op = Op::Write { directory: Fd::Slot(proc), path, resolve: WITHIN, bytes };
    Step { op, tolerate: &[EPERM, EACCES] }
}

/// How a child gets into its cgroups.
pub(crate) struct Joining {
    /// The cgroup v2 directory that it is born in.
    pub(crate) birthplace: Option<Fd>,
    /// How it joins the others.
    pub(crate) steps: Vec<Step>,
}

/// Joins cgroups without the kernel's lock over all forks, for which it would wait until every CPU was quiet,
/// some 10 ms: a child is born into one of v2, and in v1 a thread that moves itself alone, by `tasks`, needs no
/// lock. The child has one thread.
pub(crate) fn join_cgroups(directories: &[PathBuf], files: &mut Files<'_>) -> Result<Joining, NulError> {
    let mut joining = Joining { birthplace: None, steps: Vec::new() };
    for directory in directories {
        let tasks = directory.join("tasks");
        let is_v1 = tasks.try_exists().unwrap_or(false);
        if !is_v1
            && joining.birthplace.is_none()
            && let Ok(opened) = std::fs::File::open(directory)
        {
            joining.birthplace = Some(files.own(opened.into()));
            continue;
        }
        let path = c_path(&if is_v1 { tasks } else { directory.join("cgroup.procs") })?;
        let join = Op::Write { directory: Fd::Cwd, path, resolve: resolve::ANY, bytes: b"0".to_vec() };
        joining.steps.push(join.into());
    }
    Ok(joining)
}

/// Sets a kernel parameter.
pub(crate) fn sysctl(proc: Slot, name: &str, value: &str) -> Result<Step, PlanError> {
    Ok(write_proc(proc, &format!("sys/{}", sysctl_path(name)), value.as_bytes().to_vec())?)
}

/// The path of a kernel parameter: the first separator decides which one the name uses, as in sysctl(8).
pub(crate) fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name.as_bytes().get(first) == Some(&b'.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}
