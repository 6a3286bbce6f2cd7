//! Networks, ports and names of a container.

use std::collections::BTreeMap;
use std::net::IpAddr;

use engine::{
    Dns, HostAddress, NamespaceMode, NetworkEndpointConfig, Protocol, PublishRequest, UserNetworking,
};
use serde_json::Value;

use super::body::{Body, HostConfig, PortBinding};
use crate::http::{ApiError, ApiVersion, Result};

/// What becomes of a container's network settings.
#[derive(Debug)]
pub(super) struct Networking {
    pub(super) mode: NamespaceMode,
    /// Another container whose network is used.
    pub(super) join: Option<String>,
    pub(super) networking: Option<UserNetworking>,
}

/// The main network of a container, by name.
pub(super) fn main_network(mode: &str) -> &str {
    match mode {
        "" | "default" => "bridge",
        other => other,
    }
}

pub(super) fn convert(body: &Body, image: &Value, version: ApiVersion) -> Result<Networking> {
    let host = &body.host_config;
    let main = main_network(&host.network_mode);
    if let Some(container) = main.strip_prefix("container:") {
        check_joined(body)?;
        return Ok(Networking {
            mode: NamespaceMode::Sandbox,
            join: Some(container.to_owned()),
            networking: None,
        });
    }
    let mode = if main == "host" { NamespaceMode::Host } else { NamespaceMode::Sandbox };
    let mut networking = UserNetworking {
        domainname: body.domainname.clone(),
        extra_hosts: host.extra_hosts.iter().map(|text| extra_host(text)).collect::<Result<_>>()?,
        ..UserNetworking::default()
    };
    if !body.network_disabled && main != "none" && main != "host" {
        networking.endpoints = endpoints(body, main, version)?;
        networking.ports = ports(body, image)?;
    }
    Ok(Networking { mode, join: None, networking: (main != "host").then_some(networking) })
}

/// What belongs to the network cannot be said again by one who joins it.
fn check_joined(body: &Body) -> Result<()> {
    let host = &body.host_config;
    let conflicts = [
        (!body.hostname.is_empty(), "hostname"),
        (!host.dns.is_empty() || !host.dns_search.is_empty() || !host.dns_options.is_empty(), "dns"),
        (!host.extra_hosts.is_empty(), "custom host-to-IP mapping"),
        (!host.port_bindings.is_empty() || host.publish_all_ports, "port publishing"),
        (!host.links.is_empty(), "links"),
        (!body.networking_config.endpoints_config.is_empty(), "networks"),
    ];
    match conflicts.iter().find(|(given, _)| *given) {
        Some((_, what)) => Err(ApiError::bad(format!(
            "conflicting options: {what} and the network mode of another container"
        ))),
        None => Ok(()),
    }
}

fn endpoints(body: &Body, main: &str, version: ApiVersion) -> Result<Vec<NetworkEndpointConfig>> {
    let given = &body.networking_config.endpoints_config;
    if given.len() > 1 && !version.since(44) {
        return Err(ApiError::bad("Container cannot be created with multiple network endpoints"));
    }
    let mut all = Vec::new();
    for (network, settings) in given {
        all.push(settings.clone().unwrap_or_default().config(main_network(network))?);
    }
    if !all.iter().any(|endpoint| endpoint.network == main) {
        all.insert(0, NetworkEndpointConfig { network: main.to_owned(), ..NetworkEndpointConfig::default() });
    }
    for endpoint in all.iter_mut().filter(|endpoint| endpoint.network == main) {
        if endpoint.mac.is_none() && !body.mac_address.is_empty() {
            endpoint.mac = Some(body.mac_address.clone());
        }
        endpoint.links.extend(body.host_config.links.iter().map(|link| {
            let (name, alias) = link.split_once(':').unwrap_or((link, link));
            let plain = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
            (plain(name), plain(alias))
        }));
    }
    Ok(all)
}

/// `80/tcp`, or a number alone.
fn port(text: &str) -> Result<(u16, Protocol)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(ApiError::bad(format!("invalid port specification: {text:?}"))),
    };
    match number.parse() {
        Ok(number @ 1..) => Ok((number, protocol)),
        _ => Err(ApiError::bad(format!("invalid port specification: {text:?}"))),
    }
}

/// Ports to publish: those that are bound and, if all are wanted, those that are exposed.
fn ports(body: &Body, image: &Value) -> Result<Vec<PublishRequest>> {
    let host = &body.host_config;
    let mut all = Vec::new();
    for (text, bindings) in &host.port_bindings {
        let (container_port, protocol) = port(text)?;
        let none = [PortBinding::default()];
        let bindings = bindings.as_deref().filter(|list| !list.is_empty()).unwrap_or(&none);
        for binding in bindings {
            all.push(PublishRequest {
                container_port,
                protocol,
                host_ip: match binding.host_ip.as_str() {
                    "" => None,
                    text => Some(
                        text.parse()
                            .map_err(|_| ApiError::bad(format!("invalid host IP address: {text:?}")))?,
                    ),
                },
                host_ports: host_ports(&binding.host_port)?,
            });
        }
    }
    if host.publish_all_ports {
        let of_image = image["ExposedPorts"].as_object().into_iter().flatten().map(|(port, _)| port);
        for text in of_image.chain(body.exposed_ports.keys()) {
            let (container_port, protocol) = port(text)?;
            let bound =
                |one: &PublishRequest| one.container_port == container_port && one.protocol == protocol;
            if !all.iter().any(bound) {
                all.push(PublishRequest { container_port, protocol, host_ip: None, host_ports: None });
            }
        }
    }
    Ok(all)
}

/// A port, a range to choose from, or none.
fn host_ports(text: &str) -> Result<Option<(u16, u16)>> {
    let bad = || ApiError::bad(format!("invalid port specification: {text:?}"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let (first, last) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first == 0 || first > last { Err(bad()) } else { Ok(Some((first, last))) }
}

/// `name:address`.
fn extra_host(text: &str) -> Result<(String, HostAddress)> {
    let (name, address) = text
        .split_once(['=', ':'])
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| ApiError::bad(format!("invalid extra host: {text:?}: bad format")))?;
    let address = match address {
        "host-gateway" => HostAddress::Gateway,
        text => {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            HostAddress::Ip(
                bare.parse::<IpAddr>()
                    .map_err(|_| ApiError::bad(format!("invalid IP address in add-host: {text:?}")))?,
            )
        }
    };
    Ok((name.to_owned(), address))
}

/// Name resolution, where it differs from the host's.
pub(super) fn dns(host: &HostConfig) -> Option<Dns> {
    let given = !host.dns.is_empty() || !host.dns_search.is_empty() || !host.dns_options.is_empty();
    given.then(|| Dns {
        servers: host.dns.clone(),
        searches: host.dns_search.iter().filter(|domain| *domain != ".").cloned().collect(),
        options: host.dns_options.clone(),
    })
}

/// Bound ports as documents have them: by port of the container.
pub(super) fn by_port(ports: &[engine::BoundPort]) -> BTreeMap<String, Vec<Value>> {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in ports {
        all.entry(format!("{}/{}", port.container_port, protocol(port.protocol))).or_default().push(
            serde_json::json!({"HostIp": port.host_ip.to_string(), "HostPort": port.host_port.to_string()}),
        );
    }
    all
}

/// A protocol's name.
pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(body: Value, image: &Value, minor: u16) -> Result<Networking> {
        convert(&serde_json::from_value(body).unwrap(), image, ApiVersion::v1(minor))
    }

    #[test]
    fn the_default_network_is_the_bridge() {
        let networking =
            of(json!({"MacAddress": "02:42:ac:11:00:09"}), &json!({}), 51).unwrap().networking.unwrap();
        let endpoint = &networking.endpoints[0];
        assert_eq!(
            (endpoint.network.as_str(), endpoint.mac.as_deref()),
            ("bridge", Some("02:42:ac:11:00:09"))
        );
        let none = of(json!({"HostConfig": {"NetworkMode": "none"}}), &json!({}), 51).unwrap();
        assert!(none.networking.unwrap().endpoints.is_empty());
        let host = of(json!({"HostConfig": {"NetworkMode": "host"}}), &json!({}), 51).unwrap();
        assert!(host.networking.is_none() && host.mode == NamespaceMode::Host);
    }

    #[test]
    fn several_networks_need_a_newer_version() {
        let body = json!({"HostConfig": {"NetworkMode": "a"}, "NetworkingConfig": {"EndpointsConfig": {"a": null, "b": {"Aliases": ["x"]}}}});
        let two = of(body.clone(), &json!({}), 44).unwrap().networking.unwrap();
        assert_eq!(two.endpoints.len(), 2);
        assert!(of(body, &json!({}), 43).unwrap_err().message().contains("multiple network endpoints"));
    }

    #[test]
    fn joining_excludes_what_belongs_to_the_network() {
        let joined = of(json!({"HostConfig": {"NetworkMode": "container:db"}}), &json!({}), 51).unwrap();
        assert_eq!(joined.join.as_deref(), Some("db"));
        let body = json!({"Hostname": "x", "HostConfig": {"NetworkMode": "container:db"}});
        assert!(of(body, &json!({}), 51).unwrap_err().message().starts_with("conflicting options: hostname"));
    }

    #[test]
    fn ports_are_published() {
        let body = json!({
            "ExposedPorts": {"53/udp": {}},
            "HostConfig": {"PublishAllPorts": true, "PortBindings": {
                "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000-8010"}, {"HostPort": "9000"}], "81": null,
            }},
        });
        let ports = of(body, &json!({"ExposedPorts": {"80/tcp": {}, "443/tcp": {}}}), 51)
            .unwrap()
            .networking
            .unwrap()
            .ports;
        let told: Vec<_> = ports.iter().map(|p| (p.container_port, p.protocol, p.host_ports)).collect();
        let tcp = Protocol::Tcp;
        assert_eq!(
            told,
            [
                (80, tcp, Some((8000, 8010))),
                (80, tcp, Some((9000, 9000))),
                (81, tcp, None),
                (443, tcp, None),
                (53, Protocol::Udp, None)
            ]
        );
        for bad in [
            json!({"x": null}),
            json!({"80/icmp": null}),
            json!({"80": [{"HostPort": "9-1"}]}),
            json!({"80": [{"HostIp": "x"}]}),
        ] {
            assert!(of(json!({"HostConfig": {"PortBindings": bad}}), &json!({}), 51).is_err());
        }
    }

    #[test]
    fn extra_hosts_have_addresses() {
        assert_eq!(extra_host("a:host-gateway").unwrap(), ("a".into(), HostAddress::Gateway));
        assert_eq!(extra_host("a=[::1]").unwrap().1, HostAddress::Ip("::1".parse().unwrap()));
        assert_eq!(extra_host("a:::1").unwrap().1, HostAddress::Ip("::1".parse().unwrap()));
        assert!(extra_host("a").is_err() && extra_host("a:b").is_err());
    }
}
