//! Interface counters of a sandbox, for statistics.

use std::io;
use std::os::fd::BorrowedFd;

use super::{LinkStats, Route};

/// Counters of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Its name.
    pub name: String,
    /// Its counters.
    pub stats: LinkStats,
}

/// Reads counters again and again without entering the namespace each time. Like every socket it keeps its namespace
/// alive: drop it when the sandbox stops.
#[derive(Debug)]
pub struct CounterReader(Route);

impl CounterReader {
    /// Opens a socket in the namespace.
    pub fn open(netns: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(crate::ns::in_netns(netns, Route::open)??))
    }

    /// The counters of all interfaces but the loopback.
    pub fn read(&mut self) -> io::Result<Vec<InterfaceCounters>> {
        let loopback = libc::IFF_LOOPBACK.cast_unsigned();
        let links = self.0.links()?.into_iter().filter(|l| l.flags & loopback == 0);
        Ok(links.map(|l| InterfaceCounters { name: l.name, stats: l.stats }).collect())
    }
}

/// The counters of all interfaces of a namespace but the loopback.
pub fn interface_counters(netns: BorrowedFd<'_>) -> io::Result<Vec<InterfaceCounters>> {
    CounterReader::open(netns)?.read()
}
