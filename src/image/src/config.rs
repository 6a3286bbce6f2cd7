//! What a client is made from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::Auth;

/// How a [`crate::Client`] behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory of `<host>/hosts.toml`; read anew for every operation. `None`: no mirrors.
    pub config_path: Option<PathBuf>,
    /// Credentials by registry host (`host[:port]`).
    pub credentials: BTreeMap<String, Auth>,
    /// Credential programs by registry host: `x` stands for `docker-credential-x`.
    pub credential_helpers: BTreeMap<String, String>,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// How many layers of all pulls may be on their way at once.
    pub max_concurrent_downloads: usize,
    /// How many layers of all pushes may be on their way at once.
    pub max_concurrent_uploads: usize,
    /// How long a connection may take to come up; `dial_timeout` in `hosts.toml` overrides it.
    pub connect_timeout: Duration,
    /// How long a transfer may make no noteworthy progress before it is broken off and resumed.
    pub stall_timeout: Duration,
    /// How often a failed request is tried again, after trying all mirrors.
    pub retries: u32,
    /// The longest wait between two tries; a `Retry-After` beyond it is an error at once.
    pub max_backoff: Duration,
}

impl Config {
    /// What the daemon uses unless told otherwise.
    pub fn new(user_agent: impl Into<String>) -> Self {
        Self {
            config_path: None,
            credentials: BTreeMap::new(),
            credential_helpers: BTreeMap::new(),
            user_agent: user_agent.into(),
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            retries: 5,
            max_backoff: Duration::from_secs(30),
        }
    }
}
