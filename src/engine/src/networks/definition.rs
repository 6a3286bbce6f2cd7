//! A network's definition: checked once when it is made, kept on disk, and turned into what the kernel is given.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use network::{AddressPool, AddressPools, Gateway, NetworkSpec, SpecDriver};
use serde::{Deserialize, Serialize};

use super::NetworkProblem;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{IpamPool, NetworkDriver, UserNetworkConfig};

/// Version of the form on disk.
const VERSION: u32 = 1;
/// Largest definition that is read.
const MAX_BYTES: u64 = 1 << 20;
const BRIDGE: &str = "com.docker.network.bridge.";
/// Option that names the bridge; it is filled in when the network is made.
pub(crate) const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const MTU: &str = "com.docker.network.driver.mtu";
const PREFIX: &str = "com.docker.network.container_iface_prefix";

/// A network as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) version: u32,
    pub(crate) id: String,
    /// With address ranges, gateways and the link's name filled in.
    pub(crate) config: UserNetworkConfig,
    pub(crate) created_at_ns: i64,
    #[serde(default)]
    pub(crate) predefined: bool,
    /// Whether the link of the host was made for the network, and goes with it.
    #[serde(default)]
    pub(crate) owns_link: bool,
}

/// What a network must not meet.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// Networks that exist, by name.
    pub(crate) networks: Vec<(String, IpNet)>,
    /// Routes and addresses of the host, its name servers, networks of pods.
    pub(crate) host: Vec<IpNet>,
}

/// Options of a network, read.
#[derive(Debug, Clone, Default)]
pub(crate) struct NetworkOptions {
    pub(crate) ifname_prefix: String,
    /// Where ports are published when a request does not say.
    pub(crate) publish_address: Option<IpAddr>,
}

impl Definition {
    pub(crate) fn new(id: String, config: UserNetworkConfig, predefined: bool) -> Self {
        let created_at_ns = sys::fs::now_ns();
        Self { version: VERSION, id, config, created_at_ns, predefined, owns_link: false }
    }

    /// Whether containers on it find each other by name.
    pub(crate) fn has_names(&self) -> bool {
        self.has_endpoints() && !self.predefined
    }

    /// Whether it is more than a name for the host's network or for none.
    pub(crate) fn has_endpoints(&self) -> bool {
        matches!(self.config.driver, NetworkDriver::Bridge | NetworkDriver::Macvlan)
    }

    pub(crate) fn options(&self) -> NetworkOptions {
        let text = |key: &str| self.config.options.get(key).map(String::as_str).unwrap_or_default();
        let prefix = text(PREFIX);
        NetworkOptions {
            ifname_prefix: if prefix.is_empty() { "eth".to_owned() } else { prefix.to_owned() },
            publish_address: text("com.docker.network.bridge.host_binding_ipv4").parse().ok(),
        }
    }

    /// What the kernel is given; `None` for networks that are only names.
    pub(crate) fn spec(&self) -> Result<Option<NetworkSpec>> {
        let config = &self.config;
        if !self.has_endpoints() {
            return Ok(None);
        }
        let mut pools = Vec::new();
        for pool in &config.ipam {
            let (Some(subnet), Some(gateway)) = (pool.subnet, pool.gateway) else { continue };
            let reserved = pool.aux.values().copied().collect();
            pools.push(AddressPool { subnet, range: pool.ip_range, gateway, reserved });
        }
        let driver = match config.driver {
            NetworkDriver::Macvlan => macvlan(&self.id, config)?,
            NetworkDriver::Bridge | NetworkDriver::Host | NetworkDriver::Null => bridge(&self.id, config)?,
        };
        let mtu = parsed(&config.options, MTU, 0u32)?;
        let id = self.id.clone();
        Ok(Some(NetworkSpec { id, driver, pools, internal: config.internal, mtu }))
    }

    pub(crate) fn path(dir: &Path, id: &str) -> PathBuf {
        dir.join(format!("{id}.json"))
    }

    /// Writes the definition; it survives power loss. Blocks.
    pub(crate) fn save(&self, dir: &Path) -> std::io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        sys::fs::write_atomic(&Self::path(dir, &self.id), &bytes, 0o600)
    }

    /// Reads a definition. Blocks.
    pub(crate) fn load(path: &Path) -> std::io::Result<Self> {
        let invalid = |text: String| std::io::Error::new(std::io::ErrorKind::InvalidData, text);
        if std::fs::metadata(path)?.len() > MAX_BYTES {
            return Err(invalid("the definition is larger than any Berth writes".to_owned()));
        }
        let found: Self = serde_json::from_slice(&std::fs::read(path)?)?;
        if found.version != VERSION {
            return Err(invalid(format!(
                "the definition has version {}, this release reads {VERSION}",
                found.version
            )));
        }
        Ok(found)
    }
}

/// Checks what was asked for and fills in networks and gateways.
pub(crate) fn complete(
    mut config: UserNetworkConfig,
    pools: &AddressPools,
    around: &Surroundings,
) -> Result<UserNetworkConfig> {
    check_name(&config.name)?;
    if !config.enable_ipv4 && !config.enable_ipv6 {
        return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
    }
    for is_ipv6 in [false, true] {
        let enabled = if is_ipv6 { config.enable_ipv6 } else { config.enable_ipv4 };
        let of_family = |pool: &IpamPool| pool.subnet.map(|net| net.addr().is_ipv6()) == Some(is_ipv6);
        if config.ipam.iter().filter(|p| of_family(p)).count() > 1 {
            return Err(Error::unsupported("a network has at most one subnet of each address family"));
        }
        if !enabled {
            config.ipam.retain(|p| !of_family(p));
        }
    }
    fill_in(&mut config, pools, around)?;
    for pool in &mut config.ipam {
        check_pool(pool, around)?;
    }
    Ok(config)
}

/// Gives every enabled family a network.
fn fill_in(config: &mut UserNetworkConfig, pools: &AddressPools, around: &Surroundings) -> Result<()> {
    let mut taken = around.host.clone();
    taken.extend(around.networks.iter().map(|(_, net)| *net));
    taken.extend(config.ipam.iter().filter_map(|pool| pool.subnet));
    for is_ipv6 in [false, true] {
        let enabled = if is_ipv6 { config.enable_ipv6 } else { config.enable_ipv4 };
        let has = config.ipam.iter().any(|p| p.subnet.is_some_and(|net| net.addr().is_ipv6() == is_ipv6));
        if !enabled || has {
            continue;
        }
        let chosen = pools.choose(is_ipv6, &taken).ok_or_else(|| {
            let message =
                "choose the addresses of a network; give it a subnet, or remove networks that are not used";
            Error::caused_by(ErrorKind::Exhausted, message, NetworkProblem::PoolsExhausted)
        })?;
        // A range without a network, of this family or of none, is the one that gets it.
        let matches = |pool: &&mut IpamPool| {
            let named = pool.gateway.or(pool.ip_range.map(|r| r.addr()));
            pool.subnet.is_none() && named.is_none_or(|ip| ip.is_ipv6() == is_ipv6)
        };
        match config.ipam.iter_mut().find(matches) {
            Some(pool) => pool.subnet = Some(chosen),
            None => config.ipam.push(IpamPool { subnet: Some(chosen), ..IpamPool::default() }),
        }
    }
    config.ipam.retain(|pool| pool.subnet.is_some());
    Ok(())
}

fn check_pool(pool: &mut IpamPool, around: &Surroundings) -> Result<()> {
    let Some(subnet) = pool.subnet else { return Ok(()) };
    if subnet.addr() != subnet.network() {
        return Err(Error::invalid(format!(
            "invalid network config:\ninvalid subnet {subnet}: it should be {}",
            subnet.trunc()
        )));
    }
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return Err(Error::invalid(format!("subnet {subnet} has no room for a gateway and a container")));
    }
    let meets = |net: &IpNet| subnet.contains(&net.network()) || net.contains(&subnet.network());
    if let Some((of, _)) = around.networks.iter().find(|(_, net)| meets(net)) {
        let problem = NetworkProblem::Overlap { subnet: subnet.to_string(), of: of.clone() };
        return Err(Error::caused_by(ErrorKind::FailedPrecondition, "use the subnet", problem));
    }
    if let Some(range) = pool.ip_range.filter(|range| !subnet.contains(&range.network())) {
        return Err(Error::invalid(format!("address range {range} is not in the subnet {subnet}")));
    }
    let outside = |ip: &&IpAddr| !subnet.contains(*ip);
    if let Some(ip) = pool.aux.values().chain(&pool.gateway).find(outside) {
        return Err(Error::invalid(format!("address {ip} is not in the subnet {subnet}")));
    }
    if pool.gateway.is_none() {
        let free = |ip: &IpAddr| !pool.aux.values().any(|a| a == ip) && *ip != subnet.network();
        pool.gateway = subnet.hosts().find(free);
    }
    if let Some(gateway) = pool.gateway.filter(|g| pool.aux.values().any(|a| a == g)) {
        return Err(Error::invalid(format!("address {gateway} is the gateway's and an auxiliary one")));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<()> {
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if begins && name.len() <= 128 && name.bytes().all(alphabet) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid network name {name:?}: it begins with a letter or digit and consists of [a-zA-Z0-9_.-]"
    )))
}

/// Refuses options that would be ignored.
fn check_options(options: &BTreeMap<String, String>, known: &[&str]) -> Result<()> {
    let is_strange = |key: &&String| key.starts_with("com.docker.network.") && !known.contains(&key.as_str());
    match options.keys().find(is_strange) {
        None => Ok(()),
        Some(key) => Err(Error::unsupported(format!("network option {key} is not supported"))),
    }
}

fn bridge(id: &str, config: &UserNetworkConfig) -> Result<SpecDriver> {
    let options = &config.options;
    check_options(
        options,
        &[
            BRIDGE_NAME,
            MTU,
            PREFIX,
            "com.docker.network.bridge.enable_ip_masquerade",
            "com.docker.network.bridge.enable_icc",
            "com.docker.network.bridge.host_binding_ipv4",
            "com.docker.network.bridge.gateway_mode_ipv4",
            "com.docker.network.bridge.gateway_mode_ipv6",
            "com.docker.network.bridge.inhibit_ipv4",
            "com.docker.network.bridge.trusted_host_interfaces",
            "com.docker.network.bridge.default_bridge",
        ],
    )?;
    let option = |name: &str| format!("{BRIDGE}{name}");
    let name = options.get(BRIDGE_NAME).filter(|name| !name.is_empty()).cloned();
    let link = name.unwrap_or_else(|| format!("br-{}", id.get(..12).unwrap_or(id)));
    if link.len() > 15 || link.contains(['/', ' ', ':', '%']) {
        return Err(Error::invalid(format!("{link:?} is no name of a bridge")));
    }
    if let Some(text) = options.get(&option("host_binding_ipv4")).filter(|t| !t.is_empty()) {
        text.parse::<IpAddr>()
            .map_err(|_| Error::invalid(format!("{text:?} is no address to publish on")))?;
    }
    let trusted = options.get(&option("trusted_host_interfaces")).map(String::as_str).unwrap_or_default();
    let gateway4 = gateway(options, "gateway_mode_ipv4", config.internal)?;
    let gateway6 = gateway(options, "gateway_mode_ipv6", config.internal)?;
    Ok(SpecDriver::Bridge {
        link,
        icc: parsed(options, &option("enable_icc"), true)?,
        gateway4,
        gateway6,
        masquerade: parsed(options, &option("enable_ip_masquerade"), true)?,
        inhibit_ipv4: parsed(options, &option("inhibit_ipv4"), false)?,
        trusted: trusted.split(':').filter(|t| !t.is_empty()).map(str::to_owned).collect(),
    })
}

fn gateway(options: &BTreeMap<String, String>, name: &str, internal: bool) -> Result<Gateway> {
    match options.get(&format!("{BRIDGE}{name}")).map(String::as_str).unwrap_or_default() {
        "" | "nat" => Ok(Gateway::Nat),
        "nat-unprotected" => Ok(Gateway::NatUnprotected),
        "routed" => Ok(Gateway::Routed),
        "isolated" if internal => Ok(Gateway::Isolated),
        "isolated" => Err(Error::invalid(format!("{name}=isolated is for internal networks only"))),
        other => {
            Err(Error::invalid(format!("{name}={other} is none of nat, nat-unprotected, routed, isolated")))
        }
    }
}

fn macvlan(id: &str, config: &UserNetworkConfig) -> Result<SpecDriver> {
    check_options(&config.options, &[MTU, PREFIX])?;
    let text = |key: &str| config.options.get(key).cloned().unwrap_or_default();
    let parent = text("parent");
    let is_dummy = parent.is_empty();
    let parent = if is_dummy { format!("dm-{}", id.get(..12).unwrap_or(id)) } else { parent };
    let mode = match text("macvlan_mode").as_str() {
        "" => "bridge".to_owned(),
        mode @ ("bridge" | "private" | "vepa" | "passthru") => mode.to_owned(),
        other => return Err(Error::invalid(format!("requested macvlan mode '{other}' is not valid"))),
    };
    Ok(SpecDriver::Macvlan { parent, mode, is_dummy })
}

fn parsed<T: std::str::FromStr>(options: &BTreeMap<String, String>, key: &str, default: T) -> Result<T> {
    match options.get(key).map(String::as_str) {
        None | Some("") => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| Error::invalid(format!("network option {key}={text:?} cannot be read")))
        }
    }
}

#[cfg(test)]
mod tests;
