//! Opening an engine, and taking over what an earlier daemon left.
//!
//! The kernel is the truth, as the keeper sees it: pidfds name processes for good. Records say what was
//! meant. Each sandbox is judged by itself; one that cannot be read is reported and left for its owner, and
//! does not hold up the others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use keeper::protocol::{Exit, Held, NamespaceKind, Reply, Request};
use oci::SandboxId;

use crate::blocking::Purpose;
use crate::config::Config;
use crate::engine::{Engine, Parts, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::images::Images;
use crate::keeper_link::Link;
use crate::metrics::{Leftover, Metrics, Registry};
use crate::model::ContainerState;
use crate::networks::{Joiner, Networks};
use crate::record::{ContainerRecord, SandboxRecord};
use crate::sandbox::{self, Adopted, Keeping, LiveContainer};
use crate::seccomp::Profiles;
use crate::spec::HostFacts;
use crate::volumes::Volumes;

impl Engine {
    /// Opens the stores, connects to the keeper, and takes over what runs.
    ///
    /// What the engine counts is registered in `registry`.
    pub async fn open(config: Config, registry: &Registry) -> Result<Self> {
        let metrics = Arc::new(Metrics::register(registry));
        let opened = tokio::task::spawn_blocking(move || open_parts(config, metrics)).await;
        let parts = opened.map_err(|error| {
            Error::caused_by(ErrorKind::Internal, "opening the engine broke off", error)
        })??;
        let engine = Self::assemble(parts);
        let started = std::time::Instant::now();
        engine.recover().await?;
        engine.shared().metrics.recovery_seconds.set(started.elapsed().as_secs_f64());
        engine.start_watching();
        Ok(engine)
    }

    async fn recover(&self) -> Result<()> {
        let shared = self.shared();
        let (reply, fds) = shared.link.call("ask the keeper what it holds", Request::List, &[]).await?;
        let Reply::List { processes, namespaces } = reply else {
            return Err(Error::internal("the keeper answered List with something else"));
        };
        let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
        let mut spaces: HashMap<String, BTreeMap<NamespaceKind, OwnedFd>> = HashMap::new();
        let inits: HashMap<String, u32> =
            namespaces.iter().filter_map(|held| Some((held.key.clone(), held.init_pid?))).collect();
        for held in namespaces {
            let entry = spaces.entry(held.key).or_default();
            for (kind, index) in held.namespaces {
                if let Some(fd) = take(&mut fds, index) {
                    entry.insert(kind, fd);
                }
            }
        }
        let known: HashSet<String> = processes.iter().map(|process| process.id.clone()).collect();
        let mut held: HashMap<String, Held> = HashMap::new();
        for process in processes {
            if process.exec_in.is_some() {
                shared.metrics.leftovers.get(Leftover::Exec).inc();
                self.drop_orphan(&process.id, false).await;
            } else {
                held.insert(process.id.clone(), process);
            }
        }
        let shared_for_read = Arc::clone(shared);
        let records = shared.blocking.run(Purpose::Lifecycle, move || read_records(&shared_for_read)).await?;
        for record in records {
            let namespaces = spaces.remove(record.id.as_str()).unwrap_or_default();
            let init_pid = inits.get(record.id.as_str()).copied();
            let adopted = Adopted { namespaces, init_pid, ..Adopted::default() };
            self.adopt(record, adopted, &mut held, &mut fds);
        }
        for (id, process) in held {
            shared.metrics.leftovers.get(Leftover::Container).inc();
            tracing::warn!(container = %id, pid = process.pid, "the keeper holds a container that no record names; it is ended");
            if let Some(pidfd) = take(&mut fds, process.pidfd) {
                let _ = sys::pidfd::signal(pidfd.as_fd(), 9);
            }
            self.drop_orphan(&id, true).await;
        }
        for key in spaces.into_keys() {
            shared.metrics.leftovers.get(Leftover::Namespaces).inc();
            tracing::warn!(sandbox = %key, "the keeper holds namespaces that no record names; they are dropped");
            let request = Request::DropNamespaces { key };
            drop(shared.link.call("drop namespaces that nobody owns", request, &[]).await);
        }
        crate::durable::recover(shared).await?;
        shared.link.forget_unclaimed();
        crate::watch::watch_orphans(shared, &shared.shutdown, |id| !known.contains(id.as_str()));
        self.sweep().await
    }

    async fn drop_orphan(&self, id: &str, _container: bool) {
        let request = Request::Release { id: id.to_owned() };
        drop(self.shared().link.call("release what nobody owns", request, &[]).await);
    }

    fn adopt(
        &self,
        mut record: SandboxRecord,
        mut adopted: Adopted,
        held: &mut HashMap<String, Held>,
        fds: &mut [Option<OwnedFd>],
    ) {
        let shared = self.shared();
        for container in &mut record.containers {
            let of_keeper = held.remove(container.id.as_str());
            adopt_container(shared, &record.id, container, of_keeper, fds, &mut adopted);
        }
        shared.adopt_names(&record);
        if let Some(networking) = &record.config.user_networking {
            let joiner = Joiner { sandbox: &record.id, networking, hostname: &record.hostname };
            shared.networks.enter_again(&joiner, &record.endpoints);
        }
        let handle = sandbox::adopt(shared, record, adopted);
        shared.insert_sandbox(handle);
    }

    /// Removes what no record owns: addresses, links, rules, snapshots.
    async fn sweep(&self) -> Result<()> {
        let shared = Arc::clone(self.shared());
        let work = move || {
            let mut valid = Vec::new();
            let mut containers = shared.durables.in_use();
            for handle in shared.handles() {
                let status = handle.status();
                let valid_here = |ifname: &str| network::ValidAttachment {
                    sandbox: handle.id.clone(),
                    ifname: ifname.to_owned(),
                };
                match &status.config.user_networking {
                    None => valid.push(valid_here(crate::engine::IFNAME)),
                    Some(_) => valid.extend(status.endpoints.iter().map(|e| valid_here(&e.ifname))),
                }
                containers.extend(status.containers.iter().map(|c| c.id.clone()));
            }
            let report = shared.network.gc(&valid);
            shared.metrics.leftovers.get(Leftover::Attachment).inc_by(report.attachments as u64);
            shared.metrics.leftovers.get(Leftover::Link).inc_by(report.links as u64);
            if report.attachments + report.links > 0 {
                tracing::info!(
                    attachments = report.attachments,
                    links = report.links,
                    "swept network leftovers"
                );
            }
            for snapshot in shared.storage.list_snapshots() {
                if !containers.contains(&snapshot.key) {
                    shared.metrics.leftovers.get(Leftover::Snapshot).inc();
                    match shared.storage.remove(&snapshot.key) {
                        Ok(trash) => drop(trash.empty()),
                        Err(error) => tracing::warn!(%error, "a leftover snapshot could not be removed"),
                    }
                }
            }
            shared.storage.empty_trash().and_then(storage::Trash::empty)
        };
        if let Err(error) = self.shared().blocking.run(Purpose::Images, work).await? {
            tracing::warn!(%error, "the trash could not be emptied");
        }
        Ok(())
    }
}

fn adopt_container(
    shared: &Arc<Shared>,
    sandbox: &SandboxId,
    container: &mut ContainerRecord,
    of_keeper: Option<Held>,
    fds: &mut [Option<OwnedFd>],
    adopted: &mut Adopted,
) {
    let Some(held) = of_keeper else {
        if let Some(live) = orphan(shared, sandbox, container) {
            adopted.running.push((container.id.clone(), live));
            return;
        }
        if matches!(container.state, ContainerState::Running { .. })
            || (container.start_asked && container.state == ContainerState::Created)
        {
            // The keeper does not know it: it ended with a keeper, and how is not known.
            let exit = Exit { code: 255, signal: None, at_ns: sys::fs::now_ns(), unknown: true };
            adopted.exits.push((container.id.clone(), exit));
        }
        return;
    };
    if matches!(container.state, ContainerState::Exited(_)) {
        return;
    }
    let known = match container.state {
        ContainerState::Running { pid, start_time, .. } => (pid, start_time) == (held.pid, held.start_time),
        ContainerState::Created | ContainerState::Exited(_) => false,
    };
    // What clients were told before stays as it was.
    if !known {
        container.state = ContainerState::Running {
            pid: held.pid,
            start_time: held.start_time,
            started_at_ns: held.started_at_ns,
        };
    }
    if let Some(exit) = held.exit {
        adopted.exits.push((container.id.clone(), exit));
        return;
    }
    match live_container(shared, container, &held, fds) {
        Ok(live) => adopted.running.push((container.id.clone(), live)),
        Err(error) => {
            tracing::warn!(container = %container.id, error = error.chain(), "a running container is only partly reachable");
        }
    }
}

/// A container that runs although the keeper does not know it: another keeper started it and is gone. Its pid
/// and start time say whether the process is still the one that was recorded.
fn orphan(shared: &Arc<Shared>, sandbox: &SandboxId, container: &ContainerRecord) -> Option<LiveContainer> {
    let ContainerState::Running { pid, start_time, .. } = container.state else { return None };
    let pidfd = sys::pidfd::open(pid).ok()?;
    if sys::pidfd::start_time(pid).ok()? != start_time || !sys::pidfd::is_running(pidfd.as_fd()).ok()? {
        return None;
    }
    tracing::warn!(container = %container.id, pid, "a container has lost its keeper: its log and its streams are gone");
    let held = Held {
        id: container.id.to_string(),
        sandbox: sandbox.to_string(),
        exec_in: None,
        pid,
        start_time,
        pidfd: 0,
        stdin: None,
        terminal: None,
        stdout: None,
        stderr: None,
        origin: None,
        started_at_ns: 0,
        exit: None,
    };
    live_container(shared, container, &held, &mut [Some(pidfd)]).ok()
}

fn live_container(
    shared: &Arc<Shared>,
    container: &ContainerRecord,
    held: &Held,
    fds: &mut [Option<OwnedFd>],
) -> Result<LiveContainer> {
    let cgroup = shared
        .cgroups
        .open(&container.cgroup_path)
        .map_err(|error| Error::caused_by(ErrorKind::Internal, "open the container's cgroup", error))?;
    let pidfd = take(fds, held.pidfd).ok_or_else(|| Error::internal("the keeper sent no pidfd"))?;
    Ok(LiveContainer {
        pid: held.pid,
        pidfd,
        stdin: Mutex::new(held.stdin.and_then(|index| take(fds, index))),
        terminal: held.terminal.and_then(|index| take(fds, index)),
        example: OnceLock::new(),
        stats: Mutex::new(cgroup.reader()),
        keeping: held.origin.clone().map(|origin| Keeping {
            sandbox: held.sandbox.clone(),
            origin,
            start_time: held.start_time,
            started_at_ns: held.started_at_ns,
            stdout: held.stdout.and_then(|index| take(fds, index)),
            stderr: held.stderr.and_then(|index| take(fds, index)),
        }),
    })
}

fn take(fds: &mut [Option<OwnedFd>], index: usize) -> Option<OwnedFd> {
    fds.get_mut(index).and_then(Option::take)
}

/// Reads the records of this boot; older ones, and what cannot be read, are put out of the way.
fn read_records(shared: &Shared) -> Vec<SandboxRecord> {
    let dir = shared.config.state.join("sandboxes");
    let Ok(entries) = std::fs::read_dir(&dir) else { return Vec::new() };
    let mut records = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        match SandboxRecord::read(&path) {
            Ok(record) if record.boot_id == shared.boot_id => records.push(record),
            Ok(record) => {
                tracing::info!(sandbox = %record.id, "a sandbox of an earlier boot is forgotten");
                shared.metrics.leftovers.get(Leftover::Record).inc();
                forget_directory(&path);
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the record of a sandbox cannot be read; what it held is swept");
                shared.metrics.leftovers.get(Leftover::Record).inc();
                forget_directory(&path);
            }
        }
    }
    records
}

fn forget_directory(path: &Path) {
    if let Err(error) = crate::files::remove(path) {
        tracing::warn!(path = %path.display(), %error, "a leftover directory could not be removed");
    }
}

fn open_parts(config: Config, metrics: Arc<Metrics>) -> Result<Parts> {
    let boot_id = sys::fs::boot_id().map_err(|error| Error::io("read the boot id", error))?;
    for (dir, mode) in [(&config.root, 0o700), (&config.state, 0o711)] {
        sys::fs::ensure_directories(dir, mode)
            .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
    }
    let sandboxes = config.state.join("sandboxes");
    sys::fs::ensure_directory(&sandboxes, 0o711)
        .map_err(|error| Error::io(format!("make {}", sandboxes.display()), error))?;
    let (storage, images) = open_images(&config, &metrics)?;
    let cgroups = sys::cgroup::Layout::detect(&config.cgroups.root, Path::new("/proc")).map_err(|error| {
        Error::io(format!("find the cgroups below {}", config.cgroups.root.display()), error)
    })?;
    let network = network::Network::open(network_options(&config)?)
        .map_err(|error| Error::caused_by(ErrorKind::Internal, "open the networks", error))?;
    let networks = open_networks(&config, &network)?;
    let volumes = Volumes::open(&config.root)?;
    let (host, degraded) = host_facts(&config, &cgroups);
    let seccomp =
        Profiles::load(config.containers.seccomp_profile.as_deref(), &config.containers.seccomp_dir)?;
    let link = Link::open(
        &config.keeper_socket,
        config.keeper_program.as_deref(),
        &config.state,
        Arc::clone(&metrics),
    )?;
    Ok(Parts {
        boot_id,
        host,
        link,
        metrics,
        storage,
        images,
        network: Arc::new(network),
        networks,
        volumes,
        cgroups: Arc::new(cgroups),
        seccomp,
        degraded,
        config,
    })
}

fn open_images(config: &Config, metrics: &Arc<Metrics>) -> Result<(Arc<storage::Store>, Images)> {
    let content = content::Store::open(&config.root.join("content"))
        .map_err(|error| Error::caused_by(ErrorKind::Internal, "open the content store", error))?;
    let options = storage::Options {
        keep_layer_blobs: !config.images.discard_unpacked_layers,
        ..storage::Options::default()
    };
    let root = config.root.join("storage");
    let storage = storage::Store::open(&root, Arc::new(content), options)
        .map_err(|error| sandbox::storage_error(format!("open the image store {}", root.display()), error))?;
    let storage = Arc::new(storage);
    let mut client = image::Config::new(concat!("berth/", env!("CARGO_PKG_VERSION")));
    client.config_path.clone_from(&config.images.registry_config_dir);
    client.credentials.clone_from(&config.images.credentials);
    client.max_concurrent_downloads = config.images.max_concurrent_downloads;
    client.stall_timeout = config.images.progress_timeout;
    let client = image::Client::new(client)
        .map_err(|error| Error::caused_by(ErrorKind::Internal, "make the registry client", error))?;
    let images = Images::new(client, Arc::clone(&storage), config.images.pinned.clone(), Arc::clone(metrics));
    Ok((storage, images))
}

/// Reads the definitions of networks and makes what is missing of them in the kernel.
fn open_networks(config: &Config, kernel: &network::Network) -> Result<Networks> {
    let pods = config.network.default_subnets.iter().filter_map(|text| text.parse().ok()).collect();
    let dir = config.root.join("networks");
    let networks = Networks::open(dir, config.network.user.clone(), pods)?;
    networks.restore(kernel);
    Ok(networks)
}

fn network_options(config: &Config) -> Result<network::Options> {
    let subnets = &config.network.default_subnets;
    let invalid = |text: &str| {
        Error::invalid(format!("default subnet {text:?} is not an address with a prefix length"))
    };
    let mut subnet = None;
    let mut subnet6 = None;
    for text in subnets {
        match text.parse().map_err(|_| invalid(text))? {
            ipnet::IpNet::V4(net) => subnet = Some(net),
            ipnet::IpNet::V6(net) => subnet6 = Some(net),
        }
    }
    Ok(network::Options {
        conf_dir: config.network.conf_dir.clone(),
        bin_dirs: config.network.bin_dirs.clone(),
        state_dir: config.state.join("network"),
        table: "berth".to_owned(),
        bridge: "berth0".to_owned(),
        subnet: subnet.ok_or_else(|| Error::invalid("the default network needs an IPv4 subnet"))?,
        subnet6,
        plugin_timeout: config.network.plugin_timeout,
        exec_builtin: false,
    })
}

/// What this host can do, and a sentence for everything it cannot.
fn host_facts(config: &Config, cgroups: &sys::cgroup::Layout) -> (HostFacts, Vec<String>) {
    let held = sys::caps::held().unwrap_or_default().permitted;
    let capabilities: Vec<String> = held.names().collect();
    let kernel = sys::seccomp::KernelVersion::current();
    let (apparmor, trouble) = crate::apparmor::prepare();
    let mut degraded: Vec<String> = trouble.into_iter().collect();
    let missing: Vec<String> = sys::caps::Set::known().without(held).names().collect();
    if !missing.is_empty() {
        degraded.push(format!(
            "the daemon lacks {}: privileged containers cannot have them, and what needs them is limited",
            missing.join(", ")
        ));
    }
    if cgroups.version() != sys::cgroup::Version::V2 {
        degraded.push(
            "resource controllers are on cgroup v1: pressure figures and unified settings are not available"
                .to_owned(),
        );
    }
    let selinux = config.containers.selinux && std::fs::read("/sys/fs/selinux/enforce").is_ok();
    let facts = HostFacts {
        capabilities,
        apparmor,
        selinux,
        kernel: (kernel.major, kernel.minor),
        cgroup_v2: cgroups.version() == sys::cgroup::Version::V2,
        nofile_hard: sys::host::open_file_limits().map_or(1 << 20, |(_, hard)| hard),
    };
    (facts, degraded)
}
