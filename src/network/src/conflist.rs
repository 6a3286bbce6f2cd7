//! Conflists: parsing, validation, and the files of a configuration directory.
//!
//! Everything is parsed into types before anything is applied; a problem names file and line. Fields that are not known
//! are kept, because they belong to plugins that only the conflist's author knows.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::error::ConfigError;
use crate::plugins::{Builtin, bridge, firewall, macvlan, portmap};

/// A version of the CNI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1 (0.3.0 is the same on the wire).
    V0_3_1,
    /// 0.4.0: adds CHECK.
    V0_4_0,
    /// 1.0.0: no `version` in addresses.
    V1_0_0,
    /// 1.1.0: adds STATUS and GC.
    V1_1_0,
}

impl Version {
    const ALL: [Self; 4] = [Self::V1_1_0, Self::V1_0_0, Self::V0_4_0, Self::V0_3_1];

    /// The version as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let text = if text == "0.3.0" { "0.3.1" } else { text };
        Self::ALL.into_iter().find(|v| v.as_str() == text)
    }
}

/// The type of a plugin, which is the name of its program: no path can hide in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PluginType(Box<str>);

impl PluginType {
    /// Checks a type name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text == "." || text == ".." || text.len() > 128 || !text.bytes().all(alphabet) {
            return Err(format!(
                "plugin type {text:?} must consist of A-Z a-z 0-9 . _ - (it is a program name)"
            ));
        }
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One plugin of a conflist.
#[derive(Debug, Clone)]
pub struct Plugin {
    kind: PluginType,
    conf: Map<String, Value>,
    pub(crate) builtin: Option<Builtin>,
}

impl Plugin {
    /// Its type.
    pub fn kind(&self) -> &PluginType {
        &self.kind
    }

    /// Its configuration as written.
    pub fn conf(&self) -> &Map<String, Value> {
        &self.conf
    }

    /// Whether it declares a capability.
    pub fn has_capability(&self, name: &str) -> bool {
        self.conf.get("capabilities").and_then(|c| c.get(name)).and_then(Value::as_bool) == Some(true)
    }
}

/// A network: a name and the plugins that make it, in order.
#[derive(Debug, Clone)]
pub struct Conflist {
    name: String,
    version: Version,
    disable_check: bool,
    disable_gc: bool,
    plugins: Vec<Plugin>,
    source: Option<PathBuf>,
    text: String,
}

/// What is read of a conflist; the rest is kept in the plugins' own maps.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawList<'a> {
    cni_version: Option<String>,
    cni_versions: Option<Vec<String>>,
    name: Option<String>,
    #[serde(default)]
    disable_check: Switch,
    #[serde(rename = "disableGC", default)]
    disable_gc: Switch,
    #[serde(borrow)]
    plugins: Option<Vec<&'a RawValue>>,
}

/// A boolean that some generators write as a string.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Switch {
    #[default]
    Off,
    Bool(bool),
    Text(String),
}

impl Switch {
    fn is_on(&self) -> bool {
        match self {
            Self::Off => false,
            Self::Bool(on) => *on,
            Self::Text(text) => text.eq_ignore_ascii_case("true"),
        }
    }
}

impl Conflist {
    /// Parses and checks the text of a conflist.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Parser { text, path: None }.list()
    }

    /// Reads a `.conflist` file, or a `.conf` or `.json` file with one plugin (or a list after all).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        const MAX_BYTES: u64 = 1 << 20;
        let fail = |problem: String| ConfigError { path: Some(path.to_path_buf()), line: None, problem };
        let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
        if size > MAX_BYTES {
            return Err(fail(format!("{size} bytes are too many for a conflist")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        Parser { text: &text, path: Some(path) }.list()
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of the specification that it is written for.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its plugins, in order.
    pub fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// The file it was read from; `None` for the default network and for networks made by the caller.
    pub fn source(&self) -> Option<&Path> {
        self.source.as_deref()
    }

    /// The text as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn can_check(&self) -> bool {
        self.version >= Version::V0_4_0 && !self.disable_check
    }

    pub(crate) fn can_gc(&self) -> bool {
        self.version >= Version::V1_1_0 && !self.disable_gc
    }
}

struct Parser<'a> {
    text: &'a str,
    path: Option<&'a Path>,
}

impl Parser<'_> {
    fn fail(&self, line: Option<usize>, problem: impl Into<String>) -> ConfigError {
        ConfigError { path: self.path.map(Path::to_path_buf), line, problem: problem.into() }
    }

    /// serde_json repeats its position in the text; it is given separately.
    fn json(&self, first_line: usize, error: &serde_json::Error) -> ConfigError {
        let text = error.to_string();
        let problem = text.split(" at line ").next().unwrap_or(&text).to_owned();
        self.fail(Some(first_line + error.line().max(1) - 1), problem)
    }

    fn line_of(&self, part: &str) -> usize {
        let offset = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        1 + self.text.bytes().take(offset).filter(|b| *b == b'\n').count()
    }

    fn list(self) -> Result<Conflist, ConfigError> {
        let raw: RawList<'_> = serde_json::from_str(self.text).map_err(|e| self.json(1, &e))?;
        let version = self.version(&raw)?;
        let name = raw.name.clone().ok_or_else(|| self.fail(None, "\"name\" is missing"))?;
        check_network_name(&name).map_err(|p| self.fail(None, p))?;
        let plugins = match &raw.plugins {
            Some(parts) => parts.iter().map(|p| self.plugin(p.get())).collect::<Result<Vec<_>, _>>()?,
            None => vec![self.plugin(self.text)?],
        };
        if plugins.is_empty() {
            return Err(self.fail(None, "\"plugins\" is empty"));
        }
        Ok(Conflist {
            name,
            version,
            disable_check: raw.disable_check.is_on(),
            disable_gc: raw.disable_gc.is_on(),
            plugins,
            source: self.path.map(Path::to_path_buf),
            text: self.text.to_owned(),
        })
    }

    fn version(&self, raw: &RawList<'_>) -> Result<Version, ConfigError> {
        let listed = raw.cni_versions.iter().flatten().chain(&raw.cni_version);
        if let Some(best) = listed.clone().filter_map(|text| Version::parse(text)).max() {
            return Ok(best);
        }
        let given = listed.cloned().collect::<Vec<_>>().join(", ");
        let problem = if given.is_empty() {
            "\"cniVersion\" is missing: expected 0.3.1, 0.4.0, 1.0.0 or 1.1.0".to_owned()
        } else {
            format!("cniVersion {given} is not supported: expected 0.3.1, 0.4.0, 1.0.0 or 1.1.0")
        };
        Err(self.fail(None, problem))
    }

    fn plugin(&self, part: &str) -> Result<Plugin, ConfigError> {
        let line = self.line_of(part);
        let conf: Map<String, Value> = serde_json::from_str(part).map_err(|e| self.json(line, &e))?;
        let Some(kind) = conf.get("type").and_then(Value::as_str) else {
            return Err(self.fail(Some(line), "plugin without a \"type\""));
        };
        let kind = PluginType::parse(kind).map_err(|p| self.fail(Some(line), p))?;
        let typed = |e: serde_json::Error| self.json(line, &e);
        let builtin = match kind.as_str() {
            "bridge" => {
                Some(Builtin::Bridge(Box::new(serde_json::from_str::<bridge::Conf>(part).map_err(typed)?)))
            }
            "portmap" => Some(Builtin::Portmap(serde_json::from_str::<portmap::Conf>(part).map_err(typed)?)),
            "firewall" => {
                Some(Builtin::Firewall(serde_json::from_str::<firewall::Conf>(part).map_err(typed)?))
            }
            macvlan::TYPE => {
                Some(Builtin::Macvlan(Box::new(serde_json::from_str::<macvlan::Conf>(part).map_err(typed)?)))
            }
            "loopback" => Some(Builtin::Loopback),
            _ => None,
        };
        if let Some(builtin) = &builtin {
            builtin.validate().map_err(|p| self.fail(Some(line), format!("plugin {kind}: {p}")))?;
        }
        if let Some(ipam) = conf.get("ipam").and_then(|i| i.get("type")) {
            let text = ipam.as_str().unwrap_or_default();
            PluginType::parse(text).map_err(|p| self.fail(Some(line), format!("ipam: {p}")))?;
        }
        Ok(Plugin { kind, conf, builtin })
    }
}

/// Network names become file names.
fn check_network_name(name: &str) -> Result<(), String> {
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && name.len() <= 128 && name.bytes().all(alphabet) {
        return Ok(());
    }
    Err(format!("network name {name:?} must begin with a letter or digit and consist of A-Z a-z 0-9 . _ -"))
}

/// The conflists of a directory in the order of their file names, and the files that are none.
pub(crate) fn load_directory(directory: &Path) -> std::io::Result<(Vec<Conflist>, Vec<ConfigError>)> {
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let path = entry?.path();
        let wanted = path.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json");
        if wanted && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let mut good: Vec<Conflist> = Vec::new();
    let mut bad = Vec::new();
    for path in files {
        match Conflist::load(&path) {
            Ok(list) => match good.iter().find(|g| g.name == list.name) {
                None => good.push(list),
                Some(first) => bad.push(ConfigError {
                    path: Some(path),
                    line: None,
                    problem: format!(
                        "network name {:?} is already used by {}",
                        list.name,
                        first.source.as_deref().unwrap_or(directory).display()
                    ),
                }),
            },
            Err(error) => bad.push(error),
        }
    }
    Ok((good, bad))
}

#[cfg(test)]
mod tests;
