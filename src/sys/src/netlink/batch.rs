//! Requests about links, addresses, routes and neighbours, collected to be sent at once.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::link::Mac;
use super::socket::libc_flag;
use super::wire::Writer;

const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFA_FLAGS: u16 = 8;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const ACK: u16 = 0x4;
const REPLACE: u16 = 0x100;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;

/// A link, by index or by name.
#[derive(Debug, Clone, Copy)]
pub enum LinkRef<'a> {
    /// By index.
    Index(u32),
    /// By name.
    Name(&'a str),
}

/// A veth pair whose second end is born in another namespace.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// Name of the end here.
    pub name: &'a str,
    /// Name of the end there.
    pub peer_name: &'a str,
    /// Where the peer is born.
    pub peer_netns: BorrowedFd<'a>,
    /// Hardware address of the peer.
    pub peer_mac: Option<Mac>,
    /// Index of the bridge that the end here becomes a port of.
    pub master: Option<u32>,
    /// Largest packet of both ends.
    pub mtu: Option<u32>,
}

/// How the interfaces of one parent see each other, `MACVLAN_MODE_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Not at all.
    Private = 1,
    /// Over the switch outside.
    Vepa = 2,
    /// Directly.
    Bridge = 4,
    /// There is only one, and it is the parent.
    Passthru = 8,
}

/// An interface of its own hardware address on a link of the host, born in another namespace.
#[derive(Debug, Clone, Copy)]
pub struct Macvlan<'a> {
    /// Its name there.
    pub name: &'a str,
    /// Where it is born.
    pub netns: BorrowedFd<'a>,
    /// Index of the link here that it is on.
    pub parent: u32,
    /// How it sees its neighbours on the same link.
    pub mode: MacvlanMode,
    /// Its hardware address; `None` lets the kernel choose.
    pub mac: Option<Mac>,
    /// Largest packet.
    pub mtu: Option<u32>,
}

/// Settings of a link to change.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChange {
    /// Set it up.
    pub up: bool,
    /// Set it promiscuous.
    pub promiscuous: bool,
    /// Its bridge.
    pub master: Option<u32>,
    /// Largest packet.
    pub mtu: Option<u32>,
}

/// Settings of a port of a bridge.
#[derive(Debug, Clone, Copy, Default)]
pub struct BridgePort {
    /// Frames may leave by the port they came from.
    pub hairpin: bool,
    /// Isolated ports do not reach each other.
    pub isolated: bool,
}

/// How an address is added.
#[derive(Debug, Clone, Copy, Default)]
pub struct AddressFlags {
    /// Skip duplicate address detection, so that an IPv6 address is usable at once.
    pub skip_detection: bool,
    /// Having it already is fine.
    pub may_exist: bool,
}

/// A route.
#[derive(Debug, Clone, Copy)]
pub struct RouteSpec {
    /// Destination.
    pub destination: (IpAddr, u8),
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Link.
    pub link: u32,
    /// Path MTU.
    pub mtu: Option<u32>,
    /// Advertised MSS.
    pub advmss: Option<u32>,
    /// Metric.
    pub priority: Option<u32>,
    /// Table; main when absent.
    pub table: Option<u32>,
    /// Scope; universe with a gateway and link without one when absent.
    pub scope: Option<u8>,
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) object: String,
    pub(super) tolerates: Vec<i32>,
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

/// A plan of requests; see the module.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) operations: Vec<Operation>,
}

impl Batch {
    /// Nothing to do yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The plan as text, a line per request.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for operation in &self.operations {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {}", operation.name, operation.object);
        }
        text
    }

    /// Creates a veth pair; the end here is up when it appears.
    pub fn veth(&mut self, veth: &Veth<'_>) {
        self.add("create veth", veth.name, libc::RTM_NEWLINK, CREATE | EXCL, |w| {
            let up = libc::IFF_UP.cast_unsigned();
            link_header(w, 0, up, up);
            w.attr_str(libc::IFLA_IFNAME, veth.name);
            if let Some(master) = veth.master {
                w.attr_u32(libc::IFLA_MASTER, master);
            }
            if let Some(mtu) = veth.mtu {
                w.attr_u32(libc::IFLA_MTU, mtu);
            }
            w.nest(libc::IFLA_LINKINFO, |w| {
                w.attr_str(IFLA_INFO_KIND, "veth");
                w.nest(IFLA_INFO_DATA, |w| w.nest(VETH_INFO_PEER, |w| veth_peer(w, veth)));
            });
        });
    }

    /// Creates a bridge that is up. With a hardware address of its own it does not take over one of its ports'.
    pub fn bridge(&mut self, name: &str, mac: Mac, mtu: Option<u32>) {
        self.add("create bridge", name, libc::RTM_NEWLINK, CREATE | EXCL, |w| {
            let up = libc::IFF_UP.cast_unsigned();
            link_header(w, 0, up, up);
            w.attr_str(libc::IFLA_IFNAME, name);
            w.attr(libc::IFLA_ADDRESS, &mac.0);
            if let Some(mtu) = mtu {
                w.attr_u32(libc::IFLA_MTU, mtu);
            }
            w.nest(libc::IFLA_LINKINFO, |w| w.attr_str(IFLA_INFO_KIND, "bridge"));
        });
        self.tolerate(libc::EEXIST);
    }

    /// Creates a macvlan interface in another namespace.
    pub fn macvlan(&mut self, macvlan: &Macvlan<'_>) {
        self.add("create macvlan", macvlan.name, libc::RTM_NEWLINK, CREATE | EXCL, |w| {
            link_header(w, 0, 0, 0);
            w.attr_str(libc::IFLA_IFNAME, macvlan.name);
            w.attr_u32(libc::IFLA_LINK, macvlan.parent);
            w.attr_u32(libc::IFLA_NET_NS_FD, macvlan.netns.as_raw_fd().cast_unsigned());
            if let Some(mac) = macvlan.mac {
                w.attr(libc::IFLA_ADDRESS, &mac.0);
            }
            if let Some(mtu) = macvlan.mtu {
                w.attr_u32(libc::IFLA_MTU, mtu);
            }
            w.nest(libc::IFLA_LINKINFO, |w| {
                w.attr_str(IFLA_INFO_KIND, "macvlan");
                w.nest(IFLA_INFO_DATA, |w| w.attr_u32(IFLA_MACVLAN_MODE, macvlan.mode as u32));
            });
        });
    }

    /// Creates the link of a VLAN on a parent, up; having it already is fine.
    pub fn vlan(&mut self, name: &str, parent: u32, id: u16) {
        self.add("create vlan", name, libc::RTM_NEWLINK, CREATE | EXCL, |w| {
            let up = libc::IFF_UP.cast_unsigned();
            link_header(w, 0, up, up);
            w.attr_str(libc::IFLA_IFNAME, name);
            w.attr_u32(libc::IFLA_LINK, parent);
            w.nest(libc::IFLA_LINKINFO, |w| {
                w.attr_str(IFLA_INFO_KIND, "vlan");
                w.nest(IFLA_INFO_DATA, |w| w.attr(IFLA_VLAN_ID, &id.to_ne_bytes()));
            });
        });
        self.tolerate(libc::EEXIST);
    }

    /// Creates a link that leads nowhere, up; having it already is fine.
    pub fn dummy(&mut self, name: &str) {
        self.add("create dummy link", name, libc::RTM_NEWLINK, CREATE | EXCL, |w| {
            let up = libc::IFF_UP.cast_unsigned();
            link_header(w, 0, up, up);
            w.attr_str(libc::IFLA_IFNAME, name);
            w.nest(libc::IFLA_LINKINFO, |w| w.attr_str(IFLA_INFO_KIND, "dummy"));
        });
        self.tolerate(libc::EEXIST);
    }

    /// Changes a link.
    pub fn change(&mut self, link: LinkRef<'_>, change: LinkChange) {
        let up = if change.up { libc::IFF_UP.cast_unsigned() } else { 0 };
        let promiscuous = if change.promiscuous { libc::IFF_PROMISC.cast_unsigned() } else { 0 };
        self.add("change link", &name_of(link), libc::RTM_NEWLINK, 0, |w| {
            link_reference(w, link, up | promiscuous);
            if let Some(master) = change.master {
                w.attr_u32(libc::IFLA_MASTER, master);
            }
            if let Some(mtu) = change.mtu {
                w.attr_u32(libc::IFLA_MTU, mtu);
            }
        });
    }

    /// Moves a link to another network namespace, under a name that must be free there; `%d` in it becomes a
    /// number. The link loses its addresses and is down.
    pub fn move_to(&mut self, link: LinkRef<'_>, netns: BorrowedFd<'_>, name: &str) {
        self.add("move link", &name_of(link), libc::RTM_NEWLINK, 0, |w| {
            link_reference(w, link, 0);
            w.attr_str(libc::IFLA_IFNAME, name);
            w.attr_u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
        });
    }

    /// Changes how a bridge treats one of its ports.
    pub fn bridge_port(&mut self, link: LinkRef<'_>, port: BridgePort) {
        self.add("change bridge port", &name_of(link), libc::RTM_NEWLINK, 0, |w| {
            link_reference(w, link, 0);
            w.nest(libc::IFLA_LINKINFO, |w| {
                w.attr_str(IFLA_INFO_SLAVE_KIND, "bridge");
                w.nest(IFLA_INFO_SLAVE_DATA, |w| {
                    w.attr(IFLA_BRPORT_MODE, &[u8::from(port.hairpin)]);
                    if port.isolated {
                        w.attr(IFLA_BRPORT_ISOLATED, &[1]);
                    }
                });
            });
        });
    }

    /// Deletes a link; its absence is fine.
    pub fn delete(&mut self, link: LinkRef<'_>) {
        self.add("delete link", &name_of(link), libc::RTM_DELLINK, 0, |w| link_reference(w, link, 0));
        self.tolerate(libc::ENODEV);
    }

    /// Adds an address.
    pub fn address(&mut self, link: u32, address: (IpAddr, u8), flags: AddressFlags) {
        let object = format!("{}/{}", address.0, address.1);
        self.add("add address", &object, libc::RTM_NEWADDR, CREATE | EXCL, |w| {
            address_body(w, link, address);
            if flags.skip_detection {
                w.attr_u32(IFA_FLAGS, libc::IFA_F_NODAD);
            }
            if let (IpAddr::V4(ip), 1..=30) = address {
                let broadcast = u32::from(ip) | (u32::MAX >> address.1);
                w.attr(libc::IFA_BROADCAST, &broadcast.to_be_bytes());
            }
        });
        if flags.may_exist {
            self.tolerate(libc::EEXIST);
        }
    }

    /// Removes an address; its absence is fine.
    pub fn remove_address(&mut self, link: u32, address: (IpAddr, u8)) {
        let object = format!("{}/{}", address.0, address.1);
        self.add("remove address", &object, libc::RTM_DELADDR, 0, |w| address_body(w, link, address));
        self.tolerate(libc::EADDRNOTAVAIL);
    }

    /// Adds a route; the same route may exist already.
    pub fn route(&mut self, route: &RouteSpec) {
        let (ip, prefix_len) = route.destination;
        let object =
            format!("{ip}/{prefix_len}{}", route.gateway.map_or_else(String::new, |g| format!(" via {g}")));
        self.add("add route", &object, libc::RTM_NEWROUTE, CREATE | EXCL, |w| route_body(w, route));
        self.tolerate(libc::EEXIST);
    }

    /// Adds a route in the place of one with the same destination, if there is one.
    pub fn replace_route(&mut self, route: &RouteSpec) {
        let object = format!("{}/{}", route.destination.0, route.destination.1);
        self.add("replace route", &object, libc::RTM_NEWROUTE, CREATE | REPLACE, |w| route_body(w, route));
    }

    /// Removes the default route of a family; its absence is fine.
    pub fn remove_default_route(&mut self, is_ipv6: bool) {
        let any: IpAddr = if is_ipv6 {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        };
        self.add("remove route", &format!("{any}/0"), libc::RTM_DELROUTE, 0, |w| {
            // RT_SCOPE_NOWHERE and no type match any (ip-route(8) does the same).
            w.put(&[family(any), 0, 0, 0, libc::RT_TABLE_MAIN, 0, libc::RT_SCOPE_NOWHERE, 0]);
            w.put(&0u32.to_ne_bytes());
        });
        self.tolerate(libc::ESRCH);
        // Where no IPv6 route was ever made.
        self.tolerate(libc::ENOENT);
    }

    /// Sets a permanent neighbour.
    pub fn neighbour(&mut self, link: u32, ip: IpAddr, mac: Mac) {
        self.add("set neighbour", &ip.to_string(), libc::RTM_NEWNEIGH, CREATE | REPLACE, |w| {
            w.put(&[family(ip), 0, 0, 0]);
            w.put(&link.to_ne_bytes());
            w.put(&libc::NUD_PERMANENT.to_ne_bytes());
            w.put(&[0, 0]);
            w.attr(libc::NDA_DST, &octets(ip));
            w.attr(libc::NDA_LLADDR, &mac.0);
        });
    }

    fn add(
        &mut self,
        name: &'static str,
        object: &str,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer),
    ) {
        let mut writer = Writer::default();
        body(&mut writer);
        let flags = flags | libc_flag(libc::NLM_F_REQUEST) | ACK;
        let body = writer.bytes().to_vec();
        self.operations.push(Operation {
            name,
            object: object.to_owned(),
            tolerates: Vec::new(),
            kind,
            flags,
            body,
        });
    }

    fn tolerate(&mut self, errno: i32) {
        if let Some(last) = self.operations.last_mut() {
            last.tolerates.push(errno);
        }
    }

    pub(super) fn datagram(&self, first_seq: u32) -> Vec<u8> {
        let mut writer = Writer::default();
        let mut seq = first_seq;
        for operation in &self.operations {
            writer.message(operation.kind, operation.flags, seq, |w| w.put(&operation.body));
            seq = seq.wrapping_add(1);
        }
        writer.bytes().to_vec()
    }
}

fn veth_peer(w: &mut Writer, veth: &Veth<'_>) {
    link_header(w, 0, 0, 0);
    w.attr_str(libc::IFLA_IFNAME, veth.peer_name);
    w.attr_u32(libc::IFLA_NET_NS_FD, veth.peer_netns.as_raw_fd().cast_unsigned());
    if let Some(mac) = veth.peer_mac {
        w.attr(libc::IFLA_ADDRESS, &mac.0);
    }
    if let Some(mtu) = veth.mtu {
        w.attr_u32(libc::IFLA_MTU, mtu);
    }
}

fn link_header(w: &mut Writer, index: u32, flags: u32, change: u32) {
    w.put(&[0; 4]);
    w.put(&index.to_ne_bytes());
    w.put(&flags.to_ne_bytes());
    w.put(&change.to_ne_bytes());
}

fn link_reference(w: &mut Writer, link: LinkRef<'_>, set_flags: u32) {
    match link {
        LinkRef::Index(index) => link_header(w, index, set_flags, set_flags),
        LinkRef::Name(name) => {
            link_header(w, 0, set_flags, set_flags);
            w.attr_str(libc::IFLA_IFNAME, name);
        }
    }
}

fn address_body(w: &mut Writer, link: u32, (ip, prefix_len): (IpAddr, u8)) {
    w.put(&[family(ip), prefix_len, 0, 0]);
    w.put(&link.to_ne_bytes());
    w.attr(libc::IFA_LOCAL, &octets(ip));
    w.attr(libc::IFA_ADDRESS, &octets(ip));
}

fn route_body(w: &mut Writer, route: &RouteSpec) {
    let (ip, prefix_len) = route.destination;
    let default_scope =
        if route.gateway.is_some() || ip.is_ipv6() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    let scope = route.scope.unwrap_or(default_scope);
    w.put(&[
        family(ip),
        prefix_len,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        scope,
        libc::RTN_UNICAST,
    ]);
    w.put(&0u32.to_ne_bytes());
    if prefix_len > 0 {
        w.attr(libc::RTA_DST, &octets(ip));
    }
    if let Some(gateway) = route.gateway {
        w.attr(libc::RTA_GATEWAY, &octets(gateway));
    }
    w.attr_u32(libc::RTA_OIF, route.link);
    if let Some(priority) = route.priority {
        w.attr_u32(libc::RTA_PRIORITY, priority);
    }
    if let Some(table) = route.table {
        w.attr_u32(libc::RTA_TABLE, table);
    }
    if route.mtu.is_some() || route.advmss.is_some() {
        w.nest(libc::RTA_METRICS, |w| {
            if let Some(mtu) = route.mtu {
                w.attr_u32(RTAX_MTU, mtu);
            }
            if let Some(advmss) = route.advmss {
                w.attr_u32(RTAX_ADVMSS, advmss);
            }
        });
    }
}

fn name_of(link: LinkRef<'_>) -> String {
    match link {
        LinkRef::Index(index) => format!("#{index}"),
        LinkRef::Name(name) => name.to_owned(),
    }
}

fn family(ip: IpAddr) -> u8 {
    u8::try_from(if ip.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET }).unwrap_or_default()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
