//! Why a network operation was refused, for front ends that have words of their own for it.

use std::net::IpAddr;

use crate::model::Protocol;

/// The typed cause of an error of a user network; see [`Error::cause`](crate::Error::cause).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkProblem {
    /// No network of this name or id.
    #[error("no network {0:?}")]
    NotFound(String),
    /// Several networks have an id that begins so.
    #[error("network id {0:?} is ambiguous; give more of it")]
    Ambiguous(String),
    /// The name is taken.
    #[error("a network with the name {0} exists already")]
    NameTaken(String),
    /// The network exists always.
    #[error("{0} exists always and cannot be removed or made")]
    Predefined(String),
    /// Containers are attached to it.
    #[error("network {name} has {count} attached containers")]
    InUse {
        /// Name of the network.
        name: String,
        /// Id of the network.
        id: String,
        /// How many.
        count: usize,
        /// Name of one of them and id of its endpoint.
        example: (String, String),
    },
    /// The addresses meet those of another network, or of the host.
    #[error("the addresses {subnet} are those of {of}, too")]
    Overlap {
        /// What was asked for.
        subnet: String,
        /// A network, or a route of the host.
        of: String,
    },
    /// Every default pool is used up.
    #[error("no default address pool has a free network that meets no route of the host")]
    PoolsExhausted,
    /// A static address was asked for that somebody has.
    #[error("address {0} is in use")]
    AddressTaken(IpAddr),
    /// The container is attached to it already.
    #[error("container {container} is attached to network {network} already")]
    AlreadyAttached {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
    /// The container is not attached to it.
    #[error("container {container} is not attached to network {network}")]
    NotAttached {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
    /// A host port has an owner.
    #[error("port {host_port} of {host_ip} is taken by {}", if *.by_container { "another container" } else { "a process of the host" })]
    PortTaken {
        /// Address of the host.
        host_ip: IpAddr,
        /// Port of the host.
        host_port: u16,
        /// Transport protocol.
        protocol: Protocol,
        /// A container of ours has it, not a process of the host.
        by_container: bool,
    },
    /// No port of the range is free.
    #[error("none of the ports {first} to {last} of {host_ip} is free")]
    PortsExhausted {
        /// Address of the host.
        host_ip: IpAddr,
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
}
