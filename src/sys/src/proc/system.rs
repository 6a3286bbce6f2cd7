//! What procfs tells about the whole machine.

use std::io;
use std::path::Path;

use super::malformed;

/// Part of `/proc/meminfo`, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Usable memory.
    pub total_bytes: u64,
    /// Memory nobody uses.
    pub free_bytes: u64,
    /// What could be had without swapping.
    pub available_bytes: u64,
    /// Page cache.
    pub cached_bytes: u64,
    /// Swap space.
    pub swap_total_bytes: u64,
    /// Swap space nobody uses.
    pub swap_free_bytes: u64,
}

/// Reads `/proc/meminfo`.
///
/// # Errors
/// The file cannot be read or lacks the total.
pub fn memory_info(proc_root: &Path) -> io::Result<MemoryInfo> {
    let text = std::fs::read_to_string(proc_root.join("meminfo"))?;
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?;
            let kib: u64 = value.trim().trim_end_matches("kB").trim().parse().ok()?;
            kib.checked_mul(1024)
        })
    };
    Ok(MemoryInfo {
        total_bytes: field("MemTotal").ok_or_else(|| malformed("memory information", &text))?,
        free_bytes: field("MemFree").unwrap_or(0),
        available_bytes: field("MemAvailable").unwrap_or(0),
        cached_bytes: field("Cached").unwrap_or(0),
        swap_total_bytes: field("SwapTotal").unwrap_or(0),
        swap_free_bytes: field("SwapFree").unwrap_or(0),
    })
}

/// Counts the processors that are online, by `/proc/stat`.
///
/// # Errors
/// The file cannot be read or names none.
pub fn online_cpus(proc_root: &Path) -> io::Result<u32> {
    let text = std::fs::read_to_string(proc_root.join("stat"))?;
    let numbered =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()));
    match u32::try_from(text.lines().filter(numbered).count()) {
        Ok(0) | Err(_) => Err(malformed("system statistics", text.lines().next().unwrap_or_default())),
        Ok(count) => Ok(count),
    }
}

/// When the machine was booted, in nanoseconds since the epoch, to the second.
///
/// # Errors
/// The file cannot be read or does not tell.
pub fn boot_time_ns(proc_root: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(proc_root.join("stat"))?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    let seconds = seconds.ok_or_else(|| malformed("system statistics", "no btime"))?;
    Ok(seconds.saturating_mul(1_000_000_000))
}

/// Clock ticks per second, the unit of times in procfs.
#[must_use]
pub fn clock_ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

/// Nanoseconds of `ticks` clock ticks.
#[must_use]
pub fn ticks_to_ns(ticks: u64) -> u64 {
    ticks.saturating_mul(1_000_000_000 / clock_ticks_per_second().max(1))
}
