//! Statistics and states of the host, read when somebody asks.

use std::path::PathBuf;
use std::sync::Arc;

use oci::ContainerId;

use crate::blocking::Purpose;
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::model::{
    ContainerStats, ContainerStatus, Detail, FilesystemStats, InterfaceStats, ProcessStats, SandboxStats,
    SandboxStatus,
};
use crate::sandbox::{Handle, LiveContainer};

/// Runs of durable containers are asked for by their container.
fn is_listed(handle: &Handle) -> bool {
    handle.status.borrow().config.durable.is_none()
}

impl Engine {
    /// Statistics of one container.
    pub async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        let (handle, id) = self.find_container(id)?.ok_or_else(|| Error::no_container(id))?;
        let shared = Arc::clone(self.shared());
        let work = move || {
            let status = handle.status();
            let container = status.containers.iter().find(|c| c.id == id)?;
            let live = handle.live.get(&container.id);
            Some(read_container(&shared, live.as_deref(), container, &filesystem(&shared), Detail::Counts))
        };
        let read = self.shared().blocking.run(Purpose::Reading, work).await?;
        read.ok_or_else(|| Error::no_container("that was removed"))
    }

    /// Makes something of the statistics of each container that `wanted` picks; those that do not run have no cgroup
    /// figures.
    pub async fn list_container_stats<T: Send + 'static>(
        &self,
        wanted: impl Fn(&ContainerStatus) -> bool + Send + 'static,
        make: impl Fn(&ContainerStatus, &ContainerStats) -> T + Send + 'static,
    ) -> Result<Vec<T>> {
        let shared = Arc::clone(self.shared());
        let work = move || {
            let filesystem = filesystem(&shared);
            let mut all = Vec::new();
            for handle in shared.handles().into_iter().filter(is_listed) {
                let status = handle.status();
                for container in status.containers.iter().filter(|c| wanted(c)) {
                    let live = handle.live.get(&container.id);
                    let stats =
                        read_container(&shared, live.as_deref(), container, &filesystem, Detail::Counts);
                    all.push(make(container, &stats));
                }
            }
            all
        };
        self.shared().blocking.run(Purpose::Reading, work).await
    }

    /// Statistics of one sandbox and its running containers.
    pub async fn sandbox_stats(&self, id: &str) -> Result<(Arc<SandboxStatus>, SandboxStats)> {
        let handle = self.sandbox(id)?;
        let shared = Arc::clone(self.shared());
        let work = move || {
            let status = handle.status();
            let stats = read_sandbox(&shared, &handle, &status, &filesystem(&shared), Detail::Counts);
            (status, stats)
        };
        self.shared().blocking.run(Purpose::Reading, work).await
    }

    /// Makes something of the statistics of each sandbox that `wanted` picks.
    pub async fn list_sandbox_stats<T: Send + 'static>(
        &self,
        detail: Detail,
        wanted: impl Fn(&SandboxStatus) -> bool + Send + 'static,
        make: impl Fn(&Arc<SandboxStatus>, SandboxStats) -> T + Send + 'static,
    ) -> Result<Vec<T>> {
        let shared = Arc::clone(self.shared());
        let work = move || {
            let filesystem = filesystem(&shared);
            let mut all = Vec::new();
            for handle in shared.handles().into_iter().filter(is_listed) {
                let status = handle.status();
                if wanted(&status) {
                    all.push(make(&status, read_sandbox(&shared, &handle, &status, &filesystem, detail)));
                }
            }
            all
        };
        self.shared().blocking.run(Purpose::Reading, work).await
    }
}

impl Detail {
    /// What of a cgroup is read.
    fn of_cgroups(self) -> sys::cgroup::Detail {
        match self {
            Detail::Counts => sys::cgroup::Detail::Usage,
            Detail::Processes => sys::cgroup::Detail::Everything,
        }
    }
}

fn read_container(
    shared: &Shared,
    live: Option<&LiveContainer>,
    status: &ContainerStatus,
    filesystem: &FilesystemStats,
    detail: Detail,
) -> ContainerStats {
    let observed_at_ns = sys::fs::now_ns();
    let cgroup = live.and_then(|live| live.reader().read(detail.of_cgroups()).ok());
    let usage = shared.storage.usage(&status.id).unwrap_or_default();
    let usage_nano_cores = cpu_usage(cgroup.as_ref())
        .and_then(|used| shared.rates.observe(status.id.as_str(), observed_at_ns, used));
    ContainerStats {
        id: status.id.clone(),
        observed_at_ns,
        cgroup,
        usage_nano_cores,
        filesystem: FilesystemStats {
            used_bytes: usage.bytes,
            inodes_used: usage.inodes,
            ..filesystem.clone()
        },
        processes: None,
        started_at_ns: started_at(status),
    }
}

/// The processes in a container's cgroup and below it.
fn processes(shared: &Shared, status: &ContainerStatus) -> Vec<u32> {
    let cgroup = shared.cgroups.open(&status.cgroup_path);
    cgroup.ok().and_then(|cgroup| cgroup.procs().ok()).unwrap_or_default()
}

/// What processes hold. Those that end meanwhile are left out.
fn look_at(processes: &[u32]) -> ProcessStats {
    let counts = sys::proc::usage(std::path::Path::new("/proc"), processes).unwrap_or_default();
    let nofile = counts.ulimits.iter().find(|limit| limit.name == "max_open_files");
    ProcessStats {
        processes: processes.len() as u64,
        file_descriptors: counts.file_descriptors,
        sockets: counts.sockets,
        threads: counts.threads,
        nofile_soft_limit: nofile.and_then(|limit| limit.soft),
    }
}

fn cpu_usage(stats: Option<&sys::cgroup::Stats>) -> Option<u64> {
    stats?.cpu.as_ref().map(|cpu| cpu.usage_ns)
}

/// The file system that writable layers are on; figures of containers are added to it.
fn filesystem(shared: &Shared) -> FilesystemStats {
    let root = shared.storage.root();
    let stats = sys::fs::statfs(root).unwrap_or_default();
    FilesystemStats {
        mountpoint: root.to_string_lossy().into_owned(),
        capacity_bytes: stats.total_bytes,
        available_bytes: stats.available_bytes,
        inodes: stats.inodes,
        inodes_free: stats.inodes_free,
        ..FilesystemStats::default()
    }
}

fn started_at(status: &ContainerStatus) -> i64 {
    match &status.state {
        crate::ContainerState::Created => 0,
        crate::ContainerState::Running { started_at_ns, .. } => *started_at_ns,
        crate::ContainerState::Exited(exit) => exit.started_at_ns,
    }
}

fn read_sandbox(
    shared: &Shared,
    handle: &Handle,
    status: &SandboxStatus,
    filesystem: &FilesystemStats,
    detail: Detail,
) -> SandboxStats {
    let running =
        status.containers.iter().filter(|c| matches!(c.state, crate::ContainerState::Running { .. }));
    let mut process_count = 0;
    let mut containers = Vec::new();
    for container in running {
        let live = handle.live.get(&container.id);
        let mut stats = read_container(shared, live.as_deref(), container, filesystem, detail);
        if let Some(live) = &live {
            process_count += match detail {
                Detail::Counts => live.reader().count_processes().unwrap_or(0),
                Detail::Processes => {
                    let processes = processes(shared, container);
                    stats.processes = Some(look_at(&processes));
                    processes.len() as u64
                }
            };
        }
        containers.push(stats);
    }
    let observed_at_ns = sys::fs::now_ns();
    let parent = &status.config.cgroup_parent;
    let cgroup = if parent.is_empty() {
        None
    } else {
        handle.live.sandbox_stats(detail.of_cgroups(), || {
            let path = shared.cgroup_path(parent, "");
            shared.cgroups.open(path.trim_end_matches('/')).ok().map(|cgroup| cgroup.reader())
        })
    };
    let usage_ns = match &cgroup {
        Some(cgroup) => cpu_usage(Some(cgroup)),
        None => containers.iter().map(|c| cpu_usage(c.cgroup.as_ref())).sum(),
    };
    let usage_nano_cores =
        usage_ns.and_then(|usage| shared.rates.observe(status.id.as_str(), observed_at_ns, usage));
    SandboxStats {
        id: status.id.clone(),
        observed_at_ns,
        cgroup,
        usage_nano_cores,
        interfaces: interfaces(handle),
        processes: process_count,
        containers,
    }
}

fn interfaces(handle: &Handle) -> Vec<InterfaceStats> {
    let counters = handle.live.counters().unwrap_or_default();
    let mut interfaces: Vec<InterfaceStats> = counters
        .into_iter()
        .map(|c| InterfaceStats {
            name: c.name,
            rx_bytes: c.stats.rx_bytes,
            rx_packets: c.stats.rx_packets,
            rx_errors: c.stats.rx_errors,
            rx_dropped: c.stats.rx_dropped,
            tx_bytes: c.stats.tx_bytes,
            tx_packets: c.stats.tx_packets,
            tx_errors: c.stats.tx_errors,
            tx_dropped: c.stats.tx_dropped,
        })
        .collect();
    let order = |i: &InterfaceStats| i.name != crate::engine::IFNAME;
    interfaces.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name)));
    interfaces
}

impl Engine {
    /// Paths of the log files that exist for a container, the current one first.
    pub fn log_path(&self, id: &ContainerId) -> Result<PathBuf> {
        Ok(self.container_status(id.as_str())?.log_path.into())
    }
}
