//! Statistics from files that stay open between readings.
//!
//! What is asked for every few seconds ([`Detail::Usage`]) takes few files, and those alone are open from the start.
//! The others are opened when everything is asked for the first time.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::group::{Cgroup, Place};
use super::layout::Controller;
use super::rest::Rest;
use super::source::{BUFFER_BYTES, Source, number, pairs};
use super::stats::{Cpu, Memory, Pressure, PressureLine, Pressures, Stats};

/// How much a reading covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Processor time in all; memory in use with its limit, anonymous and inactive file pages, faults and swap; and
    /// pressure. Everything else is left as [`Default`] has it.
    Usage,
    /// All that [`Stats`] has.
    Everything,
}

/// Reads a group's statistics again and again.
#[derive(Debug)]
pub struct Reader {
    group: Cgroup,
    cpu: Option<CpuFile>,
    memory: Option<MemoryFiles>,
    pressure: [Source; 3],
    rest: Option<Rest>,
    processes: Option<Source>,
}

#[derive(Debug)]
enum CpuFile {
    V1 { usage: Source },
    V2 { stat: Source },
}

#[derive(Debug)]
struct MemoryFiles {
    v1: bool,
    usage: Source,
    limit: Source,
    /// Swap in use; on v1 a line of `stat` says that.
    swap: Source,
    /// On v1 of memory and swap together.
    swap_limit: Source,
    stat: Source,
}

impl Reader {
    pub(super) fn new(group: &Cgroup) -> Self {
        let pressure = |kind: &str| match group.unified_dir() {
            Some(dir) => Source::open(dir, &format!("{kind}.pressure")),
            None => Source::absent(),
        };
        Reader {
            cpu: cpu_file(group),
            memory: group.place(Controller::Memory).map(MemoryFiles::open),
            pressure: [pressure("cpu"), pressure("memory"), pressure("io")],
            rest: None,
            processes: None,
            group: group.clone(),
        }
    }

    /// Reads once.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when the group was removed; else what a read reports.
    pub fn read(&mut self, detail: Detail) -> io::Result<Stats> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut buffer = vec![0; BUFFER_BYTES];
        let buffer = &mut buffer;
        let mut stats = Stats {
            timestamp_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            cpu: self.cpu.as_ref().map(|file| file.read(detail, buffer)).transpose()?,
            memory: self.memory.as_ref().map(|files| files.read(detail, buffer)).transpose()?,
            pressure: Pressures {
                cpu: pressure(&self.pressure[0], buffer)?,
                memory: pressure(&self.pressure[1], buffer)?,
                io: pressure(&self.pressure[2], buffer)?,
            },
            ..Stats::default()
        };
        if detail == Detail::Everything {
            let rest = self.rest.get_or_insert_with(|| Rest::open(&self.group));
            rest.read(&mut stats, buffer)?;
        }
        Ok(stats)
    }

    /// How many processes are in the group and those below it.
    ///
    /// # Errors
    /// A list cannot be read; a group that was removed has none.
    pub fn count_processes(&mut self) -> io::Result<u64> {
        // A list on v1 that is kept open may be a second old, so that one is opened anew.
        if let Some(dir) = self.group.unified_dir()
            && has_no_groups_below(dir)
        {
            let list = self.processes.get_or_insert_with(|| Source::open(dir, "cgroup.procs"));
            let mut buffer = vec![0; BUFFER_BYTES];
            if let Ok(lines) = list.list(&mut buffer)
                && !lines.is_empty()
            {
                return Ok(lines.iter().filter(|byte| **byte == b'\n').count() as u64);
            }
        }
        Ok(self.group.procs()?.len() as u64)
    }
}

/// The kernel's control groups count the directories in a directory as links to it. Where that is not so, as in the
/// temporary directories of tests, the answer is no.
fn has_no_groups_below(dir: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(dir).is_ok_and(|metadata| metadata.nlink() == 2)
}

fn cpu_file(group: &Cgroup) -> Option<CpuFile> {
    if let Some(Place::V1(dir)) = group.place(Controller::Cpuacct) {
        return Some(CpuFile::V1 { usage: Source::open(dir, "cpuacct.usage") });
    }
    // On v2 processor time is accounted for even without the controller.
    group.unified_dir().map(|dir| CpuFile::V2 { stat: Source::open(dir, "cpu.stat") })
}

impl CpuFile {
    fn read(&self, detail: Detail, buffer: &mut Vec<u8>) -> io::Result<Cpu> {
        match self {
            CpuFile::V1 { usage } => {
                Ok(Cpu { usage_ns: usage.number(buffer)?.unwrap_or(0), ..Cpu::default() })
            }
            CpuFile::V2 { stat } => {
                let all = parse_cpu_v2(stat.bytes(buffer)?);
                Ok(match detail {
                    Detail::Usage => Cpu { usage_ns: all.usage_ns, ..Cpu::default() },
                    Detail::Everything => all,
                })
            }
        }
    }
}

fn parse_cpu_v2(bytes: &[u8]) -> Cpu {
    let mut cpu = Cpu::default();
    for (key, value) in pairs(bytes) {
        let value = || number(value).unwrap_or(0);
        let ns = || value().saturating_mul(1000);
        match key {
            b"usage_usec" => cpu.usage_ns = ns(),
            b"user_usec" => cpu.user_ns = ns(),
            b"system_usec" => cpu.system_ns = ns(),
            b"nr_periods" => cpu.periods = value(),
            b"nr_throttled" => cpu.throttled_periods = value(),
            b"throttled_usec" => cpu.throttled_ns = ns(),
            _ => {}
        }
    }
    cpu
}

impl MemoryFiles {
    fn open(place: Place<'_>) -> Self {
        let open = |file: &str| Source::open(place.dir(), file);
        match place {
            Place::V1(_) => MemoryFiles {
                v1: true,
                usage: open("memory.usage_in_bytes"),
                limit: open("memory.limit_in_bytes"),
                swap: Source::absent(),
                swap_limit: open("memory.memsw.limit_in_bytes"),
                stat: open("memory.stat"),
            },
            Place::V2(_) => MemoryFiles {
                v1: false,
                usage: open("memory.current"),
                limit: open("memory.max"),
                swap: open("memory.swap.current"),
                swap_limit: open("memory.swap.max"),
                stat: open("memory.stat"),
            },
        }
    }

    fn read(&self, detail: Detail, buffer: &mut Vec<u8>) -> io::Result<Memory> {
        let stat = self.stat.bytes(buffer)?;
        let mut memory = if self.v1 { parse_memory_v1(stat) } else { parse_memory_v2(stat) };
        if detail == Detail::Usage {
            (memory.cache_bytes, memory.mapped_file_bytes, memory.kernel_bytes) = (0, 0, 0);
        }
        memory.usage_bytes = self.usage.number(buffer)?.unwrap_or(0);
        memory.limit_bytes = self.limit.limit(buffer)?;
        memory.swap_limit_bytes = self.swap_limit.limit(buffer)?;
        if self.v1 {
            let both = memory.swap_limit_bytes.zip(memory.limit_bytes);
            memory.swap_limit_bytes = both.map(|(both, memory)| both.saturating_sub(memory));
            if self.swap_limit.is_absent() {
                memory.swap_bytes = None;
            }
        } else {
            memory.swap_bytes = self.swap.number(buffer)?;
        }
        memory.working_set_bytes = memory.usage_bytes.saturating_sub(memory.inactive_file_bytes);
        Ok(memory)
    }
}

/// The `total_…` lines count the groups below too, as v2 always does.
fn parse_memory_v1(bytes: &[u8]) -> Memory {
    let mut memory = Memory { swap_bytes: Some(0), ..Memory::default() };
    for (key, value) in pairs(bytes) {
        let Some(key) = key.strip_prefix(b"total_") else { continue };
        let value = || number(value).unwrap_or(0);
        match key {
            b"rss" => memory.rss_bytes = value(),
            b"cache" => memory.cache_bytes = value(),
            b"mapped_file" => memory.mapped_file_bytes = value(),
            b"swap" => memory.swap_bytes = Some(value()),
            b"inactive_file" => memory.inactive_file_bytes = value(),
            b"pgfault" => memory.page_faults = value(),
            b"pgmajfault" => memory.major_page_faults = value(),
            _ => {}
        }
    }
    memory
}

fn parse_memory_v2(bytes: &[u8]) -> Memory {
    let mut memory = Memory::default();
    // The sum is there since Linux 5.18.
    let (mut kernel, mut parts) = (None, 0u64);
    for (key, value) in pairs(bytes) {
        let value = || number(value).unwrap_or(0);
        match key {
            b"anon" => memory.rss_bytes = value(),
            b"file" => memory.cache_bytes = value(),
            b"file_mapped" => memory.mapped_file_bytes = value(),
            b"kernel" => kernel = Some(value()),
            b"slab" | b"kernel_stack" | b"pagetables" | b"sock" => parts = parts.saturating_add(value()),
            b"inactive_file" => memory.inactive_file_bytes = value(),
            b"pgfault" => memory.page_faults = value(),
            b"pgmajfault" => memory.major_page_faults = value(),
            _ => {}
        }
    }
    Memory { kernel_bytes: kernel.unwrap_or(parts), ..memory }
}

fn pressure(source: &Source, buffer: &mut Vec<u8>) -> io::Result<Option<Pressure>> {
    Ok(parse_pressure(source.text(buffer)?))
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
