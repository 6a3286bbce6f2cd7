//! The keeper as a process, on a real kernel, as root.

mod external;
mod harness;
