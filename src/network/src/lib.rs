//! Container networking for one node: it attaches network namespaces to networks.
//!
//! A network is a CNI *conflist* (specification 0.3.1 to 1.1.0). The plugins `bridge`, `host-local`,
//! `portmap`, `firewall` and `loopback` run inside this process, over netlink; every other type is a program that is
//! executed as the specification says. A conflist may mix both.
//!
//! The crate knows network namespaces and sandbox ids, not pods. It is synchronous: callers run it on a thread that may
//! block.
//!
//! ```text
//!   conflist files ──► Conflist ──┐
//!                                 ├─► Network::attach ─► intent record ─► plugins in order ─► result record
//!   Attachment ───────────────────┘                        (addresses, ports, link name)
//! ```
//!
//! What holds:
//! * **Intent before effect.** The record of an attachment (its addresses, ports, host link) is on disk before the
//!   first kernel object is made. It *is* the address lease; there is no second book that could disagree.
//! * The nftables table is a function of the records: whatever flushed or changed it, [`Network::repair`] restores it.
//! * [`Network::detach`] is idempotent, goes on after errors, and works when the namespace or the conflist is gone.
//! * No `iptables`, `nft` or `ip` program is ever executed by the built-in plugins.

#![forbid(unsafe_code)]

mod attach;
mod attachment;
mod calls;
mod conflist;
mod detach;
mod error;
mod exec;
mod host;
mod ipam;
mod network;
mod plugins;
mod record;
mod result;
mod rules;
mod user;

pub use attachment::{
    Attachment, Bandwidth, Capabilities, Detachment, IpRange, PortMapping, Protocol, ValidAttachment,
};
pub use conflist::{Conflist, Plugin, PluginType, Version};
pub use error::{ConfigError, Error, ErrorKind, NotReady, PluginError, PluginFailure};
pub use network::{Change, GcReport, Network, Options, Watcher};
pub use result::{Attached, Dns, Interface, Ip, Route};
pub use user::{
    AddressPool, AddressPools, Gateway, NetworkSpec, Outlet, PortRequest, SpecDriver, redirect_resolver,
};
