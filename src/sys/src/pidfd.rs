//! Processes by file descriptor: signal, wait, exit status after reaping.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitStatus {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl WaitStatus {
    /// The exit code a shell would report: 128 + signal for a process that a signal ended.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            WaitStatus::Exited(code) => code,
            WaitStatus::Signaled(signal) => 128 + signal,
        }
    }

    /// From the status word of wait(2); `None` when it tells of a stop.
    #[must_use]
    pub fn from_raw(status: i32) -> Option<WaitStatus> {
        if libc::WIFEXITED(status) {
            Some(WaitStatus::Exited(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(WaitStatus::Signaled(libc::WTERMSIG(status)))
        } else {
            None
        }
    }
}

/// A descriptor for the process with this id. The id may have been reused: compare [`start_time`].
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// Sends a signal; `ESRCH` when the process is gone.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: pidfd_send_signal(2) with a null siginfo reads no memory; the descriptor is open for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the process has neither been reaped nor is a zombie.
pub fn is_running(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one pollfd is passed, with the matching count, and lives through the call.
        match unsafe { libc::poll(&raw mut poll, 1, 0) } {
            0 => return Ok(true),
            1.. => return Ok(false),
            _ => retry_interrupted()?,
        }
    }
}

/// Reaps a child, if it has ended.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<WaitStatus>> {
    wait_with(pidfd, libc::WEXITED | libc::WNOHANG)
}

/// Waits for a child to end and reaps it.
pub fn wait_blocking(pidfd: BorrowedFd<'_>) -> io::Result<WaitStatus> {
    loop {
        if let Some(status) = wait_with(pidfd, libc::WEXITED)? {
            return Ok(status);
        }
    }
}

/// Waits at most `timeout_ms` for any process to end, without reaping it; false when the time is over.
pub fn wait_readable(pidfd: BorrowedFd<'_>, timeout_ms: i32) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one pollfd is passed, with the matching count, and lives through the call.
        match unsafe { libc::poll(&raw mut poll, 1, timeout_ms) } {
            0 => return Ok(false),
            1.. => return Ok(true),
            _ => retry_interrupted()?,
        }
    }
}

fn retry_interrupted() -> io::Result<()> {
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

fn wait_with(pidfd: BorrowedFd<'_>, options: i32) -> io::Result<Option<WaitStatus>> {
    loop {
        // SAFETY: siginfo_t is plain data, for which all zeroes is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let id = pidfd.as_raw_fd().cast_unsigned();
        // SAFETY: waitid(2) writes one siginfo_t, which lives through the call.
        if unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, options) } < 0 {
            retry_interrupted()?;
            continue;
        }
        // SAFETY: waitid filled the SIGCHLD fields, or left the zeroes, of which si_pid tells.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        return Ok(match info.si_code {
            _ if pid == 0 => None,
            libc::CLD_EXITED => Some(WaitStatus::Exited(status)),
            libc::CLD_KILLED | libc::CLD_DUMPED => Some(WaitStatus::Signaled(status)),
            _ => None,
        });
    }
}

/// `struct pidfd_info` as of its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// The exit status of any process, also one that somebody else has reaped (`PIDFD_GET_INFO`, Linux 6.15).
///
/// `None` while it runs. A kernel that cannot tell gives `Unsupported`.
pub fn exit_info(pidfd: BorrowedFd<'_>) -> io::Result<Option<WaitStatus>> {
    /// `_IOWR(0xff, 11, struct pidfd_info)` with the 64 bytes of its first version.
    const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the ioctl reads and writes 64 bytes, the size of the struct, as the request number says.
    if unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) } < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // Reaped on a kernel that keeps no exit status, or no such ioctl.
            Some(libc::ESRCH | libc::ENOTTY | libc::EINVAL) => Err(io::ErrorKind::Unsupported.into()),
            _ => Err(error),
        };
    }
    if info.mask & PIDFD_INFO_EXIT != 0 {
        return Ok(WaitStatus::from_raw(info.exit_code));
    }
    Ok(None)
}

/// How a process ended that is not a child of ours and whose pidfd is readable, by number and start time: from
/// the kernel's memory of it, or from `/proc` while nobody has reaped it. `None` when neither tells yet.
pub fn status_of_stranger(
    pidfd: BorrowedFd<'_>,
    pid: u32,
    start_time: u64,
) -> io::Result<Option<WaitStatus>> {
    if let Ok(Some(status)) = exit_info(pidfd) {
        return Ok(Some(status));
    }
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    if let Some(status) = zombie.ok().and_then(|stat| parse_zombie(&stat, start_time)) {
        return Ok(Some(status));
    }
    // It may have been reaped between the two looks.
    exit_info(pidfd)
}

/// The status of a zombie: field 52, for whoever may trace the process (proc_pid_stat(5)).
fn parse_zombie(stat: &str, start_time: u64) -> Option<WaitStatus> {
    if parse_start_time(stat)? != start_time {
        return None;
    }
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    (fields.next()? == "Z").then_some(())?;
    WaitStatus::from_raw(fields.nth(48)?.parse().ok()?)
}

/// Field 22 of `/proc/PID/stat`: with the id it names a process for good.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The command name may hold spaces and parentheses, so fields are counted from the last `)`.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

pub(crate) fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the system call that returned this number made the descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn waits_for_a_child_and_knows_its_status_afterwards() {
        for (script, expected) in [
            ("exit 7", WaitStatus::Exited(7)),
            ("kill -9 $$", WaitStatus::Signaled(9)),
            ("exit 0", WaitStatus::Exited(0)),
        ] {
            #[expect(clippy::zombie_processes, reason = "reaped through its pidfd")]
            let child = std::process::Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
            let pidfd = open(child.id()).unwrap();
            assert_eq!(wait_blocking(pidfd.as_fd()).unwrap(), expected);
            match exit_info(pidfd.as_fd()) {
                Ok(status) => assert_eq!(status, Some(expected)),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
            }
            assert_eq!(signal(pidfd.as_fd(), 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        }
    }

    #[test]
    fn a_zombie_has_a_status_before_anybody_reaps_it() {
        for (script, expected) in [("exit 7", WaitStatus::Exited(7)), ("kill -9 $$", WaitStatus::Signaled(9))]
        {
            let mut child = std::process::Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
            let (pidfd, started) = (open(child.id()).unwrap(), start_time(child.id()).unwrap());
            assert!(wait_readable(pidfd.as_fd(), 10_000).unwrap());
            assert_eq!(status_of_stranger(pidfd.as_fd(), child.id(), started).unwrap(), Some(expected));
            assert_eq!(
                parse_zombie(&std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap(), 1),
                None
            );
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_running_process_has_no_status() {
        let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        assert_eq!(wait(pidfd.as_fd()).unwrap(), None);
        assert!(is_running(pidfd.as_fd()).unwrap());
        signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert!(wait_readable(pidfd.as_fd(), 10_000).unwrap());
        assert!(!is_running(pidfd.as_fd()).unwrap());
        child.wait().unwrap();
    }

    #[test]
    fn start_time_survives_odd_names() {
        let stat =
            "7 (a) b (c) R 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 100 1 18446744073709551615";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert!(start_time(std::process::id()).unwrap() > 0);
    }
}
