//! Records of attachments: what was intended, and what came of it.
//!
//! One file each, `attachments/<sandbox>@<ifname>.json`. It is written before the first effect and removed after the last
//! trace is gone. Addresses are leased by being in a record.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci::SandboxId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attachment::{Capabilities, PortMapping, Protocol};
use crate::error::Error;
use crate::ipam::Lease;
pub(crate) use crate::plugins::firewall::IngressPolicy;

const FORMAT: u32 = 1;

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// Being made; after a crash, to be undone.
    Intent,
    /// Made.
    Attached,
    /// Being undone; its rules are gone or going.
    Detaching,
}

/// A host port and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) mapping: PortMapping,
    pub(crate) target: IpAddr,
}

/// What the nftables table must hold for an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Rules {
    /// Addresses of the sandbox.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether traffic to elsewhere is masqueraded.
    pub(crate) masquerade: bool,
    /// Host links that lead to the sandbox: its bridge, or the host end of a foreign plugin's pair.
    pub(crate) links: Vec<String>,
    /// Published ports.
    pub(crate) published: Vec<Published>,
    /// Masquerade published traffic that would not find its way back.
    pub(crate) hairpin: bool,
    /// Who may connect.
    pub(crate) policy: IngressPolicy,
    /// Host link and hardware address that frames must come from.
    pub(crate) bound_mac: Option<(String, [u8; 6])>,
    /// What else holds on the bridge of a user network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<UserLink>,
    /// Ports that may be reached at the sandbox' own address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) open: Vec<(Protocol, u16)>,
}

/// How one family of addresses of a user network is reached from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Gate {
    /// By published ports of the host only.
    #[default]
    Nat,
    /// By published ports, and by all ports of the sandbox' own address.
    NatUnprotected,
    /// By published ports of the sandbox' own address.
    Routed,
    /// Not at all, and the host has no address in it.
    Isolated,
}

/// What holds on the bridge of a user network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct UserLink {
    /// Traffic neither leaves to nor comes from other links.
    pub(crate) internal: bool,
    pub(crate) gate4: Gate,
    pub(crate) gate6: Gate,
    /// Whether traffic to elsewhere keeps its source although its family is translated.
    pub(crate) keep_source: bool,
    /// Whether the host has no IPv4 address in the network.
    pub(crate) inhibit_ipv4: bool,
    /// Links of the host from which sandboxes may be addressed directly.
    pub(crate) trusted: Vec<String>,
}

impl UserLink {
    pub(crate) fn gate(&self, is_ipv6: bool) -> Gate {
        if is_ipv6 { self.gate6 } else { self.gate4 }
    }

    /// Whether the bridge does not get this address although it is the gateway.
    pub(crate) fn has_no_address(&self, gateway: IpAddr) -> bool {
        self.gate(gateway.is_ipv6()) == Gate::Isolated || (self.inhibit_ipv4 && gateway.is_ipv4())
    }

    /// Whether traffic of a family to elsewhere is masqueraded.
    pub(crate) fn masquerades(&self, is_ipv6: bool) -> bool {
        !self.internal && !self.keep_source && matches!(self.gate(is_ipv6), Gate::Nat | Gate::NatUnprotected)
    }
}

/// The record of one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Format of this file.
    pub(crate) format: u32,
    pub(crate) sandbox: SandboxId,
    pub(crate) ifname: String,
    pub(crate) stage: Stage,
    /// The conflist as it was.
    pub(crate) conflist: String,
    pub(crate) network: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) netns_path: Option<PathBuf>,
    #[serde(default)]
    pub(crate) ports: Vec<PortMapping>,
    #[serde(default)]
    pub(crate) cni_args: Vec<(String, String)>,
    #[serde(default)]
    pub(crate) capabilities: Capabilities,
    #[serde(default)]
    pub(crate) leases: Vec<Lease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host_link: Option<String>,
    #[serde(default)]
    pub(crate) rules: Rules,
    /// Whether the host's ports are held by sockets of ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) holds_ports: bool,
    /// The plugins' final result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Value>,
}

impl Record {
    pub(crate) fn intent(sandbox: &SandboxId, ifname: &str, network: &str, conflist: &str) -> Self {
        Self {
            format: FORMAT,
            sandbox: sandbox.clone(),
            ifname: ifname.to_owned(),
            stage: Stage::Intent,
            conflist: conflist.to_owned(),
            network: network.to_owned(),
            netns_path: None,
            ports: Vec::new(),
            cni_args: Vec::new(),
            capabilities: Capabilities::default(),
            leases: Vec::new(),
            host_link: None,
            rules: Rules::default(),
            holds_ports: false,
            result: None,
        }
    }

    pub(crate) fn key(&self) -> Key {
        Key(self.sandbox.clone(), self.ifname.clone())
    }
}

/// What identifies an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) SandboxId, pub(crate) String);

impl Key {
    /// The owner of leases and elements, for people.
    pub(crate) fn owner(&self) -> String {
        format!("{}@{}", self.0, self.1)
    }
}

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Store {
    attachments: PathBuf,
    cursors: PathBuf,
}

impl Store {
    pub(crate) fn open(state_dir: &Path) -> Result<Self, Error> {
        let store = Self { attachments: state_dir.join("attachments"), cursors: state_dir.join("cursors") };
        for directory in [state_dir, &store.attachments, &store.cursors] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(Error::state("create directory", directory))?;
        }
        Ok(store)
    }

    /// All readable records. An unreadable one is set aside, so that it neither blocks nor comes back.
    pub(crate) fn load(&self) -> Result<Vec<Record>, Error> {
        let failed = |operation| Error::state(operation, &self.attachments);
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&self.attachments).map_err(failed("list"))? {
            let path = entry.map_err(failed("list"))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(Error::state("read", &path))?;
            match serde_json::from_slice::<Record>(&bytes) {
                Ok(record) if record.format == FORMAT && self.path(&record.key()) == path => {
                    records.push(record)
                }
                Ok(_) => self.set_aside(&path, "of another format or name"),
                Err(error) => self.set_aside(&path, &error.to_string()),
            }
        }
        Ok(records)
    }

    fn set_aside(&self, path: &Path, problem: &str) {
        let target = path.with_extension("broken");
        let moved = std::fs::rename(path, &target);
        tracing::warn!(path = %path.display(), problem, moved = moved.is_ok(), "unreadable attachment record set aside");
    }

    pub(crate) fn save(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(&record.key());
        let bytes =
            serde_json::to_vec(record).map_err(io::Error::other).map_err(Error::state("encode", &path))?;
        sys::fs::write_volatile(&path, &bytes, 0o600).map_err(Error::state("write", &path))
    }

    pub(crate) fn remove(&self, key: &Key) -> Result<(), Error> {
        let path = self.path(key);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::state("remove", &path)),
        }
    }

    /// Where allocation stopped: one address per range set.
    pub(crate) fn save_cursors(&self, network: &str, cursors: &[(usize, IpAddr)]) -> Result<(), Error> {
        let path = self.cursors.join(network);
        let text: String = cursors.iter().map(|(set, ip)| format!("{set} {ip}\n")).collect();
        sys::fs::write_volatile(&path, text.as_bytes(), 0o600).map_err(Error::state("write", &path))
    }

    /// The cursors of a network. They only spread reuse, so what cannot be read is as good as nothing.
    pub(crate) fn load_cursors(&self, network: &str) -> Vec<(usize, IpAddr)> {
        let text = std::fs::read_to_string(self.cursors.join(network)).unwrap_or_default();
        let parse = |line: &str| {
            let (set, ip) = line.split_once(' ')?;
            Some((set.parse().ok()?, ip.parse().ok()?))
        };
        text.lines().filter_map(parse).collect()
    }

    /// Forgets where allocation stopped in a network that is gone.
    pub(crate) fn remove_cursors(&self, network: &str) -> Result<(), Error> {
        let path = self.cursors.join(network);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::state("remove", &path)),
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.attachments.join(format!("{}.json", key.owner()))
    }
}

#[cfg(test)]
mod tests;
