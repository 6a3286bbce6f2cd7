//! The Docker Engine API on the engine.
//!
//! A pure translation: requests become calls of the engine, its answers become documents. Nothing here reads a
//! file or touches a kernel object, and no state is kept: what a client asked for and the engine does not need
//! is kept by the engine as the front end's own words.
//!
//! * [`http`] is the protocol: versions, parameters, filters, bodies, errors, streams, sessions.
//! * [`app`] finds the handler of a path. There is one module for each kind of object.
//! * [`shape`] is the one place that knows which version of the API has which fields.
//!
//! Sentences that clients compare are Docker's own; see [`http`]'s errors.
#![forbid(unsafe_code)]

mod app;
mod containers;
mod events;
mod http;
mod images;
mod networks;
mod server;
mod shape;
mod swarm;
mod system;
mod text;
mod volumes;

pub use server::{Options, Server};
