//! Joining networks: what a sandbox gets is planned first, then made; whatever fails is undone by whoever owns the
//! sandbox, because the plan is in its record.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use ipnet::IpNet;
use network::Outlet;
use oci::SandboxId;

use super::definition::Definition;
use super::registry::{Member, new_id};
use super::{NetworkProblem, Networks};
use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{BoundPort, EndpointStatus, NetworkDriver, NetworkEndpointConfig, UserNetworking};

const IFNAME: &str = "com.docker.network.endpoint.ifname";
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
/// Networks that one container may join.
const MAX_ENDPOINTS: usize = 256;

/// Who joins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joiner<'a> {
    pub(crate) sandbox: &'a SandboxId,
    pub(crate) networking: &'a UserNetworking,
    pub(crate) hostname: &'a str,
}

impl Networks {
    /// Checks how a container would be attached; the network's definition.
    pub(crate) fn check_endpoint(&self, config: &NetworkEndpointConfig) -> Result<Arc<Definition>> {
        let definition = self.get(&config.network)?;
        let name = &definition.config.name;
        if !definition.has_endpoints() {
            return Err(Error::precondition(format!("nothing can be attached to the network {name}")));
        }
        if let Some(mac) = config.mac.as_deref().filter(|m| !m.is_empty()) {
            mac.parse::<sys::netlink::Mac>()
                .map_err(|()| Error::invalid(format!("{mac:?} is no hardware address")))?;
        }
        let subnets: Vec<IpNet> = definition.config.ipam.iter().filter_map(|p| p.subnet).collect();
        let statics = config.ipv4.map(IpAddr::V4).into_iter().chain(config.ipv6.map(IpAddr::V6));
        for ip in statics {
            if definition.predefined {
                return Err(Error::invalid(
                    "user specified IP address is supported on user defined networks only",
                ));
            }
            if !subnets.iter().any(|net| net.contains(&ip)) {
                return Err(Error::invalid(format!("no configured subnet contains IP address {ip}")));
            }
        }
        if definition.predefined && !config.aliases.is_empty() {
            return Err(Error::invalid(
                "network-scoped aliases are only supported for user-defined networks",
            ));
        }
        let icc = definition.config.options.get("com.docker.network.bridge.enable_icc");
        if definition.predefined && !config.links.is_empty() && icc.is_some_and(|v| v == "false") {
            return Err(Error::unsupported(
                "links do not open a network whose containers are kept from each other; use a network of your own",
            ));
        }
        for (key, value) in &config.driver_opts {
            match key.as_str() {
                IFNAME => check_ifname(value)?,
                SYSCTLS => drop(parse_sysctls(value)?),
                key if key.starts_with("com.docker.network.") => {
                    return Err(Error::unsupported(format!("endpoint option {key} is not supported")));
                }
                _ => {}
            }
        }
        Ok(definition)
    }

    /// Decides names and order of the attachments of a sandbox. `existing` are those it has.
    pub(crate) fn plan(
        &self,
        joiner: &Joiner<'_>,
        configs: &[NetworkEndpointConfig],
        existing: &[EndpointStatus],
    ) -> Result<Vec<EndpointStatus>> {
        if configs.len() + existing.len() > MAX_ENDPOINTS {
            return Err(Error::invalid(format!("a container joins at most {MAX_ENDPOINTS} networks")));
        }
        let mut wanted = Vec::new();
        for config in configs {
            wanted.push((self.check_endpoint(config)?, config));
        }
        wanted.sort_by(|(a, x), (b, y)| {
            (-i128::from(x.gw_priority), &a.config.name).cmp(&(-i128::from(y.gw_priority), &b.config.name))
        });
        let mut joined: HashSet<String> = existing.iter().map(|e| e.network_id.clone()).collect();
        let mut names: HashSet<String> = existing.iter().map(|e| e.ifname.clone()).collect();
        names.extend(wanted.iter().filter_map(|(_, config)| config.driver_opts.get(IFNAME).cloned()));
        let mut planned = Vec::new();
        for (definition, config) in wanted {
            if !joined.insert(definition.id.clone()) {
                let problem = NetworkProblem::AlreadyAttached {
                    container: joiner.networking.container_name.clone(),
                    network: definition.config.name.clone(),
                };
                return Err(Error::caused_by(ErrorKind::FailedPrecondition, "join the network", problem));
            }
            let prefix = definition.options().ifname_prefix;
            let ifname = match config.driver_opts.get(IFNAME) {
                Some(name) => name.clone(),
                None => free_name(&prefix, &mut names)?,
            };
            planned.push(EndpointStatus {
                network_id: definition.id.clone(),
                network_name: definition.config.name.clone(),
                endpoint_id: new_id()?,
                mac: String::new(),
                ipv4: None,
                ipv6: None,
                gateway4: None,
                gateway6: None,
                ifname,
                dns_names: if definition.has_names() { dns_names(joiner, config) } else { Vec::new() },
                config: config.clone(),
            });
        }
        Ok(planned)
    }

    /// Enters a sandbox that was there before the daemon.
    pub(crate) fn enter_again(&self, joiner: &Joiner<'_>, endpoints: &[EndpointStatus]) {
        for endpoint in endpoints {
            if let Err(error) = self.enter(member(joiner, endpoint)) {
                tracing::warn!(sandbox = %joiner.sandbox, network = %endpoint.network_name, error = error.chain(), "a network that is in use has no definition");
            }
        }
    }
}

fn member(joiner: &Joiner<'_>, endpoint: &EndpointStatus) -> Member {
    Member {
        sandbox: joiner.sandbox.clone(),
        container_id: joiner.networking.container_id.clone(),
        container_name: joiner.networking.container_name.clone(),
        endpoint: Arc::new(endpoint.clone()),
    }
}

/// Names in the order in which Docker lists them.
fn dns_names(joiner: &Joiner<'_>, config: &NetworkEndpointConfig) -> Vec<String> {
    let id = &joiner.networking.container_id;
    let short = id.get(..12).unwrap_or(id);
    let name = &joiner.networking.container_name;
    let all = [name.as_str()].into_iter().chain(config.aliases.iter().map(String::as_str));
    let mut names: Vec<String> = Vec::new();
    for candidate in all.chain([short, joiner.hostname]) {
        if !candidate.is_empty() && !names.iter().any(|n| n == candidate) {
            names.push(candidate.to_owned());
        }
    }
    names
}

fn free_name(prefix: &str, taken: &mut HashSet<String>) -> Result<String> {
    for index in 0..=MAX_ENDPOINTS {
        let name = format!("{prefix}{index}");
        check_ifname(&name)?;
        if taken.insert(name.clone()) {
            return Ok(name);
        }
    }
    Err(Error::internal("no interface name is free"))
}

fn check_ifname(name: &str) -> Result<()> {
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let usable = (1..=15).contains(&name.len()) && name.bytes().all(alphabet);
    if usable && !matches!(name, "lo" | "." | "..") {
        return Ok(());
    }
    Err(Error::invalid(format!("{name:?} is no name of an interface")))
}

/// `net.ipv4.conf.IFNAME.log_martians=1,…`: keys below an interface, with the place of its name.
fn parse_sysctls(text: &str) -> Result<Vec<(String, String)>> {
    let invalid = |part: &str| Error::invalid(format!("endpoint sysctl {part:?} cannot be used"));
    let mut all = Vec::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| invalid(part))?;
        let words: Vec<&str> = key.split('.').collect();
        match words.as_slice() {
            ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", name]
                if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
            {
                all.push((key.to_owned(), value.to_owned()));
            }
            _ => return Err(invalid(part)),
        }
    }
    Ok(all)
}

impl Shared {
    /// Attaches a sandbox to the networks of a plan and publishes its ports. Blocks. What was made when this fails is
    /// for [`Shared::leave_networks`].
    pub(crate) fn join_networks(
        &self,
        joiner: &Joiner<'_>,
        netns: BorrowedFd<'_>,
        planned: &mut [EndpointStatus],
    ) -> Result<Vec<BoundPort>> {
        let outlet = planned.iter().position(|e| self.leads_out(e));
        let requests = match outlet.and_then(|at| planned.get(at)) {
            Some(endpoint) => self.networks.port_requests(endpoint, &joiner.networking.ports)?,
            None => Vec::new(),
        };
        if outlet.is_none() && !joiner.networking.ports.is_empty() {
            tracing::warn!(sandbox = %joiner.sandbox, "ports are not published: no network of the sandbox leads out by the host");
        }
        let what = || format!("publish the ports of sandbox {}", joiner.sandbox.short());
        let ports = self
            .network
            .hold_ports(joiner.sandbox, &requests)
            .map_err(|error| super::problem::from_network(what(), error))?;
        for (index, endpoint) in planned.iter_mut().enumerate() {
            let ports = if outlet == Some(index) { ports.as_slice() } else { &[] };
            self.join_one(joiner, netns, endpoint, ports)?;
        }
        if planned.is_empty() {
            network::Network::loopback_up(netns)
                .map_err(|error| super::problem::from_network("set loopback up".to_owned(), error))?;
        }
        self.set_outlets(netns, planned)?;
        Ok(super::publish::bound(&ports))
    }

    /// Attaches a sandbox to one more network.
    pub(crate) fn join_one(
        &self,
        joiner: &Joiner<'_>,
        netns: BorrowedFd<'_>,
        endpoint: &mut EndpointStatus,
        ports: &[network::PortMapping],
    ) -> Result<()> {
        let definition = self.networks.get(&endpoint.network_id)?;
        let what = || format!("join the network {}", endpoint.network_name);
        let failed = |error| super::problem::from_network(what(), error);
        // Before the effect: whoever removes the network must see it.
        self.networks.enter(member(joiner, endpoint))?;
        let Some(spec) = definition.spec()? else { return Ok(()) };
        self.network.ensure_user_network(&spec).map_err(failed)?;
        let conflist = spec.conflist().map_err(|error| failed(error.into()))?;
        let statics = endpoint.config.ipv4.map(IpAddr::V4).into_iter();
        let statics = statics.chain(endpoint.config.ipv6.map(IpAddr::V6));
        let capabilities = network::Capabilities {
            mac: endpoint.config.mac.clone().filter(|mac| !mac.is_empty()),
            ips: statics.map(|ip| ip.to_string()).collect(),
            ..network::Capabilities::default()
        };
        let attachment = network::Attachment {
            sandbox: joiner.sandbox,
            netns,
            netns_path: None,
            conflist: &conflist,
            ifname: &endpoint.ifname,
            ports,
            cni_args: &[],
            capabilities: &capabilities,
        };
        let attached = self.network.attach(&attachment).map_err(failed)?;
        for ip in &attached.ips {
            match ip.address {
                IpNet::V4(_) => (endpoint.ipv4, endpoint.gateway4) = (Some(ip.address), ip.gateway),
                IpNet::V6(_) => (endpoint.ipv6, endpoint.gateway6) = (Some(ip.address), ip.gateway),
            }
        }
        let inner = attached.interfaces.iter().find(|i| i.sandbox.is_some());
        endpoint.mac = inner.map(|i| i.mac.clone()).unwrap_or_default();
        self.finish_interface(netns, endpoint)?;
        self.networks.enter(member(joiner, endpoint))
    }

    /// Further addresses and settings of an interface.
    fn finish_interface(&self, netns: BorrowedFd<'_>, endpoint: &EndpointStatus) -> Result<()> {
        let failed = |error| super::problem::from_network(format!("set up {}", endpoint.ifname), error);
        let full = |ip: &IpAddr| IpNet::new(*ip, if ip.is_ipv6() { 64 } else { 16 }).ok();
        let further: Vec<IpNet> = endpoint.config.link_local.iter().filter_map(full).collect();
        network::Network::add_addresses(netns, &endpoint.ifname, &further).map_err(failed)?;
        let sysctls = endpoint.config.driver_opts.get(SYSCTLS).map(String::as_str).unwrap_or_default();
        let sysctls = parse_sysctls(sysctls)?;
        network::Network::set_interface_sysctls(netns, &endpoint.ifname, &sysctls).map_err(failed)
    }

    /// Detaches a sandbox from networks. Blocks. Idempotent; goes on after a failure and reports all.
    pub(crate) fn leave_networks(
        &self,
        sandbox: &SandboxId,
        netns: Option<BorrowedFd<'_>>,
        endpoints: &[EndpointStatus],
        netns_survives: bool,
    ) -> Result<()> {
        let mut troubles = Vec::new();
        for endpoint in endpoints {
            let detachment = network::Detachment {
                sandbox,
                ifname: &endpoint.ifname,
                netns,
                netns_path: None,
                netns_survives,
            };
            match self.network.detach(&detachment) {
                Ok(()) => self.networks.leave(endpoint),
                Err(errors) => troubles.extend(errors.iter().map(|e| crate::images::Chain(e).to_string())),
            }
        }
        if !netns_survives {
            self.network.free_ports(sandbox);
        }
        if troubles.is_empty() {
            return Ok(());
        }
        Err(Error::internal(format!("leave the networks: {}", troubles.join("; "))))
    }

    /// Whether a network leads out of the node, and ports are published on it.
    fn leads_out(&self, endpoint: &EndpointStatus) -> bool {
        let definition = self.networks.get(&endpoint.network_id);
        definition.is_ok_and(|d| !d.config.internal && d.config.driver == NetworkDriver::Bridge)
    }

    /// Leads a sandbox out by the right one of its networks, ports and all.
    pub(crate) fn lead_out(
        &self,
        sandbox: &SandboxId,
        netns: BorrowedFd<'_>,
        endpoints: &[EndpointStatus],
    ) -> Result<()> {
        let mut ordered: Vec<&EndpointStatus> = endpoints.iter().collect();
        ordered.sort_by(|a, b| rank(a).cmp(&rank(b)));
        let at = ordered.into_iter().find(|e| self.leads_out(e)).map(|e| e.ifname.as_str());
        self.network
            .publish_on(sandbox, at)
            .map_err(|error| super::problem::from_network("move the published ports".to_owned(), error))?;
        self.set_outlets(netns, endpoints)
    }

    /// The default routes of a sandbox: those of the first network that leads out.
    pub(crate) fn set_outlets(&self, netns: BorrowedFd<'_>, endpoints: &[EndpointStatus]) -> Result<()> {
        let mut ordered: Vec<&EndpointStatus> = endpoints.iter().collect();
        ordered.sort_by(|a, b| rank(a).cmp(&rank(b)));
        let is_internal =
            |e: &EndpointStatus| self.networks.get(&e.network_id).is_ok_and(|d| d.config.internal);
        let outlet = |gateway: fn(&EndpointStatus) -> Option<IpAddr>| {
            let found = ordered.iter().filter(|e| !is_internal(e)).find(|e| gateway(e).is_some())?;
            Some(Outlet { ifname: found.ifname.clone(), gateway: gateway(found)? })
        };
        let (v4, v6) = (outlet(|e| e.gateway4), outlet(|e| e.gateway6));
        network::Network::set_outlets(netns, v4.as_ref(), v6.as_ref())
            .map_err(|error| super::problem::from_network("set the default routes".to_owned(), error))
    }
}

/// By priority, then by name.
fn rank(endpoint: &EndpointStatus) -> (i128, &str) {
    (-i128::from(endpoint.config.gw_priority), &endpoint.network_name)
}

/// The lines of `hosts` besides the container's own: those that were asked for, and links of the default bridge.
pub(crate) fn extra_hosts(
    networks: &Networks,
    networking: &UserNetworking,
    endpoints: &[EndpointStatus],
) -> Result<Vec<(IpAddr, String)>> {
    let mut lines = Vec::new();
    for (name, address) in &networking.extra_hosts {
        match address {
            crate::model::HostAddress::Ip(ip) => lines.push((*ip, name.clone())),
            crate::model::HostAddress::Gateway => {
                lines.extend(host_gateways(networks, endpoints).into_iter().map(|ip| (ip, name.clone())));
            }
        }
    }
    for endpoint in endpoints {
        let definition = networks.get(&endpoint.network_id)?;
        if definition.has_names() {
            continue;
        }
        let members = networks.members(&endpoint.network_id);
        for (target, alias) in &endpoint.config.links {
            let matches =
                |m: &&Member| m.container_name == *target || m.container_id.starts_with(target.as_str());
            let Some(found) = members.iter().find(matches) else {
                return Err(Error::precondition(format!("Cannot link to a non running container: {target}")));
            };
            let addresses = found.endpoint.ipv4.iter().chain(&found.endpoint.ipv6);
            lines.extend(addresses.map(|net| (net.addr(), link_names(alias, found))));
        }
    }
    Ok(lines)
}

fn link_names(alias: &str, member: &Member) -> String {
    let short = member.container_id.get(..12).unwrap_or(&member.container_id);
    let mut names = vec![alias, short, member.container_name.as_str()];
    names.dedup();
    names.join(" ")
}

/// The host as a container reaches it: the gateway of a network that leads out, else the default bridge's.
fn host_gateways(networks: &Networks, endpoints: &[EndpointStatus]) -> Vec<IpAddr> {
    let own = endpoints.iter().find_map(|endpoint| {
        let definition = networks.get(&endpoint.network_id).ok()?;
        let serves = definition.config.driver == NetworkDriver::Bridge && !definition.config.internal;
        serves.then(|| super::registry::gateways_of(&definition))
    });
    own.unwrap_or_else(|| {
        networks.get("bridge").map(|d| super::registry::gateways_of(&d)).unwrap_or_default()
    })
}

/// All addresses of a sandbox, in the order of its interfaces.
pub(crate) fn addresses(endpoints: &[EndpointStatus]) -> Vec<IpNet> {
    endpoints.iter().flat_map(|e| e.ipv4.into_iter().chain(e.ipv6)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_options_are_read_strictly() {
        let good =
            parse_sysctls("net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2").unwrap();
        assert_eq!(good.len(), 2);
        for bad in
            ["net.ipv4.ip_forward=1", "net.ipv4.conf.eth0.rp_filter=0", "net.ipv4.conf.IFNAME.a/b=1", "x"]
        {
            assert!(parse_sysctls(bad).is_err(), "{bad}");
        }
        for bad in ["", "lo", "a/b", "sixteen-chars-xx", ".."] {
            assert!(check_ifname(bad).is_err(), "{bad}");
        }
        let mut taken = HashSet::from(["eth0".to_owned()]);
        assert_eq!(free_name("eth", &mut taken).unwrap(), "eth1");
        assert_eq!(free_name("eth", &mut taken).unwrap(), "eth2");
    }
}
