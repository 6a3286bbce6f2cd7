//! The syntax of `hosts.toml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use toml::{Table, Value};

use super::{Capabilities, is_loopback};

/// A host as the file describes it, its certificates not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostEntry {
    pub(crate) base: Url,
    pub(crate) capabilities: Capabilities,
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) client: Vec<(PathBuf, Option<PathBuf>)>,
    pub(crate) skip_verify: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) connect_timeout: Option<Duration>,
    /// Whether this is the registry itself (`server`), not a `host` table.
    pub(crate) is_server: bool,
}

impl HostEntry {
    /// Certificates were given: plain HTTP cannot be meant.
    pub(crate) fn use_https(&mut self) {
        // Fails only for URLs without a host, which `base_url` refuses.
        let _ = self.base.set_scheme("https");
    }
}

/// Where a registry is if no file says otherwise.
pub(crate) fn default_entry(domain: &str) -> HostEntry {
    let base = base_url(default_host(domain), false).ok();
    HostEntry {
        base: base.unwrap_or_else(|| Url::parse("https://invalid./v2").expect("constant")),
        capabilities: Capabilities::ALL,
        ca: Vec::new(),
        client: Vec::new(),
        skip_verify: false,
        headers: HeaderMap::new(),
        connect_timeout: None,
        is_server: true,
    }
}

/// Reads a file's text; hosts in their order, the server last.
pub(crate) fn parse(text: &str, domain: &str, directory: &Path) -> Result<Vec<HostEntry>, String> {
    let root: Table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let mut entries = Vec::new();
    match root.get("host") {
        None => {}
        Some(Value::Table(hosts)) => {
            for (name, table) in hosts {
                let table = table.as_table().ok_or_else(|| format!("host.{name:?} is not a table"))?;
                let entry = entry(name, table, directory).map_err(|e| format!("host.{name:?}: {e}"))?;
                entries.push(HostEntry { is_server: false, ..entry });
            }
        }
        Some(_) => return Err("`host` is not a table".into()),
    }
    let server = match root.get("server") {
        None => default_host(domain),
        Some(Value::String(server)) if !server.is_empty() => server,
        Some(Value::String(_)) => default_host(domain),
        Some(_) => return Err("`server` is not a string".into()),
    };
    let server = entry(server, &root, directory)?;
    let is_listed =
        entries.iter().any(|entry| entry.base == server.base && entry.capabilities == Capabilities::ALL);
    if !is_listed {
        entries.push(server);
    }
    Ok(entries)
}

fn default_host(domain: &str) -> &str {
    if domain == "docker.io" { "registry-1.docker.io" } else { domain }
}

fn entry(name: &str, table: &Table, directory: &Path) -> Result<HostEntry, String> {
    let override_path = boolean(table, "override_path")?;
    let mut entry = HostEntry {
        base: base_url(name, override_path)?,
        capabilities: capabilities(table)?,
        ca: strings(table, "ca")?.iter().map(|path| directory.join(path)).collect(),
        client: client(table, directory)?,
        skip_verify: boolean(table, "skip_verify")?,
        headers: headers(table)?,
        connect_timeout: duration(table, "dial_timeout")?,
        is_server: true,
    };
    let has_scheme = name.contains("://");
    if !has_scheme && (!entry.ca.is_empty() || !entry.client.is_empty() || entry.skip_verify) {
        entry.use_https();
    }
    Ok(entry)
}

/// The URL below which the protocol's paths are: `/v2` is added unless the path is overridden.
fn base_url(name: &str, override_path: bool) -> Result<Url, String> {
    let text = match name.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => name.to_owned(),
        Some(_) => return Err("the URL's scheme is neither http nor https".into()),
        None => {
            let host = name.split('/').next().unwrap_or_default();
            let is_plain = is_loopback(host) && !host.ends_with(":443");
            format!("{}://{name}", if is_plain { "http" } else { "https" })
        }
    };
    // The parser's messages do not repeat the URL, which may hold a password.
    let mut url = Url::parse(&text).map_err(|error| format!("malformed URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(
            "the URL has a user, a password or a query; credentials belong in the configuration".into()
        );
    }
    if url.host_str() == Some("docker.io") {
        url.set_host(Some("registry-1.docker.io")).map_err(|error| format!("malformed URL: {error}"))?;
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if override_path || path.ends_with("/v2") {
        url.set_path(&path);
    } else {
        url.set_path(&format!("{path}/v2"));
    }
    Ok(url)
}

fn capabilities(table: &Table) -> Result<Capabilities, String> {
    let names = strings(table, "capabilities")?;
    if names.is_empty() {
        return Ok(Capabilities::ALL);
    }
    let mut capabilities = Capabilities { pull: false, resolve: false, push: false };
    for name in names {
        match name.as_str() {
            "pull" => capabilities.pull = true,
            "resolve" => capabilities.resolve = true,
            "push" => capabilities.push = true,
            // Known to containerd, of no use here.
            "referrers" => {}
            other => return Err(format!("unknown capability {other:?}")),
        }
    }
    Ok(capabilities)
}

/// `client = "file"`, `["file", …]` or `[["certificate", "key"], …]`.
fn client(table: &Table, directory: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>, String> {
    const SHAPE: &str = "`client` is a file, a list of files, or a list of pairs of certificate and key";
    let single = |path: &str| (directory.join(path), None);
    match table.get("client") {
        None => Ok(Vec::new()),
        Some(Value::String(path)) => Ok(vec![single(path)]),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::String(path) => Ok(single(path)),
                Value::Array(pair) => match pair.as_slice() {
                    [Value::String(path)] => Ok(single(path)),
                    [Value::String(path), Value::String(key)] => {
                        Ok((directory.join(path), (!key.is_empty()).then(|| directory.join(key))))
                    }
                    _ => Err(SHAPE.to_owned()),
                },
                _ => Err(SHAPE.to_owned()),
            })
            .collect(),
        Some(_) => Err(SHAPE.into()),
    }
}

fn headers(table: &Table) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let Some(value) = table.get("header") else { return Ok(headers) };
    let entries = value.as_table().ok_or("`header` is not a table")?;
    for name in entries.keys() {
        let key =
            HeaderName::try_from(name.as_str()).map_err(|_| format!("{name:?} is not a header's name"))?;
        for value in strings(entries, name)? {
            let malformed = |_| format!("the value of header {name:?} is malformed");
            let mut value = HeaderValue::try_from(value).map_err(malformed)?;
            value.set_sensitive(true);
            headers.append(key.clone(), value);
        }
    }
    Ok(headers)
}

/// A string or a list of strings; nothing is an empty list.
fn strings(table: &Table, key: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("`{key}` is neither a string nor a list of strings");
    match table.get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn boolean(table: &Table, key: &str) -> Result<bool, String> {
    match table.get(key) {
        None => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| format!("`{key}` is neither true nor false")),
    }
}

/// A duration as Go writes it, in whole units: `500ms`, `30s`, `1m30s`.
fn duration(table: &Table, key: &str) -> Result<Option<Duration>, String> {
    let Some(value) = table.get(key) else { return Ok(None) };
    let wrong = || format!("`{key}` is not a duration such as \"3s\" or \"500ms\"");
    let mut rest = value.as_str().ok_or_else(wrong)?;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end =
            rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let unit_ms: u64 = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        total += Duration::from_millis(number.checked_mul(unit_ms).ok_or_else(wrong)?);
        rest = &rest[unit_end..];
    }
    Ok((!total.is_zero()).then_some(total))
}
