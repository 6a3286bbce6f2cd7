//! Where a sandbox with several networks leads out, and what the host's own networks are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use ipnet::IpNet;
use sys::netlink::{Batch, RouteSpec};

use crate::error::Error;
use crate::network::Network;
use crate::plugins::bridge::open_route;

/// The way out of a namespace for one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlet {
    /// Name of the interface in the namespace.
    pub ifname: String,
    /// The next hop.
    pub gateway: IpAddr,
}

impl Network {
    /// Makes the default routes of a namespace what they should be; `None` means that there is none.
    pub fn set_outlets(netns: BorrowedFd<'_>, v4: Option<&Outlet>, v6: Option<&Outlet>) -> Result<(), Error> {
        let work = || {
            let mut route = open_route()?;
            let mut batch = Batch::new();
            for (is_ipv6, outlet) in [(false, v4), (true, v6)] {
                let Some(outlet) = outlet else {
                    batch.remove_default_route(is_ipv6);
                    continue;
                };
                let name = outlet.ifname.as_str();
                let link = route.link(name).map_err(Error::kernel("read link", name))?;
                let link = link
                    .ok_or_else(|| Error::kernel("find link", name)(std::io::ErrorKind::NotFound.into()))?;
                let any: IpAddr =
                    if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                batch.replace_route(&RouteSpec {
                    destination: (any, 0),
                    gateway: Some(outlet.gateway),
                    link: link.index,
                    mtu: None,
                    advmss: None,
                    priority: None,
                    table: None,
                    scope: None,
                });
            }
            Ok(route.apply(batch)?)
        };
        sys::ns::in_netns(netns, work).map_err(Error::kernel("enter network namespace of", "a sandbox"))?
    }

    /// Gives an interface of a namespace further addresses.
    pub fn add_addresses(netns: BorrowedFd<'_>, ifname: &str, addresses: &[IpNet]) -> Result<(), Error> {
        if addresses.is_empty() {
            return Ok(());
        }
        let work = || {
            let mut route = open_route()?;
            let link = route.link(ifname).map_err(Error::kernel("read link", ifname))?;
            let link =
                link.ok_or_else(|| Error::kernel("find link", ifname)(std::io::ErrorKind::NotFound.into()))?;
            let mut batch = Batch::new();
            let flags = sys::netlink::AddressFlags { skip_detection: true, may_exist: true };
            for net in addresses {
                batch.address(link.index, (net.addr(), net.prefix_len()), flags);
            }
            Ok(route.apply(batch)?)
        };
        sys::ns::in_netns(netns, work).map_err(Error::kernel("enter network namespace for", ifname))?
    }

    /// Sets what `/proc/sys` has for an interface of a namespace: keys with dots, `IFNAME` in the place of its name.
    pub fn set_interface_sysctls(
        netns: BorrowedFd<'_>,
        ifname: &str,
        settings: &[(String, String)],
    ) -> Result<(), Error> {
        if settings.is_empty() {
            return Ok(());
        }
        let work = || {
            for (key, value) in settings {
                let path =
                    key.strip_prefix("net.").unwrap_or(key).replace('.', "/").replace("IFNAME", ifname);
                if path.contains("..") {
                    return Err(Error::Request { what: "setting", text: key.clone() });
                }
                crate::host::sysctl(&path, value)?;
            }
            Ok(())
        };
        sys::ns::in_netns(netns, work).map_err(Error::kernel("enter network namespace for", ifname))?
    }

    /// Networks that the host can reach without its default route, and its own addresses: nothing new may meet them.
    pub fn host_networks(&self) -> Result<Vec<IpNet>, Error> {
        let mut route = open_route()?;
        let failed = |error| Error::kernel("list routes of", "the host")(error);
        let mut all: Vec<(IpAddr, u8)> = route.destinations().map_err(failed)?;
        all.extend(route.addresses().map_err(failed)?.iter().map(|a| (a.address, a.prefix_len)));
        let net = |(ip, len): (IpAddr, u8)| IpNet::new(ip, len).ok().map(|n| n.trunc());
        let mut all: Vec<IpNet> = all.into_iter().filter_map(net).collect();
        // Link-local addresses are on every link and say nothing.
        all.retain(|net| !matches!(net, IpNet::V6(v6) if v6.addr().segments()[0] & 0xffc0 == 0xfe80));
        all.sort();
        all.dedup();
        Ok(all)
    }
}
