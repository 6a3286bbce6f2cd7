//! The keeper and the client of its protocol.
pub mod protocol;
