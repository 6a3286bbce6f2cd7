//! Links and addresses as the kernel describes them.

use std::fmt;
use std::net::IpAddr;

use super::wire::{attribute, attributes, read_text, read_u32, read_u64};

const IFLA_STATS64: u16 = 23;
const IFA_FLAGS: u16 = 8;
const IFLA_INFO_KIND: u16 = 1;

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = ();

    /// Six bytes in hexadecimal, separated by colons or dashes; neither zero nor multicast.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        let usable = parts.next().is_none() && bytes[0] & 1 == 0 && bytes != [0; 6];
        usable.then_some(Self(bytes)).ok_or(())
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind: `veth`, `bridge`, …; empty for hardware.
    pub kind: String,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<Mac>,
    /// Largest packet.
    pub mtu: u32,
    /// `IFF_` flags.
    pub flags: u32,
    /// Index of the bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Counters.
    pub stats: LinkStats,
}

impl Link {
    /// Whether it is administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP.cast_unsigned() != 0
    }

    /// Whether it is promiscuous.
    pub fn is_promiscuous(&self) -> bool {
        self.flags & libc::IFF_PROMISC.cast_unsigned() != 0
    }
}

/// Counters of a link since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Received packets dropped.
    pub rx_dropped: u64,
    /// Packets dropped before sending.
    pub tx_dropped: u64,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its network prefix.
    pub prefix_len: u8,
    /// Scope, 0 is global, 253 link.
    pub scope: u8,
    /// `IFA_F_` flags.
    pub flags: u32,
}

pub(super) fn parse(payload: &[u8]) -> Option<Link> {
    let index = read_u32(payload, 4)?;
    let flags = read_u32(payload, 8)?;
    let body = payload.get(16..)?;
    let mut link = Link {
        index,
        name: String::new(),
        kind: String::new(),
        mac: None,
        mtu: 0,
        flags,
        master: None,
        stats: LinkStats::default(),
    };
    for (kind, value) in attributes(body) {
        match kind {
            libc::IFLA_IFNAME => link.name = read_text(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            libc::IFLA_MTU => link.mtu = read_u32(value, 0)?,
            libc::IFLA_MASTER => link.master = read_u32(value, 0),
            libc::IFLA_LINKINFO => {
                link.kind = attribute(value, IFLA_INFO_KIND).map(read_text).unwrap_or_default();
            }
            IFLA_STATS64 => link.stats = parse_stats(value).unwrap_or_default(),
            _ => {}
        }
    }
    Some(link)
}

fn parse_stats(value: &[u8]) -> Option<LinkStats> {
    let field = |n: usize| read_u64(value, n * 8);
    Some(LinkStats {
        rx_packets: field(0)?,
        tx_packets: field(1)?,
        rx_bytes: field(2)?,
        tx_bytes: field(3)?,
        rx_errors: field(4)?,
        tx_errors: field(5)?,
        rx_dropped: field(6)?,
        tx_dropped: field(7)?,
    })
}

pub(super) fn parse_address(payload: &[u8]) -> Option<Address> {
    let (prefix_len, scope) = (*payload.get(1)?, *payload.get(3)?);
    let link = read_u32(payload, 4)?;
    let body = payload.get(8..)?;
    // On IPv4 links with a peer, IFA_LOCAL is our address and IFA_ADDRESS the peer's (rtnetlink(7)).
    let value = attribute(body, libc::IFA_LOCAL).or_else(|| attribute(body, libc::IFA_ADDRESS))?;
    let address = match value.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
        _ => return None,
    };
    // The attribute has those that the header has no room for.
    let flags = attribute(body, IFA_FLAGS).and_then(|value| read_u32(value, 0));
    let flags = flags.unwrap_or(u32::from(*payload.get(2)?));
    Some(Address { link, address, prefix_len, scope, flags })
}

/// Where a route of the main or another table leads to; the default route, and local and broadcast ones, are none.
pub(super) fn parse_destination(payload: &[u8]) -> Option<(IpAddr, u8)> {
    let (prefix_len, kind) = (*payload.get(1)?, *payload.get(7)?);
    if prefix_len == 0 || kind != libc::RTN_UNICAST {
        return None;
    }
    let value = attribute(payload.get(12..)?, libc::RTA_DST)?;
    let address = match value.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
        _ => return None,
    };
    Some((address, prefix_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_parse_strictly() {
        assert_eq!("02:0a:ff:00:01:7f".parse(), Ok(Mac([2, 10, 255, 0, 1, 127])));
        assert_eq!(Mac([2, 10, 255, 0, 1, 127]).to_string(), "02:0a:ff:00:01:7f");
        for bad in
            ["", "02:0a", "2:a:ff:0:1:7f", "01:00:00:00:00:01", "00:00:00:00:00:00", "02:0a:ff:00:01:7f:00"]
        {
            assert_eq!(bad.parse::<Mac>(), Err(()), "{bad}");
        }
    }
}
