//! `/proc/<pid>/net/dev`: counters of the interfaces in a process's network namespace.

use std::io;
use std::path::Path;

use super::malformed;

/// Counters of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Errors on receipt.
    pub rx_errors: u64,
    /// Received packets that were dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Errors on sending.
    pub tx_errors: u64,
    /// Packets that were dropped instead of sent.
    pub tx_dropped: u64,
}

/// The interfaces that `pid` sees.
///
/// # Errors
/// The process is gone, or the file has a line of an unknown shape.
pub fn net_devices(proc_root: &Path, pid: u32) -> io::Result<Vec<NetDevice>> {
    let text = std::fs::read_to_string(proc_root.join(pid.to_string()).join("net/dev"))?;
    // Two lines of headings come first.
    text.lines()
        .skip(2)
        .filter(|line| !line.trim().is_empty())
        .map(|line| parse(line).ok_or_else(|| malformed("line of net/dev", line)))
        .collect()
}

fn parse(line: &str) -> Option<NetDevice> {
    // Aliases put a colon into the name; the counters never have one.
    let (name, counters) = line.rsplit_once(':')?;
    let counters: Vec<u64> = counters.split_whitespace().map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let at = |index: usize| counters.get(index).copied();
    Some(NetDevice {
        name: name.trim().to_owned(),
        rx_bytes: at(0)?,
        rx_packets: at(1)?,
        rx_errors: at(2)?,
        rx_dropped: at(3)?,
        tx_bytes: at(8)?,
        tx_packets: at(9)?,
        tx_errors: at(10)?,
        tx_dropped: at(11)?,
    })
}
