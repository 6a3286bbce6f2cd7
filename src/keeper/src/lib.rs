//! The process that holds every container, and the client of its protocol.
#![forbid(unsafe_code)]

pub mod client;
mod frame;
mod log;
pub mod protocol;
