//! The Container Runtime Interface on the engine.
//!
//! A pure translation: requests become calls of the engine, its answers become messages. No process and no
//! kernel object is touched here, and no file but the streaming server's key. Messages are checked where they are taken apart, so that
//! the engine never sees a value that makes no sense; `error` is the one place where the engine's errors
//! become gRPC codes. The [`streaming`] server moves the bytes of exec, attach and port-forward sessions.
//!
//! A call that its client gives up is answered to nobody; what it started in the engine goes on.

#![forbid(unsafe_code)]

mod batch;
mod container;
mod convert;
mod error;
mod events;
#[cfg(test)]
mod fields;
mod image;
mod image_service;
mod metrics;
mod patience;
mod rpc_metrics;
mod rpc_trace;
mod runtime_service;
mod sandbox;
mod serve;
mod sessions;
mod stats;
mod status;
pub mod streaming;

pub use metrics::Usage;
pub use rpc_metrics::RpcMetrics;
pub use rpc_trace::TraceCalls;
use serve::Service;
pub use serve::{ServeError, Server, StartError, StreamingOptions};
