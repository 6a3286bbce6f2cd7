//! What a machine holds, before and after: whatever a pod leaves behind shows as a difference.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::node::Node;
use crate::process::run;

/// Everything of one kind, each thing described by a line.
type Things = BTreeSet<String>;

const DAEMON_DESCRIPTORS: &str = "descriptor of the daemon";

/// What there was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    kinds: Vec<(&'static str, Things)>,
}

impl Snapshot {
    /// Looks at the namespaces this process is in and at a node's directories and descriptors.
    pub fn take(node: &Node) -> Result<Snapshot> {
        let (processes, namespaces) = processes(node)?;
        let leases = run(Command::new("nft").args(["list", "ruleset"])).context("list nftables")?;
        let links = run(Command::new("ip").args(["-o", "link"])).context("list links")?;
        let link = |line: &str| {
            line.split(": ").nth(1).map(|name| name.split('@').next().unwrap_or(name).to_owned())
        };
        Ok(Snapshot {
            kinds: vec![
                ("process", processes),
                ("network namespace", namespaces),
                ("mount", mounts()?),
                ("link", links.lines().filter_map(link).collect()),
                ("nftables line", leases.lines().map(|line| line.trim().to_owned()).collect()),
                ("cgroup", cgroups()?),
                ("file", files(node)?),
                (DAEMON_DESCRIPTORS, descriptors(node.daemon_pid())?),
                ("descriptor of the keeper", descriptors(node.keeper_pid())?),
            ],
        })
    }

    /// The same with nothing known of the daemon's own process, for one that is restarted: its descriptors
    /// are not compared, nor is its process.
    #[must_use]
    pub fn without_daemon(mut self) -> Snapshot {
        self.kinds.retain(|(kind, _)| *kind != DAEMON_DESCRIPTORS);
        self
    }

    /// What is in `self` and was not in `before`, one per line. Kinds that `before` lacks do not count.
    pub fn added_since(&self, before: &Snapshot) -> String {
        let mut text = String::new();
        for (kind, then) in &before.kinds {
            let Some((_, now)) = self.kinds.iter().find(|(other, _)| other == kind) else { continue };
            for thing in now.difference(then) {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{kind}: {thing}");
            }
        }
        text
    }
}

/// Waits until a node holds nothing that it did not hold `before`.
///
/// # Panics
///
/// When something is still there at the deadline, with a list of it.
#[track_caller]
pub fn assert_back_to(before: &Snapshot, node: &Node, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let left = match Snapshot::take(node) {
            Ok(now) => now.added_since(before),
            // Files vanish while they are listed; the next look will do.
            Err(error) => format!("{error:#}"),
        };
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind:\n{left}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Processes by command line, and the network namespaces they are in; without this process' own
/// children, which are the node's two and helpers.
fn processes(node: &Node) -> Result<(Things, Things)> {
    let mut processes = Things::new();
    let mut namespaces = Things::new();
    for entry in std::fs::read_dir("/proc").context("read /proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let dir = entry.path();
        // Gone already: nothing to tell.
        let Ok(stat) = std::fs::read_to_string(dir.join("stat")) else { continue };
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
        if parent == std::process::id().to_string() || pid == node.daemon_pid() {
            continue;
        }
        let command = std::fs::read(dir.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let name = stat.split(['(', ')']).nth(1).unwrap_or_default();
        processes.insert(format!("{pid} ({name}) {command}"));
        if let Ok(namespace) = std::fs::metadata(dir.join("ns/net")) {
            namespaces.insert(format!("net:[{}]", namespace.ino()));
        }
    }
    Ok((processes, namespaces))
}

fn mounts() -> Result<Things> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let point = |line: &str| line.split(' ').nth(4).map(str::to_owned);
    Ok(table.lines().filter_map(point).collect())
}

fn cgroups() -> Result<Things> {
    let mut things = Things::new();
    walk(Path::new("/sys/fs/cgroup"), &mut |path, directory| {
        if directory {
            things.insert(path.display().to_string());
        }
    });
    Ok(things)
}

/// Files below the node's directories, its programs' own logs and its databases aside.
fn files(node: &Node) -> Result<Things> {
    let mut things = Things::new();
    for dir in [node.root(), node.state().to_owned()] {
        walk(&dir, &mut |path, _| {
            things.insert(path.display().to_string());
        });
    }
    Ok(things)
}

/// Visits everything below a directory without following links or crossing into other file systems.
fn walk(dir: &Path, visit: &mut impl FnMut(&Path, bool)) {
    let mut pending: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            visit(&entry.path(), directory);
            if directory {
                pending.push(entry.path());
            }
        }
    }
}

/// Descriptors by what they are open on; sockets and anonymous inodes only by their count.
fn descriptors(pid: u32) -> Result<Things> {
    let dir = format!("/proc/{pid}/fd");
    let mut things = Things::new();
    let mut anonymous = std::collections::BTreeMap::<String, u32>::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {dir}"))? {
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let target = target.display().to_string();
        match target.split_once([':', '[']) {
            Some((kind, _)) if !target.starts_with('/') => {
                *anonymous.entry(kind.to_owned()).or_default() += 1
            }
            _ => {
                things.insert(target);
            }
        }
    }
    // Descriptor k of a kind is one thing, so that a growing count shows and a shrinking one does not.
    for (kind, count) in anonymous {
        things.extend((1..=count).map(|number| format!("{kind} #{number}")));
    }
    Ok(things)
}
