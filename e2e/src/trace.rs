//! Counts the system calls of some processes and all that they start, with strace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{Process, signal};

/// What is counted: making processes, running programs, waiting for disks, and mounts.
pub const COUNTED: [&str; 24] = [
    "execve",
    "execveat",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "fsync",
    "fdatasync",
    "syncfs",
    "sync",
    "sync_file_range",
    "msync",
    "mount",
    "umount2",
    "pivot_root",
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "unshare",
    "setns",
    "exit_group",
];

/// How often each system call succeeded.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    calls: BTreeMap<String, u32>,
}

impl Counts {
    /// Calls of any of these names.
    pub fn of(&self, names: &[&str]) -> u32 {
        names.iter().filter_map(|name| self.calls.get(*name)).sum()
    }

    /// Programs run.
    pub fn execs(&self) -> u32 {
        self.of(&["execve", "execveat"])
    }

    /// Processes and threads made.
    pub fn clones(&self) -> u32 {
        self.of(&["clone", "clone3", "fork", "vfork"])
    }

    /// Waits for a disk.
    pub fn syncs(&self) -> u32 {
        self.of(&["fsync", "fdatasync", "syncfs", "sync", "sync_file_range", "msync"])
    }

    /// Mounts made, of either interface.
    pub fn mounts(&self) -> u32 {
        self.of(&["mount", "move_mount"])
    }

    /// Counts in strace's output. A call counts where its result is: one that another thread interrupted
    /// is written in two lines.
    fn parse(text: &str) -> Counts {
        let mut counts = Counts::default();
        for line in text.lines().filter(|line| !line.contains("<unfinished")) {
            let Some((_, result)) = line.rsplit_once(" = ") else { continue };
            // `-1 ENOENT …` is a failure, `?` a process that never returned from it.
            if result.starts_with(['-', '?']) {
                continue;
            }
            let name = match line.split_once("<... ") {
                Some((_, rest)) => rest.split(' ').next(),
                None => line.split('(').next().and_then(|head| head.rsplit(' ').next()),
            };
            if let Some(name) = name {
                *counts.calls.entry(name.to_owned()).or_default() += 1;
            }
        }
        counts
    }
}

/// A tracer at work.
#[derive(Debug)]
pub struct Tracer {
    process: Process,
    output: PathBuf,
}

impl Tracer {
    /// Attaches to processes and to whatever they start from now on.
    pub fn attach(pids: &[u32], output: &Path) -> Result<Tracer> {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-s", "64", "-e"])
            .arg(format!("trace={}", COUNTED.join(",")))
            .arg("-o")
            .arg(output);
        for pid in pids {
            command.arg("-p").arg(pid.to_string());
        }
        let process = Process::spawn(command, &output.with_extension("log"))?;
        let tracer = Tracer { process, output: output.to_owned() };
        crate::wait::wait_until("the tracer to attach to all threads", Duration::from_secs(10), || {
            pids.iter().all(|&pid| all_traced(pid))
        });
        Ok(tracer)
    }

    /// Lets calls that are under way return, detaches and counts.
    pub fn finish(mut self) -> Result<(Counts, String)> {
        let size = || std::fs::metadata(&self.output).map_or(0, |about| about.len());
        let mut last = (size(), Instant::now());
        crate::wait::wait_until("a quiet moment", Duration::from_secs(20), || {
            if size() != last.0 {
                last = (size(), Instant::now());
            }
            last.1.elapsed() > Duration::from_millis(300)
        });
        signal(self.process.pid(), "INT");
        crate::wait::wait_until("the tracer to end", Duration::from_secs(10), || {
            self.process.exited().is_some()
        });
        let text = std::fs::read_to_string(&self.output)
            .with_context(|| format!("read {}", self.output.display()))?;
        Ok((Counts::parse(&text), text))
    }
}

/// Whether every thread of a process has a tracer.
fn all_traced(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        !status.lines().any(|line| line == "TracerPid:\t0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_call_once() {
        let text = "100 fsync(5) = 0\n\
                    100 clone3({flags=CLONE_PIDFD}, 88 <unfinished ...>\n\
                    101 execve(\"/a\", [\"a\"], 0x1) = -1 ENOENT (No such file or directory)\n\
                    101 execve(\"/b\", [\"b\"], 0x1) = 0\n\
                    100 <... clone3 resumed>) = 101\n\
                    101 exit_group(0) = ?\n\
                    101 +++ exited with 0 +++\n";
        let counts = Counts::parse(text);
        assert_eq!((counts.execs(), counts.clones(), counts.syncs()), (1, 1, 1));
        assert_eq!(counts.of(&["exit_group"]), 0);
    }
}
