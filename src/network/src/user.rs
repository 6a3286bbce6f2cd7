//! User networks: networks that are made and removed at run time, with everything about them decided beforehand.
//!
//! A [`NetworkSpec`] becomes a conflist of built-in plugins, so that attaching, records, address leases, rules and garbage
//! collection are those of every other network. What a spec has beyond a conflist is a link of the host that exists as
//! long as the network does ([`Network::ensure_user_network`]), and ports of the host that are held by sockets while they
//! are published ([`Network::hold_ports`]).

mod hold;
mod pools;
mod redirect;
mod routes;
mod spec;

pub use hold::PortRequest;
pub use pools::AddressPools;
pub use redirect::redirect_resolver;
pub use routes::Outlet;
pub use spec::{AddressPool, Gateway, NetworkSpec, SpecDriver};

pub(crate) use hold::HeldPorts;
