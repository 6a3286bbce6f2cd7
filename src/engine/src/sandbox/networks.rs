//! User networks of a sandbox: joining them when it comes up, and changes while it is up.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use keeper::protocol::NamespaceKind;

use super::task::Task;
use crate::blocking::Purpose;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{EndpointStatus, IpAddress, NetworkEndpointConfig, UserNetworking};
use crate::networks::{self, Joiner, NetworkProblem, Resolver, ResolverContext, Upstreams};
use crate::record::Phase;

impl Task {
    /// Joins the networks that the sandbox is to be on. The plan is on record before anything is made.
    pub(super) async fn join_networks(&mut self, networking: &UserNetworking) -> Result<()> {
        let joiner = Joiner { sandbox: &self.record.id, networking, hostname: &self.record.hostname };
        self.record.endpoints = self.shared.networks.plan(&joiner, &networking.endpoints, &[])?;
        self.persist().await?;
        let networking = networking.clone();
        let (endpoints, ports) = self
            .in_network(move |shared, joining| {
                let mut planned = joining.endpoints;
                let joiner = Joiner {
                    sandbox: &joining.sandbox,
                    networking: &networking,
                    hostname: &joining.hostname,
                };
                let ports = shared.join_networks(&joiner, joining.netns.as_fd(), &mut planned)?;
                Ok((planned, ports))
            })
            .await?;
        self.record.bound_ports = ports;
        self.set_endpoints(endpoints);
        Ok(())
    }

    /// Leaves all networks; what could not be left stays on record.
    pub(super) async fn leave_all_networks(&mut self) -> Result<()> {
        let (id, endpoints) = (self.record.id.clone(), self.record.endpoints.clone());
        let (shared, live) = (Arc::clone(&self.shared), self.live.clone());
        let work = move || {
            let namespaces = live.namespaces();
            let netns = namespaces.get(&NamespaceKind::Net).map(AsFd::as_fd);
            shared.leave_networks(&id, netns, &endpoints, false)
        };
        self.shared.blocking.run(Purpose::Lifecycle, work).await??;
        self.record.bound_ports.clear();
        self.set_endpoints(Vec::new());
        Ok(())
    }

    /// Texts of `resolv.conf` and `hosts`; starts the resolver where it is told of. `None` without user networks.
    pub(super) async fn name_files(&mut self) -> Result<Option<(String, String)>> {
        let Some(networking) = self.record.config.user_networking.clone() else { return Ok(None) };
        let endpoints = &self.record.endpoints;
        let extra = networks::extra_hosts(&self.shared.networks, &networking, endpoints)?;
        let addresses: Vec<IpAddr> = self.record.addresses.iter().map(|a| a.ip).collect();
        let has_ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        let hosts = networks::hosts(&self.host_names(&networking), &addresses, &extra, has_ipv6);
        let host = self.shared.blocking.run(Purpose::Reading, networks::host_dns).await?;
        let has_names = endpoints.iter().any(|e| !e.dns_names.is_empty());
        let resolution = networks::resolution(self.record.config.dns.as_ref(), &host, has_names);
        if resolution.needs_resolver && !endpoints.is_empty() {
            self.serve_names().await?;
        }
        Ok(Some((resolution.text, hosts)))
    }

    /// After a restart of the daemon: leaves what was only half joined or left, and answers questions again.
    pub(super) async fn take_over_networks(&mut self) {
        if self.record.phase != Phase::Ready || self.record.endpoints.is_empty() {
            return;
        }
        if let Err(error) = self.leave_unfinished().await {
            tracing::warn!(error = error.chain(), "an attachment that was not finished is still there");
        }
        self.serve_names_again().await;
    }

    /// A live change that the daemon did not see to its end is undone, or finished, if it took something away.
    async fn leave_unfinished(&mut self) -> Result<()> {
        let is_made = |e: &EndpointStatus| {
            !e.mac.is_empty() && self.shared.network.attached(&self.record.id, &e.ifname).is_some()
        };
        let (made, unfinished): (Vec<_>, Vec<_>) = self.record.endpoints.iter().cloned().partition(is_made);
        if unfinished.is_empty() {
            return Ok(());
        }
        tracing::info!(count = unfinished.len(), "attachments that were not finished are undone");
        let rest = made.clone();
        self.in_network(move |shared, joining| {
            let netns = joining.netns.as_fd();
            shared.leave_networks(&joining.sandbox, Some(netns), &unfinished, true)?;
            shared.lead_out(&joining.sandbox, netns, &rest)
        })
        .await?;
        self.set_endpoints(made);
        self.persist().await?;
        self.publish();
        Ok(())
    }

    async fn serve_names_again(&mut self) {
        let has_names = self.record.endpoints.iter().any(|e| !e.dns_names.is_empty());
        if self.resolver.is_some() || self.record.endpoints.is_empty() {
            return;
        }
        let told = self.shared.blocking.run(Purpose::Reading, networks::host_dns).await.map(|host| {
            networks::resolution(self.record.config.dns.as_ref(), &host, has_names).needs_resolver
        });
        if !matches!(told, Ok(true)) {
            return;
        }
        if let Err(error) = self.serve_names().await {
            tracing::warn!(error = error.chain(), "names of containers are not answered in this sandbox");
        }
    }

    async fn serve_names(&mut self) -> Result<()> {
        let what = || format!("serve names to sandbox {}", self.record.id.short());
        let sockets = self
            .in_network(|_, joining| {
                Resolver::open(joining.netns.as_fd())
                    .map_err(|error| Error::io("make the sockets of the resolver", error))
            })
            .await?;
        let servers = self.record.config.dns.as_ref().map(|dns| dns.servers.clone()).unwrap_or_default();
        let upstreams = Upstreams::of(&servers);
        let context = ResolverContext {
            networks: Arc::clone(&self.shared.networks),
            blocking: Arc::clone(&self.shared.blocking),
            tracker: self.shared.tracker.clone(),
            shutdown: self.shared.shutdown.clone(),
        };
        let resolver = Resolver::serve(context, &self.live, &self.record.id, sockets, upstreams);
        self.resolver = Some(resolver.map_err(|error| Error::io(what(), error))?);
        Ok(())
    }

    /// Joins one more network while the sandbox is up.
    pub(super) async fn connect(&mut self, config: NetworkEndpointConfig) -> Result<()> {
        let networking = self.own_networking()?;
        let joiner =
            Joiner { sandbox: &self.record.id, networking: &networking, hostname: &self.record.hostname };
        let planned = self.shared.networks.plan(&joiner, &[config], &self.record.endpoints)?;
        let before = self.record.endpoints.clone();
        self.record.endpoints.extend(planned.clone());
        self.persist().await?;
        let names = self.host_names(&networking);
        let hosts = self.dir.join("hosts");
        let joined = self
            .in_network(move |shared, joining| {
                let joiner = Joiner {
                    sandbox: &joining.sandbox,
                    networking: &networking,
                    hostname: &joining.hostname,
                };
                let netns = joining.netns.as_fd();
                let mut planned = planned;
                let mut all = joining.endpoints;
                let mut join = || {
                    for endpoint in &mut planned {
                        shared.join_one(&joiner, netns, endpoint, &[])?;
                    }
                    all.truncate(all.len().saturating_sub(planned.len()));
                    all.extend(planned.iter().cloned());
                    shared.lead_out(joiner.sandbox, netns, &all)
                };
                if let Err(error) = join() {
                    drop(shared.leave_networks(joiner.sandbox, Some(netns), &planned, true));
                    return Err(error);
                }
                let added: Vec<IpAddr> = networks::addresses(&planned).iter().map(|n| n.addr()).collect();
                edit_hosts(&hosts, &names, &added, &[]);
                Ok(all)
            })
            .await;
        match joined {
            Ok(endpoints) => self.set_endpoints(endpoints),
            Err(error) => {
                self.set_endpoints(before);
                self.persist_or_warn().await;
                return Err(error);
            }
        }
        self.persist().await?;
        if self.resolver.is_none() && self.record.endpoints.iter().any(|e| !e.dns_names.is_empty()) {
            self.start_using_names().await?;
        }
        self.publish();
        Ok(())
    }

    /// Leaves a network while the sandbox is up.
    pub(super) async fn disconnect(&mut self, network: &str) -> Result<()> {
        let networking = self.own_networking()?;
        let found =
            self.record.endpoints.iter().find(|e| e.network_id == network || e.network_name == network);
        let Some(leaving) = found.cloned() else {
            let problem = NetworkProblem::NotAttached {
                container: networking.container_name.clone(),
                network: network.to_owned(),
            };
            return Err(Error::caused_by(ErrorKind::FailedPrecondition, "leave the network", problem));
        };
        let names = self.host_names(&networking);
        let hosts = self.dir.join("hosts");
        let endpoints = self
            .in_network(move |shared, joining| {
                let netns = joining.netns.as_fd();
                let mut rest = joining.endpoints;
                rest.retain(|e| e.endpoint_id != leaving.endpoint_id);
                let leaving = [leaving];
                // Ports move first: they belong to the sandbox, not to the network that is left.
                shared.lead_out(&joining.sandbox, netns, &rest)?;
                shared.leave_networks(&joining.sandbox, Some(netns), &leaving, true)?;
                let gone: Vec<IpAddr> = networks::addresses(&leaving).iter().map(|n| n.addr()).collect();
                edit_hosts(&hosts, &names, &[], &gone);
                Ok(rest)
            })
            .await?;
        self.set_endpoints(endpoints);
        self.persist().await?;
        self.publish();
        Ok(())
    }

    /// Gives the container another name on its networks.
    pub(super) async fn rename_in_networks(&mut self, name: String) -> Result<()> {
        let mut networking = self.own_networking()?;
        let old = std::mem::replace(&mut networking.container_name, name.clone());
        for endpoint in &mut self.record.endpoints {
            for known in endpoint.dns_names.iter_mut().filter(|n| **n == old) {
                known.clone_from(&name);
            }
        }
        let joiner =
            Joiner { sandbox: &self.record.id, networking: &networking, hostname: &self.record.hostname };
        self.shared.networks.enter_again(&joiner, &self.record.endpoints);
        self.record.config.user_networking = Some(Box::new(networking));
        self.persist().await
    }

    /// A container that had no names to look up gets on a network that has some.
    async fn start_using_names(&mut self) -> Result<()> {
        let host = self.shared.blocking.run(Purpose::Reading, networks::host_dns).await?;
        let resolution = networks::resolution(self.record.config.dns.as_ref(), &host, true);
        self.serve_names().await?;
        let path = self.dir.join("resolv.conf");
        let work = move || networks::replace_in_place(&path, &resolution.text);
        let what = format!("write resolv.conf of sandbox {}", self.record.id.short());
        self.shared.blocking.run(Purpose::Lifecycle, work).await?.map_err(|error| Error::io(what, error))
    }

    fn own_networking(&self) -> Result<UserNetworking> {
        if self.record.phase != Phase::Ready {
            return Err(Error::precondition(format!("sandbox {} is not up", self.record.id.short())));
        }
        self.record.config.user_networking.as_deref().cloned().ok_or_else(|| {
            Error::precondition("a sandbox on the node's own network cannot join or leave others")
        })
    }

    /// Names of the container in its `hosts`.
    fn host_names(&self, networking: &UserNetworking) -> String {
        let hostname = &self.record.hostname;
        if networking.domainname.is_empty() {
            hostname.clone()
        } else {
            format!("{hostname}.{} {hostname}", networking.domainname)
        }
    }

    fn set_endpoints(&mut self, endpoints: Vec<EndpointStatus>) {
        self.record.addresses = networks::addresses(&endpoints)
            .iter()
            .map(|net| IpAddress { ip: net.addr(), prefix_len: net.prefix_len() })
            .collect();
        self.record.endpoints = endpoints;
    }

    /// Runs work that blocks with the sandbox' network namespace.
    async fn in_network<T: Send + 'static>(
        &self,
        work: impl FnOnce(&crate::engine::Shared, Joining<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (shared, live) = (Arc::clone(&self.shared), self.live.clone());
        let sandbox = self.record.id.clone();
        let hostname = self.record.hostname.clone();
        let endpoints = self.record.endpoints.clone();
        let work = move || {
            let namespaces = live.namespaces();
            let netns = namespaces
                .get(&NamespaceKind::Net)
                .ok_or_else(|| Error::internal("the sandbox has no network namespace"))?;
            work(&shared, Joining { sandbox, hostname, endpoints, netns })
        };
        self.shared.blocking.run(Purpose::Lifecycle, work).await?
    }
}

/// What work on a sandbox' networks is given.
struct Joining<'a> {
    sandbox: oci::SandboxId,
    hostname: String,
    endpoints: Vec<EndpointStatus>,
    netns: &'a std::os::fd::OwnedFd,
}

/// Only names depend on it: the network is as it should be already.
fn edit_hosts(path: &std::path::Path, names: &str, add: &[IpAddr], remove: &[IpAddr]) {
    if let Err(error) = networks::edit_hosts(path, names, add, remove) {
        tracing::warn!(path = %path.display(), %error, "hosts could not be brought up to date");
    }
}
