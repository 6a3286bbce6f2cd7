//! The metrics that the kubelet serves in place of cAdvisor.
//!
//! Names, kinds and labels are a contract with dashboards, so they are one table; a sample that is not in
//! the table cannot be made. Values are whole numbers by the interface: seconds lose their fractions.

use cri_api::v1;
use engine::{
    CgroupStats, ContainerStats, ContainerStatus, InterfaceStats, Pressure, SandboxStats, SandboxStatus,
};

use crate::convert::uint;

/// Labels that every metric starts with.
const BASE: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

const NS_PER_S: u64 = 1_000_000_000;
const US_PER_S: u64 = 1_000_000;
/// What the kernel enforces quotas by, unless told otherwise.
const DEFAULT_PERIOD_US: u64 = 100_000;
const DEFAULT_SHARES: u64 = 1024;

/// A metric: name, kind, labels after [`BASE`], help.
struct Row(&'static str, v1::MetricType, &'static [&'static str], &'static str);

const C: v1::MetricType = v1::MetricType::Counter;
const G: v1::MetricType = v1::MetricType::Gauge;

const TABLE: [Row; 56] = [
    Row(
        "container_blkio_device_usage_total",
        C,
        &["device", "major", "minor", "operation"],
        "Bytes transferred, by block device and operation",
    ),
    Row("container_cpu_cfs_periods_total", C, &[], "Elapsed enforcement periods"),
    Row(
        "container_cpu_cfs_throttled_periods_total",
        C,
        &[],
        "Enforcement periods in which the container was throttled",
    ),
    Row("container_cpu_cfs_throttled_seconds_total", C, &[], "Seconds for which the container was throttled"),
    Row("container_cpu_system_seconds_total", C, &[], "CPU time spent in the kernel, in seconds"),
    Row("container_cpu_usage_seconds_total", C, &["cpu"], "CPU time, in seconds"),
    Row("container_cpu_user_seconds_total", C, &[], "CPU time spent in user mode, in seconds"),
    Row("container_file_descriptors", G, &[], "Open file descriptors"),
    Row("container_fs_inodes_free", G, &["device"], "Free inodes of the file system of the writable layer"),
    Row("container_fs_inodes_total", G, &["device"], "Inodes of the file system of the writable layer"),
    Row("container_fs_limit_bytes", G, &["device"], "Size of the file system of the writable layer"),
    Row("container_fs_reads_bytes_total", C, &["device"], "Bytes read from block devices"),
    Row("container_fs_reads_total", C, &["device"], "Reads from block devices"),
    Row("container_fs_usage_bytes", G, &["device"], "Bytes used by the writable layer"),
    Row("container_fs_writes_bytes_total", C, &["device"], "Bytes written to block devices"),
    Row("container_fs_writes_total", C, &["device"], "Writes to block devices"),
    Row("container_hugetlb_max_usage_bytes", G, &["pagesize"], "Most bytes of huge pages ever used"),
    Row("container_hugetlb_usage_bytes", G, &["pagesize"], "Bytes of huge pages in use"),
    Row("container_last_seen", G, &[], "When the container was last seen, in seconds since the epoch"),
    Row("container_memory_cache", G, &[], "Bytes of page cache"),
    Row("container_memory_failcnt", C, &[], "How often the memory limit was hit"),
    Row("container_memory_failures_total", C, &["failure_type", "scope"], "Page faults"),
    Row("container_memory_kernel_usage", G, &[], "Bytes of kernel memory"),
    Row("container_memory_mapped_file", G, &[], "Bytes of mapped files"),
    Row("container_memory_max_usage_bytes", G, &[], "Most bytes of memory ever used"),
    Row("container_memory_rss", G, &[], "Bytes of anonymous memory"),
    Row("container_memory_swap", G, &[], "Bytes in swap"),
    Row("container_memory_usage_bytes", G, &[], "Bytes of memory in use, with page cache"),
    Row("container_memory_working_set_bytes", G, &[], "Bytes of memory in use, without inactive page cache"),
    Row("container_network_receive_bytes_total", C, &["interface"], "Bytes received"),
    Row("container_network_receive_errors_total", C, &["interface"], "Errors on receive"),
    Row("container_network_receive_packets_dropped_total", C, &["interface"], "Packets dropped on receive"),
    Row("container_network_receive_packets_total", C, &["interface"], "Packets received"),
    Row("container_network_transmit_bytes_total", C, &["interface"], "Bytes transmitted"),
    Row("container_network_transmit_errors_total", C, &["interface"], "Errors on transmit"),
    Row("container_network_transmit_packets_dropped_total", C, &["interface"], "Packets dropped on transmit"),
    Row("container_network_transmit_packets_total", C, &["interface"], "Packets transmitted"),
    Row("container_oom_events_total", C, &[], "Processes killed for want of memory"),
    Row(
        "container_pressure_cpu_stalled_seconds_total",
        C,
        &[],
        "Seconds in which all tasks waited for a CPU",
    ),
    Row(
        "container_pressure_cpu_waiting_seconds_total",
        C,
        &[],
        "Seconds in which some task waited for a CPU",
    ),
    Row(
        "container_pressure_io_stalled_seconds_total",
        C,
        &[],
        "Seconds in which all tasks waited for block devices",
    ),
    Row(
        "container_pressure_io_waiting_seconds_total",
        C,
        &[],
        "Seconds in which some task waited for block devices",
    ),
    Row(
        "container_pressure_memory_stalled_seconds_total",
        C,
        &[],
        "Seconds in which all tasks waited for memory",
    ),
    Row(
        "container_pressure_memory_waiting_seconds_total",
        C,
        &[],
        "Seconds in which some task waited for memory",
    ),
    Row("container_processes", G, &[], "Processes"),
    Row("container_sockets", G, &[], "Open sockets"),
    Row("container_spec_cpu_period", G, &[], "Period of the CPU quota, in microseconds"),
    Row("container_spec_cpu_quota", G, &[], "CPU quota per period, in microseconds"),
    Row("container_spec_cpu_shares", G, &[], "Relative CPU weight"),
    Row("container_spec_memory_limit_bytes", G, &[], "Memory limit; 0 is none"),
    Row("container_spec_memory_reservation_limit_bytes", G, &[], "Memory reservation; 0 is none"),
    Row("container_spec_memory_swap_limit_bytes", G, &[], "Limit of memory and swap together; 0 is none"),
    Row("container_start_time_seconds", G, &[], "When the container was started, in seconds since the epoch"),
    Row("container_threads", G, &[], "Threads"),
    Row("container_threads_max", G, &[], "Limit of threads; 0 is none"),
    Row("container_ulimits_soft", G, &["ulimit"], "Soft resource limits of the first process"),
];

/// All metrics. The answer never changes.
pub(crate) fn descriptors() -> Vec<v1::MetricDescriptor> {
    let descriptor = |Row(name, _, labels, help): &Row| v1::MetricDescriptor {
        name: (*name).to_owned(),
        help: (*help).to_owned(),
        label_keys: BASE.iter().chain(*labels).map(|label| (*label).to_owned()).collect(),
    };
    TABLE.iter().map(descriptor).collect()
}

/// Metrics of a pod and its containers.
pub(crate) fn sandbox(status: &SandboxStatus, stats: &SandboxStats) -> v1::PodSandboxMetrics {
    let id = status.id.to_string();
    let mut samples = Samples::new(status, ["", &id, ""], stats.observed_at_ns);
    stats.interfaces.iter().filter(|i| i.name != "lo").for_each(|interface| samples.interface(interface));
    let containers = stats.containers.iter().filter_map(|stats| {
        let container = status.containers.iter().find(|container| container.id == stats.id)?;
        Some(v1::ContainerMetrics {
            container_id: stats.id.to_string(),
            metrics: of_container(status, container, stats),
        })
    });
    let container_metrics = containers.collect();
    v1::PodSandboxMetrics { pod_sandbox_id: id, metrics: samples.metrics, container_metrics }
}

fn of_container(
    sandbox: &SandboxStatus,
    status: &ContainerStatus,
    stats: &ContainerStats,
) -> Vec<v1::Metric> {
    let labels =
        [status.config.key.name.as_str(), status.id.as_str(), crate::container::image_name(&status.config)];
    let mut samples = Samples::new(sandbox, labels, stats.observed_at_ns);
    samples.spec(status);
    samples.filesystem(stats);
    samples.processes(stats);
    if let Some(cgroup) = &stats.cgroup {
        samples.cpu(cgroup);
        samples.memory(cgroup);
        samples.devices(cgroup);
        samples.huge_pages(cgroup);
        samples.pressure("cpu", cgroup.pressure.cpu.as_ref());
        samples.pressure("memory", cgroup.pressure.memory.as_ref());
        samples.pressure("io", cgroup.pressure.io.as_ref());
        samples.add("container_threads_max", &[], cgroup.pids.and_then(|pids| pids.limit).unwrap_or(0));
    }
    samples.metrics
}

/// Collects the samples of one pod or container.
struct Samples {
    base: [String; 5],
    at_ns: i64,
    metrics: Vec<v1::Metric>,
}

impl Samples {
    fn new(sandbox: &SandboxStatus, [container, id, image]: [&str; 3], at_ns: i64) -> Self {
        let metadata = &sandbox.config.metadata;
        let base = [&metadata.name, &metadata.namespace, container, id, image].map(str::to_owned);
        Self { base, at_ns, metrics: Vec::new() }
    }

    /// Adds a sample of a metric in the table; its labels must be as many as the table has.
    fn add(&mut self, name: &str, labels: &[&str], value: u64) {
        let row = TABLE.iter().find(|Row(n, ..)| *n == name);
        debug_assert!(row.is_some_and(|row| row.2.len() == labels.len()), "{name} {labels:?}");
        let Some(Row(name, kind, ..)) = row else { return };
        self.metrics.push(v1::Metric {
            name: (*name).to_owned(),
            timestamp: self.at_ns,
            metric_type: (*kind).into(),
            label_values: self.base.iter().cloned().chain(labels.iter().map(|l| (*l).to_owned())).collect(),
            value: Some(uint(value)),
        });
    }

    fn interface(&mut self, interface: &InterfaceStats) {
        let values = [
            ("receive_bytes", interface.rx_bytes),
            ("receive_errors", interface.rx_errors),
            ("receive_packets_dropped", interface.rx_dropped),
            ("receive_packets", interface.rx_packets),
            ("transmit_bytes", interface.tx_bytes),
            ("transmit_errors", interface.tx_errors),
            ("transmit_packets_dropped", interface.tx_dropped),
            ("transmit_packets", interface.tx_packets),
        ];
        for (name, value) in values {
            self.add(&format!("container_network_{name}_total"), &[&interface.name], value);
        }
    }

    fn spec(&mut self, status: &ContainerStatus) {
        let limits = &status.config.resources;
        let limit = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
        self.add("container_spec_cpu_period", &[], limits.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US));
        self.add("container_spec_cpu_quota", &[], limit(limits.cpu_quota_us));
        self.add("container_spec_cpu_shares", &[], limits.cpu_shares.unwrap_or(DEFAULT_SHARES));
        self.add("container_spec_memory_limit_bytes", &[], limit(limits.memory_limit_bytes));
        let reservation = limit(limits.memory_reservation_bytes);
        self.add("container_spec_memory_reservation_limit_bytes", &[], reservation);
        self.add("container_spec_memory_swap_limit_bytes", &[], limit(limits.memory_swap_limit_bytes));
    }

    fn filesystem(&mut self, stats: &ContainerStats) {
        let filesystem = &stats.filesystem;
        let device = [filesystem.mountpoint.as_str()];
        self.add("container_fs_inodes_free", &device, filesystem.inodes_free);
        self.add("container_fs_inodes_total", &device, filesystem.inodes);
        self.add("container_fs_limit_bytes", &device, filesystem.capacity_bytes);
        self.add("container_fs_usage_bytes", &device, filesystem.used_bytes);
    }

    fn processes(&mut self, stats: &ContainerStats) {
        let seconds = |ns: i64| u64::try_from(ns).unwrap_or(0) / NS_PER_S;
        self.add("container_last_seen", &[], seconds(stats.observed_at_ns));
        self.add("container_start_time_seconds", &[], seconds(stats.started_at_ns));
        self.add("container_processes", &[], stats.processes);
        self.add("container_threads", &[], stats.threads);
        self.add("container_sockets", &[], stats.sockets);
        self.add("container_file_descriptors", &[], stats.file_descriptors);
        if let Some(limit) = stats.nofile_soft_limit {
            self.add("container_ulimits_soft", &["max_open_files"], limit);
        }
    }

    fn cpu(&mut self, cgroup: &CgroupStats) {
        let Some(cpu) = &cgroup.cpu else { return };
        self.add("container_cpu_usage_seconds_total", &["total"], cpu.usage_ns / NS_PER_S);
        self.add("container_cpu_user_seconds_total", &[], cpu.user_ns / NS_PER_S);
        self.add("container_cpu_system_seconds_total", &[], cpu.system_ns / NS_PER_S);
        self.add("container_cpu_cfs_periods_total", &[], cpu.periods);
        self.add("container_cpu_cfs_throttled_periods_total", &[], cpu.throttled_periods);
        self.add("container_cpu_cfs_throttled_seconds_total", &[], cpu.throttled_ns / NS_PER_S);
    }

    fn memory(&mut self, cgroup: &CgroupStats) {
        let Some(memory) = &cgroup.memory else { return };
        self.add("container_memory_cache", &[], memory.cache_bytes);
        self.add("container_memory_failcnt", &[], memory.fail_count);
        self.add("container_memory_failures_total", &["pgfault", "container"], memory.page_faults);
        self.add("container_memory_failures_total", &["pgmajfault", "container"], memory.major_page_faults);
        self.add("container_memory_kernel_usage", &[], memory.kernel_bytes);
        self.add("container_memory_mapped_file", &[], memory.mapped_file_bytes);
        let max = memory.max_usage_bytes.unwrap_or(memory.usage_bytes);
        self.add("container_memory_max_usage_bytes", &[], max);
        self.add("container_memory_rss", &[], memory.rss_bytes);
        self.add("container_memory_swap", &[], memory.swap_bytes.unwrap_or(0));
        self.add("container_memory_usage_bytes", &[], memory.usage_bytes);
        self.add("container_memory_working_set_bytes", &[], memory.working_set_bytes);
        self.add("container_oom_events_total", &[], memory.oom_kills);
    }

    fn devices(&mut self, cgroup: &CgroupStats) {
        for device in cgroup.io.iter().flat_map(|io| &io.devices) {
            let (major, minor) = (device.major.to_string(), device.minor.to_string());
            let name = format!("{major}:{minor}");
            self.add("container_fs_reads_bytes_total", &[&name], device.read_bytes);
            self.add("container_fs_reads_total", &[&name], device.reads);
            self.add("container_fs_writes_bytes_total", &[&name], device.write_bytes);
            self.add("container_fs_writes_total", &[&name], device.writes);
            for (operation, bytes) in [("Read", device.read_bytes), ("Write", device.write_bytes)] {
                self.add("container_blkio_device_usage_total", &[&name, &major, &minor, operation], bytes);
            }
        }
    }

    fn huge_pages(&mut self, cgroup: &CgroupStats) {
        for pages in &cgroup.hugetlb {
            let size = [pages.page_size.as_str()];
            self.add("container_hugetlb_usage_bytes", &size, pages.usage_bytes);
            let max = pages.max_usage_bytes.unwrap_or(pages.usage_bytes);
            self.add("container_hugetlb_max_usage_bytes", &size, max);
        }
    }

    fn pressure(&mut self, resource: &str, pressure: Option<&Pressure>) {
        let Some(pressure) = pressure else { return };
        let name = |state: &str| format!("container_pressure_{resource}_{state}_seconds_total");
        self.add(&name("stalled"), &[], pressure.full.total_us / US_PER_S);
        self.add(&name("waiting"), &[], pressure.some.total_us / US_PER_S);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use engine::{FilesystemStats, PressureLine, Pressures};

    use super::*;

    pub(crate) fn container_stats() -> ContainerStats {
        let line = PressureLine { avg10: 0.5, avg60: 0.0, avg300: 0.0, total_us: 3_000_000 };
        let pressure = Pressure { some: line, full: line };
        let mut cgroup = CgroupStats {
            pressure: Pressures { cpu: Some(pressure), memory: Some(pressure), io: Some(pressure) },
            ..Default::default()
        };
        cgroup.cpu.get_or_insert_default().usage_ns = 10 * NS_PER_S;
        let memory = cgroup.memory.get_or_insert_default();
        memory.working_set_bytes = 400;
        memory.limit_bytes = Some(1000);
        memory.swap_bytes = Some(10);
        memory.swap_limit_bytes = Some(100);
        cgroup.io.get_or_insert_default().devices.push(Default::default());
        cgroup.hugetlb.push(Default::default());
        ContainerStats {
            id: crate::container::tests::snapshot().id,
            observed_at_ns: 60_000_000_000,
            cgroup: Some(cgroup),
            usage_nano_cores: Some(5),
            filesystem: FilesystemStats { mountpoint: "/var/lib/berth".into(), ..Default::default() },
            processes: 1,
            file_descriptors: 2,
            sockets: 3,
            threads: 4,
            nofile_soft_limit: Some(1024),
            started_at_ns: 30_000_000_000,
        }
    }

    fn metrics() -> v1::PodSandboxMetrics {
        let mut status = crate::sandbox::tests::snapshot();
        status.containers.push(crate::container::tests::snapshot());
        let stats = SandboxStats {
            id: status.id.clone(),
            observed_at_ns: 1,
            cgroup: None,
            usage_nano_cores: None,
            interfaces: vec![InterfaceStats { name: "eth0".into(), ..Default::default() }],
            processes: 1,
            containers: vec![container_stats()],
        };
        sandbox(&status, &stats)
    }

    #[test]
    fn every_metric_is_sampled_with_its_labels() {
        let descriptors: BTreeMap<_, _> = descriptors().into_iter().map(|d| (d.name, d.label_keys)).collect();
        assert_eq!(descriptors.len(), 56);
        let metrics = metrics();
        let mut seen = BTreeSet::new();
        let of_containers = metrics.container_metrics.iter().flat_map(|container| &container.metrics);
        for metric in metrics.metrics.iter().chain(of_containers) {
            assert_eq!(metric.label_values.len(), descriptors[&metric.name].len(), "{}", metric.name);
            seen.insert(metric.name.clone());
        }
        assert_eq!(seen, descriptors.into_keys().collect());
    }

    #[test]
    fn samples_name_their_container() {
        let metrics = metrics();
        let usage = &metrics.container_metrics[0].metrics;
        let cpu = usage.iter().find(|m| m.name == "container_cpu_usage_seconds_total").unwrap();
        let id = "12".repeat(32);
        assert_eq!(cpu.label_values, ["web", "prod", "app", &id, "busybox:1", "total"]);
        assert_eq!(cpu.value.unwrap().value, 10);
        assert_eq!(metrics.metrics[0].label_values, ["web", "prod", "", &"ab".repeat(32), "", "eth0"]);
    }
}
