//! Support for tests: waiting for conditions, and a registry that can misbehave.

#![forbid(unsafe_code)]

mod wait;

pub use wait::{wait_for, wait_until};
