//! Interfaces of their own hardware address on a link of the host, for user networks. Conflists that say `macvlan` run the
//! program of that name; this one has a name of its own.

use std::os::fd::BorrowedFd;

use serde::Deserialize;
use sys::netlink::{AddressFlags, Batch, Link, LinkChange, LinkRef, Mac, Macvlan, MacvlanMode};

use super::bridge::{Ipam, open_route};
use crate::error::Error;
use crate::host;
use crate::result::{Attached, Interface, Ip};

/// The plugin type.
pub(crate) const TYPE: &str = "berth-macvlan";

/// Configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conf {
    pub(crate) parent: String,
    pub(crate) mode: String,
    #[serde(default)]
    pub(crate) mtu: u32,
    #[serde(default)]
    pub(crate) ipam: Option<Ipam>,
}

impl Conf {
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.kernel_mode()?;
        host::check_ifname(&self.parent).map_err(|()| format!("invalid parent {:?}", self.parent))?;
        match &self.ipam {
            Some(Ipam::HostLocal(ipam)) => ipam.validate().map_err(|p| format!("ipam: {p}")),
            Some(Ipam::None | Ipam::Foreign(_)) | None => Ok(()),
        }
    }

    fn kernel_mode(&self) -> Result<MacvlanMode, String> {
        match self.mode.as_str() {
            "bridge" => Ok(MacvlanMode::Bridge),
            "private" => Ok(MacvlanMode::Private),
            "vepa" => Ok(MacvlanMode::Vepa),
            "passthru" => Ok(MacvlanMode::Passthru),
            other => Err(format!(
                "macvlan mode {other:?} is none of \"bridge\", \"private\", \"vepa\", \"passthru\""
            )),
        }
    }
}

/// Names and addresses of one attachment.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) conf: &'a Conf,
    pub(crate) ifname: &'a str,
    pub(crate) mac: Option<Mac>,
    pub(crate) ips: Vec<Ip>,
    pub(crate) netns_name: String,
}

impl Plan<'_> {
    /// Makes the interface in the sandbox's namespace and configures it.
    pub(crate) fn apply(&self, netns: BorrowedFd<'_>) -> Result<Attached, Error> {
        let invalid = |text| Error::Request { what: "macvlan network", text };
        let mode = self.conf.kernel_mode().map_err(invalid)?;
        let parent = self.conf.parent.as_str();
        let mut route = open_route()?;
        let found = route.link(parent).map_err(Error::kernel("read link", parent))?;
        let found =
            found.ok_or_else(|| Error::kernel("find link", parent)(std::io::ErrorKind::NotFound.into()))?;
        let mut batch = Batch::new();
        batch.macvlan(&Macvlan {
            name: self.ifname,
            netns,
            parent: found.index,
            mode,
            mac: self.mac,
            mtu: (self.conf.mtu > 0).then_some(self.conf.mtu),
        });
        route.apply(batch)?;
        let link = sys::ns::in_netns(netns, || self.configure_inside())
            .map_err(Error::kernel("enter network namespace for", self.ifname))??;
        let interface = Interface {
            name: self.ifname.to_owned(),
            mac: link.mac.map(|m| m.to_string()).unwrap_or_default(),
            mtu: Some(link.mtu),
            sandbox: Some(self.netns_name.clone()),
        };
        Ok(Attached {
            interfaces: vec![interface],
            ips: self.ips.iter().map(|ip| Ip { interface: Some(0), ..ip.clone() }).collect(),
            ..Attached::default()
        })
    }

    /// Runs on a thread in the sandbox's namespace.
    fn configure_inside(&self) -> Result<Link, Error> {
        let mut route = open_route()?;
        let link = route.link(self.ifname).map_err(Error::kernel("read link", self.ifname))?;
        let link =
            link.ok_or_else(|| Error::kernel("find link", self.ifname)(std::io::ErrorKind::NotFound.into()))?;
        let has_ipv6 = self.ips.iter().any(|ip| ip.address.addr().is_ipv6());
        let v6 = |key: &str| format!("ipv6/conf/{}/{key}", self.ifname);
        host::sysctl(&v6("accept_ra"), "0")?;
        host::sysctl("ipv6/conf/default/accept_ra", "0")?;
        host::sysctl(&v6("disable_ipv6"), if has_ipv6 { "0" } else { "1" })?;
        host::sysctl(&format!("ipv4/conf/{}/arp_notify", self.ifname), "1")?;
        let up = LinkChange { up: true, ..LinkChange::default() };
        let mut batch = Batch::new();
        batch.change(LinkRef::Name("lo"), up);
        batch.change(LinkRef::Index(link.index), up);
        let flags = AddressFlags { skip_detection: true, may_exist: false };
        for ip in &self.ips {
            batch.address(link.index, (ip.address.addr(), ip.address.prefix_len()), flags);
        }
        route.apply(batch)?;
        Ok(link)
    }
}
