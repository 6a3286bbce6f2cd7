//! What a reading of a control group yields. Absent controllers give `None` or empty lists.

/// One reading.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// When it was taken, nanoseconds since the epoch.
    pub timestamp_ns: u64,
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes.
    pub pids: Option<Pids>,
    /// Block devices.
    pub io: Option<Io>,
    /// Huge pages, by size.
    pub hugetlb: Vec<Hugetlb>,
    /// Stalls; only v2 directories have them.
    pub pressure: Pressures,
}

/// Processor time of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub usage_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// Enforcement periods that have passed.
    pub periods: u64,
    /// Periods in which the group was throttled.
    pub throttled_periods: u64,
    /// How long it was throttled.
    pub throttled_ns: u64,
}

/// Memory of a group, in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Charged now.
    pub usage_bytes: u64,
    /// Most ever charged; `None` before Linux 5.19 on v2.
    pub max_usage_bytes: Option<u64>,
    /// Usage without inactive file pages: what counts before the kubelet evicts.
    pub working_set_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Page cache.
    pub cache_bytes: u64,
    /// Mapped files.
    pub mapped_file_bytes: u64,
    /// Kernel memory.
    pub kernel_bytes: u64,
    /// In swap; `None` when the host does not account for it.
    pub swap_bytes: Option<u64>,
    /// Inactive file pages.
    pub inactive_file_bytes: u64,
    /// How often the limit was hit.
    pub fail_count: u64,
    /// Page faults, a count.
    pub page_faults: u64,
    /// Major page faults, a count.
    pub major_page_faults: u64,
    /// Limit; `None` is unlimited.
    pub limit_bytes: Option<u64>,
    /// Limit of swap alone; `None` is unlimited or not accounted for.
    pub swap_limit_bytes: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

/// Number of processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// Limit; `None` is unlimited.
    pub limit: Option<u64>,
}

/// Block devices of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Io {
    /// One entry per device with traffic.
    pub devices: Vec<Device>,
}

impl Io {
    /// The sum over all devices, with device number 0:0.
    #[must_use]
    pub fn total(&self) -> Device {
        self.devices.iter().fold(Device::default(), |sum, d| Device {
            read_bytes: sum.read_bytes + d.read_bytes,
            write_bytes: sum.write_bytes + d.write_bytes,
            reads: sum.reads + d.reads,
            writes: sum.writes + d.writes,
            ..sum
        })
    }
}

/// Traffic of one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hugetlb {
    /// Such as `2MB`.
    pub page_size: String,
    /// Bytes in use.
    pub usage_bytes: u64,
    /// Most bytes ever in use; v2 does not tell.
    pub max_usage_bytes: Option<u64>,
    /// How often the limit was hit.
    pub fail_count: u64,
}

/// Stalls by resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    /// Waiting for a processor.
    pub cpu: Option<Pressure>,
    /// Waiting for memory.
    pub memory: Option<Pressure>,
    /// Waiting for block devices.
    pub io: Option<Pressure>,
}

/// Stalls on one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Some task waited.
    pub some: PressureLine,
    /// All tasks waited.
    pub full: PressureLine,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureLine {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last 5 minutes.
    pub avg300: f64,
    /// Since the group was made, in microseconds.
    pub total_us: u64,
}
