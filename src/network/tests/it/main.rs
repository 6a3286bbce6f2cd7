//! Attachments on a real kernel. Every test has a network namespace of its own that plays the host, so that nothing
//! of the machine is touched. Needs root.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod bench;
mod faults;
mod foreign;
mod host;
mod lifecycle;
mod ports;
mod traffic;
mod user;
mod user_gates;
