//! The engine as its front ends see it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use network::Conflist;
use oci::{ContainerId, SandboxId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blocking::Blocking;
use crate::config::{CgroupDriver, Config, Handler};
use crate::cpu::Rates;
use crate::durable::{Durables, ExecRegistry};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{Bus, Subscription};
use crate::happenings::HappeningBus;
use crate::images::Images;
use crate::keeper_link::Link;
use crate::metrics::Metrics;
use crate::model::{
    ContainerConfig, ContainerKey, ContainerStatus, NamespaceMode, PortMapping, Protocol, Resources,
    SandboxConfig, SandboxMetadata, SandboxStatus,
};
use crate::names::{Claim, Names, wait};
use crate::networks::Networks;
use crate::record::SandboxRecord;
use crate::sandbox::{self, Command, Handle, LiveContainer};
use crate::seccomp::Profiles;
use crate::spec::HostFacts;
use crate::volumes::Volumes;

/// Name of a sandbox' primary interface.
pub(crate) const IFNAME: &str = "eth0";

/// Everything: sandboxes, containers, images, networks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What the tasks of all sandboxes share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) boot_id: String,
    pub(crate) host: HostFacts,
    pub(crate) link: Arc<Link>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) blocking: Arc<Blocking>,
    pub(crate) bus: Bus,
    /// What happens to containers of all kinds, images, networks and volumes.
    pub(crate) happenings: HappeningBus,
    pub(crate) durables: Durables,
    pub(crate) execs: ExecRegistry,
    pub(crate) storage: Arc<storage::Store>,
    pub(crate) images: Images,
    pub(crate) network: Arc<network::Network>,
    pub(crate) networks: Arc<Networks>,
    pub(crate) volumes: Volumes,
    pub(crate) cgroups: Arc<sys::cgroup::Layout>,
    pub(crate) seccomp: Profiles,
    pub(crate) rates: Rates,
    pub(crate) tracker: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    sandboxes: RwLock<HashMap<SandboxId, Handle>>,
    /// The sandbox of each container.
    containers: RwLock<HashMap<ContainerId, SandboxId>>,
    sandbox_names: Names<SandboxMetadata, SandboxId>,
    container_names: Names<(SandboxId, ContainerKey), ContainerId>,
    /// What is degraded on this host.
    pub(crate) degraded: Vec<String>,
}

/// The parts that are opened before an engine is put together.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) boot_id: String,
    pub(crate) host: HostFacts,
    pub(crate) link: Arc<Link>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) storage: Arc<storage::Store>,
    pub(crate) images: Images,
    pub(crate) network: Arc<network::Network>,
    pub(crate) networks: Networks,
    pub(crate) volumes: Volumes,
    pub(crate) cgroups: Arc<sys::cgroup::Layout>,
    pub(crate) seccomp: Profiles,
    pub(crate) degraded: Vec<String>,
}

impl Engine {
    pub(crate) fn assemble(parts: Parts) -> Self {
        let shared = Shared {
            config: parts.config,
            boot_id: parts.boot_id,
            host: parts.host,
            link: parts.link,
            blocking: Arc::new(Blocking::new(Arc::clone(&parts.metrics))),
            bus: Bus::new(Arc::clone(&parts.metrics)),
            happenings: HappeningBus::new(Arc::clone(&parts.metrics)),
            durables: Durables::default(),
            execs: ExecRegistry::default(),
            metrics: parts.metrics,
            storage: parts.storage,
            images: parts.images,
            network: parts.network,
            networks: Arc::new(parts.networks),
            volumes: parts.volumes,
            cgroups: parts.cgroups,
            seccomp: parts.seccomp,
            rates: Rates::default(),
            tracker: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            sandbox_names: Names::new(),
            container_names: Names::new(),
            degraded: parts.degraded,
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn of(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Makes a sandbox, or hands over the one that an earlier, identical request made for nobody.
    /// `patience` is how long the caller will wait; the work goes on beyond it.
    pub async fn run_sandbox(&self, config: SandboxConfig, patience: Option<Duration>) -> Result<SandboxId> {
        check_sandbox(&config)?;
        self.shared.handler(&config.runtime_handler)?;
        let key = config.metadata.clone();
        let what = format!("sandbox {}/{}", key.namespace, key.name);
        let progress = match self.shared.sandbox_names.claim(&key) {
            Claim::Taken(id) => return Err(taken(&what, id.as_str())),
            Claim::Join(progress) => progress,
            Claim::Mine(report, progress) => {
                let random =
                    sys::fs::random_bytes().map_err(|error| Error::io("make a sandbox id", error))?;
                let id = SandboxId::from_random(random);
                let handle = sandbox::spawn(&self.shared, id.clone(), config, report);
                self.shared.insert_sandbox(handle);
                progress
            }
        };
        let id = wait(progress, &what, patience).await?;
        self.shared.sandbox_names.took(&key);
        Ok(id)
    }

    /// Stops a sandbox: its containers are killed, its network and namespaces are gone afterwards. Stopping
    /// what is stopped or unknown is done already.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        match self.find_sandbox(id)? {
            Some(handle) => gone_is_done(handle.ask(|reply| Command::StopSandbox { reply }).await),
            None => Ok(()),
        }
    }

    /// Removes a sandbox and its containers, stopping it first. Removing what is unknown is done already.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        match self.find_sandbox(id)? {
            Some(handle) => gone_is_done(handle.ask(|reply| Command::RemoveSandbox { reply }).await),
            None => Ok(()),
        }
    }

    /// A snapshot of a sandbox, by its id or an unambiguous beginning of it.
    pub fn sandbox_status(&self, id: &str) -> Result<Arc<SandboxStatus>> {
        Ok(self.sandbox(id)?.status())
    }

    /// Snapshots of all sandboxes, oldest first. Runs of durable containers are not among them.
    pub fn sandboxes(&self) -> Vec<Arc<SandboxStatus>> {
        let sandboxes = self.shared.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> =
            sandboxes.values().map(Handle::status).filter(|s| s.config.durable.is_none()).collect();
        drop(sandboxes);
        all.sort_by(|a, b| (a.created_at_ns, &a.id).cmp(&(b.created_at_ns, &b.id)));
        all
    }

    /// Notes what the client accounts for a sandbox as a whole.
    pub async fn update_sandbox(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<()> {
        let (overhead, resources) = (overhead.map(Box::new), resources.map(Box::new));
        self.sandbox(id)?.ask(|reply| Command::UpdateSandbox { overhead, resources, reply }).await
    }

    /// Makes a container in a sandbox, or hands over the one that an earlier, identical request made for
    /// nobody. `patience` is how long the caller will wait; the work goes on beyond it.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        patience: Option<Duration>,
    ) -> Result<ContainerId> {
        let handle = self.sandbox(sandbox)?;
        let key = (handle.id.clone(), config.key.clone());
        let what = format!("container {:?} of sandbox {}", config.key.name, handle.id.short());
        let progress = match self.shared.container_names.claim(&key) {
            Claim::Taken(id) => return Err(taken(&what, id.as_str())),
            Claim::Join(progress) => progress,
            Claim::Mine(progress, receiver) => {
                let command = Command::Create { config: Box::new(config), progress };
                if let Err(error) = handle.send(command).await {
                    self.shared.container_names.release(&key);
                    return Err(error);
                }
                receiver
            }
        };
        let id = wait(progress, &what, patience).await?;
        self.shared.container_names.took(&key);
        Ok(id)
    }

    /// Starts a container that was made.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let (handle, id) = self.find_container(id)?.ok_or_else(|| Error::no_container(id))?;
        handle.ask(|reply| Command::Start { id, taps: Vec::new(), reply }).await
    }

    /// Stops a container: its stop signal, then after `grace` SIGKILL. Stopping what does not run or is
    /// unknown is done already.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        match self.find_container(id)? {
            Some((handle, id)) => {
                match handle.ask(|reply| Command::Stop { id, signal: None, grace, reply }).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    other => other,
                }
            }
            None => Ok(()),
        }
    }

    /// Removes a container, killing it first if it runs. Removing what is unknown is done already.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        match self.find_container(id)? {
            Some((handle, id)) => {
                gone_is_done(handle.ask(|reply| Command::RemoveContainer { id, reply }).await)
            }
            None => Ok(()),
        }
    }

    /// Changes a container's limits: all that are asked for, or none.
    pub async fn update_container(&self, id: &str, resources: Resources) -> Result<()> {
        let (handle, id) = self.find_container(id)?.ok_or_else(|| Error::no_container(id))?;
        let resources = Box::new(resources);
        handle.ask(|reply| Command::Update { id, resources, reply }).await
    }

    /// A snapshot of a container, by its id or an unambiguous beginning of it.
    pub fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let (handle, found) = self.find_container(id)?.ok_or_else(|| Error::no_container(id))?;
        let status = handle.status();
        status.containers.iter().find(|c| c.id == found).cloned().ok_or_else(|| Error::no_container(id))
    }

    /// Opens a container's log anew, after it was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let status = self.container_status(id)?;
        if !matches!(status.state, crate::ContainerState::Running { .. }) {
            return Err(Error::precondition(format!("container {} does not run", status.id.short())));
        }
        let request = keeper::protocol::Request::ReopenLog { id: status.id.to_string() };
        let what = format!("reopen the log of container {}", status.id.short());
        self.shared.link.call(&what, request, &[]).await?;
        Ok(())
    }

    /// Events from now on.
    pub fn subscribe(&self) -> Subscription {
        self.shared.bus.subscribe()
    }

    /// The driver that makes cgroups.
    pub fn cgroup_driver(&self) -> CgroupDriver {
        self.shared.config.cgroups.driver
    }

    /// Ends the engine's own tasks; containers live on.
    pub async fn shutdown(&self) {
        self.shared.shutdown.cancel();
        self.shared.sandboxes.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.shared.images.shutdown().await;
        self.shared.tracker.close();
        drop(tokio::time::timeout(Duration::from_secs(5), self.shared.tracker.wait()).await);
        self.shared.remove_parent_cgroup();
    }

    /// The sandbox of this id, or of the only id that begins so.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Handle> {
        self.find_sandbox(id)?.ok_or_else(|| Error::no_sandbox(id))
    }

    fn find_sandbox(&self, id: &str) -> Result<Option<Handle>> {
        let sandboxes = self.shared.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        find(&sandboxes, id, "sandbox").map(|found| found.map(|(_, handle)| handle.clone()))
    }

    /// The container of this id, or of the only id that begins so, with its sandbox.
    pub(crate) fn find_container(&self, id: &str) -> Result<Option<(Handle, ContainerId)>> {
        let containers = self.shared.containers.read().unwrap_or_else(PoisonError::into_inner);
        let Some((id, sandbox)) = find(&containers, id, "container")? else { return Ok(None) };
        let (id, sandbox) = (id.clone(), sandbox.clone());
        drop(containers);
        Ok(self.find_sandbox(sandbox.as_str())?.map(|handle| (handle, id)))
    }

    /// What a running container is reached by.
    pub(crate) fn live_container(&self, id: &ContainerId) -> Result<Arc<LiveContainer>> {
        let (handle, id) =
            self.find_container(id.as_str())?.ok_or_else(|| Error::no_container(id.as_str()))?;
        handle
            .live
            .get(&id)
            .ok_or_else(|| Error::precondition(format!("container {} does not run", id.short())))
    }
}

fn find<'a, K, V>(map: &'a HashMap<K, V>, id: &str, what: &str) -> Result<Option<(&'a K, &'a V)>>
where
    K: std::borrow::Borrow<str> + std::hash::Hash + Eq,
{
    if let Some(found) = map.get_key_value(id) {
        return Ok(Some(found));
    }
    if id.is_empty() || id.len() >= 64 {
        return Ok(None);
    }
    let mut matches = map.iter().filter(|(key, _)| {
        let key: &str = (*key).borrow();
        key.starts_with(id)
    });
    match (matches.next(), matches.next()) {
        (Some(_), Some(_)) => Err(Error::invalid(format!("{what} id {id:?} is ambiguous; give more of it"))),
        (found, _) => Ok(found),
    }
}

fn gone_is_done(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn taken(what: &str, id: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{what} exists already as {id}"))
}

pub(crate) fn check_sandbox(config: &SandboxConfig) -> Result<()> {
    let modes = &config.namespaces;
    if config.joined.network.is_some() && (config.user_networking.is_some() || !config.ports.is_empty()) {
        return Err(Error::invalid(
            "a sandbox that uses another's network has neither networks nor ports of its own",
        ));
    }
    if config.user_networking.is_some() && modes.network == NamespaceMode::Host {
        return Err(Error::invalid("a sandbox with the host's network is attached to no other"));
    }
    if !matches!(modes.network, NamespaceMode::Sandbox | NamespaceMode::Host) {
        return Err(Error::invalid("a sandbox' network is its own or the host's"));
    }
    if !matches!(modes.ipc, NamespaceMode::Sandbox | NamespaceMode::Host) {
        return Err(Error::invalid("a sandbox' IPC namespace is its own or the host's"));
    }
    if matches!(modes.pid, NamespaceMode::Target(_)) {
        return Err(Error::invalid("only a container can use another container's PID namespace"));
    }
    if let Some(user) = &modes.user {
        check_maps(&user.maps.uids)?;
        check_maps(&user.maps.gids)?;
    }
    crate::spec::check_sysctls(&config.sysctls, modes)?;
    if config.hostname.len() > 64 || config.hostname.contains(['\n', '\0', '/']) {
        return Err(Error::invalid("a host name has at most 64 characters and no line break"));
    }
    if config.dns.as_ref().is_some_and(crate::files::has_line_break) {
        return Err(Error::invalid("a name server, search domain or option has a line break in it"));
    }
    for port in config.ports.iter().filter(|p| p.host_port != 0) {
        if modes.network == NamespaceMode::Host && port.host_port != port.container_port {
            return Err(Error::invalid(format!(
                "port {} cannot be published as {} with the host's network",
                port.container_port, port.host_port
            )));
        }
    }
    Ok(())
}

fn check_maps(maps: &[keeper::protocol::IdMap]) -> Result<()> {
    if maps.is_empty() || maps.iter().any(|m| m.size == 0) {
        return Err(Error::invalid("a user namespace needs maps of at least one id"));
    }
    Ok(())
}

pub(crate) fn to_network_port(port: &PortMapping) -> network::PortMapping {
    network::PortMapping {
        protocol: match port.protocol {
            Protocol::Tcp => network::Protocol::Tcp,
            Protocol::Udp => network::Protocol::Udp,
            Protocol::Sctp => network::Protocol::Sctp,
        },
        host_port: port.host_port,
        container_port: port.container_port,
        host_ip: port.host_ip,
    }
}

impl Shared {
    pub(crate) fn sandbox_dir(&self, id: &SandboxId) -> PathBuf {
        self.config.state.join("sandboxes").join(id)
    }

    /// A runtime handler by name; the empty name is the default one.
    pub(crate) fn handler(&self, name: &str) -> Result<&Handler> {
        let name = if name.is_empty() { &self.config.default_handler } else { name };
        self.config.handlers.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.config.handlers.keys().map(String::as_str).collect();
            Error::new(
                ErrorKind::NotFound,
                format!("no runtime handler {name:?} is configured; there are: {}", known.join(", ")),
            )
        })
    }

    /// The network that new sandboxes of a handler join.
    pub(crate) fn conflist(&self, handler: &str) -> Result<Arc<Conflist>> {
        let found = match &self.handler(handler)?.network_conf_dir {
            Some(directory) => self.network.conflist_in(directory),
            None => self.network.default_conflist(),
        };
        found.map_err(|error| {
            Error::caused_by(ErrorKind::Unavailable, "no network is ready for the sandbox", error)
        })
    }

    /// Path of a cgroup below each hierarchy's root.
    pub(crate) fn cgroup_path(&self, parent: &str, id: &str) -> String {
        let parent = if parent.is_empty() { self.config.cgroups.default_parent.as_str() } else { parent };
        let parent = if parent.ends_with(".slice") {
            sys::cgroup::slice_path(parent).unwrap_or_else(|_| parent.to_owned())
        } else {
            parent.to_owned()
        };
        format!("/{}/{id}", parent.trim_matches('/'))
    }

    /// Leaves out of limits what this host cannot do and nobody would miss.
    pub(crate) fn fit(&self, resources: &mut oci::runtime::LinuxResources) {
        let hugetlb = self.cgroups.has(sys::cgroup::Controller::Hugetlb);
        crate::spec::fit(resources, self.cgroups.has_swap_accounting(), hugetlb);
    }

    /// Removes the cgroup that sandboxes without a parent of their own are put in, unless something is in it: the
    /// kernel refuses then.
    fn remove_parent_cgroup(&self) {
        if let Ok(parent) = self.cgroups.open(&self.config.cgroups.default_parent) {
            for dir in parent.dirs() {
                let _ = std::fs::remove_dir(dir);
            }
        }
    }

    pub(crate) fn insert_sandbox(&self, handle: Handle) {
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner).insert(handle.id.clone(), handle);
    }

    pub(crate) fn index_container(&self, id: &ContainerId, sandbox: &SandboxId) {
        self.containers.write().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), sandbox.clone());
    }

    pub(crate) fn forget_container(&self, sandbox: &SandboxId, id: &ContainerId, key: Option<&ContainerKey>) {
        self.containers.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(key) = key {
            self.container_names.release(&(sandbox.clone(), key.clone()));
        }
    }

    pub(crate) fn forget_sandbox(&self, record: &SandboxRecord) {
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner).remove(&record.id);
        self.sandbox_names.release(&record.config.metadata);
        self.rates.forget(record.id.as_str());
    }

    /// Registers what was there before the daemon.
    pub(crate) fn adopt_names(&self, record: &SandboxRecord) {
        self.sandbox_names.adopt(record.config.metadata.clone(), record.id.clone());
        for container in &record.containers {
            self.index_container(&container.id, &record.id);
            self.container_names
                .adopt((record.id.clone(), container.config.key.clone()), container.id.clone());
        }
    }

    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.sandboxes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
