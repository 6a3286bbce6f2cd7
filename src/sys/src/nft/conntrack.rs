//! Forgetting tracked UDP flows, which would otherwise follow a translation that does not exist any more (or not yet).

use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink;
use crate::netlink::wire::{Writer, attribute};

use super::batch::header;

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const DUMP: u16 = 0x300;
const REQUEST_ACK: u16 = 0x1 | 0x4;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;
const UDP: u8 = 17;

/// A tracked UDP flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpFlow {
    /// Where the first packet was sent to.
    pub destination: IpAddr,
    /// And to which port.
    pub port: u16,
    /// Who answers: the same address, or the one that it was translated to.
    pub answered_by: IpAddr,
}

/// Forgets the UDP flows that match; how many there were.
pub fn forget_udp(matches: impl Fn(&UdpFlow) -> bool) -> io::Result<usize> {
    let mut connection = netlink::Connection::open(NETLINK_NETFILTER)?;
    let replies = connection.request(SUBSYSTEM << 8 | GET, DUMP, |w| header(w, 0, 0))?;
    let mut writer = Writer::default();
    let mut count = 0;
    let first = connection.sequence(u32::try_from(replies.len()).unwrap_or(u32::MAX));
    for reply in &replies {
        let Some(body) = reply.payload.get(4..) else { continue };
        let Some(original) = attribute(body, TUPLE_ORIGINAL) else { continue };
        if !flow(body).is_some_and(|flow| matches(&flow)) {
            continue;
        }
        writer.message(SUBSYSTEM << 8 | DELETE, REQUEST_ACK, first.wrapping_add(count), |w| {
            header(w, reply.payload[0], 0);
            w.nest(TUPLE_ORIGINAL, |w| w.put(original));
            if let Some(zone) = attribute(body, ZONE) {
                w.attr(ZONE, zone);
            }
        });
        count += 1;
    }
    if count > 0 {
        connection.send(writer.bytes())?;
        // A flow that ended by itself in the meantime is as good.
        connection.acknowledgements(first, count, |_| false)?;
    }
    Ok(count as usize)
}

fn flow(body: &[u8]) -> Option<UdpFlow> {
    let original = attribute(body, TUPLE_ORIGINAL)?;
    let protocol = attribute(original, 2)?;
    if attribute(protocol, 1)?.first() != Some(&UDP) {
        return None;
    }
    let port = u16::from_be_bytes(attribute(protocol, 3)?.get(..2)?.try_into().ok()?);
    let (_, destination) = addresses(original)?;
    let (answered_by, _) = addresses(attribute(body, TUPLE_REPLY)?)?;
    Some(UdpFlow { destination, port, answered_by })
}

/// Source and destination of a tuple.
fn addresses(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let ip = attribute(tuple, 1)?;
    let v4 = |kind| Some(IpAddr::from(<[u8; 4]>::try_from(attribute(ip, kind)?).ok()?));
    let v6 = |kind| Some(IpAddr::from(<[u8; 16]>::try_from(attribute(ip, kind)?).ok()?));
    v4(1).zip(v4(2)).or_else(|| v6(3).zip(v6(4)))
}
