//! Being the parent of other processes' orphans: subreaper, the queue of dead children, limits.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use crate::pidfd::WaitStatus;

/// Makes this process adopt descendants whose parent has died (PR_SET_CHILD_SUBREAPER).
pub fn adopt_orphans() -> io::Result<()> {
    let own = rustix::process::getpid();
    Ok(rustix::process::set_child_subreaper(Some(own))?)
}

/// The pid of a child that has ended and was not waited for, if there is one. It stays a zombie, so the pid
/// cannot have been given to another process yet.
pub fn peek_dead_child() -> io::Result<Option<u32>> {
    wait(libc::P_ALL, 0, libc::WNOWAIT).map(|found| found.map(|(pid, _)| pid))
}

/// Reaps the child `pid`; `None` while it runs.
pub fn reap(pid: u32) -> io::Result<Option<WaitStatus>> {
    wait(libc::P_PID, pid, 0).map(|found| found.map(|(_, status)| status))
}

/// Raises the limit of open files to the highest the system allows and returns it.
pub fn raise_open_files() -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let old = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: old.maximum, maximum: old.maximum };
    setrlimit(Resource::Nofile, wanted)?;
    Ok(old.maximum.unwrap_or(u64::MAX))
}

/// Sets the adjustment of this process' OOM score.
pub fn set_oom_score_adj(value: i32) -> io::Result<()> {
    use std::io::Write;
    std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj")?
        .write_all(value.to_string().as_bytes())
}

/// Takes ownership of a descriptor that the program executed before this one left open, and marks it
/// close-on-exec. Each number may be inherited once.
pub fn inherit(number: i32) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a standard stream is not inherited"));
    }
    // SAFETY: asking for the flags of any number is harmless; it fails if nothing is open there.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, was left by the previous program for this one, and this program gives
    // its number to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    crate::pipe::set_cloexec(fd.as_fd(), true)?;
    Ok(fd)
}

/// Sets whether descriptors stay open when this process executes another program.
pub fn keep_across_exec(numbers: &[i32], keep: bool) -> io::Result<()> {
    for number in numbers {
        // SAFETY: changes a flag of a descriptor; fails if nothing is open under the number.
        let result = unsafe { libc::fcntl(*number, libc::F_SETFD, if keep { 0 } else { libc::FD_CLOEXEC }) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Own effective user id.
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn wait(kind: libc::idtype_t, id: u32, flags: i32) -> io::Result<Option<(u32, WaitStatus)>> {
    // SAFETY: siginfo_t is plain data, for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in the siginfo, which outlives the call.
    let result = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOHANG | flags) };
    if result != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) };
    }
    // SAFETY: waitid filled in the fields of SIGCHLD, or left them zero when no child has ended (waitid(2)).
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let status = if info.si_code == libc::CLD_EXITED {
        WaitStatus::Exited(status)
    } else {
        WaitStatus::Signaled(status)
    };
    Ok(u32::try_from(pid).ok().filter(|pid| *pid != 0).map(|pid| (pid, status)))
}
