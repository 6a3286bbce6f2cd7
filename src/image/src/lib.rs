//! Talking to image registries: resolve, pull, push.
//!
//! A [`Client`] follows a reference through the mirrors of `hosts.toml` to a manifest for one platform, and
//! moves blobs between registries and a [`content::Store`]. What it must never do: let a byte be seen before
//! its digest is checked, or show a credential to anyone but the host it is meant for.
//!
//! ```text
//! Client ── pull ──► flight (one per reference, platform and credentials, however many ask)
//!                      │ resolve: index → manifest → configuration
//!                      └ layers, a bounded number at once: one flight per blob
//!                            registry ─► writer thread ─► ingest (hash, file)
//!                                              └─► reader of PullSink::layer
//! ```
//!
//! Every request goes through `transport`, which knows about redirects, credentials and tokens; and through
//! the loop in `fallback`, which knows about mirrors, retries and back-off.

#![forbid(unsafe_code)]

mod auth;
mod challenge;
mod client;
mod config;
mod credentials;
mod document;
mod download;
mod error;
mod fallback;
mod feed;
mod flight;
mod hosts;
mod http;
mod message;
mod progress;
mod pull;
mod push;
mod registry;
mod report;
mod secret;
mod tags;
mod token;
mod transport;
mod types;

pub use auth::{Auth, AuthFields, InvalidAuth, ScopedAuth};
pub use client::{Client, Pull, Push};
pub use config::Config;
pub use error::{BoxError, Error, ErrorKind};
pub use progress::{LayerProgress, LayerState, Progress, Stage};
pub use secret::Secret;
pub use types::{
    CONFIG_LIMIT, Descriptor, Document, Layer, LayerDesc, LayerJob, MANIFEST_LIMIT, PullRequest, PullSink,
    Pulled, PushRequest, Resolved, TOKEN_LIMIT,
};
