//! What is measured: the table's lines, their units and their targets.

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Lower,
    Higher,
}

/// The figure of a metric's samples that its limit holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    P50,
    P99,
}

/// What has to be reached.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Target {
    /// At most, or at least, this.
    pub limit: Option<f64>,
    /// And this many times better than the best peer.
    pub ratio: Option<f64>,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric {
    /// Row of the table in the performance reference, with a letter where a row has several figures.
    pub key: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub better: Better,
    pub figure: Figure,
    pub target: Target,
}

impl Metric {
    /// The number of its row.
    #[cfg(test)]
    pub(super) fn row(&self) -> u32 {
        self.key.trim_end_matches(|letter: char| letter.is_ascii_alphabetic()).parse().unwrap_or_default()
    }

    /// Whether a figure with this ratio to the best peer is good enough; `None` without a target.
    pub(super) fn reached(&self, value: f64, ratio: Option<f64>) -> Option<bool> {
        let limit = self.target.limit.map(|limit| match self.better {
            Better::Lower => value <= limit,
            Better::Higher => value >= limit,
        });
        // Without a peer's figure a ratio can be neither reached nor missed.
        let ratio = self.target.ratio.zip(ratio).map(|(wanted, ratio)| ratio >= wanted);
        match (limit, ratio) {
            (None, None) => None,
            (limit, ratio) => Some(limit.unwrap_or(true) && ratio.unwrap_or(true)),
        }
    }

    const fn p99(self) -> Metric {
        Metric { figure: Figure::P99, ..self }
    }

    const fn limit(self, limit: f64) -> Metric {
        Metric { target: Target { limit: Some(limit), ..self.target }, ..self }
    }

    const fn ratio(self, ratio: f64) -> Metric {
        Metric { target: Target { ratio: Some(ratio), ..self.target }, ..self }
    }
}

const fn lower(key: &'static str, title: &'static str, unit: &'static str) -> Metric {
    let target = Target { limit: None, ratio: None };
    Metric { key, title, unit, better: Better::Lower, figure: Figure::P50, target }
}

const fn higher(key: &'static str, title: &'static str, unit: &'static str) -> Metric {
    Metric { better: Better::Higher, ..lower(key, title, unit) }
}

/// Every line, in the table's order.
pub(super) const METRICS: &[Metric] = &[
    lower("1", "pod up: RunPodSandbox, CreateContainer, StartContainer", "ms").limit(10.0).ratio(15.0),
    lower("2", "pod up with 50 pods in the background, p99", "ms").p99().limit(25.0),
    lower("3", "CreateContainer, StartContainer in a ready pod", "ms").limit(6.0),
    lower("4", "ExecSync of a program that ends at once", "ms").limit(2.5),
    lower("5", "pod down: StopContainer, StopPodSandbox, RemovePodSandbox", "ms").limit(8.0),
    higher("6", "pods started per second, 8 at a time", "pods/s").limit(80.0),
    lower("7", "processor time of the machine per pod start", "ms").limit(20.0),
    lower("8", "pod up with a host port beside 1000 others", "ms").limit(15.0),
    lower("9", "memory of the idle engine (PSS)", "MiB").limit(12.0),
    lower("10", "memory per pod and container (PSS, engine only)", "MiB").limit(0.15),
    lower("11", "memory per pod and container (MemAvailable)", "MiB").limit(0.8),
    lower("12", "processor time of the engine in 10 s, 100 idle pods", "ms").limit(5.0),
    lower("13", "ListContainerStats, 100 pods", "ms").limit(5.0),
    lower("13b", "ListPodSandboxStats, 100 pods", "ms").limit(5.0),
    lower("14", "ListPodSandbox, 100 pods", "ms").limit(0.3),
    lower("14b", "ListContainers, 100 pods", "ms").limit(0.3),
    lower("14c", "ContainerStatus, 100 pods", "ms").limit(0.3),
    higher("15", "log, lines of 100 bytes", "MB/s").limit(300.0),
    higher("16", "log, lines of 2 bytes", "M lines/s").limit(3.0),
    lower("17", "processor time of the engine per GB logged", "s").limit(5.0),
    lower("18", "pull and unpack, 4 layers, 49 000 files, gzip", "s").limit(4.0).ratio(3.0),
    lower("19", "pull and unpack, 1 layer of 1 GiB, gzip", "s").ratio(2.0),
    lower("20", "pull and unpack, 4 layers, 49 000 files, zstd", "s").ratio(3.0),
    lower("21", "RemoveImage of 49 000 files, until it returns", "ms").limit(50.0),
    lower("21b", "RemoveImage of 49 000 files, until the space is free", "s").limit(2.0),
    lower("22", "pull of an image that shares 3 of 4 layers", "s"),
    lower("22b", "bytes received beyond the missing layer", "KiB"),
    lower("28", "daemon's start until Version answers, no pod", "ms").limit(50.0),
    lower("28b", "daemon's start until Version answers, 100 pods", "ms").limit(100.0),
    lower("29", "exit of a process until its event, p99", "ms").p99().limit(3.0),
    lower("30", "programs executed per pod", "").limit(1.0),
    lower("30b", "processes and threads made per pod", "").limit(4.0),
    lower("30c", "waits for the disk per pod", "").limit(3.0),
    lower("32", "memory kept after many pods (RSS)", "MiB").limit(1.0),
    lower("32b", "descriptors, mounts, namespaces, cgroups, files left", "").limit(0.0),
    lower("34", "size of the programs", "MB").limit(25.0),
    lower("35", "critest: create a container, 100, 2 at a time", "ms").ratio(10.0),
    lower("35b", "critest: start a container", "ms").ratio(10.0),
    lower("35c", "critest: stop a container", "ms").ratio(10.0),
    lower("35d", "critest: remove a container", "ms").ratio(10.0),
    lower("35e", "critest: run a pod, 1 at a time", "ms").ratio(10.0),
    lower("35f", "critest: stop a pod", "ms").ratio(10.0),
    lower("35g", "critest: remove a pod", "ms").ratio(10.0),
    higher("36", "TCP from pod to pod", "MB/s").ratio(0.95),
    lower("36b", "round trip from pod to pod, p99", "us").p99().ratio(0.95),
    higher("36c", "TCP from pod to host port", "MB/s").ratio(0.95),
    lower("36d", "round trip from pod to host port, p99", "us").p99().ratio(0.95),
];

/// The metric of a key.
#[cfg(test)]
pub(super) fn metric(key: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_rows() {
        assert!(METRICS.iter().all(|metric| (1..=36).contains(&metric.row())));
        assert_eq!(metric("13b").unwrap().row(), 13);
        let mut keys: Vec<&str> = METRICS.iter().map(|metric| metric.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), METRICS.len());
    }

    #[test]
    fn both_parts_of_a_target_count() {
        let row = metric("1").unwrap();
        assert_eq!(row.reached(9.0, Some(20.0)), Some(true));
        assert_eq!(row.reached(9.0, Some(14.0)), Some(false));
        assert_eq!(row.reached(11.0, Some(20.0)), Some(false));
        assert_eq!(row.reached(9.0, None), Some(true));
        assert_eq!(metric("22").unwrap().reached(1.0, Some(1.0)), None);
    }
}
