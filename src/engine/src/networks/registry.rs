//! The networks of the node and who is attached to them. Readers never wait for a change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ipnet::IpNet;
use network::AddressPools;
use oci::SandboxId;
use tokio::sync::Semaphore;

use super::NetworkProblem;
use super::definition::{Definition, Surroundings, complete};
use super::resolver::{HostServers, IN_FLIGHT_ALL};
use crate::config::UserNetworkDefaults;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    EndpointStatus, IpamPool, NetworkDriver, NetworkMember, NetworkPruneFilter, UserNetworkConfig,
    UserNetworkStatus,
};

/// A container on a network.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) sandbox: SandboxId,
    pub(crate) container_id: String,
    pub(crate) container_name: String,
    pub(crate) endpoint: Arc<EndpointStatus>,
}

#[derive(Debug)]
struct Entry {
    definition: Arc<Definition>,
    /// By id of the endpoint.
    members: BTreeMap<String, Member>,
    /// Being removed: nobody may join any more.
    removing: bool,
}

/// All networks.
#[derive(Debug)]
pub(crate) struct Networks {
    dir: PathBuf,
    pools: AddressPools,
    pub(super) defaults: UserNetworkDefaults,
    /// Networks of pods, which new ones stay clear of.
    pods: Vec<IpNet>,
    /// Held while a network is made or removed, so that two never choose the same addresses.
    changing: Mutex<()>,
    entries: RwLock<BTreeMap<String, Entry>>,
    /// Whom resolvers ask.
    pub(super) host_servers: HostServers,
    /// Questions that all resolvers have under way.
    pub(super) in_flight: Semaphore,
}

impl Networks {
    /// Reads the definitions. Blocks.
    pub(crate) fn open(dir: PathBuf, defaults: UserNetworkDefaults, pods: Vec<IpNet>) -> Result<Self> {
        let failed = |error| Error::io(format!("read the networks in {}", dir.display()), error);
        sys::fs::ensure_directory(&dir, 0o700).map_err(failed)?;
        let seed = seed(&dir).map_err(failed)?;
        let pools = AddressPools::new(defaults.pools.clone(), seed).map_err(Error::invalid)?;
        let mut entries = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match Definition::load(&path) {
                Ok(definition) => {
                    let definition = Arc::new(definition);
                    let entry = Entry {
                        definition: Arc::clone(&definition),
                        members: BTreeMap::new(),
                        removing: false,
                    };
                    entries.insert(definition.id.clone(), entry);
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the definition of a network cannot be read; the network is missing");
                }
            }
        }
        let entries = RwLock::new(entries);
        Ok(Self {
            dir,
            pools,
            defaults,
            pods,
            changing: Mutex::default(),
            entries,
            host_servers: HostServers::default(),
            in_flight: Semaphore::new(IN_FLIGHT_ALL),
        })
    }

    /// Makes the networks that exist always, and the links of those that were made. Blocks. Trouble with one does not
    /// keep the others from working; what could not be done is tried again when somebody joins.
    pub(crate) fn restore(&self, kernel: &network::Network) {
        let fixed =
            [("bridge", NetworkDriver::Bridge), ("host", NetworkDriver::Host), ("none", NetworkDriver::Null)];
        for (name, driver) in fixed {
            if self.get(name).is_ok() {
                continue;
            }
            if let Err(error) = self.create_predefined(kernel, name, driver) {
                tracing::warn!(
                    network = name,
                    error = error.chain(),
                    "a predefined network could not be made"
                );
            }
        }
        for definition in self.definitions() {
            // The default bridge is made when somebody joins it: a node of pods alone has none.
            if definition.predefined {
                continue;
            }
            if let Err(error) = ensure_link(kernel, &definition) {
                tracing::warn!(network = %definition.config.name, error = error.chain(), "the link of a network could not be made");
            }
        }
    }

    fn create_predefined(&self, kernel: &network::Network, name: &str, driver: NetworkDriver) -> Result<()> {
        let _changing = self.changing();
        let mut config = UserNetworkConfig {
            name: name.to_owned(),
            driver,
            enable_ipv4: true,
            ..UserNetworkConfig::default()
        };
        if driver == NetworkDriver::Bridge {
            for (key, value) in [
                ("com.docker.network.bridge.default_bridge", "true"),
                ("com.docker.network.bridge.enable_icc", "true"),
                ("com.docker.network.bridge.enable_ip_masquerade", "true"),
                ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
                (super::definition::BRIDGE_NAME, self.defaults.bridge.as_str()),
            ] {
                config.options.insert(key.to_owned(), value.to_owned());
            }
            if self.defaults.mtu > 0 {
                let mtu = self.defaults.mtu.to_string();
                config.options.insert("com.docker.network.driver.mtu".to_owned(), mtu);
            }
            if let Some(address) = self.defaults.bridge_address {
                config.ipam.push(IpamPool {
                    subnet: Some(address.trunc()),
                    gateway: Some(address.addr()).filter(|ip| *ip != address.network()),
                    ..IpamPool::default()
                });
            }
            config = complete(config, &self.pools, &self.surroundings(kernel)?)?;
        }
        let mut definition = Definition::new(new_id()?, config, true);
        definition.owns_link = true;
        self.keep(definition)
    }

    /// Makes a network: its definition survives power loss, and its link is there. Blocks.
    pub(crate) fn create(
        &self,
        kernel: &network::Network,
        config: UserNetworkConfig,
    ) -> Result<Arc<UserNetworkStatus>> {
        let _changing = self.changing();
        if matches!(config.driver, NetworkDriver::Host | NetworkDriver::Null) {
            let name = if config.driver == NetworkDriver::Host { "host" } else { "none" };
            let problem = NetworkProblem::Predefined(name.to_owned());
            return Err(Error::caused_by(ErrorKind::Denied, "make a network", problem));
        }
        let taken = |definition: &Arc<Definition>| definition.config.name == config.name;
        if self.definitions().iter().any(taken) {
            let problem = NetworkProblem::NameTaken(config.name.clone());
            return Err(Error::caused_by(ErrorKind::AlreadyExists, "make a network", problem));
        }
        let config = complete(config, &self.pools, &self.surroundings(kernel)?)?;
        let mut definition = Definition::new(new_id()?, config, false);
        let spec = definition.spec()?;
        if let Some(spec) = &spec {
            let uses = |d: &Arc<Definition>| {
                d.spec().is_ok_and(|s| {
                    s.is_some_and(|s| {
                        s.link() == spec.link() && !matches!(s.driver, network::SpecDriver::Macvlan { .. })
                    })
                })
            };
            if let Some(other) = self.definitions().into_iter().find(|d| uses(d)) {
                return Err(Error::precondition(format!(
                    "the link {} belongs to the network {}",
                    spec.link(),
                    other.config.name
                )));
            }
            definition.owns_link = !link_exists(spec.link())?;
        }
        // The intent, with everything that is needed to undo it.
        definition
            .save(&self.dir)
            .map_err(|error| Error::io(format!("keep the network {}", definition.config.name), error))?;
        if let Err(error) = ensure_link(kernel, &definition) {
            self.forget(kernel, &definition);
            return Err(error);
        }
        let id = definition.id.clone();
        self.insert(definition);
        self.status(&id).ok_or_else(|| not_found(&id))
    }

    /// Removes a network that nobody is attached to. Blocks.
    pub(crate) fn remove(&self, kernel: &network::Network, reference: &str) -> Result<Arc<Definition>> {
        let _changing = self.changing();
        let definition = self.get(reference)?;
        if definition.predefined {
            let problem = NetworkProblem::Predefined(definition.config.name.clone());
            return Err(Error::caused_by(ErrorKind::Denied, "remove the network", problem));
        }
        self.close(&definition)?;
        let outcome = self.take_away(kernel, &definition);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Ok(()) => drop(entries.remove(&definition.id)),
            Err(_) => {
                if let Some(entry) = entries.get_mut(&definition.id) {
                    entry.removing = false;
                }
            }
        }
        outcome.map(|()| definition)
    }

    /// Removes the networks that nobody is attached to and that the filter lets through; their names. Blocks.
    pub(crate) fn prune(&self, kernel: &network::Network, filter: &NetworkPruneFilter) -> Vec<String> {
        let mut removed = Vec::new();
        for definition in self.definitions() {
            if definition.predefined || !passes(&definition, filter) {
                continue;
            }
            match self.remove(kernel, &definition.id) {
                Ok(_) => removed.push(definition.config.name.clone()),
                Err(error) if matches!(error.cause(), Some(NetworkProblem::InUse { .. })) => {}
                Err(error) => {
                    tracing::warn!(network = %definition.config.name, error = error.chain(), "a network could not be removed");
                }
            }
        }
        removed
    }

    /// Lets nobody join any more, if nobody has.
    fn close(&self, definition: &Definition) -> Result<()> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get_mut(&definition.id).ok_or_else(|| not_found(&definition.id))?;
        if let Some(member) = entry.members.values().next() {
            let problem = NetworkProblem::InUse {
                name: definition.config.name.clone(),
                id: definition.id.clone(),
                count: entry.members.len(),
                example: (member.container_name.clone(), member.endpoint.endpoint_id.clone()),
            };
            return Err(Error::caused_by(ErrorKind::FailedPrecondition, "remove the network", problem));
        }
        entry.removing = true;
        Ok(())
    }

    fn take_away(&self, kernel: &network::Network, definition: &Definition) -> Result<()> {
        let what = format!("remove the network {}", definition.config.name);
        if let Some(spec) = definition.spec()? {
            kernel
                .remove_user_network(&spec, definition.owns_link)
                .map_err(|error| super::problem::from_network(what.clone(), error))?;
        }
        let removed = match std::fs::remove_file(Definition::path(&self.dir, &definition.id)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| sys::fs::sync_directory(&self.dir)),
        };
        removed.map_err(|error| Error::io(what, error))
    }

    /// Undoes a network that could not be made.
    fn forget(&self, kernel: &network::Network, definition: &Definition) {
        if let Err(error) = self.take_away(kernel, definition) {
            tracing::warn!(network = %definition.config.name, error = error.chain(), "a network that could not be made is not quite gone");
        }
    }

    pub(super) fn keep(&self, definition: Definition) -> Result<()> {
        let what = format!("keep the network {}", definition.config.name);
        definition.save(&self.dir).map_err(|error| Error::io(what, error))?;
        self.insert(definition);
        Ok(())
    }

    fn insert(&self, definition: Definition) {
        let definition = Arc::new(definition);
        let entry = Entry { definition: Arc::clone(&definition), members: BTreeMap::new(), removing: false };
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(definition.id.clone(), entry);
    }

    /// A network by id, name, or the only one whose id begins so.
    pub(crate) fn get(&self, reference: &str) -> Result<Arc<Definition>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(reference) {
            return Ok(Arc::clone(&entry.definition));
        }
        let by_name = entries.values().find(|e| e.definition.config.name == reference);
        if let Some(entry) = by_name {
            return Ok(Arc::clone(&entry.definition));
        }
        let mut matches = entries.iter().filter(|(id, _)| !reference.is_empty() && id.starts_with(reference));
        match (matches.next(), matches.next()) {
            (Some(_), Some(_)) => {
                let problem = NetworkProblem::Ambiguous(reference.to_owned());
                Err(Error::caused_by(ErrorKind::InvalidArgument, "find the network", problem))
            }
            (Some((_, entry)), None) => Ok(Arc::clone(&entry.definition)),
            (None, _) => Err(not_found(reference)),
        }
    }

    pub(crate) fn definitions(&self) -> Vec<Arc<Definition>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().map(|entry| Arc::clone(&entry.definition)).collect()
    }

    pub(crate) fn status(&self, id: &str) -> Option<Arc<UserNetworkStatus>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(id).map(|entry| Arc::new(status_of(entry)))
    }

    pub(crate) fn statuses(&self) -> Vec<Arc<UserNetworkStatus>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = entries.values().map(|entry| Arc::new(status_of(entry))).collect();
        all.sort_by(|a, b| (a.created_at_ns, &a.config.name).cmp(&(b.created_at_ns, &b.config.name)));
        all
    }

    /// Enters a container, before or after the kernel knows it; a network that is being removed takes nobody.
    pub(crate) fn enter(&self, member: Member) -> Result<()> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let id = &member.endpoint.network_id;
        let entry = entries.get_mut(id).filter(|e| !e.removing).ok_or_else(|| not_found(id))?;
        entry.members.insert(member.endpoint.endpoint_id.clone(), member);
        Ok(())
    }

    /// Takes a container off a network.
    pub(crate) fn leave(&self, endpoint: &EndpointStatus) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&endpoint.network_id) {
            entry.members.remove(&endpoint.endpoint_id);
        }
    }

    /// What a sandbox is attached to, with the definition of each network.
    pub(super) fn of_sandbox(&self, sandbox: &SandboxId) -> Vec<(Arc<Definition>, Member)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = entries
            .values()
            .flat_map(|e| e.members.values().map(|m| (Arc::clone(&e.definition), m)))
            .filter(|(_, member)| member.sandbox == *sandbox)
            .map(|(definition, member)| (definition, member.clone()))
            .collect();
        found.sort_by(|(a, x), (b, y)| {
            let priority = |m: &Member| std::cmp::Reverse(m.endpoint.config.gw_priority);
            (priority(x), &a.config.name).cmp(&(priority(y), &b.config.name))
        });
        found
    }

    /// Everybody on a network.
    pub(super) fn members(&self, id: &str) -> Vec<Member> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(id).map(|e| e.members.values().cloned().collect()).unwrap_or_default()
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What new networks must stay clear of.
    fn surroundings(&self, kernel: &network::Network) -> Result<Surroundings> {
        let mut networks = Vec::new();
        for definition in self.definitions() {
            let nets = definition.config.ipam.iter().filter_map(|pool| pool.subnet);
            networks.extend(nets.map(|net| (definition.config.name.clone(), net)));
        }
        let mut host = kernel
            .host_networks()
            .map_err(|error| super::problem::from_network("read the routes of the host".to_owned(), error))?;
        host.extend(&self.pods);
        host.extend(super::files::host_name_servers().into_iter().map(IpNet::from));
        Ok(Surroundings { networks, host })
    }
}

/// Makes the link of a network if it is not there. Blocks.
pub(crate) fn ensure_link(kernel: &network::Network, definition: &Definition) -> Result<()> {
    let Some(spec) = definition.spec()? else { return Ok(()) };
    let what = || format!("make the network {}", definition.config.name);
    kernel.ensure_user_network(&spec).map_err(|error| super::problem::from_network(what(), error))?;
    Ok(())
}

fn link_exists(name: &str) -> Result<bool> {
    let failed = |error| Error::io(format!("read the link {name}"), error);
    let found = sys::netlink::Route::open().and_then(|mut route| route.link(name)).map_err(failed)?;
    Ok(found.is_some())
}

fn passes(definition: &Definition, filter: &NetworkPruneFilter) -> bool {
    let labels = &definition.config.labels;
    let has = |(key, value): &(String, Option<String>)| {
        labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
    };
    filter.created_before_ns.is_none_or(|limit| definition.created_at_ns < limit)
        && filter.labels.iter().all(has)
        && !filter.without_labels.iter().any(has)
}

fn status_of(entry: &Entry) -> UserNetworkStatus {
    let mut members: Vec<_> = entry
        .members
        .values()
        .map(|m| NetworkMember {
            container_id: m.container_id.clone(),
            container_name: m.container_name.clone(),
            endpoint: Arc::clone(&m.endpoint),
        })
        .collect();
    members.sort_by(|a, b| a.container_name.cmp(&b.container_name));
    UserNetworkStatus {
        id: entry.definition.id.clone(),
        config: Arc::new(entry.definition.config.clone()),
        created_at_ns: entry.definition.created_at_ns,
        predefined: entry.definition.predefined,
        members,
    }
}

pub(crate) fn not_found(reference: &str) -> Error {
    Error::caused_by(ErrorKind::NotFound, "find the network", NetworkProblem::NotFound(reference.to_owned()))
}

/// 64 hexadecimal characters.
pub(crate) fn new_id() -> Result<String> {
    let random = sys::fs::random_bytes().map_err(|error| Error::io("make an id", error))?;
    Ok(SandboxId::from_random(random).to_string())
}

/// The host's part of its unique local prefix, made once.
fn seed(dir: &std::path::Path) -> std::io::Result<[u8; 5]> {
    let path = dir.join("local-prefix");
    match std::fs::read(&path) {
        Ok(bytes) => {
            bytes.try_into().map_err(|_| std::io::Error::other(format!("{} has not 5 bytes", path.display())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let seed = sys::fs::random_bytes::<5>()?;
            sys::fs::write_atomic(&path, &seed, 0o600)?;
            Ok(seed)
        }
        Err(error) => Err(error),
    }
}

/// The address of the host as containers of the default bridge reach it.
pub(super) fn gateways_of(definition: &Definition) -> Vec<IpAddr> {
    definition.config.ipam.iter().filter_map(|pool| pool.gateway).collect()
}
