//! Networks as documents.

use std::net::IpAddr;

use engine::{IpNet, NetworkDriver, UserNetworkStatus};
use serde_json::{Map, Value, json};

use crate::text;

/// The driver as Docker names it.
pub(super) fn driver(driver: NetworkDriver) -> &'static str {
    match driver {
        NetworkDriver::Bridge => "bridge",
        NetworkDriver::Macvlan => "macvlan",
        NetworkDriver::Host => "host",
        NetworkDriver::Null => "null",
    }
}

fn net(net: Option<IpNet>) -> String {
    net.map(|net| net.to_string()).unwrap_or_default()
}

/// A network with the containers that are attached to it.
pub(super) fn describe(network: &UserNetworkStatus) -> Value {
    let config = &network.config;
    let pools: Vec<Value> = config
        .ipam
        .iter()
        .map(|pool| {
            let mut one = Map::new();
            let mut put = |key: &str, value: String| {
                if !value.is_empty() {
                    one.insert(key.to_owned(), json!(value));
                }
            };
            put("Subnet", net(pool.subnet));
            put("IPRange", net(pool.ip_range));
            put("Gateway", pool.gateway.as_ref().map(IpAddr::to_string).unwrap_or_default());
            if !pool.aux.is_empty() {
                one.insert("AuxiliaryAddresses".to_owned(), json!(pool.aux));
            }
            Value::Object(one)
        })
        .collect();
    let containers: Map<String, Value> = network
        .members
        .iter()
        .map(|member| {
            let endpoint = &member.endpoint;
            let document = json!({
                "Name": member.container_name,
                "EndpointID": endpoint.endpoint_id,
                "MacAddress": endpoint.mac,
                "IPv4Address": net(endpoint.ipv4),
                "IPv6Address": net(endpoint.ipv6),
            });
            (member.container_id.clone(), document)
        })
        .collect();
    let options = if config.ipam_options.is_empty() { Value::Null } else { json!(config.ipam_options) };
    json!({
        "Name": config.name,
        "Id": network.id,
        "Created": text::rfc3339(network.created_at_ns),
        "Scope": "local",
        "Driver": driver(config.driver),
        "EnableIPv4": config.enable_ipv4,
        "EnableIPv6": config.enable_ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": options,
            "Config": if network.config.driver == NetworkDriver::Null { Value::Null } else { json!(pools) },
        },
        "Internal": config.internal,
        "Attachable": config.attachable,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": containers,
        "Options": config.options,
        "Labels": config.labels,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::{EndpointStatus, IpamPool, NetworkEndpointConfig, NetworkMember, UserNetworkConfig};

    use super::*;

    #[test]
    fn documents_have_every_key() {
        let endpoint = EndpointStatus {
            network_id: "n".into(),
            network_name: "web".into(),
            endpoint_id: "e".into(),
            mac: "02:42:ac:12:00:02".into(),
            ipv4: Some("172.18.0.2/16".parse().unwrap()),
            ipv6: None,
            gateway4: None,
            gateway6: None,
            ifname: "eth0".into(),
            dns_names: Vec::new(),
            config: NetworkEndpointConfig::default(),
        };
        let member = NetworkMember {
            container_id: "c".into(),
            container_name: "web-1".into(),
            endpoint: Arc::new(endpoint),
        };
        let config = UserNetworkConfig {
            name: "web".into(),
            enable_ipv4: true,
            ipam: vec![IpamPool {
                subnet: Some("172.18.0.0/16".parse().unwrap()),
                gateway: Some("172.18.0.1".parse().unwrap()),
                ..IpamPool::default()
            }],
            ..UserNetworkConfig::default()
        };
        let network = UserNetworkStatus {
            id: "n".into(),
            config: Arc::new(config),
            created_at_ns: 1_700_000_000_000_000_000,
            predefined: false,
            members: vec![member],
        };
        let expected = json!({
            "Name": "web", "Id": "n", "Created": "2023-11-14T22:13:20Z", "Scope": "local", "Driver": "bridge",
            "EnableIPv4": true, "EnableIPv6": false,
            "IPAM": {"Driver": "default", "Options": null, "Config": [{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}]},
            "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": {"Network": ""}, "ConfigOnly": false,
            "Containers": {"c": {"Name": "web-1", "EndpointID": "e", "MacAddress": "02:42:ac:12:00:02", "IPv4Address": "172.18.0.2/16", "IPv6Address": ""}},
            "Options": {}, "Labels": {},
        });
        assert_eq!(describe(&network), expected);
    }
}
