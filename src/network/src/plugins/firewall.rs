//! `firewall`: which forwarded traffic may reach the sandbox.

use serde::Deserialize;

/// Configuration of `firewall`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conf {
    #[serde(default)]
    pub(crate) ingress_policy: IngressPolicy,
    #[serde(default)]
    backend: Option<String>,
}

/// Who may open connections to the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum IngressPolicy {
    /// Everybody who can route to it.
    #[default]
    #[serde(alias = "")]
    Open,
    /// Sandboxes on the same bridge, published ports, and everything that is not another bridge.
    SameBridge,
    /// Published ports only, besides everything that is not a bridge.
    Isolated,
}

impl Conf {
    pub(crate) fn validate(&self) -> Result<(), String> {
        match self.backend.as_deref() {
            None | Some("" | "iptables" | "nftables") => Ok(()),
            Some(other) => Err(format!("backend {other:?} is not supported by the built-in plugin")),
        }
    }
}
