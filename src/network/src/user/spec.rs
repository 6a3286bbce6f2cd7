//! What a user network is, and the links of the host that belong to it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use sys::netlink::{Batch, LinkRef};

use crate::conflist::Conflist;
use crate::error::{ConfigError, Error};
use crate::network::Network;
use crate::plugins::bridge::open_route;
use crate::plugins::{Builtin, macvlan};
use crate::record::{Gate, UserLink};
use crate::result::Ip;

/// How a family of addresses is reached from elsewhere; Docker's gateway modes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gateway {
    /// Translated: by published ports of the host only.
    #[default]
    Nat,
    /// Translated, and directly at every port.
    NatUnprotected,
    /// Not translated: directly at published ports.
    Routed,
    /// Not at all; the host has no address in the network.
    Isolated,
}

/// What makes a user network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpecDriver {
    /// A bridge of this name.
    Bridge {
        /// Name of the bridge.
        link: String,
        /// Whether containers reach each other.
        icc: bool,
        /// How IPv4 is reached.
        gateway4: Gateway,
        /// How IPv6 is reached.
        gateway6: Gateway,
        /// Whether translated families are masqueraded on their way out.
        masquerade: bool,
        /// Whether the bridge goes without an IPv4 address.
        inhibit_ipv4: bool,
        /// Links from which containers may be addressed directly.
        trusted: Vec<String>,
    },
    /// Interfaces on a link of the host.
    Macvlan {
        /// The link: one that exists, `PARENT.VLAN`, or a new one that leads nowhere.
        parent: String,
        /// `bridge`, `private`, `vepa` or `passthru`.
        mode: String,
        /// Whether the parent is made to lead nowhere.
        is_dummy: bool,
    },
}

/// A range that the network hands out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPool {
    /// The network.
    pub subnet: IpNet,
    /// The part that addresses are chosen from.
    pub range: Option<IpNet>,
    /// The gateway.
    pub gateway: IpAddr,
    /// Addresses that are somebody else's.
    pub reserved: Vec<IpAddr>,
}

/// A user network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Identifies the network, also in records and rules.
    pub id: String,
    /// What makes it.
    pub driver: SpecDriver,
    /// At most one of each family.
    pub pools: Vec<AddressPool>,
    /// Whether it leads nowhere.
    pub internal: bool,
    /// Largest packet; 0 is the kernel's default.
    pub mtu: u32,
}

impl NetworkSpec {
    /// The conflist that attaches to the network.
    pub fn conflist(&self) -> Result<Conflist, ConfigError> {
        let plugins = match &self.driver {
            SpecDriver::Bridge { .. } => json!([
                self.bridge(),
                {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
                {"type": "firewall", "ingressPolicy": "same-bridge"},
            ]),
            SpecDriver::Macvlan { parent, mode, .. } => json!([{
                "type": macvlan::TYPE, "parent": parent, "mode": mode, "mtu": self.mtu, "ipam": self.ipam(),
                "capabilities": {"mac": true, "ips": true},
            }]),
        };
        let list = json!({"cniVersion": "1.0.0", "name": self.id, "plugins": plugins});
        Conflist::parse(&list.to_string())
    }

    fn bridge(&self) -> Value {
        let SpecDriver::Bridge { link, icc, .. } = &self.driver else { return Value::Null };
        json!({
            "type": "bridge", "bridge": link, "isGateway": true, "hairpinMode": true, "mtu": self.mtu, "portIsolation": !icc,
            "ipMasq": true, "ipam": self.ipam(), "berthUser": self.user_link(),
            "capabilities": {"mac": true, "ips": true},
        })
    }

    fn ipam(&self) -> Value {
        let range = |pool: &AddressPool| {
            let mut range = json!({"subnet": pool.subnet, "gateway": pool.gateway});
            if let Some(part) = pool.range {
                let (first, last) = host_bounds(pool.subnet, part);
                range["rangeStart"] = json!(first);
                range["rangeEnd"] = json!(last);
            }
            json!([range])
        };
        let reserved: Vec<&IpAddr> = self.pools.iter().flat_map(|p| &p.reserved).collect();
        let ranges: Vec<Value> = self.pools.iter().map(range).collect();
        json!({"type": "host-local", "ranges": ranges, "berthReserved": reserved})
    }

    fn user_link(&self) -> UserLink {
        match &self.driver {
            SpecDriver::Bridge { gateway4, gateway6, masquerade, inhibit_ipv4, trusted, .. } => UserLink {
                internal: self.internal,
                gate4: gate(*gateway4),
                gate6: gate(*gateway6),
                keep_source: !masquerade,
                inhibit_ipv4: *inhibit_ipv4,
                trusted: trusted.clone(),
            },
            SpecDriver::Macvlan { .. } => UserLink::default(),
        }
    }

    /// The link of the host that belongs to the network.
    pub fn link(&self) -> &str {
        match &self.driver {
            SpecDriver::Bridge { link, .. } => link,
            SpecDriver::Macvlan { parent, .. } => parent,
        }
    }
}

fn gate(gateway: Gateway) -> Gate {
    match gateway {
        Gateway::Nat => Gate::Nat,
        Gateway::NatUnprotected => Gate::NatUnprotected,
        Gateway::Routed => Gate::Routed,
        Gateway::Isolated => Gate::Isolated,
    }
}

/// First and last address of a part of a network that hosts may have: neither the network's own nor its broadcast.
fn host_bounds(subnet: IpNet, part: IpNet) -> (IpAddr, IpAddr) {
    let first = if part.network() == subnet.network() { successor(part.network()) } else { part.network() };
    let last = if part.broadcast() == subnet.broadcast() && part.addr().is_ipv4() {
        predecessor(part.broadcast())
    } else {
        part.broadcast()
    };
    (first, last)
}

fn successor(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip).saturating_add(1)).into(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip).saturating_add(1)).into(),
    }
}

fn predecessor(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip).saturating_sub(1)).into(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip).saturating_sub(1)).into(),
    }
}

impl Network {
    /// Makes the link of a user network if it is not there, with the gateways' addresses; whether it was made now.
    pub fn ensure_user_network(&self, spec: &NetworkSpec) -> Result<bool, Error> {
        let link = spec.link();
        let mut route = open_route()?;
        let existed = route.link(link).map_err(Error::kernel("read link", link))?.is_some();
        match &spec.driver {
            SpecDriver::Bridge { .. } => {
                let conflist = spec.conflist()?;
                for plugin in conflist.plugins() {
                    if let Some(Builtin::Bridge(conf)) = &plugin.builtin {
                        self.bridges.ensure(conf, &gateways(spec))?;
                    }
                }
            }
            SpecDriver::Macvlan { is_dummy: true, .. } => {
                let mut batch = Batch::new();
                batch.dummy(link);
                route.apply(batch)?;
            }
            SpecDriver::Macvlan { .. } if existed => {}
            SpecDriver::Macvlan { .. } => make_vlan(&mut route, link)?,
        }
        Ok(!existed)
    }

    /// Deletes the link of a user network and forgets its rules. Its absence is fine. A link that was there before the
    /// network must not be given here.
    pub fn remove_user_network(&self, spec: &NetworkSpec, delete_link: bool) -> Result<(), Error> {
        let link = spec.link();
        self.tables.remove_link(link)?;
        self.state().pools.remove(&spec.id);
        self.store.remove_cursors(&spec.id)?;
        if delete_link {
            self.bridges.forget(link);
            let mut batch = Batch::new();
            batch.delete(LinkRef::Name(link));
            open_route()?.apply(batch)?;
        }
        Ok(())
    }
}

fn gateways(spec: &NetworkSpec) -> Vec<Ip> {
    let ip = |pool: &AddressPool| {
        let address = IpNet::new(pool.gateway, pool.subnet.prefix_len()).ok()?;
        Some(Ip { address, gateway: Some(pool.gateway), interface: None })
    };
    spec.pools.iter().filter_map(ip).collect()
}

/// `PARENT.VLAN`, where the parent exists.
fn make_vlan(route: &mut sys::netlink::Route, link: &str) -> Result<(), Error> {
    let missing = || Error::Request { what: "parent, which is no link of this host,", text: link.to_owned() };
    let (parent, id) = link.rsplit_once('.').ok_or_else(missing)?;
    let id: u16 = id.parse().ok().filter(|id| (1..=4094).contains(id)).ok_or_else(missing)?;
    let found = route.link(parent).map_err(Error::kernel("read link", parent))?.ok_or_else(missing)?;
    let mut batch = Batch::new();
    batch.vlan(link, found.index, id);
    Ok(route.apply(batch)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(subnet: &str, range: Option<&str>, reserved: &[&str]) -> NetworkSpec {
        let subnet: IpNet = subnet.parse().unwrap();
        NetworkSpec {
            id: "ab".repeat(32),
            driver: SpecDriver::Bridge {
                link: "br-test".into(),
                icc: true,
                gateway4: Gateway::Nat,
                gateway6: Gateway::Nat,
                masquerade: true,
                inhibit_ipv4: false,
                trusted: Vec::new(),
            },
            pools: vec![AddressPool {
                subnet,
                range: range.map(|r| r.parse().unwrap()),
                gateway: successor(subnet.network()),
                reserved: reserved.iter().map(|r| r.parse().unwrap()).collect(),
            }],
            internal: false,
            mtu: 0,
        }
    }

    #[test]
    fn a_spec_becomes_a_conflist_whatever_its_range() {
        for range in [None, Some("172.18.5.0/24"), Some("172.18.0.0/30"), Some("172.18.255.254/31")] {
            let list = spec("172.18.0.0/16", range, &["172.18.0.9"]).conflist().unwrap();
            assert_eq!(list.plugins().len(), 3, "{range:?}");
        }
        spec("fd00:1::/64", Some("fd00:1::ff00/120"), &[]).conflist().unwrap();
        assert!(spec("172.18.0.0/31", None, &[]).conflist().is_err(), "no room for a container");
    }
}
