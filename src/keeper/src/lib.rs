//! The process that holds every container, and the client of its protocol.
//!
//! `server` is the keeper: started once, it outlives the daemon. [`client`] is the daemon's end of
//! the socket, [`protocol`] what is said on it.
#![forbid(unsafe_code)]

pub mod client;
mod frame;
mod log;
pub mod protocol;
mod server;

pub use server::{LogLevel, Options, RunError, run};
