//! Volume drivers that are programs of their own: found by name when they are used, asked over the plugin protocol.

mod http;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::VolumeProblem;
use crate::error::{Error, ErrorKind, Result};
use crate::model::VolumeScope;
use http::{Address, post};

/// Where plugins put their sockets, and where people write down where they listen.
#[derive(Debug, Clone)]
pub(crate) struct Directories {
    pub(crate) sockets: PathBuf,
    pub(crate) specs: Vec<PathBuf>,
}

impl Default for Directories {
    fn default() -> Self {
        Self {
            sockets: "/run/docker/plugins".into(),
            specs: vec!["/etc/docker/plugins".into(), "/usr/lib/docker/plugins".into()],
        }
    }
}

/// How long making and mounting may take, and everything else.
const SLOW: Duration = Duration::from_secs(120);
const QUICK: Duration = Duration::from_secs(60);
/// How long a plugin that is not there yet is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest file that says where a plugin listens.
const MAX_SPEC: u64 = 64 << 10;

/// A driver that was found and says that it makes volumes.
#[derive(Debug, Clone)]
pub(super) struct Driver {
    name: String,
    address: Address,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Reply {
    err: String,
    mountpoint: String,
    capabilities: Option<Capabilities>,
    implements: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Capabilities {
    scope: String,
}

impl Driver {
    /// Finds a driver by its name. Blocks.
    pub(super) fn find(directories: &Directories, name: &str) -> Result<Self> {
        let what = || format!("find volume driver {name:?}");
        super::check_name(name).map_err(|_| VolumeProblem::NoDriver(name.to_owned()).error(what()))?;
        let address = locate(directories, name)?
            .ok_or_else(|| VolumeProblem::NoDriver(name.to_owned()).error(what()))?;
        let driver = Self { name: name.to_owned(), address };
        let reply = driver.patiently("Plugin.Activate", &Value::Null, QUICK)?;
        if !reply.implements.iter().any(|kind| kind == "VolumeDriver") {
            let text = format!("plugin {name} does not implement the requested driver");
            return Err(VolumeProblem::BadOption(text).error(what()));
        }
        Ok(driver)
    }

    pub(super) fn create(&self, volume: &str, options: &BTreeMap<String, String>) -> Result<()> {
        let body = json!({"Name": volume, "Opts": options});
        self.call("VolumeDriver.Create", &body, SLOW).map(drop)
    }

    pub(super) fn remove(&self, volume: &str) -> Result<()> {
        self.call("VolumeDriver.Remove", &json!({"Name": volume}), QUICK).map(drop)
    }

    /// Mounts a volume for a user; where its files are.
    pub(super) fn mount(&self, volume: &str, user: &str) -> Result<PathBuf> {
        let reply = self.call("VolumeDriver.Mount", &json!({"Name": volume, "ID": user}), SLOW)?;
        let path = PathBuf::from(reply.mountpoint);
        if !path.is_absolute() {
            let text = format!(
                "volume driver {} mounted {volume} at {path:?}, which is no absolute path",
                self.name
            );
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        Ok(path)
    }

    pub(super) fn unmount(&self, volume: &str, user: &str) -> Result<()> {
        self.call("VolumeDriver.Unmount", &json!({"Name": volume, "ID": user}), QUICK).map(drop)
    }

    /// Where a volume is known; drivers that do not say know theirs here only.
    pub(super) fn scope(&self) -> VolumeScope {
        let reply = self.call("VolumeDriver.Capabilities", &json!({}), QUICK);
        let scope = reply.ok().and_then(|reply| reply.capabilities).map(|found| found.scope);
        if scope.as_deref() == Some("global") { VolumeScope::Global } else { VolumeScope::Local }
    }

    fn call(&self, method: &str, body: &Value, timeout: Duration) -> Result<Reply> {
        self.once(method, body, timeout).map_err(|error| self.failed(method, error))?
    }

    /// Waits for a plugin that has not begun to listen: it starts when the machine does, as we do.
    fn patiently(&self, method: &str, body: &Value, timeout: Duration) -> Result<Reply> {
        let begun = Instant::now();
        let mut pause = Duration::from_secs(1);
        loop {
            match self.once(method, body, timeout) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
                        && begun.elapsed() + pause < PATIENCE =>
                {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                Err(error) => return Err(self.failed(method, error)),
                Ok(reply) => return reply,
            }
        }
    }

    fn failed(&self, method: &str, error: io::Error) -> Error {
        Error::caused_by(
            ErrorKind::Unavailable,
            format!("ask volume driver {} for {method}", self.name),
            error,
        )
    }

    /// The outer error: there is no answer. The inner one: the answer is no.
    fn once(&self, method: &str, body: &Value, timeout: Duration) -> io::Result<Result<Reply>> {
        let answer = post(&self.address, method, body, timeout)?;
        let reply = serde_json::from_slice::<Reply>(&answer.body);
        let says = match (&reply, answer.status) {
            (Ok(reply), 200) if reply.err.is_empty() => String::new(),
            (Ok(reply), _) if !reply.err.is_empty() => reply.err.clone(),
            (Err(_), 200) if answer.body.is_empty() => String::new(),
            (_, 404) => format!("it has no {method}"),
            (_, status) => {
                let text: String = String::from_utf8_lossy(&answer.body).chars().take(400).collect();
                format!("it answers {status}: {}", text.trim())
            }
        };
        if says.is_empty() {
            return Ok(Ok(reply.unwrap_or_default()));
        }
        Ok(Err(Error::new(ErrorKind::Unavailable, format!("volume driver {}: {says}", self.name))))
    }
}

/// Where a plugin of this name listens, if there is one.
fn locate(directories: &Directories, name: &str) -> Result<Option<Address>> {
    let both = |dir: &Path, suffix: &str| {
        let file = format!("{name}.{suffix}");
        [dir.join(&file), dir.join(name).join(&file)]
    };
    for path in both(&directories.sockets, "sock") {
        use std::os::unix::fs::FileTypeExt;
        if std::fs::metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
            return Ok(Some(Address::Unix(path)));
        }
    }
    for suffix in ["spec", "json"] {
        for dir in &directories.specs {
            for path in both(dir, suffix) {
                if let Some(text) = read_spec(&path)? {
                    return address(&path, suffix, &text).map(Some);
                }
            }
        }
    }
    Ok(None)
}

fn read_spec(path: &Path) -> Result<Option<String>> {
    use io::Read;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
    };
    let mut text = String::new();
    let read = file.take(MAX_SPEC).read_to_string(&mut text);
    read.map_err(|error| Error::io(format!("read {}", path.display()), error))?;
    Ok(Some(text))
}

fn address(path: &Path, suffix: &str, text: &str) -> Result<Address> {
    let bad = |reason: String| VolumeProblem::BadOption(reason).error(format!("read {}", path.display()));
    let url = match suffix {
        "spec" => text.trim().to_owned(),
        _ => {
            let document: Value =
                serde_json::from_str(text).map_err(|error| bad(format!("it is not JSON: {error}")))?;
            document["Addr"].as_str().unwrap_or_default().to_owned()
        }
    };
    match url.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
        Some(("tcp" | "http", host)) if !host.is_empty() => {
            Ok(Address::Tcp(host.trim_end_matches('/').to_owned()))
        }
        Some(("https", _)) => {
            Err(bad("volume drivers are asked without TLS; have it listen on a unix socket".to_owned()))
        }
        _ => Err(bad(format!("{url:?} is no address: unix:///path or tcp://host:port"))),
    }
}
