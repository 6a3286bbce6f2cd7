//! Statistics that are read seldom: all that usage does not take.

use std::io;

use super::files;
use super::group::{Cgroup, Place};
use super::layout::Controller;
use super::limits::page_sizes;
use super::source::{Source, number};
use super::stats::{Cpu, Device, Hugetlb, Io, Memory, Pids, Stats};

/// The files; they stay open, too.
#[derive(Debug)]
pub(super) struct Rest {
    /// What v2 has in the file that usage is read from.
    cpu: Option<CpuV1>,
    memory: Option<MemoryFiles>,
    pids: Option<[Source; 2]>,
    io: Option<IoFiles>,
    hugetlb: Vec<HugetlbFiles>,
}

#[derive(Debug)]
struct CpuV1 {
    user: Source,
    system: Source,
    stat: Source,
}

#[derive(Debug)]
enum MemoryFiles {
    V1 { max: Source, fail_count: Source, kernel: Source, oom: Source },
    V2 { max: Source, events: Source },
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

impl Rest {
    pub(super) fn open(group: &Cgroup) -> Self {
        let bandwidth = group.place(Controller::Cpu);
        let cpu = match group.place(Controller::Cpuacct) {
            Some(Place::V1(dir)) => Some(CpuV1 {
                user: Source::open(dir, "cpuacct.usage_user"),
                system: Source::open(dir, "cpuacct.usage_sys"),
                stat: bandwidth.map_or_else(Source::absent, |place| Source::open(place.dir(), "cpu.stat")),
            }),
            _ => None,
        };
        let pids =
            |place: Place<'_>| ["pids.current", "pids.max"].map(|file| Source::open(place.dir(), file));
        Rest {
            cpu,
            memory: group.place(Controller::Memory).map(memory_files),
            pids: group.place(Controller::Pids).map(pids),
            io: group.place(Controller::Io).map(io_files),
            hugetlb: group.place(Controller::Hugetlb).map(hugetlb_files).unwrap_or_default(),
        }
    }

    /// Adds to `stats`, which has usage.
    pub(super) fn read(&self, stats: &mut Stats, buffer: &mut Vec<u8>) -> io::Result<()> {
        if let (Some(files), Some(cpu)) = (&self.cpu, &mut stats.cpu) {
            files.read(cpu, buffer)?;
        }
        if let (Some(files), Some(memory)) = (&self.memory, &mut stats.memory) {
            files.read(memory, buffer)?;
        }
        if let Some([current, limit]) = &self.pids {
            let current = current.number(buffer)?.unwrap_or(0);
            stats.pids = Some(Pids { current, limit: limit.limit(buffer)? });
        }
        stats.io = self.io.as_ref().map(|files| files.read(buffer)).transpose()?;
        stats.hugetlb = self.hugetlb.iter().map(|files| files.read(buffer)).collect::<io::Result<_>>()?;
        Ok(())
    }
}

impl CpuV1 {
    fn read(&self, cpu: &mut Cpu, buffer: &mut Vec<u8>) -> io::Result<()> {
        cpu.user_ns = self.user.number(buffer)?.unwrap_or(0);
        cpu.system_ns = self.system.number(buffer)?.unwrap_or(0);
        let text = self.stat.text(buffer)?;
        cpu.periods = files::keyed(text, "nr_periods").unwrap_or(0);
        cpu.throttled_periods = files::keyed(text, "nr_throttled").unwrap_or(0);
        cpu.throttled_ns = files::keyed(text, "throttled_time").unwrap_or(0);
        Ok(())
    }
}

fn memory_files(place: Place<'_>) -> MemoryFiles {
    let open = |file: &str| Source::open(place.dir(), file);
    match place {
        Place::V1(_) => MemoryFiles::V1 {
            max: open("memory.max_usage_in_bytes"),
            fail_count: open("memory.failcnt"),
            kernel: open("memory.kmem.usage_in_bytes"),
            oom: open("memory.oom_control"),
        },
        Place::V2(_) => MemoryFiles::V2 { max: open("memory.peak"), events: open("memory.events") },
    }
}

impl MemoryFiles {
    fn read(&self, memory: &mut Memory, buffer: &mut Vec<u8>) -> io::Result<()> {
        match self {
            MemoryFiles::V1 { max, fail_count, kernel, oom } => {
                memory.max_usage_bytes = max.number(buffer)?;
                memory.fail_count = fail_count.number(buffer)?.unwrap_or(0);
                memory.kernel_bytes = kernel.number(buffer)?.unwrap_or(0);
                memory.oom_kills = files::keyed(oom.text(buffer)?, "oom_kill").unwrap_or(0);
            }
            MemoryFiles::V2 { max, events } => {
                memory.max_usage_bytes = max.number(buffer)?;
                let events = events.text(buffer)?;
                memory.fail_count = files::keyed(events, "max").unwrap_or(0);
                memory.oom_kills = files::keyed(events, "oom_kill").unwrap_or(0);
            }
        }
        Ok(())
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
            let max = if v1 { open(max) } else { Source::absent() };
            HugetlbFiles { usage: open(usage), max, fail_count: open(fail), page_size }
        })
        .collect()
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
        let fail_count = number(text.as_bytes()).or_else(|| files::keyed(text, "max")).unwrap_or(0);
        Ok(Hugetlb {
            page_size: self.page_size.clone(),
            usage_bytes: self.usage.number(buffer)?.unwrap_or(0),
            max_usage_bytes: self.max.number(buffer)?,
            fail_count,
        })
    }
}
