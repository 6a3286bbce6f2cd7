//! Why a network operation was refused, for front ends that have words of their own for it.

use std::net::IpAddr;

use crate::error::{Error, ErrorKind};
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
}

/// An error of the crate below, with its typed cause where front ends have words of their own for it.
pub(crate) fn from_network(what: String, error: network::Error) -> Error {
    let kind = match error.kind() {
        network::ErrorKind::Exhausted => ErrorKind::Exhausted,
        network::ErrorKind::Invalid => ErrorKind::InvalidArgument,
        network::ErrorKind::Conflict => ErrorKind::FailedPrecondition,
        network::ErrorKind::Timeout | network::ErrorKind::Unavailable | network::ErrorKind::Internal => {
            ErrorKind::Internal
        }
    };
    match &error {
        network::Error::HostPortTaken { mapping, .. } => {
            let protocol = match mapping.protocol {
                network::Protocol::Tcp => Protocol::Tcp,
                network::Protocol::Udp => Protocol::Udp,
                network::Protocol::Sctp => Protocol::Sctp,
            };
            let problem = NetworkProblem::PortTaken {
                host_ip: mapping.host_ip.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()),
                host_port: mapping.host_port,
                protocol,
                by_container: !error.is_port_of_host(),
            };
            Error::caused_by(kind, what, problem)
        }
        network::Error::AddressTaken { address, .. } => {
            Error::caused_by(kind, what, NetworkProblem::AddressTaken(*address))
        }
        _ => Error::caused_by(kind, what, error),
    }
}
