//! Support for tests: waiting for conditions, and a registry that can misbehave.

#![forbid(unsafe_code)]

mod registry;
mod wait;

pub use registry::{Access, Fault, Image, LayerBlob, Misdeed, Registry, Request};
pub use wait::{wait_for, wait_until};
