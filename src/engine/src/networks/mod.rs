//! User networks: bridges and the like that containers share by name.
//!
//! ```text
//!   definitions (durable) ──► Networks: who is on which ──► names for the resolver
//!                                  │
//!   a sandbox' plan (its record) ──┴──► network: links, addresses, rules, held ports
//! ```
//!
//! A definition outlives the boot; attachments do not. The record of a sandbox says what it is, or may be, attached
//! to, and [`Networks`] is rebuilt from these records. A network with members cannot be removed, because a member is
//! entered before the first effect.

mod definition;
mod engine;
mod files;
mod join;
mod problem;
mod publish;
mod registry;
mod resolver;

pub use problem::NetworkProblem;

pub(crate) use definition::Definition;
pub(crate) use files::{edit_hosts, host_dns, hosts, replace_in_place, resolution};
pub(crate) use join::{Joiner, addresses, extra_hosts};
pub(crate) use registry::Networks;
pub(crate) use resolver::{Context as ResolverContext, Resolver, Upstreams};

#[cfg(test)]
mod tests;
