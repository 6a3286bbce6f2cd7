//! Statistics from files that stay open between readings.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::files;
use super::group::{Cgroup, Place, is_gone};
use super::layout::Controller;
use super::limits::{page_sizes, parse};
use super::stats::{Cpu, Device, Hugetlb, Io, Memory, Pids, Pressure, PressureLine, Pressures, Stats};

/// Room for the largest of the files to begin with.
const BUFFER_BYTES: usize = 8 << 10;

/// Reads a group's statistics again and again. The kernel renders a file anew for each read at offset 0.
#[derive(Debug)]
pub struct Reader {
    cpu: Option<CpuFiles>,
    memory: Option<MemoryFiles>,
    pids: Option<[Source; 2]>,
    io: Option<IoFiles>,
    hugetlb: Vec<HugetlbFiles>,
    pressure: [Source; 3],
    buffer: Vec<u8>,
}

/// One file; `None` where it could not be opened, which reads as absent.
#[derive(Debug)]
struct Source(Option<File>);

#[derive(Debug)]
enum CpuFiles {
    V1 { usage: Source, user: Source, system: Source, stat: Source },
    V2 { stat: Source },
}

#[derive(Debug)]
enum MemoryFiles {
    V1 {
        usage: Source,
        max: Source,
        limit: Source,
        swap_limit: Source,
        fail_count: Source,
        kernel: Source,
        stat: Source,
        oom: Source,
    },
    V2 {
        usage: Source,
        max: Source,
        limit: Source,
        swap: Source,
        swap_limit: Source,
        stat: Source,
        events: Source,
    },
}

#[derive(Debug)]
enum IoFiles {
    V1 { bytes: Source, operations: Source },
    V2 { stat: Source },
}

#[derive(Debug)]
struct HugetlbFiles {
    page_size: String,
    usage: Source,
    max: Source,
    fail_count: Source,
}

impl Reader {
    pub(super) fn new(group: &Cgroup) -> Self {
        let pressure = |kind: &str| match group.unified_dir() {
            Some(dir) => Source::open(dir, &format!("{kind}.pressure")),
            None => Source(None),
        };
        Reader {
            cpu: cpu_files(group),
            memory: group.place(Controller::Memory).map(memory_files),
            pids: group
                .place(Controller::Pids)
                .map(|p| [Source::open(p.dir(), "pids.current"), Source::open(p.dir(), "pids.max")]),
            io: group.place(Controller::Io).map(io_files),
            hugetlb: group.place(Controller::Hugetlb).map(hugetlb_files).unwrap_or_default(),
            pressure: [pressure("cpu"), pressure("memory"), pressure("io")],
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when the group was removed; else what a read reports.
    pub fn read(&mut self) -> io::Result<Stats> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let buffer = &mut self.buffer;
        Ok(Stats {
            timestamp_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            cpu: self.cpu.as_ref().map(|files| files.read(buffer)).transpose()?,
            memory: self.memory.as_ref().map(|files| files.read(buffer)).transpose()?,
            pids: match &self.pids {
                Some([current, limit]) => {
                    Some(Pids { current: current.number(buffer)?.unwrap_or(0), limit: limit.limit(buffer)? })
                }
                None => None,
            },
            io: self.io.as_ref().map(|files| files.read(buffer)).transpose()?,
            hugetlb: self.hugetlb.iter().map(|files| files.read(buffer)).collect::<io::Result<_>>()?,
            pressure: Pressures {
                cpu: self.pressure[0].pressure(buffer)?,
                memory: self.pressure[1].pressure(buffer)?,
                io: self.pressure[2].pressure(buffer)?,
            },
        })
    }
}

impl Source {
    fn open(dir: &Path, file: &str) -> Self {
        Source(File::open(dir.join(file)).ok())
    }

    /// The file's text now; empty when it is absent.
    fn text<'b>(&self, buffer: &'b mut Vec<u8>) -> io::Result<&'b str> {
        let Some(file) = &self.0 else { return Ok("") };
        let mut filled = 0;
        loop {
            if filled == buffer.len() {
                buffer.resize(buffer.len() * 2, 0);
            }
            match file.read_at(&mut buffer[filled..], u64::try_from(filled).unwrap_or(u64::MAX)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_gone(&e) => return Err(io::Error::new(io::ErrorKind::NotFound, e)),
                // The kernel was built with this resource, but booted without its pressure.
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(""),
                Err(e) => return Err(e),
            }
            // Files of one page or less come whole: a short read is their end.
            if filled < buffer.len() {
                break;
            }
        }
        std::str::from_utf8(&buffer[..filled]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    fn number(&self, buffer: &mut Vec<u8>) -> io::Result<Option<u64>> {
        Ok(self.text(buffer)?.trim().parse().ok())
    }

    fn limit(&self, buffer: &mut Vec<u8>) -> io::Result<Option<u64>> {
        Ok(parse(self.text(buffer)?.trim()).and_then(|limit| u64::try_from(limit).ok()))
    }

    fn pressure(&self, buffer: &mut Vec<u8>) -> io::Result<Option<Pressure>> {
        Ok(parse_pressure(self.text(buffer)?))
    }
}

fn cpu_files(group: &Cgroup) -> Option<CpuFiles> {
    let bandwidth = group.place(Controller::Cpu);
    if let Some(Place::V1(dir)) = group.place(Controller::Cpuacct) {
        let stat = bandwidth.map_or(Source(None), |place| Source::open(place.dir(), "cpu.stat"));
        return Some(CpuFiles::V1 {
            usage: Source::open(dir, "cpuacct.usage"),
            user: Source::open(dir, "cpuacct.usage_user"),
            system: Source::open(dir, "cpuacct.usage_sys"),
            stat,
        });
    }
    // On v2 processor time is accounted for even without the controller.
    group.unified_dir().map(|dir| CpuFiles::V2 { stat: Source::open(dir, "cpu.stat") })
}

fn memory_files(place: Place<'_>) -> MemoryFiles {
    let open = |file: &str| Source::open(place.dir(), file);
    match place {
        Place::V1(_) => MemoryFiles::V1 {
            usage: open("memory.usage_in_bytes"),
            max: open("memory.max_usage_in_bytes"),
            limit: open("memory.limit_in_bytes"),
            swap_limit: open("memory.memsw.limit_in_bytes"),
            fail_count: open("memory.failcnt"),
            kernel: open("memory.kmem.usage_in_bytes"),
            stat: open("memory.stat"),
            oom: open("memory.oom_control"),
        },
        Place::V2(_) => MemoryFiles::V2 {
            usage: open("memory.current"),
            max: open("memory.peak"),
            limit: open("memory.max"),
            swap: open("memory.swap.current"),
            swap_limit: open("memory.swap.max"),
            stat: open("memory.stat"),
            events: open("memory.events"),
        },
    }
}

fn io_files(place: Place<'_>) -> IoFiles {
    let dir = place.dir();
    if matches!(place, Place::V2(_)) {
        return IoFiles::V2 { stat: Source::open(dir, "io.stat") };
    }
    let open = |name: &str| {
        let recursive = format!("blkio.throttle.{name}_recursive");
        let file =
            if files::is_there(&dir.join(&recursive)) { recursive } else { format!("blkio.throttle.{name}") };
        Source::open(dir, &file)
    };
    IoFiles::V1 { bytes: open("io_service_bytes"), operations: open("io_serviced") }
}

fn hugetlb_files(place: Place<'_>) -> Vec<HugetlbFiles> {
    let v1 = matches!(place, Place::V1(_));
    let (usage, max, fail) =
        if v1 { ("usage_in_bytes", "max_usage_in_bytes", "failcnt") } else { ("current", "", "events") };
    page_sizes(place.dir(), usage)
        .into_iter()
        .map(|page_size| {
            let open = |suffix: &str| Source::open(place.dir(), &format!("hugetlb.{page_size}.{suffix}"));
            let max = if v1 { open(max) } else { Source(None) };
            HugetlbFiles { usage: open(usage), max, fail_count: open(fail), page_size }
        })
        .collect()
}

impl CpuFiles {
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<Cpu> {
        match self {
            CpuFiles::V1 { usage, user, system, stat } => {
                let mut cpu = Cpu {
                    usage_ns: usage.number(buffer)?.unwrap_or(0),
                    user_ns: user.number(buffer)?.unwrap_or(0),
                    system_ns: system.number(buffer)?.unwrap_or(0),
                    ..Cpu::default()
                };
                let text = stat.text(buffer)?;
                cpu.periods = files::keyed(text, "nr_periods").unwrap_or(0);
                cpu.throttled_periods = files::keyed(text, "nr_throttled").unwrap_or(0);
                cpu.throttled_ns = files::keyed(text, "throttled_time").unwrap_or(0);
                Ok(cpu)
            }
            CpuFiles::V2 { stat } => {
                let text = stat.text(buffer)?;
                let value = |key: &str| files::keyed(text, key).unwrap_or(0);
                let ns = |key: &str| value(key).saturating_mul(1000);
                Ok(Cpu {
                    usage_ns: ns("usage_usec"),
                    user_ns: ns("user_usec"),
                    system_ns: ns("system_usec"),
                    periods: value("nr_periods"),
                    throttled_periods: value("nr_throttled"),
                    throttled_ns: ns("throttled_usec"),
                })
            }
        }
    }
}

impl MemoryFiles {
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<Memory> {
        match self {
            MemoryFiles::V1 { usage, max, limit, swap_limit, fail_count, kernel, stat, oom } => {
                let mut memory = parse_memory_v1(stat.text(buffer)?);
                memory.usage_bytes = usage.number(buffer)?.unwrap_or(0);
                memory.max_usage_bytes = max.number(buffer)?;
                memory.limit_bytes = limit.limit(buffer)?;
                let both = swap_limit.limit(buffer)?;
                memory.swap_limit_bytes = both.zip(memory.limit_bytes).map(|(b, m)| b.saturating_sub(m));
                if swap_limit.0.is_none() {
                    memory.swap_bytes = None;
                }
                memory.fail_count = fail_count.number(buffer)?.unwrap_or(0);
                memory.kernel_bytes = kernel.number(buffer)?.unwrap_or(0);
                memory.oom_kills = files::keyed(oom.text(buffer)?, "oom_kill").unwrap_or(0);
                Ok(memory.with_working_set())
            }
            MemoryFiles::V2 { usage, max, limit, swap, swap_limit, stat, events } => {
                let mut memory = parse_memory_v2(stat.text(buffer)?);
                memory.usage_bytes = usage.number(buffer)?.unwrap_or(0);
                memory.max_usage_bytes = max.number(buffer)?;
                memory.limit_bytes = limit.limit(buffer)?;
                memory.swap_bytes = swap.number(buffer)?;
                memory.swap_limit_bytes = swap_limit.limit(buffer)?;
                let events = events.text(buffer)?;
                memory.fail_count = files::keyed(events, "max").unwrap_or(0);
                memory.oom_kills = files::keyed(events, "oom_kill").unwrap_or(0);
                Ok(memory.with_working_set())
            }
        }
    }
}

impl Memory {
    fn with_working_set(self) -> Self {
        Memory { working_set_bytes: self.usage_bytes.saturating_sub(self.inactive_file_bytes), ..self }
    }
}

/// The `total_…` lines count the groups below too, as v2 always does.
fn parse_memory_v1(text: &str) -> Memory {
    let value = |key: &str| files::keyed(text, key).unwrap_or(0);
    Memory {
        rss_bytes: value("total_rss"),
        cache_bytes: value("total_cache"),
        mapped_file_bytes: value("total_mapped_file"),
        swap_bytes: Some(value("total_swap")),
        inactive_file_bytes: value("total_inactive_file"),
        page_faults: value("total_pgfault"),
        major_page_faults: value("total_pgmajfault"),
        ..Memory::default()
    }
}

fn parse_memory_v2(text: &str) -> Memory {
    let value = |key: &str| files::keyed(text, key).unwrap_or(0);
    // The sum is there since Linux 5.18.
    let parts = || ["slab", "kernel_stack", "pagetables", "sock"].into_iter().map(value).sum();
    Memory {
        rss_bytes: value("anon"),
        cache_bytes: value("file"),
        mapped_file_bytes: value("file_mapped"),
        kernel_bytes: files::keyed(text, "kernel").unwrap_or_else(parts),
        inactive_file_bytes: value("inactive_file"),
        page_faults: value("pgfault"),
        major_page_faults: value("pgmajfault"),
        ..Memory::default()
    }
}

impl IoFiles {
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<Io> {
        let mut io = Io::default();
        match self {
            IoFiles::V1 { bytes, operations } => {
                for (device, operation, count) in lines_v1(bytes.text(buffer)?) {
                    let device = io.device(device);
                    match operation {
                        "Read" => device.read_bytes = count,
                        "Write" => device.write_bytes = count,
                        _ => {}
                    }
                }
                for (device, operation, count) in lines_v1(operations.text(buffer)?) {
                    let device = io.device(device);
                    match operation {
                        "Read" => device.reads = count,
                        "Write" => device.writes = count,
                        _ => {}
                    }
                }
            }
            IoFiles::V2 { stat } => parse_io_v2(stat.text(buffer)?, &mut io),
        }
        Ok(io)
    }
}

impl Io {
    fn device(&mut self, id: (u32, u32)) -> &mut Device {
        let found = self.devices.iter().position(|d| (d.major, d.minor) == id);
        let at = found.unwrap_or_else(|| {
            self.devices.push(Device { major: id.0, minor: id.1, ..Device::default() });
            self.devices.len() - 1
        });
        &mut self.devices[at]
    }
}

fn device_id(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn lines_v1(text: &str) -> impl Iterator<Item = ((u32, u32), &str, u64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        Some((device_id(fields.next()?)?, fields.next()?, fields.next()?.parse().ok()?))
    })
}

fn parse_io_v2(text: &str, io: &mut Io) {
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let Some(id) = fields.next().and_then(device_id) else { continue };
        let device = io.device(id);
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.write_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => {}
            }
        }
    }
}

impl HugetlbFiles {
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<Hugetlb> {
        let text = self.fail_count.text(buffer)?;
        let fail_count = text.trim().parse().ok().or_else(|| files::keyed(text, "max")).unwrap_or(0);
        Ok(Hugetlb {
            page_size: self.page_size.clone(),
            usage_bytes: self.usage.number(buffer)?.unwrap_or(0),
            max_usage_bytes: self.max.number(buffer)?,
            fail_count,
        })
    }
}

fn parse_pressure(text: &str) -> Option<Pressure> {
    let line = |kind: &str| {
        let fields = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value = |key: &str| fields.split(' ').find_map(|f| f.strip_prefix(key)?.strip_prefix('='));
        Some(PressureLine {
            avg10: value("avg10")?.parse().ok()?,
            avg60: value("avg60")?.parse().ok()?,
            avg300: value("avg300")?.parse().ok()?,
            total_us: value("total")?.parse().ok()?,
        })
    };
    // Before Linux 5.13 the processor has no full line.
    Some(Pressure { some: line("some")?, full: line("full").unwrap_or_default() })
}
