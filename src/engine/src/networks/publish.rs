//! Ports of the host: at which addresses a request is served.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Networks;
use crate::error::{Error, Result};
use crate::model::{BoundPort, EndpointStatus, Protocol, PublishRequest};

impl Networks {
    /// Addresses of the host for the ports that are asked for.
    pub(super) fn port_requests(
        &self,
        endpoint: &EndpointStatus,
        ports: &[PublishRequest],
    ) -> Result<Vec<network::PortRequest>> {
        let definition = self.get(&endpoint.network_id)?;
        let default = self.defaults.publish_address.or(definition.options().publish_address);
        let mut requests = Vec::new();
        for port in ports {
            let enabled = |ip: &IpAddr| {
                if ip.is_ipv6() { definition.config.enable_ipv6 } else { definition.config.enable_ipv4 }
            };
            let host_ips: Vec<IpAddr> = match (port.host_ip, default) {
                (Some(ip), _) if !enabled(&ip) => {
                    return Err(Error::invalid(format!(
                        "port {} cannot be published on {ip}: the network {} has no addresses of that family",
                        port.container_port, endpoint.network_name
                    )));
                }
                (Some(ip), _) => vec![ip],
                (None, Some(ip)) if !ip.is_unspecified() => vec![ip].into_iter().filter(enabled).collect(),
                // An address of a family that the network does not have would lead nowhere.
                (None, _) => {
                    let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
                    any.into_iter().filter(enabled).collect()
                }
            };
            if host_ips.is_empty() {
                return Err(Error::invalid(format!(
                    "port {} cannot be published: the network {} has no addresses of the family it is to be published at",
                    port.container_port, endpoint.network_name
                )));
            }
            requests.push(network::PortRequest {
                container_port: port.container_port,
                protocol: to_network(port.protocol),
                host_ips,
                host_ports: port.host_ports.filter(|(first, _)| *first != 0),
            });
        }
        Ok(requests)
    }
}

fn to_network(protocol: Protocol) -> network::Protocol {
    match protocol {
        Protocol::Tcp => network::Protocol::Tcp,
        Protocol::Udp => network::Protocol::Udp,
        Protocol::Sctp => network::Protocol::Sctp,
    }
}

/// What front ends are told of ports that are held.
pub(super) fn bound(ports: &[network::PortMapping]) -> Vec<BoundPort> {
    let one = |m: &network::PortMapping| BoundPort {
        container_port: m.container_port,
        protocol: match m.protocol {
            network::Protocol::Tcp => Protocol::Tcp,
            network::Protocol::Udp => Protocol::Udp,
            network::Protocol::Sctp => Protocol::Sctp,
        },
        host_ip: m.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        host_port: m.host_port,
    };
    let mut all: Vec<BoundPort> = ports.iter().map(one).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UserNetworkDefaults;
    use crate::model::{NetworkEndpointConfig, UserNetworkConfig};
    use crate::networks::definition::Definition;

    /// Where a request is served on a network of these families.
    fn served(families: (bool, bool), default: Option<&str>, asked: Option<&str>) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let publish_address = default.map(|ip| ip.parse().unwrap());
        let defaults = UserNetworkDefaults { publish_address, ..UserNetworkDefaults::default() };
        let networks = Networks::open(dir.path().join("n"), defaults, Vec::new()).unwrap();
        let config = UserNetworkConfig {
            name: "n".into(),
            enable_ipv4: families.0,
            enable_ipv6: families.1,
            ..UserNetworkConfig::default()
        };
        networks.keep(Definition::new("ab".repeat(32), config, false)).unwrap();
        let endpoint = EndpointStatus {
            network_id: "ab".repeat(32),
            network_name: "n".into(),
            endpoint_id: "e".into(),
            mac: String::new(),
            ipv4: None,
            ipv6: None,
            gateway4: None,
            gateway6: None,
            ifname: "eth0".into(),
            dns_names: Vec::new(),
            config: NetworkEndpointConfig::default(),
        };
        let request = PublishRequest {
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: asked.map(|ip| ip.parse().unwrap()),
            host_ports: Some((0, 0)),
        };
        let requests = networks.port_requests(&endpoint, &[request])?;
        assert!(requests.iter().all(|r| r.host_ports.is_none()), "port 0 is any");
        Ok(requests.iter().flat_map(|r| r.host_ips.iter().map(ToString::to_string)).collect())
    }

    #[test]
    fn ports_are_served_where_they_lead_somewhere() {
        let (v4, both, v6) = ((true, false), (true, true), (false, true));
        assert_eq!(served(v4, None, None).unwrap(), ["0.0.0.0"]);
        assert_eq!(served(both, None, None).unwrap(), ["0.0.0.0", "::"]);
        assert_eq!(served(v6, None, None).unwrap(), ["::"]);
        assert_eq!(served(both, Some("127.0.0.1"), None).unwrap(), ["127.0.0.1"]);
        assert_eq!(served(both, Some("127.0.0.1"), Some("0.0.0.0")).unwrap(), ["0.0.0.0"], "who asks gets");
        assert_eq!(served(both, None, Some("2001:db8::1")).unwrap(), ["2001:db8::1"]);
        assert!(served(v4, None, Some("::")).is_err());
        assert!(served(v6, Some("127.0.0.1"), None).is_err(), "nothing would be published");
    }
}
