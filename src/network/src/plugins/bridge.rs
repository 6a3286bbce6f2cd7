//! `bridge`: a veth pair between the sandbox and a bridge of the host.

use serde::Deserialize;
use serde_json::Value;

use super::host_local;

/// Configuration of `bridge`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Conf {
    #[serde(default = "default_bridge")]
    pub(crate) bridge: String,
    #[serde(default)]
    pub(crate) is_gateway: bool,
    #[serde(default)]
    pub(crate) is_default_gateway: bool,
    #[serde(default)]
    pub(crate) force_address: bool,
    #[serde(default)]
    pub(crate) ip_masq: bool,
    #[serde(default)]
    pub(crate) mtu: u32,
    #[serde(default)]
    pub(crate) hairpin_mode: bool,
    #[serde(default)]
    pub(crate) promisc_mode: bool,
    #[serde(default)]
    pub(crate) port_isolation: bool,
    #[serde(default)]
    pub(crate) macspoofchk: bool,
    #[serde(default)]
    pub(crate) enabledad: bool,
    #[serde(default)]
    pub(crate) disable_container_interface: bool,
    #[serde(default)]
    vlan: u32,
    #[serde(default)]
    vlan_trunk: Vec<Value>,
    #[serde(default)]
    pub(crate) ipam: Option<Ipam>,
}

/// Where addresses come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) enum Ipam {
    /// No addresses: a layer 2 network.
    None,
    /// The built-in allocator.
    HostLocal(Box<host_local::Conf>),
    /// An executed plugin.
    Foreign(String),
}

impl TryFrom<Value> for Ipam {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value.get("type").and_then(Value::as_str) {
            None | Some("") => Ok(Self::None),
            Some("host-local") => {
                let conf: host_local::Conf =
                    serde_json::from_value(value).map_err(|e| format!("ipam: {e}"))?;
                Ok(Self::HostLocal(Box::new(conf)))
            }
            Some(other) => Ok(Self::Foreign(other.to_owned())),
        }
    }
}

fn default_bridge() -> String {
    "cni0".to_owned()
}

impl Conf {
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.hairpin_mode && self.promisc_mode {
            return Err("hairpinMode and promiscMode exclude each other".to_owned());
        }
        Ok(())
    }
}
