//! nf_tables over netlink: tables, chains, sets, maps, rules and elements, without any program.
//!
//! A [`Batch`] is one transaction: all of it happens, or none. The kernel adds or removes an element in some 70 µs however
//! many there are, so state per container belongs into elements, never into rules.

mod batch;
mod connection;
mod conntrack;
mod rule;

pub use batch::{Batch, Chain, ChainKind, Element, Family, Hook, Set, datatype};
pub use connection::{Connection, Error, Failure, Monitor, RuleInfo};
pub use conntrack::{UdpFlow, forget_udp};
pub use rule::{Cmp, CtKey, MetaKey, PayloadBase, Rule, Verdict};

/// Number of this subsystem within netfilter's netlink protocol.
const SUBSYSTEM: u16 = 10;
