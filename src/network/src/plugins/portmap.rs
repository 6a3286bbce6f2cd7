//! `portmap`: forwards ports of the host to the sandbox, as elements of the maps in the nftables table.

use std::net::IpAddr;

use serde::Deserialize;

use crate::attachment::Protocol;
use crate::error::Error;
use crate::record;

/// Configuration of `portmap`. The fields about iptables (`markMasqBit`, `externalSetMarkChain`, …) are accepted
/// and mean nothing here: there are no marks and no chains per container.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conf {
    /// Masquerade traffic that needs it (hairpin, loopback); CNI's default is `true`.
    #[serde(default = "yes")]
    pub(crate) snat: bool,
    #[serde(default)]
    backend: Option<String>,
    #[serde(default, rename = "conditionsV4")]
    conditions_v4: Vec<String>,
    #[serde(default, rename = "conditionsV6")]
    conditions_v6: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Conf {
    pub(crate) fn validate(&self) -> Result<(), String> {
        if let Some(backend) = self.backend.as_deref().filter(|b| !matches!(*b, "iptables" | "nftables")) {
            return Err(format!("backend {backend:?} is neither \"iptables\" nor \"nftables\""));
        }
        if !self.conditions_v4.is_empty() || !self.conditions_v6.is_empty() {
            return Err(
                "conditionsV4 and conditionsV6 are written in the language of iptables or nft, which \
                        the built-in plugin does not read"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// Flows to a port that was just published, tracked when it led nowhere, are forgotten: only a flow's first packet is
/// translated.
pub(crate) fn forget_flows_before(rules: &record::Rules) -> Result<(), Error> {
    let ports = udp_ports(rules);
    if ports.is_empty() {
        return Ok(());
    }
    let addresses =
        super::bridge::open_route()?.addresses().map_err(Error::kernel("list addresses of", "the host"))?;
    let local: Vec<IpAddr> = addresses.iter().map(|a| a.address).collect();
    forget(|flow| {
        ports.contains(&flow.port)
            && local.contains(&flow.destination)
            && flow.answered_by == flow.destination
    })
}

/// Flows to a sandbox that goes away are forgotten, so that the next owner of the port gets them.
pub(crate) fn forget_flows_after(rules: &record::Rules) -> Result<(), Error> {
    let ports = udp_ports(rules);
    if ports.is_empty() {
        return Ok(());
    }
    forget(|flow| ports.contains(&flow.port) && rules.addresses.contains(&flow.answered_by))
}

fn forget(matches: impl Fn(&sys::nft::UdpFlow) -> bool) -> Result<(), Error> {
    sys::nft::forget_udp(matches)
        .map(|_| ())
        .map_err(Error::kernel("forget tracked flows to", "published ports"))
}

fn udp_ports(rules: &record::Rules) -> Vec<u16> {
    let udp = rules.published.iter().filter(|p| p.mapping.protocol == Protocol::Udp);
    udp.map(|p| p.mapping.host_port).collect()
}
