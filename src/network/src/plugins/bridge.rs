//! `bridge`: a veth pair between the sandbox and a bridge of the host.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;
use sys::netlink::{AddressFlags, Batch, BridgePort, Link, LinkChange, LinkRef, Mac, RouteSpec, Veth};

use super::host_local;
use crate::error::Error;
use crate::host;
use crate::result::{Attached, Interface, Ip, Route};

/// `RT_SCOPE_LINK`.
const LINK_SCOPE: u8 = 253;

/// Configuration of `bridge`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Conf {
    #[serde(default = "default_bridge")]
    pub(crate) bridge: String,
    #[serde(default)]
    pub(crate) is_gateway: bool,
    #[serde(default)]
    pub(crate) is_default_gateway: bool,
    #[serde(default)]
    pub(crate) force_address: bool,
    #[serde(default)]
    pub(crate) ip_masq: bool,
    #[serde(default)]
    pub(crate) mtu: u32,
    #[serde(default)]
    pub(crate) hairpin_mode: bool,
    #[serde(default)]
    pub(crate) promisc_mode: bool,
    #[serde(default)]
    pub(crate) port_isolation: bool,
    #[serde(default)]
    pub(crate) macspoofchk: bool,
    #[serde(default)]
    pub(crate) enabledad: bool,
    #[serde(default)]
    pub(crate) disable_container_interface: bool,
    #[serde(default)]
    vlan: u32,
    #[serde(default)]
    vlan_trunk: Vec<Value>,
    #[serde(default)]
    pub(crate) ipam: Option<Ipam>,
    /// Set for user networks.
    #[serde(default, rename = "berthUser")]
    pub(crate) user: Option<crate::record::UserLink>,
}

/// Where addresses come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) enum Ipam {
    /// No addresses: a layer 2 network.
    None,
    /// The built-in allocator.
    HostLocal(Box<host_local::Conf>),
    /// An executed plugin.
    Foreign(String),
}

impl TryFrom<Value> for Ipam {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value.get("type").and_then(Value::as_str) {
            None | Some("") => Ok(Self::None),
            Some("host-local") => {
                let conf: host_local::Conf =
                    serde_json::from_value(value).map_err(|e| format!("ipam: {e}"))?;
                Ok(Self::HostLocal(Box::new(conf)))
            }
            Some(other) => Ok(Self::Foreign(other.to_owned())),
        }
    }
}

fn default_bridge() -> String {
    "cni0".to_owned()
}

impl Conf {
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.hairpin_mode && self.promisc_mode {
            return Err("hairpinMode and promiscMode exclude each other".to_owned());
        }
        if self.vlan != 0 || !self.vlan_trunk.is_empty() {
            return Err("vlan and vlanTrunk are not supported by the built-in plugin; \
                        set exec_builtin to run the bridge program instead"
                .to_owned());
        }
        crate::host::check_ifname(&self.bridge)
            .map_err(|()| format!("invalid bridge name {:?}", self.bridge))?;
        if let Some(Ipam::HostLocal(ipam)) = &self.ipam {
            ipam.validate().map_err(|p| format!("ipam: {p}"))?;
        }
        Ok(())
    }
}

/// Names and addresses of one attachment, decided before anything is done.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) conf: &'a Conf,
    /// Name of the end of the pair that stays on the host.
    pub(crate) host_link: &'a str,
    /// Name of the interface in the sandbox.
    pub(crate) ifname: &'a str,
    /// Its hardware address, if it was asked for.
    pub(crate) mac: Option<Mac>,
    /// Its addresses.
    pub(crate) ips: Vec<Ip>,
    /// Its routes, without those to its own networks.
    pub(crate) routes: Vec<Route>,
    /// How the namespace is called in the result.
    pub(crate) netns_name: String,
}

impl Plan<'_> {
    /// Completes routes and gateways as the configuration says.
    pub(crate) fn complete(&mut self) {
        if self.conf.is_default_gateway {
            for ip in &self.ips {
                let any = any_network(ip.address.addr().is_ipv6());
                if let (Some(gateway), false) = (ip.gateway, self.routes.iter().any(|r| r.dst == any)) {
                    self.routes.push(Route::via(any, Some(gateway)));
                }
            }
        }
        let ips = &self.ips;
        for route in &mut self.routes {
            let same_family = |ip: &&Ip| ip.address.addr().is_ipv6() == route.dst.addr().is_ipv6();
            let scope_needs_none = route.scope.is_some_and(|s| s == LINK_SCOPE);
            if route.gw.is_none() && !scope_needs_none {
                route.gw = ips.iter().find(same_family).and_then(|ip| ip.gateway);
            }
        }
        self.routes.retain(|route| {
            let family_is_present = |ip: &Ip| ip.address.addr().is_ipv6() == route.dst.addr().is_ipv6();
            self.ips.iter().any(family_is_present)
        });
    }

    /// Makes bridge, pair, addresses and routes.
    pub(crate) fn apply(&self, bridges: &Bridges, netns: BorrowedFd<'_>) -> Result<Attached, Error> {
        let bridge = bridges.ensure(self.conf, &self.ips)?;
        let mut route = open_route()?;
        route.apply(self.host_batch(bridge.index, netns))?;
        let configured = sys::ns::in_netns(netns, || self.configure_inside())
            .map_err(Error::kernel("enter network namespace for", self.ifname))??;
        let host = route.link(self.host_link).map_err(Error::kernel("read link", self.host_link))?;
        let name_only = |name: &str, link: Option<&Link>, sandbox: Option<String>| Interface {
            name: name.to_owned(),
            mac: link.and_then(|l| l.mac).map(|m| m.to_string()).unwrap_or_default(),
            mtu: link.map(|l| l.mtu).filter(|_| sandbox.is_some()),
            sandbox,
        };
        let inside = Some(self.netns_name.clone());
        Ok(Attached {
            interfaces: vec![
                name_only(&self.conf.bridge, Some(&bridge), None),
                name_only(self.host_link, host.as_ref(), None),
                name_only(self.ifname, Some(&configured), inside),
            ],
            ips: self.ips.iter().map(|ip| Ip { interface: Some(2), ..ip.clone() }).collect(),
            routes: self.routes.clone(),
            dns: crate::result::Dns::default(),
        })
    }

    /// Requests on the host's side.
    fn host_batch(&self, bridge: u32, netns: BorrowedFd<'_>) -> Batch {
        let mut batch = Batch::new();
        batch.veth(&Veth {
            name: self.host_link,
            peer_name: self.ifname,
            peer_netns: netns,
            peer_mac: self.mac,
            master: Some(bridge),
            mtu: (self.conf.mtu > 0).then_some(self.conf.mtu),
        });
        if self.conf.hairpin_mode || self.conf.port_isolation {
            let port = BridgePort { hairpin: self.conf.hairpin_mode, isolated: self.conf.port_isolation };
            batch.bridge_port(LinkRef::Name(self.host_link), port);
        }
        batch
    }

    /// Runs on a thread in the sandbox's namespace.
    fn configure_inside(&self) -> Result<Link, Error> {
        let mut route = open_route()?;
        let link = route.link(self.ifname).map_err(Error::kernel("read link", self.ifname))?;
        let link =
            link.ok_or_else(|| Error::kernel("find link", self.ifname)(std::io::ErrorKind::NotFound.into()))?;
        self.set_sysctls()?;
        route.apply(self.inside_batch(link.index))?;
        Ok(link)
    }

    /// A sandbox takes no router advertisements, and has no IPv6 unless the network gives it an address.
    fn set_sysctls(&self) -> Result<(), Error> {
        let has_ipv6 = self.ips.iter().any(|ip| ip.address.addr().is_ipv6());
        let v6 = |key: &str| format!("ipv6/conf/{}/{key}", self.ifname);
        host::sysctl(&v6("accept_ra"), "0")?;
        host::sysctl("ipv6/conf/default/accept_ra", "0")?;
        host::sysctl(&v6("disable_ipv6"), if has_ipv6 { "0" } else { "1" })?;
        if has_ipv6 {
            if !self.conf.enabledad {
                host::sysctl(&v6("accept_dad"), "0")?;
            }
            host::sysctl(&v6("ndisc_notify"), "1")?;
        } else {
            host::sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        }
        host::sysctl(&format!("ipv4/conf/{}/arp_notify", self.ifname), "1")
    }

    /// Loopback, addresses, link and routes. IPv4 addresses come before the link is up, so that it announces them.
    fn inside_batch(&self, link: u32) -> Batch {
        let mut batch = Batch::new();
        let up = LinkChange { up: true, ..LinkChange::default() };
        let flags = AddressFlags { skip_detection: !self.conf.enabledad, may_exist: false };
        let addresses = |is_ipv6: bool| {
            let all = self.ips.iter().map(|ip| (ip.address.addr(), ip.address.prefix_len()));
            all.filter(move |(ip, _)| ip.is_ipv6() == is_ipv6)
        };
        batch.change(LinkRef::Name("lo"), up);
        addresses(false).for_each(|address| batch.address(link, address, flags));
        if !self.conf.disable_container_interface {
            batch.change(LinkRef::Index(link), up);
            addresses(true).for_each(|address| batch.address(link, address, flags));
            self.routes.iter().for_each(|r| batch.route(&route_spec(r, link)));
        }
        batch
    }

    /// Checks that the interface is there with its addresses; what differs otherwise.
    pub(crate) fn check_inside(ifname: &str, ips: &[Ip]) -> std::io::Result<Result<(), String>> {
        let mut route = sys::netlink::Route::open()?;
        let Some(link) = route.link(ifname)? else { return Ok(Err(format!("no link {ifname}"))) };
        if !link.is_up() {
            return Ok(Err(format!("link {ifname} is down")));
        }
        let found = route.addresses()?;
        for ip in ips {
            let wanted = (link.index, ip.address.addr(), ip.address.prefix_len());
            if !found.iter().any(|f| (f.link, f.address, f.prefix_len) == wanted) {
                return Ok(Err(format!("address {} is missing", ip.address)));
            }
        }
        Ok(Ok(()))
    }
}

pub(crate) fn route_spec(route: &Route, link: u32) -> RouteSpec {
    RouteSpec {
        destination: (route.dst.network(), route.dst.prefix_len()),
        gateway: route.gw,
        link,
        mtu: route.mtu,
        advmss: route.advmss,
        priority: route.priority,
        table: route.table,
        scope: route.scope,
    }
}

fn any_network(is_ipv6: bool) -> IpNet {
    if is_ipv6 { ipnet::Ipv6Net::default().into() } else { ipnet::Ipv4Net::default().into() }
}

pub(crate) fn open_route() -> Result<sys::netlink::Route, Error> {
    sys::netlink::Route::open().map_err(Error::kernel("open netlink socket", "route"))
}

/// Bridges of the host that this process has set up, by name.
#[derive(Debug, Default)]
pub(crate) struct Bridges {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    index: u32,
    addresses: Vec<(IpAddr, u8)>,
    is_prepared: bool,
}

impl Bridges {
    /// Forgets what was set up on a bridge that is deleted.
    pub(crate) fn forget(&self, name: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Makes the bridge and gives it the gateways' addresses, if it has to have them and has not yet.
    pub(crate) fn ensure(&self, conf: &Conf, ips: &[Ip]) -> Result<Link, Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut route = open_route()?;
        let link = ensure_link(&mut route, conf)?;
        let entry = known.entry(conf.bridge.clone()).or_default();
        if entry.index != link.index {
            *entry = Known { index: link.index, ..Known::default() };
        }
        if !entry.is_prepared {
            prepare(&mut route, conf, &link)?;
            entry.is_prepared = true;
        }
        if conf.is_gateway || conf.is_default_gateway {
            for ip in ips {
                let Some(gateway) = ip.gateway else { continue };
                if conf.user.as_ref().is_some_and(|u| u.has_no_address(gateway)) {
                    continue;
                }
                let address = (gateway, ip.address.prefix_len());
                if !entry.addresses.contains(&address) {
                    ensure_address(&mut route, conf, &link, address)?;
                    host::enable_forwarding(gateway.is_ipv6())?;
                    entry.addresses.push(address);
                }
            }
        }
        Ok(link)
    }
}

fn ensure_link(route: &mut sys::netlink::Route, conf: &Conf) -> Result<Link, Error> {
    let name = conf.bridge.as_str();
    let read = |route: &mut sys::netlink::Route| route.link(name).map_err(Error::kernel("read link", name));
    let link = match read(route)? {
        Some(link) => link,
        None => {
            let mut batch = Batch::new();
            let mut mac =
                sys::fs::random_bytes::<6>().map_err(Error::kernel("make hardware address of", name))?;
            mac[0] = (mac[0] & 0xfc) | 2;
            batch.bridge(name, Mac(mac), (conf.mtu > 0).then_some(conf.mtu));
            route.apply(batch)?;
            read(route)?
                .ok_or_else(|| Error::kernel("find link", name)(std::io::ErrorKind::NotFound.into()))?
        }
    };
    if link.kind != "bridge" {
        let kind = if link.kind.is_empty() { "a device" } else { &link.kind };
        return Err(Error::Request {
            what: "bridge, which is the name of",
            text: format!("{name} ({kind})"),
        });
    }
    Ok(link)
}

fn prepare(route: &mut sys::netlink::Route, conf: &Conf, link: &Link) -> Result<(), Error> {
    let mut batch = Batch::new();
    if !link.is_up() || (conf.promisc_mode && !link.is_promiscuous()) {
        let change = LinkChange { up: true, promiscuous: conf.promisc_mode, ..LinkChange::default() };
        batch.change(LinkRef::Index(link.index), change);
    }
    route.apply(batch)?;
    host::sysctl(&format!("ipv6/conf/{}/accept_ra", conf.bridge), "0")?;
    host::sysctl(&format!("ipv6/conf/{}/accept_dad", conf.bridge), "0")
}

fn ensure_address(
    route: &mut sys::netlink::Route,
    conf: &Conf,
    link: &Link,
    (gateway, prefix_len): (IpAddr, u8),
) -> Result<(), Error> {
    let addresses = route.addresses().map_err(Error::kernel("read addresses of", &*conf.bridge))?;
    let mut batch = Batch::new();
    for other in addresses.iter().filter(|a| a.link == link.index && a.address.is_ipv6() == gateway.is_ipv6())
    {
        if (other.address, other.prefix_len) == (gateway, prefix_len) {
            return Ok(());
        }
        let net = |ip, len| IpNet::new(ip, len).map(|n| n.trunc());
        let meets = match (net(other.address, other.prefix_len), net(gateway, prefix_len)) {
            (Ok(a), Ok(b)) => a.contains(&b) || b.contains(&a),
            (Err(_), _) | (_, Err(_)) => false,
        };
        if meets && !conf.force_address {
            let text = format!(
                "{} has {}/{} already, not {gateway}/{prefix_len}",
                conf.bridge, other.address, other.prefix_len
            );
            return Err(Error::Request { what: "bridge address", text });
        }
        if meets {
            batch.remove_address(link.index, (other.address, other.prefix_len));
        }
    }
    if gateway.is_ipv6() {
        host::sysctl(&format!("ipv6/conf/{}/disable_ipv6", conf.bridge), "0")?;
    }
    batch.address(link.index, (gateway, prefix_len), AddressFlags { skip_detection: true, may_exist: true });
    Ok(route.apply(batch)?)
}
