//! Netlink: links, addresses, routes and neighbours of a network namespace.
//!
//! A [`Batch`] is a plan: it collects messages and can be printed; [`Route::apply`] sends all of them with one system
//! call and reads one answer each. A socket belongs to the namespace of the thread that opened it, for ever; open it inside
//! [`crate::ns::in_netns`] to work in another one.

mod batch;
mod counters;
mod link;
mod socket;
pub(crate) mod wire;

pub use batch::{
    AddressFlags, Batch, BridgePort, LinkChange, LinkRef, Macvlan, MacvlanMode, RouteSpec, Veth,
};
pub use counters::{CounterReader, InterfaceCounters};
pub use link::{Address, Link, LinkStats, Mac};
pub(crate) use socket::{Connection, Reply};
pub use socket::{Error, Route};
