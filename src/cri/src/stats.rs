//! Usage of pods and containers.

use cri_api::v1;
use engine::{
    CgroupStats, ContainerStats, ContainerStatus, InterfaceStats, Pressure, PressureLine, SandboxStats,
    SandboxStatus,
};

use crate::convert::{hashed, uint};
use crate::{container, sandbox};

/// Usage of a container.
pub(crate) fn container(status: &ContainerStatus, stats: &ContainerStats) -> v1::ContainerStats {
    let at = stats.observed_at_ns;
    let cgroup = stats.cgroup.as_ref();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: status.id.to_string(),
            metadata: Some(container::metadata(&status.config)),
            labels: hashed(&status.config.labels),
            annotations: hashed(&status.config.annotations),
        }),
        cpu: cgroup.and_then(|cgroup| cpu(at, cgroup, stats.usage_nano_cores)),
        memory: cgroup.and_then(|cgroup| memory(at, cgroup)),
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: at,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: stats.filesystem.mountpoint.clone() }),
            used_bytes: Some(uint(stats.filesystem.used_bytes)),
            inodes_used: Some(uint(stats.filesystem.inodes_used)),
        }),
        swap: cgroup.and_then(|cgroup| swap(at, cgroup)),
        io: cgroup.and_then(|cgroup| io(at, cgroup)),
    }
}

/// Usage of a pod.
pub(crate) fn sandbox(status: &SandboxStatus, stats: &SandboxStats) -> v1::PodSandboxStats {
    let at = stats.observed_at_ns;
    let containers = stats.containers.iter().filter_map(|stats| {
        let status = status.containers.iter().find(|status| status.id == stats.id)?;
        Some(container(status, stats))
    });
    let containers: Vec<_> = containers.collect();
    let (cpu, memory, io) = match &stats.cgroup {
        Some(cgroup) => (cpu(at, cgroup, stats.usage_nano_cores), memory(at, cgroup), io(at, cgroup)),
        None => (sum_cpu(at, &containers), sum_memory(at, &containers), None),
    };
    let process = v1::ProcessUsage { timestamp: at, process_count: Some(uint(stats.processes)) };
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: status.id.to_string(),
            metadata: Some(sandbox::metadata(&status.config)),
            labels: hashed(&status.config.labels),
            annotations: hashed(&status.config.annotations),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu,
            memory,
            network: network(at, &stats.interfaces),
            process: Some(process),
            containers,
            io,
        }),
        windows: None,
    }
}

fn cpu(at: i64, cgroup: &CgroupStats, nano_cores: Option<u64>) -> Option<v1::CpuUsage> {
    let cpu = cgroup.cpu?;
    Some(v1::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: Some(uint(cpu.usage_ns)),
        usage_nano_cores: nano_cores.map(uint),
        psi: cgroup.pressure.cpu.as_ref().map(psi),
    })
}

fn memory(at: i64, cgroup: &CgroupStats) -> Option<v1::MemoryUsage> {
    let memory = cgroup.memory?;
    Some(v1::MemoryUsage {
        timestamp: at,
        working_set_bytes: Some(uint(memory.working_set_bytes)),
        available_bytes: memory.limit_bytes.map(|limit| uint(limit.saturating_sub(memory.working_set_bytes))),
        usage_bytes: Some(uint(memory.usage_bytes)),
        rss_bytes: Some(uint(memory.rss_bytes)),
        page_faults: Some(uint(memory.page_faults)),
        major_page_faults: Some(uint(memory.major_page_faults)),
        psi: cgroup.pressure.memory.as_ref().map(psi),
    })
}

fn swap(at: i64, cgroup: &CgroupStats) -> Option<v1::SwapUsage> {
    let memory = cgroup.memory?;
    let used = memory.swap_bytes?;
    Some(v1::SwapUsage {
        timestamp: at,
        swap_available_bytes: memory.swap_limit_bytes.map(|limit| uint(limit.saturating_sub(used))),
        swap_usage_bytes: Some(uint(used)),
    })
}

fn io(at: i64, cgroup: &CgroupStats) -> Option<v1::IoUsage> {
    let pressure = cgroup.pressure.io.as_ref()?;
    Some(v1::IoUsage { timestamp: at, psi: Some(psi(pressure)) })
}

fn psi(pressure: &Pressure) -> v1::PsiStats {
    let line = |line: &PressureLine| v1::PsiData {
        total: line.total_us,
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
    };
    v1::PsiStats { full: Some(line(&pressure.full)), some: Some(line(&pressure.some)) }
}

/// The first interface is the one with the pod's address.
fn network(at: i64, interfaces: &[InterfaceStats]) -> Option<v1::NetworkUsage> {
    let mut usages =
        interfaces.iter().filter(|i| i.name != "lo").map(|interface| v1::NetworkInterfaceUsage {
            name: interface.name.clone(),
            rx_bytes: Some(uint(interface.rx_bytes)),
            rx_errors: Some(uint(interface.rx_errors)),
            tx_bytes: Some(uint(interface.tx_bytes)),
            tx_errors: Some(uint(interface.tx_errors)),
        });
    let default_interface = Some(usages.next()?);
    Some(v1::NetworkUsage { timestamp: at, default_interface, interfaces: usages.collect() })
}

/// A sum of what is known; `None` if nothing is.
fn sum(values: impl Iterator<Item = Option<v1::UInt64Value>>) -> Option<v1::UInt64Value> {
    values.flatten().map(|value| value.value).reduce(u64::saturating_add).map(uint)
}

/// For pods without a cgroup of their own.
fn sum_cpu(at: i64, containers: &[v1::ContainerStats]) -> Option<v1::CpuUsage> {
    let all: Vec<_> = containers.iter().filter_map(|container| container.cpu.as_ref()).collect();
    Some(v1::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: Some(sum(all.iter().map(|cpu| cpu.usage_core_nano_seconds))?),
        usage_nano_cores: sum(all.iter().map(|cpu| cpu.usage_nano_cores)),
        psi: None,
    })
}

fn sum_memory(at: i64, containers: &[v1::ContainerStats]) -> Option<v1::MemoryUsage> {
    let all: Vec<_> = containers.iter().filter_map(|container| container.memory.as_ref()).collect();
    Some(v1::MemoryUsage {
        timestamp: at,
        working_set_bytes: Some(sum(all.iter().map(|memory| memory.working_set_bytes))?),
        available_bytes: None,
        usage_bytes: sum(all.iter().map(|memory| memory.usage_bytes)),
        rss_bytes: sum(all.iter().map(|memory| memory.rss_bytes)),
        page_faults: sum(all.iter().map(|memory| memory.page_faults)),
        major_page_faults: sum(all.iter().map(|memory| memory.major_page_faults)),
        psi: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::container_stats;
    use crate::{container, sandbox};

    #[test]
    fn a_container_has_all_figures() {
        let message = super::container(&container::tests::snapshot(), &container_stats());
        let memory = message.memory.unwrap();
        assert_eq!(memory.available_bytes.unwrap().value, 1000 - 400);
        assert_eq!(message.swap.unwrap().swap_available_bytes.unwrap().value, 90);
        assert_eq!(message.cpu.unwrap().psi.unwrap().some.unwrap().total, 3_000_000);
        assert!(message.io.is_some());
        let idle = ContainerStats { cgroup: None, ..container_stats() };
        let message = super::container(&container::tests::snapshot(), &idle);
        assert!(message.cpu.is_none() && message.writable_layer.is_some());
    }

    #[test]
    fn a_pod_without_a_cgroup_is_the_sum_of_its_containers() {
        let mut status = sandbox::tests::snapshot();
        let mut other = container::tests::snapshot();
        other.id = "34".repeat(32).parse().unwrap();
        status.containers = vec![container::tests::snapshot(), other.clone()];
        let stats = SandboxStats {
            id: status.id.clone(),
            observed_at_ns: 9,
            cgroup: None,
            usage_nano_cores: None,
            interfaces: ["lo", "eth0", "net1"]
                .map(|name| InterfaceStats { name: name.into(), rx_bytes: 1, ..Default::default() })
                .into(),
            processes: 3,
            containers: vec![container_stats(), ContainerStats { id: other.id, ..container_stats() }],
        };
        let linux = super::sandbox(&status, &stats).linux.unwrap();
        assert_eq!(linux.containers.len(), 2);
        assert_eq!(linux.cpu.unwrap().usage_core_nano_seconds.unwrap().value, 20_000_000_000);
        assert_eq!(linux.memory.unwrap().working_set_bytes.unwrap().value, 800);
        let network = linux.network.unwrap();
        assert_eq!(network.default_interface.unwrap().name, "eth0");
        assert_eq!(network.interfaces.len(), 1);
    }
}
