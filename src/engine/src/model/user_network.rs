//! User networks: what a front end asks for, and what it is told of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Protocol;

/// What makes a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDriver {
    /// A bridge of the host, with addresses translated at its edge.
    #[default]
    Bridge,
    /// Interfaces of their own hardware address on a link of the host.
    Macvlan,
    /// The host's own network. There is one such network.
    Host,
    /// Loopback only. There is one such network.
    Null,
}

/// A range of addresses that a network hands out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamPool {
    /// The network; `None` takes one from the default pools.
    #[serde(default)]
    pub subnet: Option<IpNet>,
    /// The part of it that addresses are chosen from; static ones may lie outside.
    #[serde(default)]
    pub ip_range: Option<IpNet>,
    /// The gateway; `None` takes the first address of the network.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Addresses that other hosts have, by name.
    #[serde(default)]
    pub aux: BTreeMap<String, IpAddr>,
}

/// A network to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)]
pub struct UserNetworkConfig {
    /// Unique among networks.
    pub name: String,
    /// What makes it.
    #[serde(default)]
    pub driver: NetworkDriver,
    /// Whether it leads nowhere but to its own containers and the host.
    #[serde(default)]
    pub internal: bool,
    /// Kept for the front end; every network of a node can be attached to.
    #[serde(default)]
    pub attachable: bool,
    /// Whether its containers get IPv4 addresses.
    #[serde(default = "yes")]
    pub enable_ipv4: bool,
    /// Whether its containers get IPv6 addresses.
    #[serde(default)]
    pub enable_ipv6: bool,
    /// Its address ranges, at most one of each family; once it is made, with networks and gateways filled in.
    #[serde(default)]
    pub ipam: Vec<IpamPool>,
    /// Options of the address management, kept for the front end.
    #[serde(default)]
    pub ipam_options: BTreeMap<String, String>,
    /// Options of the driver, by Docker's names.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// For selection.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// How a container is attached to a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkEndpointConfig {
    /// The network, by id, name, or unambiguous beginning of an id.
    pub network: String,
    /// Further names of the container on this network.
    pub aliases: Vec<String>,
    /// Containers that this one calls by other names: name or id, and the name it uses.
    pub links: Vec<(String, String)>,
    /// A static address.
    pub ipv4: Option<Ipv4Addr>,
    /// A static address.
    pub ipv6: Option<Ipv6Addr>,
    /// Hardware address, six bytes in hexadecimal with colons.
    pub mac: Option<String>,
    /// Options of the endpoint, by Docker's names.
    pub driver_opts: BTreeMap<String, String>,
    /// The network with the highest priority, of equal ones the first by name, has the default route.
    pub gw_priority: i64,
    /// Further addresses of the interface, link-local by convention.
    pub link_local: Vec<IpAddr>,
}

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRequest {
    /// Port of the container.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address of the host; `None` means all of both families, or the one that the network says.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// First and last port of the host to choose from; `None` takes one that is free.
    #[serde(default)]
    pub host_ports: Option<(u16, u16)>,
}

/// A port that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BoundPort {
    /// Port of the container.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address of the host, `0.0.0.0` or `::` for all of that family.
    pub host_ip: IpAddr,
    /// Port of the host.
    pub host_port: u16,
}

/// What a name in `/etc/hosts` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostAddress {
    /// An address.
    Ip(IpAddr),
    /// The host, as the container reaches it.
    Gateway,
}

/// Networks of a sandbox, instead of the node's default one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserNetworking {
    /// Id of the container the sandbox is for; its first twelve characters are one of its names.
    pub container_id: String,
    /// Name of that container.
    pub container_name: String,
    /// Networks; without any there is only loopback.
    pub endpoints: Vec<NetworkEndpointConfig>,
    /// Ports to publish, on the network that has the default route.
    pub ports: Vec<PublishRequest>,
    /// Domain of the host name, if it has one.
    pub domainname: String,
    /// Further lines of `/etc/hosts`.
    pub extra_hosts: Vec<(String, HostAddress)>,
}

/// An attachment that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Id of the network.
    pub network_id: String,
    /// Name of the network.
    pub network_name: String,
    /// Id of this attachment.
    pub endpoint_id: String,
    /// Hardware address; empty with the host's network.
    pub mac: String,
    /// IPv4 address with the prefix length of the network.
    pub ipv4: Option<IpNet>,
    /// IPv6 address with the prefix length of the network.
    pub ipv6: Option<IpNet>,
    /// Where the network leads out.
    pub gateway4: Option<IpAddr>,
    /// Where the network leads out.
    pub gateway6: Option<IpAddr>,
    /// Name of the interface in the sandbox.
    pub ifname: String,
    /// Names it is found by on this network, in order: name, aliases, short id, host name.
    pub dns_names: Vec<String>,
    /// As asked for.
    pub config: NetworkEndpointConfig,
}

/// A container that is attached to a network now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkMember {
    /// Id of the container.
    pub container_id: String,
    /// Name of the container.
    pub container_name: String,
    /// The attachment.
    pub endpoint: Arc<EndpointStatus>,
}

/// A moment's view of a network.
#[derive(Debug, Clone)]
pub struct UserNetworkStatus {
    /// 64 hexadecimal characters.
    pub id: String,
    /// As asked for, with address ranges and the name of the link filled in.
    pub config: Arc<UserNetworkConfig>,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// Whether it exists always and cannot be removed.
    pub predefined: bool,
    /// Containers that are attached to it now, by name.
    pub members: Vec<NetworkMember>,
}

/// Which networks to remove when nobody is attached to them.
#[derive(Debug, Clone, Default)]
pub struct NetworkPruneFilter {
    /// Made before this, nanoseconds since the Unix epoch.
    pub created_before_ns: Option<i64>,
    /// Labels they must have, with a value or any.
    pub labels: Vec<(String, Option<String>)>,
    /// Labels they must not have, with a value or any.
    pub without_labels: Vec<(String, Option<String>)>,
}
