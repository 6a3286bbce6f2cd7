//! What procfs tells about single processes, and sums over several.

use std::io;
use std::path::{Path, PathBuf};

use super::malformed;

/// Part of `/proc/<pid>/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStat {
    /// Name of the executable, cut to 15 bytes.
    pub command: String,
    /// State letter, such as `S` or `Z`.
    pub state: char,
    /// Parent.
    pub parent: u32,
    /// Session.
    pub session: u32,
    /// User time in clock ticks.
    pub user_ticks: u64,
    /// System time in clock ticks.
    pub system_ticks: u64,
    /// Threads.
    pub threads: u64,
    /// When it started, in clock ticks after boot. With the pid this names a process for good.
    pub start_ticks: u64,
}

/// One limit of a process; `None` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// As the kernel names it in lower case with underscores, such as `max_open_files`.
    pub name: String,
    /// The limit in force.
    pub soft: Option<u64>,
    /// What the soft limit may be raised to.
    pub hard: Option<u64>,
}

/// Sums over the processes of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processes that were still there.
    pub processes: u64,
    /// Their threads.
    pub threads: u64,
    /// Their open descriptors.
    pub file_descriptors: u64,
    /// Those of the descriptors that are sockets.
    pub sockets: u64,
    /// Limits of the first process.
    pub ulimits: Vec<Ulimit>,
}

/// One line of `/proc/<pid>/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupEntry {
    /// Number of the hierarchy; 0 is v2.
    pub hierarchy: u32,
    /// Controllers, or `name=…`; empty for v2.
    pub controllers: Vec<String>,
    /// Path below the hierarchy's root, as seen from the reader's cgroup namespace.
    pub path: String,
}

fn directory(proc_root: &Path, pid: u32) -> PathBuf {
    proc_root.join(pid.to_string())
}

/// Reads `/proc/<pid>/stat`.
///
/// # Errors
/// The process is gone, or the file has an unknown shape.
pub fn process_stat(proc_root: &Path, pid: u32) -> io::Result<ProcessStat> {
    let bytes = std::fs::read(directory(proc_root, pid).join("stat"))?;
    let text = String::from_utf8_lossy(&bytes);
    parse_stat(&text).ok_or_else(|| malformed("process status", &text))
}

/// When `pid` started, in clock ticks after boot.
///
/// # Errors
/// As for [`process_stat`].
pub fn start_time(proc_root: &Path, pid: u32) -> io::Result<u64> {
    process_stat(proc_root, pid).map(|stat| stat.start_ticks)
}

fn parse_stat(text: &str) -> Option<ProcessStat> {
    // The command stands in parentheses and may itself hold spaces and parentheses.
    let (head, tail) = text.rsplit_once(')')?;
    let (_, command) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    // Field n of proc(5), counted from 1, stands at n - 3 here.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let id = |field: usize| u32::try_from(number(field)?).ok();
    Some(ProcessStat {
        command: command.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: id(4)?,
        session: id(6)?,
        user_ticks: number(14)?,
        system_ticks: number(15)?,
        threads: number(20)?,
        start_ticks: number(22)?,
    })
}

/// Counts the open descriptors of `pid`, and the sockets among them.
///
/// # Errors
/// The process is gone or not ours to look at.
pub fn open_files(proc_root: &Path, pid: u32) -> io::Result<(u64, u64)> {
    let (mut all, mut sockets) = (0, 0);
    for entry in std::fs::read_dir(directory(proc_root, pid).join("fd"))? {
        all += 1;
        // A descriptor that was closed meanwhile is counted as what it was when listed.
        let target = std::fs::read_link(entry?.path()).unwrap_or_default();
        if target.as_os_str().as_encoded_bytes().starts_with(b"socket:") {
            sockets += 1;
        }
    }
    Ok((all, sockets))
}

/// Reads `/proc/<pid>/limits`.
///
/// # Errors
/// The process is gone, or the file has an unknown shape.
pub fn ulimits(proc_root: &Path, pid: u32) -> io::Result<Vec<Ulimit>> {
    let text = std::fs::read_to_string(directory(proc_root, pid).join("limits"))?;
    text.lines()
        .skip(1)
        .map(|line| parse_limit(line).ok_or_else(|| malformed("line of limits", line)))
        .collect()
}

fn parse_limit(line: &str) -> Option<Ulimit> {
    // Columns: name (25 wide), soft (20), hard (20), units.
    let (name, rest) = line.split_at_checked(25)?;
    let mut columns = rest.split_whitespace();
    let soft = columns.next()?;
    let hard = columns.next()?;
    let value = |text: &str| if text == "unlimited" { Some(None) } else { text.parse().ok().map(Some) };
    let name = name.trim().to_ascii_lowercase().replace(' ', "_");
    Some(Ulimit { name, soft: value(soft)?, hard: value(hard)? })
}

/// Sums over `pids`, leaving out those that are gone.
///
/// # Errors
/// A process that is there cannot be looked at.
pub fn usage(proc_root: &Path, pids: &[u32]) -> io::Result<Usage> {
    let mut sum = Usage::default();
    for &pid in pids {
        let Some(stat) = unless_gone(process_stat(proc_root, pid))? else { continue };
        let (all, sockets) = unless_gone(open_files(proc_root, pid))?.unwrap_or_default();
        sum.processes += 1;
        sum.threads += stat.threads;
        sum.file_descriptors += all;
        sum.sockets += sockets;
        if sum.ulimits.is_empty() {
            sum.ulimits = unless_gone(ulimits(proc_root, pid))?.unwrap_or_default();
        }
    }
    Ok(sum)
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads `/proc/<pid>/cgroup`.
///
/// # Errors
/// The process is gone, or the file has an unknown shape.
pub fn cgroups(proc_root: &Path, pid: u32) -> io::Result<Vec<CgroupEntry>> {
    let text = std::fs::read_to_string(directory(proc_root, pid).join("cgroup"))?;
    text.lines().map(|line| parse_cgroup(line).ok_or_else(|| malformed("line of cgroup", line))).collect()
}

fn parse_cgroup(line: &str) -> Option<CgroupEntry> {
    let mut parts = line.splitn(3, ':');
    let hierarchy = parts.next()?.parse().ok()?;
    let controllers = parts.next()?.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect();
    Some(CgroupEntry { hierarchy, controllers, path: parts.next()?.to_owned() })
}
