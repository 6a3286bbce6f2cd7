//! Stopping all processes of a group, for good or for a while.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::group::{Cgroup, Place};
use super::layout::Controller;
use super::{Error, files};
use crate::proc::process_stat;

const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `cgroup.kill` may take before processes are killed one by one.
const GRACE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Kills every process of one cgroup directory, whichever hierarchy it is of, and returns when none is left
/// but zombies.
///
/// # Errors
/// Processes survive, or the list cannot be read; a directory that is gone has none.
pub fn kill_directory(dir: &Path) -> std::io::Result<()> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    let mut pause = Duration::from_micros(200);
    loop {
        let text = match std::fs::read_to_string(dir.join("cgroup.procs")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut left = 0;
        for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()).filter_map(Pid::from_raw) {
            // The pidfd pins the process: one that ended meanwhile cannot be mistaken for its successor,
            // because it is looked up in the list again after the pidfd is held.
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let still = std::fs::read_to_string(dir.join("cgroup.procs"))?;
            let listed = still.lines().any(|line| line.parse() == Ok(pid.as_raw_nonzero().get()));
            if listed && rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).is_ok() {
                left += 1;
            }
        }
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(std::io::Error::other(format!("{left} processes survive SIGKILL")));
        }
        sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

pub(super) fn kill(group: &Cgroup, signal: i32) -> Result<(), Error> {
    if signal != libc::SIGKILL {
        return signal_each(group, signal).map(|_| ());
    }
    // Linux 5.14; older kernels and processes outside this hierarchy are left to the loop.
    let at_once =
        group.unified_dir().is_some_and(|dir| files::write_io(&dir.join("cgroup.kill"), "1").is_ok());
    let start = Instant::now();
    let deadline = start + KILL_TIMEOUT;
    let mut pause = Duration::from_micros(200);
    loop {
        let left = living(group)?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::Survivors { path: group.path().into(), count: left });
        }
        if !at_once || start.elapsed() > GRACE {
            // Frozen processes cannot fork faster than we kill; where freezing fails we go on without.
            let frozen = freeze(group).is_ok();
            signal_each(group, signal)?;
            if frozen {
                thaw(group)?;
            }
        }
        sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Counts processes that are not zombies.
fn living(group: &Cgroup) -> Result<usize, Error> {
    let pids = all(group)?;
    let alive = |pid: &&u32| {
        let stat = process_stat(Path::new("/proc"), **pid);
        stat.is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
    };
    Ok(pids.iter().filter(alive).count())
}

fn all(group: &Cgroup) -> Result<Vec<u32>, Error> {
    group.all_procs().map_err(|source| Error::Read { path: group.path().into(), source })
}

/// Signals every process once. A pid may be reused between the listing and the signal: the process is held
/// by descriptor first, and must still be listed then.
fn signal_each(group: &Cgroup, signal: i32) -> Result<usize, Error> {
    let mut held = Vec::new();
    for pid in all(group)? {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if let Some(Ok(fd)) = number.map(|number| pidfd_open(number, PidfdFlags::empty())) {
            held.push((pid, fd));
        }
    }
    let listed = all(group)?;
    held.retain(|(pid, _)| listed.binary_search(pid).is_ok());
    for (_, fd) in &held {
        // One that has ended meanwhile needs no signal.
        _ = crate::pidfd::signal(std::os::fd::AsFd::as_fd(fd), signal);
    }
    Ok(held.len())
}

pub(super) fn freeze(group: &Cgroup) -> Result<(), Error> {
    set(group, true)
}

pub(super) fn thaw(group: &Cgroup) -> Result<(), Error> {
    set(group, false)
}

pub(super) fn is_frozen(group: &Cgroup) -> Result<bool, Error> {
    match group.require(Controller::Freezer, "freezer")? {
        Place::V1(dir) => reached(dir, true, true),
        Place::V2(dir) => reached(dir, false, true),
    }
}

fn set(group: &Cgroup, frozen: bool) -> Result<(), Error> {
    let (dir, is_v1) = match group.require(Controller::Freezer, "freezer")? {
        Place::V1(dir) => (dir, true),
        Place::V2(dir) => (dir, false),
    };
    let (file, value) = match (is_v1, frozen) {
        (true, true) => (dir.join("freezer.state"), "FROZEN"),
        (true, false) => (dir.join("freezer.state"), "THAWED"),
        (false, true) => (dir.join("cgroup.freeze"), "1"),
        (false, false) => (dir.join("cgroup.freeze"), "0"),
    };
    files::write(&file, value)?;
    let deadline = Instant::now() + FREEZE_TIMEOUT;
    let mut pause = Duration::from_micros(100);
    while !reached(dir, is_v1, frozen)? {
        if Instant::now() >= deadline {
            let state = if frozen { "frozen" } else { "thawed" };
            if frozen {
                // Half a group must not stay stopped.
                _ = files::write(&file, if is_v1 { "THAWED" } else { "0" });
            }
            return Err(Error::Freezer { path: dir.to_owned(), state });
        }
        sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
        if is_v1 && frozen {
            // A v1 group stays FREEZING when a task forked at the wrong moment; asking again moves it on.
            files::write(&file, value)?;
        }
    }
    Ok(())
}

fn reached(dir: &Path, is_v1: bool, frozen: bool) -> Result<bool, Error> {
    if is_v1 {
        let state = files::read(&dir.join("freezer.state"))?;
        return Ok(state == if frozen { "FROZEN" } else { "THAWED" });
    }
    let events = files::read(&dir.join("cgroup.events"))?;
    Ok(files::keyed(&events, "frozen") == Some(u64::from(frozen)))
}
