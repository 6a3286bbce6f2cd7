//! The keeper as a process, on a real kernel, as root.

mod containers;
mod external;
mod harness;
mod namespaces;
