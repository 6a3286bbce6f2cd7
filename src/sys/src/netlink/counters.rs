//! Interface counters of a sandbox, for statistics.
//!
//! They come from `/proc/net/dev` and not from netlink: listing links takes the lock that making and removing them
//! takes, on the whole host, and statistics are asked for while pods come and go. Reading also costs a third.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use super::LinkStats;

/// Of the namespace of the thread that opens it, whatever thread reads it later.
const FILE: &str = "/proc/thread-self/net/dev";
/// Room for a few interfaces to begin with.
const BUFFER_BYTES: usize = 4 << 10;

/// Counters of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Its name.
    pub name: String,
    /// Its counters. Packets that the device had no room for count as dropped on receive.
    pub stats: LinkStats,
}

/// Reads counters again and again without entering the namespace each time. The open file keeps the namespace alive:
/// drop it when the sandbox stops.
#[derive(Debug)]
pub struct CounterReader(File);

impl CounterReader {
    /// Opens the file in the namespace.
    pub fn open(netns: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(crate::ns::in_netns(netns, || File::open(FILE))??))
    }

    /// The counters of all interfaces but the loopback.
    pub fn read(&self) -> io::Result<Vec<InterfaceCounters>> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut filled = 0;
        // It comes in pieces of whole lines: only nothing is its end.
        loop {
            if filled == buffer.len() {
                buffer.resize(buffer.len() * 2, 0);
            }
            match self.0.read_at(&mut buffer[filled..], filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let text = std::str::from_utf8(&buffer[..filled])
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(text.lines().filter_map(parse).filter(|counters| counters.name != "lo").collect())
    }
}

/// One line; `None` for the two of the heading. A name has no colon in it.
fn parse(line: &str) -> Option<InterfaceCounters> {
    let (name, numbers) = line.split_once(':')?;
    let mut columns = [0; 16];
    let mut fields = numbers.split_ascii_whitespace();
    for column in &mut columns {
        *column = fields.next()?.parse().ok()?;
    }
    let [
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        _,
        _,
        _,
        _,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        ..,
    ] = columns;
    let stats = LinkStats {
        rx_packets,
        tx_packets,
        rx_bytes,
        tx_bytes,
        rx_errors,
        tx_errors,
        rx_dropped,
        tx_dropped,
    };
    Some(InterfaceCounters { name: name.trim_ascii().to_owned(), stats })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Route;

    #[test]
    fn a_line_is_an_interface() {
        let line = "  eth0: 1 2 3 4 50 60 70 80 9 10 11 12 130 140 150 160";
        let counters = parse(line).unwrap();
        let stats = LinkStats {
            rx_bytes: 1,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 9,
            tx_packets: 10,
            tx_errors: 11,
            tx_dropped: 12,
        };
        assert_eq!(counters, InterfaceCounters { name: "eth0".into(), stats });
        for heading in
            ["Inter-|   Receive      |  Transmit", " face |bytes packets errs|bytes packets", "eth0: 1 2"]
        {
            assert_eq!(parse(heading), None);
        }
    }

    /// The loopback has the same figures by both ways, and the heading is none of the interfaces.
    #[test]
    fn the_kernels_file_says_what_netlink_says() {
        let text = std::fs::read_to_string(FILE).unwrap();
        let by_file: Vec<InterfaceCounters> = text.lines().filter_map(parse).collect();
        let links = Route::open().unwrap().links().unwrap();
        let names =
            |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(
            names(by_file.iter().map(|c| c.name.as_str()).collect()),
            names(links.iter().map(|l| l.name.as_str()).collect())
        );
    }
}
