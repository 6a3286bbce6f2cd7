//! What a plan must know about the machine.

use std::io;
use std::path::PathBuf;

use sys::caps::{Held, Set};

/// Facts about this process and the machine, read once.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Capabilities this process holds.
    pub caps: Held,
    /// Where cgroup hierarchies are mounted.
    pub cgroups: Vec<CgroupMount>,
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
    /// Whether SELinux is enabled.
    pub selinux: bool,
}

/// A mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// Where.
    pub path: PathBuf,
    /// v1: the controllers, or `name=…`, as the mount options name them. Empty for v2.
    pub controllers: Vec<String>,
}

impl CgroupMount {
    /// Whether this is the one hierarchy of cgroup v2.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }
}

impl Host {
    /// Reads the facts.
    pub fn detect() -> io::Result<Host> {
        let caps = sys::caps::held()?;
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
        let apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.first() == Some(&b'Y'));
        let selinux = std::fs::metadata("/sys/fs/selinux/enforce").is_ok();
        Ok(Host { caps, cgroups: parse_cgroups(&mountinfo), apparmor, selinux })
    }

    /// What a process of ours can have: for the checks of a specification.
    pub(crate) fn grantable(&self) -> Set {
        self.caps.permitted & self.caps.bounding
    }

    /// Whether every controller is on v2.
    pub(crate) fn is_unified(&self) -> bool {
        self.cgroups.iter().all(CgroupMount::is_v2)
    }
}

/// Words among a v1 mount's super options that are not controllers.
const NOT_CONTROLLERS: [&str; 8] =
    ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "release_agent"];

fn parse_cgroups(mountinfo: &str) -> Vec<CgroupMount> {
    let mut found: Vec<CgroupMount> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut after = after.split(' ');
        let (Some(fstype), Some(_), Some(options)) = (after.next(), after.next(), after.next()) else {
            continue;
        };
        let Some(path) = before.split(' ').nth(4) else { continue };
        let controllers: Vec<String> = match fstype {
            "cgroup2" => Vec::new(),
            "cgroup" => options
                .split(',')
                .filter(|word| !NOT_CONTROLLERS.contains(&word.split('=').next().unwrap_or_default()))
                .map(str::to_owned)
                .collect(),
            _ => continue,
        };
        // A hierarchy may be mounted in several places; the first one counts.
        if !found.iter().any(|mount| mount.controllers == controllers) {
            found.push(CgroupMount { path: PathBuf::from(path), controllers });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_from_mount_options() {
        let mountinfo = "\
30 20 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw,nsdelegate
31 20 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
32 20 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 20 0:28 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct
34 20 0:29 / /tmp rw - tmpfs tmpfs rw";
        let found = parse_cgroups(mountinfo);
        let controllers: Vec<_> = found.iter().map(|mount| mount.controllers.join("+")).collect();
        assert_eq!(controllers, ["", "name=systemd", "cpu+cpuacct"]);
    }
}
