//! The configuration file: text in, checked settings out, every problem reported at once.
//!
//! Unknown keys are errors. `config/config.toml` explains each key with its default; a test holds the two
//! against each other.

mod check;
mod file;

use std::path::{Path, PathBuf};

use crate::cli::{DaemonArgs, LogFormat};

pub(crate) use file::File;

/// Where the configuration is when nobody says otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/berth/config.toml";

/// The default configuration, with every key explained.
pub(crate) const DEFAULT_TEXT: &str = include_str!("../../../config/config.toml");

/// Checked settings of a daemon.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) engine: engine::Config,
    pub(crate) cri_socket: PathBuf,
    pub(crate) admin_socket: PathBuf,
    /// Group of the CRI socket.
    pub(crate) socket_group: Option<u32>,
    /// The Docker API; `None` is without.
    pub(crate) docker: Option<Docker>,
    pub(crate) streaming: Streaming,
    /// The metrics server; `None` is without.
    pub(crate) metrics: Option<Metrics>,
    /// Where traces are sent; `None` is nowhere.
    pub(crate) tracing: Option<Tracing>,
    pub(crate) log_filter: String,
    pub(crate) log_format: LogFormat,
    /// The file that was named; `None` is the usual place.
    pub(crate) config_path: Option<PathBuf>,
    /// As read, with defaults filled in.
    pub(crate) file: File,
}

/// The Docker API's socket.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    pub(crate) socket: PathBuf,
    pub(crate) mode: u32,
    pub(crate) group: Option<u32>,
}

/// The streaming server.
#[derive(Debug, Clone)]
pub(crate) struct Streaming {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
}

/// The metrics server.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) address: std::net::SocketAddr,
    /// Whether usage of every container is told.
    pub(crate) containers: bool,
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// File with the token that clients must show.
    pub(crate) bearer_token_file: Option<PathBuf>,
}

/// Traces of requests.
#[derive(Debug, Clone)]
pub(crate) struct Tracing {
    /// URL of the collector; `https` is with TLS.
    pub(crate) endpoint: String,
    /// Share of the traces that begin here which is sent, from 0 to 1.
    pub(crate) sampling_ratio: f64,
    pub(crate) service_name: String,
    /// File with the certificates that the collector's must go back to; `None` is the host's.
    pub(crate) ca: Option<PathBuf>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub(crate) struct Problems {
    pub(crate) source: String,
    pub(crate) list: Vec<String>,
}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.list.len();
        write!(f, "{}: {count} problem{}", self.source, if count == 1 { "" } else { "s" })?;
        for problem in &self.list {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// Reads a file, or the defaults when none is named and there is none in the usual place.
pub(crate) fn read(path: Option<&Path>) -> Result<(File, String), Problems> {
    let (path, must_exist) = match path {
        Some(path) => (path, true),
        None => (Path::new(DEFAULT_PATH), false),
    };
    let source = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {
            return Ok((File::default(), "defaults".to_owned()));
        }
        Err(error) => return Err(Problems { source, list: vec![format!("it cannot be read: {error}")] }),
    };
    match File::parse(&text) {
        Ok(file) => Ok((file, source)),
        Err(list) => Err(Problems { source, list }),
    }
}

/// Reads the configuration and lays the flags over it.
pub(crate) fn load(args: &DaemonArgs) -> Result<Settings, Problems> {
    let (mut file, source) = read(args.config.as_deref())?;
    let path = |value: &Option<PathBuf>, key: &mut String| {
        if let Some(value) = value {
            *key = value.to_string_lossy().into_owned();
        }
    };
    path(&args.root, &mut file.root);
    path(&args.state, &mut file.state);
    path(&args.cri_socket, &mut file.cri.socket);
    path(&args.docker_socket, &mut file.docker.socket);
    if let Some(address) = &args.metrics_address {
        file.metrics.address.clone_from(address);
    }
    if let Some(level) = &args.log_level {
        file.log.level.clone_from(level);
    }
    if let Some(format) = args.log_format {
        file.log.format = if format == LogFormat::Json { "json" } else { "text" }.to_owned();
    }
    let settings = check::settings(file).map_err(|list| Problems { source, list })?;
    Ok(Settings { config_path: args.config.clone(), ..settings })
}

/// Checks a file without flags.
pub(crate) fn check(file: File, source: String) -> Result<Settings, Problems> {
    check::settings(file).map_err(|list| Problems { source, list })
}

#[cfg(test)]
mod tests;
