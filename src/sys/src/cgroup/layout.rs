//! Which hierarchy holds which controller on this host.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::{Cgroup, Error};
use crate::proc::MountInfo;

/// Something that accounts for or limits a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Shares and bandwidth of processors.
    Cpu,
    /// Accounting of processor time; on v2 always there.
    Cpuacct,
    /// Placement on processors and memory nodes.
    Cpuset,
    /// Memory.
    Memory,
    /// Block devices: `blkio` on v1, `io` on v2.
    Io,
    /// Number of processes.
    Pids,
    /// Device access: files on v1, a program on v2.
    Devices,
    /// Freezing: a controller on v1, part of the core on v2.
    Freezer,
    /// Huge pages.
    Hugetlb,
    /// Remote DMA.
    Rdma,
    /// Miscellaneous scalar resources.
    Misc,
    /// Class of packets; v1 only.
    NetCls,
    /// Priority of packets; v1 only.
    NetPrio,
    /// Addressing groups from perf; v1 only, on v2 always there.
    PerfEvent,
}

impl Controller {
    /// Those that v2 lists in `cgroup.controllers`, as far as Berth uses them.
    pub(super) const V2: [Controller; 8] = [
        Controller::Cpu,
        Controller::Cpuset,
        Controller::Memory,
        Controller::Io,
        Controller::Pids,
        Controller::Hugetlb,
        Controller::Rdma,
        Controller::Misc,
    ];

    const V1: [Controller; 14] = [
        Controller::Cpu,
        Controller::Cpuacct,
        Controller::Cpuset,
        Controller::Memory,
        Controller::Io,
        Controller::Pids,
        Controller::Devices,
        Controller::Freezer,
        Controller::Hugetlb,
        Controller::Rdma,
        Controller::Misc,
        Controller::NetCls,
        Controller::NetPrio,
        Controller::PerfEvent,
    ];

    /// The name v2 uses, and v1 but for `blkio`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Cpuset => "cpuset",
            Controller::Memory => "memory",
            Controller::Io => "io",
            Controller::Pids => "pids",
            Controller::Devices => "devices",
            Controller::Freezer => "freezer",
            Controller::Hugetlb => "hugetlb",
            Controller::Rdma => "rdma",
            Controller::Misc => "misc",
            Controller::NetCls => "net_cls",
            Controller::NetPrio => "net_prio",
            Controller::PerfEvent => "perf_event",
        }
    }

    fn v1_name(self) -> &'static str {
        if self == Controller::Io { "blkio" } else { self.name() }
    }

    fn from_v1(option: &str) -> Option<Self> {
        Self::V1.into_iter().find(|c| c.v1_name() == option)
    }

    fn from_v2(name: &str) -> Option<Self> {
        Self::V2.into_iter().find(|c| c.name() == name)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which version of control groups a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Controllers on v1 hierarchies, no v2 mount.
    V1,
    /// Only v2.
    V2,
    /// Both are mounted.
    Hybrid,
}

/// Who makes the directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Driver {
    /// Berth, through the file system.
    #[default]
    Cgroupfs,
}

/// One mounted v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) root: PathBuf,
    pub(super) controllers: Vec<Controller>,
}

/// The v2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unified {
    pub(super) root: PathBuf,
    pub(super) controllers: Vec<Controller>,
}

/// The hierarchies of a host and what each controls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub(super) v1: Vec<Hierarchy>,
    pub(super) v2: Option<Unified>,
    pub(super) driver: Driver,
}

impl Layout {
    /// Looks at the mounts at and below `cgroup_root` (usually `/sys/fs/cgroup`) in `proc_root`'s
    /// `self/mountinfo`.
    ///
    /// # Errors
    /// A file cannot be read, or no control group file system is mounted there.
    pub fn detect(cgroup_root: &Path, proc_root: &Path) -> io::Result<Layout> {
        let mut layout = Layout { v1: Vec::new(), v2: None, driver: Driver::default() };
        for mount in MountInfo::read(&proc_root.join("self/mountinfo"))? {
            if !mount.mount_point.starts_with(cgroup_root) {
                continue;
            }
            match mount.fs_type.as_str() {
                "cgroup" => layout.add_v1(&mount),
                "cgroup2" if layout.v2.is_none() => layout.v2 = Some(unified(mount.mount_point)?),
                _ => {}
            }
        }
        if layout.v1.is_empty() && layout.v2.is_none() {
            let text = format!("no cgroup file system is mounted at or below {}", cgroup_root.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        Ok(layout)
    }

    /// Which version the host runs.
    #[must_use]
    pub fn version(&self) -> Version {
        match (self.v1.is_empty(), self.v2.is_some()) {
            (true, _) => Version::V2,
            (false, true) => Version::Hybrid,
            (false, false) => Version::V1,
        }
    }

    /// All controllers the host offers, sorted. Devices and freezing count where v2 is mounted.
    #[must_use]
    pub fn controllers(&self) -> Vec<Controller> {
        let mut all: Vec<Controller> = self.v1.iter().flat_map(|h| h.controllers.iter().copied()).collect();
        if let Some(v2) = &self.v2 {
            all.extend(&v2.controllers);
            all.extend([Controller::Devices, Controller::Freezer]);
            if self.v1.is_empty() {
                all.push(Controller::Cpuacct);
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether the host offers `controller`.
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers().contains(&controller)
    }

    /// Whether the limit of memory and swap together can be set.
    #[must_use]
    pub fn has_swap_accounting(&self) -> bool {
        if let Some(root) = self.v1_root(Controller::Memory) {
            return is_there(&root.join("memory.memsw.limit_in_bytes"));
        }
        let Some(v2) = self.v2.as_ref().filter(|v2| v2.controllers.contains(&Controller::Memory)) else {
            return false;
        };
        // The root has no limits, so a child must show whether the kernel offers the file.
        let children = std::fs::read_dir(&v2.root).into_iter().flatten().flatten();
        children.into_iter().any(|child| is_there(&child.path().join("memory.swap.max")))
    }

    /// The v2 mount point, if v2 is mounted.
    #[must_use]
    pub fn unified_root(&self) -> Option<&Path> {
        self.v2.as_ref().map(|v2| v2.root.as_path())
    }

    /// Makes the group `path` (such as `/kubepods/podX/ID`) with its missing parents. On v2 the controllers
    /// are enabled on the way down, on v1 the cpuset's processors and nodes are copied down. A group that
    /// exists is fine.
    ///
    /// # Errors
    /// A bad path, or what the kernel reports; directories made by this call are removed again.
    pub fn create(&self, path: &str) -> Result<Cgroup, Error> {
        match self.driver {
            Driver::Cgroupfs => Cgroup::create(self, path),
        }
    }

    /// Names the group `path` without making it. What is missing shows when it is used.
    ///
    /// # Errors
    /// A bad path.
    pub fn open(&self, path: &str) -> Result<Cgroup, Error> {
        Cgroup::open(self, path)
    }

    /// Where on v1 `controller` is mounted.
    pub(super) fn v1_root(&self, controller: Controller) -> Option<&Path> {
        self.v1.iter().find(|h| h.controllers.contains(&controller)).map(|h| h.root.as_path())
    }

    fn add_v1(&mut self, mount: &MountInfo) {
        let named = mount.super_options.iter().any(|o| o == "name=systemd");
        let controllers: Vec<Controller> =
            mount.super_options.iter().filter_map(|o| Controller::from_v1(o)).collect();
        let known = controllers.iter().any(|c| self.v1_root(*c).is_some());
        if known || (controllers.is_empty() && !named) {
            return;
        }
        self.v1.push(Hierarchy { root: mount.mount_point.clone(), controllers });
    }
}

fn unified(root: PathBuf) -> io::Result<Unified> {
    let text = std::fs::read_to_string(root.join("cgroup.controllers"))?;
    let controllers = text.split_whitespace().filter_map(Controller::from_v2).collect();
    Ok(Unified { root, controllers })
}

fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(false)
}
