//! What clients send about networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use engine::{IpNet, IpamPool, NetworkDriver, NetworkEndpointConfig, UserNetworkConfig};
use serde::{Deserialize, Deserializer};

use crate::http::{ApiError, ApiVersion, Result};

/// Go's clients send `null` for what is empty.
pub(crate) fn null_is_empty<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A network to make.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Create {
    #[serde(deserialize_with = "null_is_empty")]
    name: String,
    #[serde(deserialize_with = "null_is_empty")]
    driver: String,
    #[serde(deserialize_with = "null_is_empty")]
    scope: String,
    internal: Option<bool>,
    attachable: Option<bool>,
    ingress: Option<bool>,
    config_only: Option<bool>,
    config_from: Option<ConfigFrom>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    #[serde(deserialize_with = "null_is_empty")]
    options: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConfigFrom {
    network: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ipam {
    #[serde(deserialize_with = "null_is_empty")]
    driver: String,
    #[serde(deserialize_with = "null_is_empty")]
    options: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    config: Vec<Pool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Pool {
    #[serde(deserialize_with = "null_is_empty")]
    subnet: String,
    #[serde(rename = "IPRange", deserialize_with = "null_is_empty")]
    ip_range: String,
    #[serde(deserialize_with = "null_is_empty")]
    gateway: String,
    #[serde(deserialize_with = "null_is_empty")]
    auxiliary_addresses: BTreeMap<String, String>,
}

impl Create {
    /// What the engine is asked for, and a warning for the client.
    pub(super) fn config(self, version: ApiVersion) -> Result<(UserNetworkConfig, String)> {
        if self.config_only == Some(true) || self.config_from.is_some_and(|from| !from.network.is_empty()) {
            return Err(ApiError::bad(
                "configuration-only networks are for swarms, which this daemon does not form",
            ));
        }
        if self.ingress == Some(true) || !matches!(self.scope.as_str(), "" | "local") {
            return Err(ApiError::bad(format!(
                "network {}: ingress networks and scopes other than \"local\" are for swarms, which this daemon does not form",
                self.name
            )));
        }
        let driver = match self.driver.as_str() {
            "" | "bridge" | "default" => NetworkDriver::Bridge,
            "macvlan" => NetworkDriver::Macvlan,
            "host" => return Err(only_one("host")),
            "null" | "none" => return Err(only_one("null")),
            other => {
                return Err(ApiError::not_found(format!(
                    "could not find plugin {other} in v1 plugin registry: plugin not found"
                )));
            }
        };
        let ipam = self.ipam.unwrap_or_default();
        if !matches!(ipam.driver.as_str(), "" | "default") {
            return Err(ApiError::bad(format!(
                "could not find an IPAM driver with name {:?}: use \"default\"",
                ipam.driver
            )));
        }
        // Before there was a field, everybody had IPv4.
        let enable_ipv4 = if version.since(47) { self.enable_ipv4.unwrap_or(true) } else { true };
        let config = UserNetworkConfig {
            name: self.name,
            driver,
            internal: self.internal.unwrap_or_default(),
            attachable: self.attachable.unwrap_or_default(),
            enable_ipv4,
            enable_ipv6: self.enable_ipv6.unwrap_or_default(),
            ipam: ipam.config.into_iter().map(Pool::parse).collect::<Result<_>>()?,
            ipam_options: ipam.options,
            options: self.options,
            labels: self.labels,
        };
        Ok((config, String::new()))
    }
}

fn only_one(name: &str) -> ApiError {
    ApiError::new(http::StatusCode::FORBIDDEN, format!("only one instance of \"{name}\" network is allowed"))
}

impl Pool {
    fn parse(self) -> Result<IpamPool> {
        let aux = self.auxiliary_addresses.into_iter();
        Ok(IpamPool {
            subnet: optional::<IpNet>("Subnet", &self.subnet)?,
            ip_range: optional::<IpNet>("IPRange", &self.ip_range)?,
            gateway: optional::<IpAddr>("Gateway", &self.gateway)?,
            aux: aux
                .map(|(name, text)| Ok((name, parse("AuxiliaryAddresses", &text)?)))
                .collect::<Result<_>>()?,
        })
    }
}

fn parse<T: std::str::FromStr>(key: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| {
        ApiError::bad(format!(
            "invalid network config:\ninvalid {key} {text:?}: not an address of the expected form"
        ))
    })
}

fn optional<T: std::str::FromStr>(key: &str, text: &str) -> Result<Option<T>> {
    if text.is_empty() { Ok(None) } else { parse(key, text).map(Some) }
}

/// A container to attach.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Connect {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) container: String,
    pub(super) endpoint_config: Option<EndpointSettings>,
}

/// A container to detach.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Disconnect {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) container: String,
    /// Whether to go on if the container is gone already, which is so in any case.
    #[allow(dead_code, reason = "detaching never depends on the container's cooperation")]
    pub(super) force: Option<bool>,
}

/// How a container is attached. What a daemon tells about an attachment is ignored when it comes back.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct EndpointSettings {
    #[serde(rename = "IPAMConfig")]
    pub(crate) ipam_config: Option<EndpointIpam>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) links: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) aliases: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) mac_address: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) driver_opts: BTreeMap<String, String>,
    pub(crate) gw_priority: Option<i64>,
}

/// Addresses that were asked for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointIpam {
    #[serde(rename = "IPv4Address", deserialize_with = "null_is_empty")]
    ipv4: String,
    #[serde(rename = "IPv6Address", deserialize_with = "null_is_empty")]
    ipv6: String,
    #[serde(rename = "LinkLocalIPs", deserialize_with = "null_is_empty")]
    link_local: Vec<String>,
}

impl EndpointSettings {
    /// What the engine is asked for.
    pub(crate) fn config(self, network: &str) -> Result<NetworkEndpointConfig> {
        let ipam = self.ipam_config.unwrap_or_default();
        let links = self.links.iter().map(|link| {
            let (name, alias) = link.split_once(':').unwrap_or((link, link.trim_start_matches('/')));
            (name.trim_start_matches('/').to_owned(), alias.to_owned())
        });
        Ok(NetworkEndpointConfig {
            network: network.to_owned(),
            aliases: self.aliases,
            links: links.collect(),
            ipv4: optional::<Ipv4Addr>("IPv4Address", &ipam.ipv4)?,
            ipv6: optional::<Ipv6Addr>("IPv6Address", &ipam.ipv6)?,
            mac: (!self.mac_address.is_empty()).then_some(self.mac_address),
            driver_opts: self.driver_opts,
            gw_priority: self.gw_priority.unwrap_or_default(),
            link_local: ipam
                .link_local
                .iter()
                .map(|text| parse("LinkLocalIPs", text))
                .collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn create(body: serde_json::Value, minor: u16) -> Result<UserNetworkConfig> {
        let request: Create = serde_json::from_value(body).unwrap();
        request.config(ApiVersion::v1(minor)).map(|(config, _)| config)
    }

    #[test]
    fn networks_are_asked_for() {
        let config = create(
            json!({
                "Name": "web", "CheckDuplicate": true, "Driver": "bridge", "Scope": "", "EnableIPv4": false, "EnableIPv6": true,
                "IPAM": {"Driver": "default", "Options": {}, "Config": [{"Subnet": "10.1.0.0/16", "AuxiliaryAddresses": {"nas": "10.1.0.9"}}]},
                "Internal": true, "Options": {"com.docker.network.driver.mtu": "1400"}, "Labels": null,
            }),
            47,
        )
        .unwrap();
        assert_eq!((config.enable_ipv4, config.enable_ipv6, config.internal), (false, true, true));
        assert_eq!(config.ipam[0].subnet, Some("10.1.0.0/16".parse().unwrap()));
        assert_eq!(config.ipam[0].aux["nas"].to_string(), "10.1.0.9");
        assert!(create(json!({"Name": "a", "EnableIPv4": false}), 46).unwrap().enable_ipv4);
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let refused = |body| create(body, 51).unwrap_err().status().as_u16();
        assert_eq!(refused(json!({"Name": "a", "Driver": "overlay"})), 404);
        assert_eq!(refused(json!({"Name": "a", "Driver": "host"})), 403);
        assert_eq!(refused(json!({"Name": "a", "Scope": "swarm"})), 400);
        assert_eq!(refused(json!({"Name": "a", "ConfigOnly": true})), 400);
        assert_eq!(refused(json!({"Name": "a", "IPAM": {"Driver": "dhcp"}})), 400);
        assert_eq!(refused(json!({"Name": "a", "IPAM": {"Config": [{"Subnet": "10.0.0.0"}]}})), 400);
    }

    #[test]
    fn endpoints_are_asked_for() {
        let settings: EndpointSettings = serde_json::from_value(json!({
            "IPAMConfig": {"IPv4Address": "10.1.0.5"}, "Links": ["/db:database", "cache"], "Aliases": ["a"],
            "MacAddress": "", "NetworkID": "", "IPAddress": "", "GwPriority": 7, "DriverOpts": null,
        }))
        .unwrap();
        let config = settings.config("web").unwrap();
        assert_eq!(config.links, [("db".into(), "database".into()), ("cache".into(), "cache".into())]);
        assert_eq!(
            (config.ipv4, config.mac, config.gw_priority),
            (Some("10.1.0.5".parse().unwrap()), None, 7)
        );
        let bad: EndpointSettings =
            serde_json::from_value(json!({"IPAMConfig": {"IPv4Address": "x"}})).unwrap();
        assert!(bad.config("web").is_err());
    }
}
