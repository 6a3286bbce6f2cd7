//! The metrics that the kubelet serves in place of cAdvisor.
//!
//! Names, kinds and labels are a contract with dashboards, so they are one table; a sample that is not in
//! the table cannot be made. Values are whole numbers by the interface: seconds lose their fractions there,
//! and keep them where Prometheus reads them itself ([`Usage`]).

use std::collections::BTreeMap;

use cri_api::v1;
use engine::{
    CgroupStats, ContainerStats, ContainerStatus, InterfaceStats, Pressure, SandboxStats, SandboxStatus,
};

use crate::convert::uint;

/// Labels that every metric starts with.
const BASE: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

const NS_PER_S: f64 = 1e9;
const US_PER_S: f64 = 1e6;
/// What the kernel enforces quotas by, unless told otherwise.
const DEFAULT_PERIOD_US: u64 = 100_000;
const DEFAULT_SHARES: u64 = 1024;

/// A metric: name, kind, labels after [`BASE`], help.
struct Row(&'static str, v1::MetricType, &'static [&'static str], &'static str);

const C: v1::MetricType = v1::MetricType::Counter;
const G: v1::MetricType = v1::MetricType::Gauge;

static TABLE: [Row; 56] = [
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

/// Metrics of a pod and its containers, in the interface's form.
pub(crate) fn sandbox(status: &SandboxStatus, stats: &SandboxStats) -> v1::PodSandboxMetrics {
    let id = status.id.to_string();
    let mut metrics = of_sandbox(status, stats).metrics();
    metrics.extend(of_cgroup(status, stats, &id).metrics());
    let containers = stats.containers.iter().filter_map(|stats| {
        let container = status.containers.iter().find(|container| container.id == stats.id)?;
        Some(v1::ContainerMetrics {
            container_id: stats.id.to_string(),
            metrics: of_container(status, container, stats).metrics(),
        })
    });
    let container_metrics = containers.collect();
    v1::PodSandboxMetrics { pod_sandbox_id: id, metrics, container_metrics }
}

fn of_sandbox(status: &SandboxStatus, stats: &SandboxStats) -> Samples {
    let mut samples = Samples::new(status, ["", status.id.as_str(), ""], stats.observed_at_ns);
    stats.interfaces.iter().filter(|i| i.name != "lo").for_each(|interface| samples.interface(interface));
    samples
}

/// Usage of the pod as a whole: of the cgroup that all its containers are in. No container's name is on it, so that
/// sums over containers can leave it out. Nothing for a pod without a cgroup of its own.
fn of_cgroup(status: &SandboxStatus, stats: &SandboxStats, id: &str) -> Samples {
    let mut samples = Samples::new(status, ["", id, ""], stats.observed_at_ns);
    if let Some(cgroup) = &stats.cgroup {
        samples.usage(cgroup);
    }
    samples
}

fn of_container(sandbox: &SandboxStatus, status: &ContainerStatus, stats: &ContainerStats) -> Samples {
    let labels =
        [status.config.key.name.as_str(), status.id.as_str(), crate::container::image_name(&status.config)];
    let mut samples = Samples::new(sandbox, labels, stats.observed_at_ns);
    samples.spec(status);
    samples.filesystem(stats);
    samples.processes(stats);
    if let Some(cgroup) = &stats.cgroup {
        samples.usage(cgroup);
        samples.add("container_threads_max", &[], cgroup.pids.and_then(|pids| pids.limit).unwrap_or(0));
    }
    samples
}

/// A value of a metric.
struct Sample {
    row: &'static Row,
    /// Those of the table's own labels.
    labels: Vec<String>,
    value: f64,
}

/// Collects the samples of one pod or container.
struct Samples {
    base: [String; 5],
    at_ns: i64,
    list: Vec<Sample>,
}

impl Samples {
    fn new(sandbox: &SandboxStatus, [container, id, image]: [&str; 3], at_ns: i64) -> Self {
        let metadata = &sandbox.config.metadata;
        let base = [&metadata.name, &metadata.namespace, container, id, image].map(str::to_owned);
        Self { base, at_ns, list: Vec::new() }
    }

    /// Adds a sample of a metric in the table; its labels must be as many as the table has.
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53, which is what Prometheus can hold")]
    fn add(&mut self, name: &str, labels: &[&str], value: u64) {
        self.add_fraction(name, labels, value as f64);
    }

    fn add_fraction(&mut self, name: &str, labels: &[&str], value: f64) {
        let row = TABLE.iter().find(|Row(n, ..)| *n == name);
        debug_assert!(row.is_some_and(|row| row.2.len() == labels.len()), "{name} {labels:?}");
        let Some(row) = row else { return };
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        self.list.push(Sample { row, labels, value });
    }

    /// In the interface's form.
    fn metrics(&self) -> Vec<v1::Metric> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and positive")]
        let metric = |sample: &Sample| v1::Metric {
            name: sample.row.0.to_owned(),
            timestamp: self.at_ns,
            metric_type: sample.row.1.into(),
            label_values: self.base.iter().chain(&sample.labels).cloned().collect(),
            value: Some(uint(sample.value as u64)),
        };
        self.list.iter().map(metric).collect()
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
        let seconds = |ns: i64| in_seconds(u64::try_from(ns).unwrap_or(0), NS_PER_S);
        self.add_fraction("container_last_seen", &[], seconds(stats.observed_at_ns));
        self.add_fraction("container_start_time_seconds", &[], seconds(stats.started_at_ns));
        let Some(held) = &stats.processes else { return };
        self.add("container_processes", &[], held.processes);
        self.add("container_threads", &[], held.threads);
        self.add("container_sockets", &[], held.sockets);
        self.add("container_file_descriptors", &[], held.file_descriptors);
        if let Some(limit) = held.nofile_soft_limit {
            self.add("container_ulimits_soft", &["max_open_files"], limit);
        }
    }

    /// What a cgroup uses, a container's or a pod's.
    fn usage(&mut self, cgroup: &CgroupStats) {
        self.cpu(cgroup);
        self.memory(cgroup);
        self.devices(cgroup);
        self.huge_pages(cgroup);
        self.pressure("cpu", cgroup.pressure.cpu.as_ref());
        self.pressure("memory", cgroup.pressure.memory.as_ref());
        self.pressure("io", cgroup.pressure.io.as_ref());
    }

    fn cpu(&mut self, cgroup: &CgroupStats) {
        let Some(cpu) = &cgroup.cpu else { return };
        self.add_fraction(
            "container_cpu_usage_seconds_total",
            &["total"],
            in_seconds(cpu.usage_ns, NS_PER_S),
        );
        self.add_fraction("container_cpu_user_seconds_total", &[], in_seconds(cpu.user_ns, NS_PER_S));
        self.add_fraction("container_cpu_system_seconds_total", &[], in_seconds(cpu.system_ns, NS_PER_S));
        self.add("container_cpu_cfs_periods_total", &[], cpu.periods);
        self.add("container_cpu_cfs_throttled_periods_total", &[], cpu.throttled_periods);
        self.add_fraction(
            "container_cpu_cfs_throttled_seconds_total",
            &[],
            in_seconds(cpu.throttled_ns, NS_PER_S),
        );
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
        self.add_fraction(&name("stalled"), &[], in_seconds(pressure.full.total_us, US_PER_S));
        self.add_fraction(&name("waiting"), &[], in_seconds(pressure.some.total_us, US_PER_S));
    }
}

#[allow(clippy::cast_precision_loss, reason = "a fraction of a second after centuries does not matter")]
fn in_seconds(ticks: u64, per_second: f64) -> f64 {
    ticks as f64 / per_second
}

/// Usage of pods and containers in Prometheus' text format, under the names and labels that cAdvisor gives
/// them: `id` is the cgroup, `name` the container's id.
#[derive(Debug, Default)]
pub struct Usage {
    /// Lines by metric, for all samples of one must stand together.
    lines: BTreeMap<&'static str, String>,
}

impl Usage {
    /// Adds a pod and its containers.
    pub fn add(&mut self, status: &SandboxStatus, stats: &SandboxStats) {
        let parent = &status.config.cgroup_parent;
        self.push(&of_sandbox(status, stats), parent);
        // As of cAdvisor, whose pods have no name: dashboards tell containers from pods by it.
        self.push(&of_cgroup(status, stats, ""), parent);
        for stats in &stats.containers {
            let Some(container) = status.containers.iter().find(|c| c.id == stats.id) else { continue };
            self.push(&of_container(status, container, stats), &container.cgroup_path);
        }
    }

    fn push(&mut self, samples: &Samples, cgroup: &str) {
        let [pod, namespace, container, name, image] = samples.base.each_ref().map(|label| escaped(label));
        let base = format!(
            "container=\"{container}\",id=\"{}\",image=\"{image}\",name=\"{name}\",namespace=\"{namespace}\",pod=\"{pod}\"",
            escaped(cgroup)
        );
        for Sample { row: Row(metric, _, keys, _), labels, value } in &samples.list {
            let lines = self.lines.entry(metric).or_default();
            let own: String = keys
                .iter()
                .zip(labels)
                .map(|(key, value)| format!(",{key}=\"{}\"", escaped(value)))
                .collect();
            lines.push_str(&format!("{metric}{{{base}{own}}} {value}\n"));
        }
    }

    /// The text.
    pub fn into_text(self) -> String {
        let mut text = String::new();
        for Row(name, kind, _, help) in &TABLE {
            let Some(lines) = self.lines.get(name) else { continue };
            let kind = if *kind == C { "counter" } else { "gauge" };
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}"));
        }
        text
    }
}

/// A label's value as the text format has it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use engine::{FilesystemStats, PressureLine, Pressures, ProcessStats};

    use super::*;

    pub(crate) fn container_stats() -> ContainerStats {
        let line = PressureLine { avg10: 0.5, avg60: 0.0, avg300: 0.0, total_us: 3_000_000 };
        let pressure = Pressure { some: line, full: line };
        let mut cgroup = CgroupStats {
            pressure: Pressures { cpu: Some(pressure), memory: Some(pressure), io: Some(pressure) },
            ..Default::default()
        };
        cgroup.cpu.get_or_insert_default().usage_ns = 10_000_000_000;
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
            processes: Some(ProcessStats {
                processes: 1,
                file_descriptors: 2,
                sockets: 3,
                threads: 4,
                nofile_soft_limit: Some(1024),
            }),
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

    #[test]
    fn a_pod_has_the_usage_of_its_cgroup() {
        let mut status = crate::sandbox::tests::snapshot();
        status.config.cgroup_parent = "/kubepods/pod7".into();
        let stats = SandboxStats {
            id: status.id.clone(),
            observed_at_ns: 1,
            cgroup: container_stats().cgroup,
            usage_nano_cores: None,
            interfaces: Vec::new(),
            processes: 1,
            containers: Vec::new(),
        };
        let mut usage = Usage::default();
        usage.add(&status, &stats);
        let text = usage.into_text();
        let base = "container=\"\",id=\"/kubepods/pod7\",image=\"\",name=\"\",namespace=\"prod\",pod=\"web\"";
        for line in [
            format!("container_cpu_usage_seconds_total{{{base},cpu=\"total\"}} 10\n"),
            format!("container_memory_working_set_bytes{{{base}}} 400\n"),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        let metrics = sandbox(&status, &stats).metrics;
        let memory = metrics.iter().find(|m| m.name == "container_memory_working_set_bytes").unwrap();
        assert_eq!(memory.label_values, ["web", "prod", "", &"ab".repeat(32), ""]);
    }

    #[test]
    fn prometheus_reads_usage_as_of_cadvisor() {
        let mut status = crate::sandbox::tests::snapshot();
        let mut container = crate::container::tests::snapshot();
        container.config.key.name = "a\"b".into();
        status.containers.push(container);
        let mut of_container = container_stats();
        if let Some(cpu) = of_container.cgroup.as_mut().and_then(|cgroup| cgroup.cpu.as_mut()) {
            cpu.usage_ns = 10_500_000_000;
        }
        let stats = SandboxStats {
            id: status.id.clone(),
            observed_at_ns: 1,
            cgroup: None,
            usage_nano_cores: None,
            interfaces: vec![InterfaceStats { name: "eth0".into(), rx_bytes: 7, ..Default::default() }],
            processes: 1,
            containers: vec![of_container],
        };
        let mut usage = Usage::default();
        usage.add(&status, &stats);
        let text = usage.into_text();
        let id = "12".repeat(32);
        let line = format!(
            "container_cpu_usage_seconds_total{{container=\"a\\\"b\",id=\"/berth/12\",image=\"busybox:1\",\
             name=\"{id}\",namespace=\"prod\",pod=\"web\",cpu=\"total\"}} 10.5\n"
        );
        assert!(text.contains(&line), "{text}");
        assert!(!text.contains("container_cpu_usage_seconds_total{container=\"\""), "{text}");
        assert!(text.contains("# TYPE container_cpu_usage_seconds_total counter\n"));
        assert!(text.contains("interface=\"eth0\"} 7\n"));
        assert_eq!(text.matches("# TYPE container_memory_rss ").count(), 1);
    }
}
