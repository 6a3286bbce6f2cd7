//! `portmap`: forwards ports of the host to the sandbox, as elements of the maps in the nftables table.

use serde::Deserialize;

/// Configuration of `portmap`. The fields about iptables (`markMasqBit`, `externalSetMarkChain`, …) are accepted
/// and mean nothing here: there are no marks and no chains per container.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conf {
    /// Masquerade traffic that needs it (hairpin, loopback); CNI's default is `true`.
    #[serde(default = "yes")]
    pub(crate) snat: bool,
    #[serde(default)]
    backend: Option<String>,
    #[serde(default, rename = "conditionsV4")]
    conditions_v4: Vec<String>,
    #[serde(default, rename = "conditionsV6")]
    conditions_v6: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Conf {
    pub(crate) fn validate(&self) -> Result<(), String> {
        if let Some(backend) = self.backend.as_deref().filter(|b| !matches!(*b, "iptables" | "nftables")) {
            return Err(format!("backend {backend:?} is neither \"iptables\" nor \"nftables\""));
        }
        if !self.conditions_v4.is_empty() || !self.conditions_v6.is_empty() {
            return Err(
                "conditionsV4 and conditionsV6 are written in the language of iptables or nft, which \
                        the built-in plugin does not read"
                    .to_owned(),
            );
        }
        Ok(())
    }
}
