//! What a caller asks for when it attaches or detaches a sandbox.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::path::Path;

use ipnet::IpNet;
use oci::SandboxId;
use serde::{Deserialize, Serialize};

use crate::conflist::Conflist;
use crate::result::Dns;

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// `tcp`, `udp` or `sctp`, as CNI spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the host that is forwarded to the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port on the host.
    pub host_port: u16,
    /// Port in the sandbox.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The one host address that is forwarded; `None` is every address of the host, of both families.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    /// The bind address, where an unspecified one (`0.0.0.0`, `::`) is all addresses *of that family*.
    pub fn serves(&self, family_is_v6: bool) -> bool {
        self.host_ip.is_none_or(|ip| ip.is_ipv6() == family_is_v6)
    }

    /// The one address this mapping is bound to, if it is not all of them.
    pub fn bound_to(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    /// Whether both cannot exist on one host.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let families_meet =
            (self.serves(false) && other.serves(false)) || (self.serves(true) && other.serves(true));
        let addresses_meet = match (self.bound_to(), other.bound_to()) {
            (Some(a), Some(b)) => a == b,
            (Some(_), None) | (None, Some(_) | None) => families_meet,
        };
        self.protocol == other.protocol && self.host_port == other.host_port && addresses_meet
    }
}

/// Traffic limits, for plugins with the `bandwidth` capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Into the sandbox, bits per second; 0 is unlimited.
    pub ingress_rate: u64,
    /// Burst into the sandbox, bits.
    pub ingress_burst: u64,
    /// Out of the sandbox, bits per second.
    pub egress_rate: u64,
    /// Burst out of the sandbox, bits.
    pub egress_burst: u64,
}

/// A range of addresses, as in host-local's `ranges` and the `ipRanges` capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpRange {
    /// The network; its prefix length is that of the addresses handed out.
    pub subnet: IpNet,
    /// First address that may be handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_start: Option<IpAddr>,
    /// Last address that may be handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_end: Option<IpAddr>,
    /// The gateway; default: the first address of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// Runtime settings handed to the plugins that declare the matching capability.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// `bandwidth`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// `dns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// `mac`: the hardware address of the interface in the sandbox, six bytes in hexadecimal with colons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// `ips`: static addresses; a prefix length is optional, as in CNI.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// `ipRanges`: range sets that come before those of the conflist.
    #[serde(rename = "ipRanges", skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// `aliases`: further names of the sandbox on this network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// `cgroupPath`.
    #[serde(rename = "cgroupPath", skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
}

/// One attachment to make: this namespace, to that network, under this interface name.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    /// The sandbox; with `ifname` it identifies the attachment.
    pub sandbox: &'a SandboxId,
    /// The namespace.
    pub netns: BorrowedFd<'a>,
    /// A path of the namespace that stays valid until detach, for executed plugins. Without it they get a path that
    /// holds only while they run.
    pub netns_path: Option<&'a Path>,
    /// The network.
    pub conflist: &'a Conflist,
    /// Interface name in the sandbox, usually `eth0`.
    pub ifname: &'a str,
    /// Host ports to forward.
    pub ports: &'a [PortMapping],
    /// `CNI_ARGS`, for example `K8S_POD_NAME`.
    pub cni_args: &'a [(String, String)],
    /// Everything else that plugins may be told.
    pub capabilities: &'a Capabilities,
}

/// One attachment to undo.
#[derive(Debug, Clone, Copy)]
pub struct Detachment<'a> {
    /// The sandbox.
    pub sandbox: &'a SandboxId,
    /// Interface name in the sandbox.
    pub ifname: &'a str,
    /// The namespace, unless it is gone.
    pub netns: Option<BorrowedFd<'a>>,
    /// Its path, for executed plugins; the recorded one when `None`.
    pub netns_path: Option<&'a Path>,
    /// The namespace goes on living after this detachment (a live disconnect), so its link must be deleted now, which
    /// takes the kernel some 20 ms. When `false` the caller drops the namespace, and the link with it.
    pub netns_survives: bool,
}

/// An attachment that [`Network::gc`](crate::Network::gc) must leave alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValidAttachment {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Interface name in the sandbox.
    pub ifname: String,
}

/// Whether `ip` cannot be the source or target of traffic to one host.
pub(crate) fn is_unusable_target(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { host_port: 80, container_port: 80, protocol: Protocol::Tcp, host_ip }
    }

    #[test]
    fn claims_to_the_same_port_meet_or_not() {
        let conflict = |a, b| {
            let (a, b) = (mapping(a), mapping(b));
            assert_eq!(a.conflicts_with(&b), b.conflicts_with(&a));
            a.conflicts_with(&b)
        };
        assert!(conflict(None, None));
        assert!(conflict(None, Some("127.0.0.1")));
        assert!(conflict(Some("0.0.0.0"), Some("10.0.0.1")));
        assert!(conflict(None, Some("::1")));
        assert!(!conflict(Some("0.0.0.0"), Some("::")));
        assert!(!conflict(Some("127.0.0.1"), Some("127.0.0.2")));
        assert!(!conflict(Some("::1"), Some("0.0.0.0")));
        assert!(!conflict(Some("0.0.0.0"), Some("::1")));
    }
}
