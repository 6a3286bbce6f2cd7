//! What every program that Prometheus watches tells of itself.

use engine::metrics::{Counter, Gauge, IntGauge, Registry};

/// Ticks per second of times in `/proc` (proc_pid_stat(5)); the same on every architecture we are built for.
const TICKS_PER_S: f64 = 100.0;

/// Metrics of this process.
#[derive(Debug)]
pub(super) struct Process {
    cpu_seconds: Counter,
    start_seconds: Gauge,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
    threads: IntGauge,
    open_descriptors: IntGauge,
    max_descriptors: IntGauge,
}

impl Process {
    pub(super) fn register(registry: &Registry) -> Self {
        registry.info(
            "berth_build_info",
            "What was built; always 1",
            &[("version", env!("CARGO_PKG_VERSION")), ("architecture", std::env::consts::ARCH)],
        );
        Self {
            cpu_seconds: registry.measure("process_cpu_seconds_total", "CPU time of the daemon, in seconds"),
            start_seconds: registry
                .level("process_start_time_seconds", "When the daemon started, in seconds since the epoch"),
            resident_bytes: registry.gauge("process_resident_memory_bytes", "Resident memory of the daemon"),
            virtual_bytes: registry.gauge("process_virtual_memory_bytes", "Address space of the daemon"),
            threads: registry.gauge("process_threads", "Threads of the daemon"),
            open_descriptors: registry.gauge("process_open_fds", "Descriptors that the daemon has open"),
            max_descriptors: registry.gauge("process_max_fds", "Descriptors that the daemon may have open"),
        }
    }

    /// Reads them anew; what cannot be read stays as it was.
    pub(super) fn observe(&self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            set(&self.resident_bytes, field(&status, "VmRSS:").map(|kib| kib * 1024));
            set(&self.virtual_bytes, field(&status, "VmSize:").map(|kib| kib * 1024));
            set(&self.threads, field(&status, "Threads:"));
        }
        if let Ok(limits) = std::fs::read_to_string("/proc/self/limits") {
            set(&self.max_descriptors, field(&limits, "Max open files"));
        }
        let descriptors = std::fs::read_dir("/proc/self/fd").map(|entries| entries.count());
        set(&self.open_descriptors, descriptors.ok().and_then(|count| i64::try_from(count).ok()));
        self.observe_times();
    }

    fn observe_times(&self) {
        let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
        // The name is in parentheses and may hold anything; what follows starts with field 3.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok());
        if let (Some(user), Some(system)) = (ticks(14), ticks(15)) {
            let now = (user + system) / TICKS_PER_S;
            self.cpu_seconds.inc_by((now - self.cpu_seconds.get()).max(0.0));
        }
        let boot = std::fs::read_to_string("/proc/stat").ok().and_then(|text| field(&text, "btime"));
        if let (Some(start), Some(boot)) = (ticks(22), boot.and_then(|boot| i32::try_from(boot).ok())) {
            self.start_seconds.set(f64::from(boot) + start / TICKS_PER_S);
        }
    }
}

fn set(gauge: &IntGauge, value: Option<i64>) {
    if let Some(value) = value {
        gauge.set(value);
    }
}

/// The first number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<i64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let registry = Registry::new();
        let process = Process::register(&registry);
        process.observe();
        assert!(process.resident_bytes.get() > 100_000);
        assert!(process.open_descriptors.get() > 2);
        assert!(process.max_descriptors.get() > process.open_descriptors.get());
        let age = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map(|now| now.as_secs_f64() - process.start_seconds.get());
        assert!(age.is_ok_and(|age| (-2.0..3600.0).contains(&age)));
    }

    /// Names, kinds and labels are a contract with dashboards and alerts: `config/metrics.txt` is the list.
    #[test]
    fn the_list_of_metrics_is_written_down() {
        let registry = Registry::new();
        drop(Process::register(&registry));
        drop(engine::metrics::Metrics::register(&registry));
        drop(cri::RpcMetrics::register(&registry));
        drop(crate::traces::register(&registry));
        let mut text = String::new();
        for metric in registry.describe() {
            let labels: Vec<String> = metric
                .labels
                .iter()
                .map(|(name, values)| match values.as_slice() {
                    [] => (*name).to_owned(),
                    values => format!("{name}={}", values.join("|")),
                })
                .collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(", ")) };
            text.push_str(&format!("{} {}{labels}: {}\n", metric.kind, metric.name, metric.help));
        }
        expect_test::expect_file!["../../../../config/metrics.txt"].assert_eq(&text);
    }
}
