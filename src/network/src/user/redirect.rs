//! Leading port 53 of a sandbox's resolver to sockets on other ports, so that the sandbox may serve port 53 itself.

use std::io;
use std::net::{IpAddr, SocketAddr};

use sys::nft::{Batch, Chain, ChainKind, Cmp, Connection, Family, Hook, MetaKey, PayloadBase, Rule};

const TABLE: &str = "berth-dns";
const IPV4: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS_PORT: u16 = 53;

/// Leads port 53 of the sockets' address to the sockets, in the network namespace of the calling thread. What an earlier
/// call did is replaced.
pub fn redirect_resolver(udp: SocketAddr, tcp: SocketAddr) -> io::Result<()> {
    let mut connection = Connection::open()?;
    let mut batch = Batch::new();
    // Deleting costs milliseconds when the socket is closed, so a new sandbox is spared it.
    if connection.has_table(Family::Inet, TABLE)? {
        batch.delete_table(Family::Inet, TABLE);
    }
    batch.table(Family::Inet, TABLE);
    let chain = Chain { name: "output", kind: ChainKind::Nat(Hook::Output, -100) };
    batch.chain(Family::Inet, TABLE, chain);
    for (comment, protocol, to) in [("questions", UDP, udp), ("questions over TCP", TCP, tcp)] {
        let IpAddr::V4(ip) = to.ip() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the resolver has an IPv4 address"));
        };
        let rule = Rule::new(comment)
            .meta(MetaKey::Family, 0)
            .cmp(0, Cmp::Eq, &[IPV4])
            .payload(PayloadBase::Network, 16, 4, 0)
            .cmp(0, Cmp::Eq, &ip.octets())
            .meta(MetaKey::L4Proto, 0)
            .cmp(0, Cmp::Eq, &[protocol])
            .payload(PayloadBase::Transport, 2, 2, 0)
            .cmp(0, Cmp::Eq, &DNS_PORT.to_be_bytes())
            .constant(0, &ip.octets())
            .constant(1, &to.port().to_be_bytes())
            .dnat(u32::from(IPV4), 0, 1);
        batch.rule(Family::Inet, TABLE, chain.name, &rule);
    }
    connection.commit(&batch).map_err(io::Error::other)
}
