//! Bringing a sandbox up: namespaces, network, files. Whatever fails, everything made so far is taken down
//! again; only when that fails, too, the sandbox stays, not ready, so that its owner can remove it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use keeper::protocol::{NamespaceKind, NamespaceSpec, Reply as KeeperReply, Request};
use oci::SandboxId;
use tokio::sync::watch;
use tracing::Instrument;

use super::task::Task;
use crate::blocking::Purpose;
use crate::engine::{Engine, to_network_port};
use crate::error::{Error, ErrorKind, Result};
use crate::events::EventKind;
use crate::files;
use crate::model::{IpAddress, NamespaceMode, SandboxConfig};
use crate::names::{Progress, enter};
use crate::record::Phase;
use crate::traces::step;

/// The host name a sandbox' containers see.
pub(super) fn hostname(config: &SandboxConfig, id: &SandboxId) -> String {
    if config.namespaces.network == NamespaceMode::Host {
        sys::host::hostname()
    } else if config.hostname.is_empty() {
        id.short().to_owned()
    } else {
        config.hostname.clone()
    }
}

impl Task {
    /// Brings the sandbox up and tells `progress`. `false` means that nothing of it is left and the task ends.
    pub(super) async fn bring_up(&mut self, progress: watch::Sender<Progress<SandboxId>>) -> bool {
        let started = Instant::now();
        let outcome = self.try_bring_up(&progress).await;
        self.shared.metrics.sandbox_starts.ended(started, &outcome);
        let id = self.record.id.clone();
        match outcome {
            Ok(()) => {
                tracing::info!(pod = %self.record.config.metadata.name, "sandbox started");
                self.announce(EventKind::Created, None);
                self.announce(EventKind::Started, None);
                progress.send_modify(|p| p.outcome = Some(Ok(id)));
                true
            }
            Err(error) => {
                tracing::warn!(error = error.chain(), "sandbox could not be started");
                enter(&progress, "roll back");
                self.record.phase = Phase::Stopping;
                let cleaned = match self.take_down().await {
                    Ok(()) => self.remove_directory().await,
                    Err(error) => Err(error),
                };
                if let Err(trouble) = &cleaned {
                    tracing::warn!(
                        error = trouble.chain(),
                        "roll-back failed; the sandbox stays until it is removed"
                    );
                    self.publish();
                } else {
                    self.shared.forget_sandbox(&self.record);
                }
                progress.send_modify(|p| p.outcome = Some(Err(error)));
                cleaned.is_err()
            }
        }
    }

    async fn try_bring_up(&mut self, progress: &watch::Sender<Progress<SandboxId>>) -> Result<()> {
        enter(progress, "record the intent");
        let joins_network = self.record.config.joined.network.is_some();
        let wants_network = self.record.config.namespaces.network != NamespaceMode::Host && !joins_network;
        self.record.has_namespaces = true;
        self.prepare_directory().await?;
        enter(progress, "create namespaces");
        self.create_namespaces().instrument(step!("create namespaces")).await?;
        if wants_network {
            enter(progress, "set up the network");
            let started = Instant::now();
            let span = step!("set up the network");
            let attached = match self.record.config.user_networking.clone() {
                Some(networking) => self.join_networks(&networking).instrument(span).await,
                None => self.attach_network().instrument(span).await,
            };
            self.shared.metrics.network_attaches.ended(started, &attached);
            attached?;
        }
        enter(progress, "write files");
        let write = async {
            let texts = self.name_files().await?;
            self.write_files(texts).await
        };
        write.instrument(step!("write files")).await?;
        self.record.phase = Phase::Ready;
        self.publish();
        Ok(())
    }

    async fn prepare_directory(&mut self) -> Result<()> {
        let (dir, record) = (self.dir.clone(), self.record.clone());
        let work = move || {
            sys::fs::ensure_directory(&dir, 0o711)?;
            record.write(&dir)
        };
        let what = format!("make {}", self.dir.display());
        self.shared.blocking.run(Purpose::Lifecycle, work).await?.map_err(|error| Error::io(what, error))
    }

    async fn create_namespaces(&mut self) -> Result<()> {
        let spec = self.namespace_spec()?;
        let joined = self.joined_namespaces()?;
        if spec == NamespaceSpec::default() {
            self.live.set_namespaces(joined);
            return Ok(());
        }
        let request = Request::CreateNamespaces { key: self.record.id.to_string(), spec };
        let (reply, fds) = self.shared.link.call("create the sandbox' namespaces", request, &[]).await?;
        let KeeperReply::Namespaces { kinds, init_pid } = reply else {
            return Err(Error::internal("the keeper answered CreateNamespaces with something else"));
        };
        let namespaces = kinds.into_iter().zip(fds).chain(joined).collect();
        self.live.set_init_pid(init_pid);
        self.live.set_namespaces(namespaces);
        Ok(())
    }

    /// Namespaces of other sandboxes that this one uses.
    fn joined_namespaces(&self) -> Result<BTreeMap<NamespaceKind, OwnedFd>> {
        let joined = &self.record.config.joined;
        let mut found = BTreeMap::new();
        let wanted = [
            (&joined.network, NamespaceKind::Net),
            (&joined.network, NamespaceKind::Uts),
            (&joined.ipc, NamespaceKind::Ipc),
        ];
        for (sandbox, kind) in wanted {
            let Some(sandbox) = sandbox else { continue };
            let handle = Engine::of(&self.shared).sandbox(sandbox.as_str())?;
            let namespaces = handle.live.namespaces();
            let fd = namespaces.get(&kind).ok_or_else(|| {
                let what = format!("sandbox {} has no {kind:?} namespace to join", sandbox.short());
                Error::precondition(what)
            })?;
            let failed =
                |error| Error::io(format!("join the {kind:?} namespace of {}", sandbox.short()), error);
            found.insert(kind, fd.try_clone().map_err(failed)?);
        }
        Ok(found)
    }

    fn namespace_spec(&self) -> Result<NamespaceSpec> {
        let config = &self.record.config;
        let modes = &config.namespaces;
        let own = |mode: &NamespaceMode| *mode != NamespaceMode::Host;
        let net = own(&modes.network) && config.joined.network.is_none();
        let mut sysctls = config.sysctls.clone();
        if net && self.shared.config.containers.unprivileged_ports && modes.user.is_none() {
            sysctls.entry("net.ipv4.ip_unprivileged_port_start".into()).or_insert_with(|| "0".into());
            sysctls.entry("net.ipv4.ping_group_range".into()).or_insert_with(|| "0 2147483647".into());
        }
        let pid = modes.pid == NamespaceMode::Sandbox;
        let init_cgroups = if pid { self.init_cgroups()? } else { Vec::new() };
        let mut spec = NamespaceSpec {
            net,
            ipc: own(&modes.ipc) && config.joined.ipc.is_none(),
            uts: net,
            pid,
            user: modes.user.as_ref().map(|u| u.maps.clone()),
            hostname: None,
            sysctls,
            init_cgroups,
            init_oom_score_adj: pid.then_some(-998),
        };
        spec.hostname = spec.uts.then(|| self.record.hostname.clone());
        Ok(spec)
    }

    /// The init of a shared PID namespace gets a cgroup beside the containers'.
    fn init_cgroups(&self) -> Result<Vec<std::path::PathBuf>> {
        let path = self.init_cgroup_path();
        let cgroup =
            self.shared.cgroups.create(&path).map_err(|error| {
                Error::caused_by(ErrorKind::Internal, format!("create cgroup {path}"), error)
            })?;
        Ok(cgroup.dirs())
    }

    pub(super) fn init_cgroup_path(&self) -> String {
        self.shared.cgroup_path(&self.record.config.cgroup_parent, self.record.id.as_str())
    }

    async fn attach_network(&mut self) -> Result<()> {
        let conflist = self.shared.conflist(&self.record.config.runtime_handler)?;
        self.record.network = Some(conflist.name().to_owned());
        let (intent, dir) = (self.record.clone(), self.dir.clone());
        let config = self.record.config.clone();
        let id = self.record.id.clone();
        let network = self.shared.network.clone();
        let live = self.live.clone();
        let work = move || {
            intent.store(&dir)?;
            let namespaces = live.namespaces();
            let netns = namespaces
                .get(&NamespaceKind::Net)
                .ok_or_else(|| Error::internal("the sandbox has no network namespace to attach"))?;
            let ports: Vec<_> =
                config.ports.iter().filter(|p| p.host_port != 0).map(to_network_port).collect();
            let metadata = &config.metadata;
            let args = [
                ("IgnoreUnknown", "1".to_owned()),
                ("K8S_POD_NAMESPACE", metadata.namespace.clone()),
                ("K8S_POD_NAME", metadata.name.clone()),
                ("K8S_POD_INFRA_CONTAINER_ID", id.to_string()),
                ("K8S_POD_UID", metadata.uid.clone()),
            ]
            .map(|(k, v)| (k.to_owned(), v));
            let capabilities = network::Capabilities::default();
            let attachment = network::Attachment {
                sandbox: &id,
                netns: netns.as_fd(),
                netns_path: None,
                conflist: &conflist,
                ifname: crate::engine::IFNAME,
                ports: &ports,
                cni_args: &args,
                capabilities: &capabilities,
            };
            network.attach(&attachment).map_err(network_error)
        };
        let attached = self.shared.blocking.run(Purpose::Lifecycle, work).await??;
        self.record.addresses = attached
            .ips
            .iter()
            .map(|ip| IpAddress { ip: ip.address.addr(), prefix_len: ip.address.prefix_len() })
            .collect();
        Ok(())
    }

    /// Writes what containers see of names and addresses, and then that the sandbox is ready.
    async fn write_files(&mut self, texts: Option<(String, String)>) -> Result<()> {
        let config = self.record.config.clone();
        let hostname = self.record.hostname.clone();
        let addresses: Vec<IpAddr> = self.record.addresses.iter().map(|a| a.ip).collect();
        let joined = config.joined.network.as_ref().map(|sandbox| self.shared.sandbox_dir(sandbox));
        let shm_size_bytes = match config.namespaces.ipc {
            _ if config.joined.ipc.is_some() => None,
            NamespaceMode::Host => None,
            _ => Some(config.shm_size_bytes.unwrap_or(self.shared.config.containers.shm_size_bytes)),
        };
        let owner = self.root_owner();
        let dir = self.dir.clone();
        let mut ready = self.record.clone();
        ready.phase = Phase::Ready;
        let what = format!("write the files of sandbox {}", self.record.id.short());
        let work = move || {
            let content = files::Content {
                dns: config.dns.as_ref(),
                texts: texts.as_ref().map(|(resolv, hosts)| (resolv.as_str(), hosts.as_str())),
                hostname: &hostname,
                addresses: &addresses,
                host_network: config.namespaces.network == NamespaceMode::Host,
                shm_size_bytes,
                owner,
            };
            files::write(&dir, &content)
                .and_then(|()| joined.map_or(Ok(()), |of| files::share(&of, &dir)))
                .map_err(|error| Error::io(what, error))?;
            ready.store(&dir)
        };
        self.shared.blocking.run(Purpose::Lifecycle, work).await?
    }

    /// Ids on the host of root in the sandbox.
    pub(super) fn root_owner(&self) -> (u32, u32) {
        let root = |maps: &[keeper::protocol::IdMap]| {
            maps.iter().find(|m| m.container_id == 0 && m.size > 0).map_or(0, |m| m.host_id)
        };
        self.record
            .config
            .namespaces
            .user
            .as_ref()
            .map_or((0, 0), |u| (root(&u.maps.uids), root(&u.maps.gids)))
    }

    /// Takes everything of the sandbox itself out of the kernel. Goes on after a failure and reports all.
    pub(super) async fn take_down(&mut self) -> Result<()> {
        let mut troubles = Vec::new();
        self.resolver = None;
        if let Err(error) = self.leave_networks().await {
            troubles.push(error.chain());
        }
        if self.record.has_namespaces {
            let request = Request::DropNamespaces { key: self.record.id.to_string() };
            match self.shared.link.call("drop the sandbox' namespaces", request, &[]).await {
                Ok(_) => {
                    self.live.set_namespaces(BTreeMap::new());
                    self.live.set_init_pid(None);
                    self.record.has_namespaces = false;
                }
                Err(error) => troubles.push(error.chain()),
            }
        }
        if let Err(error) = self.remove_kernel_objects().await {
            troubles.push(error.chain());
        }
        if troubles.is_empty() {
            return Ok(());
        }
        let text = format!("take down sandbox {}: {}", self.record.id.short(), troubles.join("; "));
        Err(Error::internal(text))
    }

    /// Leaves whatever networks the sandbox is on.
    async fn leave_networks(&mut self) -> Result<()> {
        let started = Instant::now();
        let left = if self.record.config.user_networking.is_some() {
            self.leave_all_networks().await
        } else if self.record.network.is_some() {
            self.detach_network().await
        } else {
            return Ok(());
        };
        self.shared.metrics.network_detaches.ended(started, &left);
        left
    }

    async fn detach_network(&mut self) -> Result<()> {
        let id = self.record.id.clone();
        let network = self.shared.network.clone();
        let live = self.live.clone();
        let work = move || {
            let namespaces = live.namespaces();
            let detachment = network::Detachment {
                sandbox: &id,
                ifname: crate::engine::IFNAME,
                netns: namespaces.get(&NamespaceKind::Net).map(AsFd::as_fd),
                netns_path: None,
                netns_survives: false,
            };
            network.detach(&detachment)
        };
        let detached = self.shared.blocking.run(Purpose::Lifecycle, work).await?;
        detached.map_err(|errors| {
            let texts: Vec<String> = errors.into_iter().map(|e| network_error(e).chain()).collect();
            Error::internal(texts.join("; "))
        })?;
        self.record.network = None;
        Ok(())
    }

    pub(super) async fn remove_directory(&self) -> Result<()> {
        let dir = self.dir.clone();
        let what = format!("remove {}", dir.display());
        let work = move || files::remove(&dir);
        self.shared.blocking.run(Purpose::Lifecycle, work).await?.map_err(|error| Error::io(what, error))
    }

    /// The mount behind `/dev/shm`, the init's cgroup. The files and the record stay.
    async fn remove_kernel_objects(&mut self) -> Result<()> {
        let dir = self.dir.clone();
        let cgroups = self.shared.cgroups.clone();
        let init =
            (self.record.config.namespaces.pid == NamespaceMode::Sandbox).then(|| self.init_cgroup_path());
        let what = format!("remove the files of sandbox {}", self.record.id.short());
        let work = move || {
            files::take_down(&dir)?;
            if let Some(path) = init {
                let cgroup = cgroups.open(&path).map_err(std::io::Error::other)?;
                if cgroup.exists() {
                    cgroup.remove().map_err(std::io::Error::other)?;
                }
            }
            Ok(())
        };
        self.shared.blocking.run(Purpose::Lifecycle, work).await?.map_err(|error| Error::io(what, error))
    }
}

/// Maps the network's outcomes to ours.
pub(crate) fn network_error(error: network::Error) -> Error {
    let kind = match error.kind() {
        network::ErrorKind::Exhausted => ErrorKind::Exhausted,
        network::ErrorKind::Invalid => ErrorKind::InvalidArgument,
        network::ErrorKind::Conflict => ErrorKind::FailedPrecondition,
        _ => ErrorKind::Internal,
    };
    Error::caused_by(kind, "set up the network of the sandbox", error)
}
