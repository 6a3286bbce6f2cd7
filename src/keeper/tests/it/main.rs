//! The keeper as a process, on a real kernel, as root.
#![allow(clippy::unwrap_used)]

mod adopt;
mod containers;
mod external;
mod harness;
mod namespaces;
