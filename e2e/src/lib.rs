//! Black-box suites: the whole daemon on a real kernel, driven as its users drive it.
//!
//! A suite enters the [`Lab`], starts a [`Registry`] and a [`Node`], works through the [`Client`], and ends
//! by holding a [`baseline::Snapshot`] against the one it took first. What is missing fails a suite with a
//! message; nothing is skipped silently. `hack/e2e` runs them in namespaces of their own.

#![forbid(unsafe_code)]

pub mod archive;
pub mod baseline;
pub mod bench;
pub mod canary;
pub mod catalog;
mod certificate;
mod client;
pub mod evil;
pub mod ginkgo;
pub mod http;
pub mod image;
pub mod installer;
pub mod kubelet;
mod lab;
mod node;
mod process;
pub mod prometheus;
mod registry;
mod summary;
pub mod trace;
mod wait;
pub mod websocket;

pub use certificate::authority;
pub use client::{Client, container, log_messages, pod};
pub use lab::{Lab, checkout};
pub use node::{Node, NodeOptions};
pub use process::{Process, run, signal};
pub use registry::{MIRRORED_HOSTS, PASSWORD, Registry, USER, free_port, write_mirror};
pub use summary::{Percentiles, summarize};
pub use wait::{wait_for, wait_until};
