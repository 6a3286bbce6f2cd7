//! `hosts.toml`: where the content of a registry may be found, in containerd's format.
//!
//! Parsing is pure; [`load`] finds and reads the files. They are read for every operation, so that a change
//! counts at once.

mod parse;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;

use crate::auth::canonical_host;
use crate::error::{ErrorKind, Fault};
pub(crate) use parse::HostEntry;

/// What a host may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Content by digest.
    pub(crate) pull: bool,
    /// What a tag stands for.
    pub(crate) resolve: bool,
    /// To take content.
    pub(crate) push: bool,
}

impl Capabilities {
    pub(crate) const ALL: Self = Self { pull: true, resolve: true, push: true };
}

/// How a host proves who it is, and we to it. PEM text, so that equal settings share connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct TlsSettings {
    pub(crate) ca: Vec<Vec<u8>>,
    /// Certificate chain and key; the key is in the same file if it is empty.
    pub(crate) client: Vec<(Vec<u8>, crate::Secret<Vec<u8>>)>,
    pub(crate) skip_verify: bool,
}

/// One place that speaks the registry protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Ends with `/v2` or whatever stands in its place; without a slash.
    pub(crate) base: Url,
    /// `host[:port]`, for messages and to look credentials up.
    pub(crate) host: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) headers: HeaderMap,
    pub(crate) tls: Arc<TlsSettings>,
    pub(crate) connect_timeout: Option<Duration>,
    /// Whether this is the registry itself, not a mirror.
    pub(crate) is_origin: bool,
}

/// The endpoints for a registry, in the order to try them.
pub(crate) fn load(config_path: Option<&Path>, domain: &str) -> Result<Vec<Endpoint>, Fault> {
    let entries = match config_path.map(|root| find(root, domain)).transpose()?.flatten() {
        Some(directory) => load_directory(&directory, domain)?,
        None => return Ok(vec![endpoint(parse::default_entry(domain), domain)?]),
    };
    entries.into_iter().map(|entry| endpoint(entry, domain)).collect()
}

/// The directory for a registry: `host_port_`, `host:port` or `_default`.
fn find(root: &Path, domain: &str) -> Result<Option<PathBuf>, Fault> {
    let with_port = domain.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    for name in with_port.as_deref().into_iter().chain([domain, "_default"]) {
        let path = root.join(name);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return Ok(Some(path)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(&path, error)),
        }
    }
    Ok(None)
}

fn load_directory(directory: &Path, domain: &str) -> Result<Vec<HostEntry>, Fault> {
    let path = directory.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => parse::parse(&text, domain, directory)
            .map_err(|reason| Fault::new(ErrorKind::Config, format!("{}: {reason}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut entry = parse::default_entry(domain);
            add_docker_certificates(directory, &mut entry)?;
            Ok(vec![entry])
        }
        Err(error) => Err(unreadable(&path, error)),
    }
}

/// Docker's older form of such a directory: `*.crt` are authorities, `*.cert` with `*.key` are ours.
fn add_docker_certificates(directory: &Path, entry: &mut HostEntry) -> Result<(), Fault> {
    let listed = std::fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<PathBuf> =
        listed.map_err(|error| unreadable(directory, error))?.into_iter().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => entry.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                entry.client.push((path, Some(key)));
            }
            _ => {}
        }
    }
    if !entry.ca.is_empty() || !entry.client.is_empty() {
        entry.use_https();
    }
    Ok(())
}

fn endpoint(entry: HostEntry, domain: &str) -> Result<Endpoint, Fault> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| unreadable(path, error));
    let mut client = Vec::new();
    for (certificate, key) in &entry.client {
        let key = key.as_ref().map(read).transpose()?.unwrap_or_default();
        client.push((read(certificate)?, crate::Secret::new(key)));
    }
    let ca = entry.ca.iter().map(read).collect::<Result<_, _>>()?;
    let host = host_of(&entry.base);
    let is_origin = entry.is_server || canonical_host(&host) == canonical_host(domain);
    Ok(Endpoint {
        host,
        base: entry.base,
        capabilities: entry.capabilities,
        headers: entry.headers,
        tls: Arc::new(TlsSettings { ca, client, skip_verify: entry.skip_verify }),
        connect_timeout: entry.connect_timeout,
        is_origin,
    })
}

/// `host[:port]` of an URL, the port left out if it is the scheme's own.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether `host[:port]` is this machine, as far as its name tells.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let address = name.parse::<std::net::IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn unreadable(path: &Path, error: io::Error) -> Fault {
    Fault::new(ErrorKind::Config, format!("cannot read {}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests;
