//! The Container Runtime Interface on the engine.
//!
//! A pure translation: requests become calls of the engine, its answers become messages. No file, no
//! process and no kernel object is touched here. The [`streaming`] server moves the bytes of exec, attach
//! and port-forward sessions.

#![forbid(unsafe_code)]

pub mod streaming;
