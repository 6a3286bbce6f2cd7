//! The keeper as a process, on a real kernel, as root.
#![allow(clippy::unwrap_used)]

mod containers;
mod external;
mod harness;
mod namespaces;
