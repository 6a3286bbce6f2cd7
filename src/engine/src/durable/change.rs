//! Changing a container: pausing, names, limits, networks.

use std::sync::Arc;

use super::DurableProblem;
use super::supervisor::Supervisor;
use crate::blocking::Purpose;
use crate::error::{Error, ErrorKind, Result};
use crate::happenings::{Action, Subject};
use crate::model::{
    DurableConfig, DurableUpdate, NamespaceMode, NetworkEndpointConfig, Resources, RestartPolicy,
    UserNetworking,
};
use crate::networks::NetworkProblem;
use crate::sandbox::{self, Handle};
use crate::spec;

impl Supervisor {
    /// Takes the CPU from all its processes.
    pub(super) async fn pause(&mut self) -> Result<()> {
        let what = format!("pause container {}", self.record.config.name);
        let run = self.running(&what)?;
        if self.paused {
            return Err(DurableProblem::Paused(self.record.id.clone()).error(what));
        }
        self.freeze(&run, true).await?;
        self.paused = true;
        self.announce(Action::Pause);
        Ok(())
    }

    /// Gives it back.
    pub(super) async fn unpause(&mut self) -> Result<()> {
        let what = format!("let container {} go on", self.record.config.name);
        let run = self.running(&what)?;
        if !self.paused {
            return Err(DurableProblem::NotPaused(self.record.id.clone()).error(what));
        }
        self.freeze(&run, false).await?;
        self.paused = false;
        self.announce(Action::Unpause);
        Ok(())
    }

    /// A frozen process cannot end.
    pub(super) async fn thaw_to_end(&mut self, run: &Handle) {
        if !self.paused {
            return;
        }
        if let Err(error) = self.freeze(run, false).await {
            tracing::warn!(error = error.chain(), "a paused container that is to end cannot go on");
        }
        self.paused = false;
        self.announce(Action::Unpause);
    }

    async fn freeze(&self, run: &Handle, freeze: bool) -> Result<()> {
        let status = run.status();
        let Some(path) = status.containers.first().map(|c| c.cgroup_path.clone()) else { return Ok(()) };
        let cgroups = self.shared.cgroups.clone();
        let what = format!("{} cgroup {path}", if freeze { "freeze" } else { "thaw" });
        let work = move || {
            let cgroup = cgroups.open(&path)?;
            if freeze { cgroup.freeze() } else { cgroup.thaw() }
        };
        self.shared.blocking.run(Purpose::Lifecycle, work).await?.map_err(|error| {
            let kind = match error {
                sys::cgroup::Error::Unsupported { .. } => ErrorKind::Unsupported,
                _ => ErrorKind::Internal,
            };
            Error::caused_by(kind, what, error)
        })
    }

    fn running(&self, what: &str) -> Result<Handle> {
        let id = || self.record.id.clone();
        match (&self.run, self.restart_at) {
            (Some(run), _) => Ok(run.clone()),
            (None, Some(_)) => Err(DurableProblem::Restarting(id()).error(what)),
            (None, None) => Err(DurableProblem::NotRunning(id()).error(what)),
        }
    }

    /// Gives it another name, also on its networks.
    pub(super) async fn rename(&mut self, name: String) -> Result<()> {
        let name = name.strip_prefix('/').map(str::to_owned).unwrap_or(name);
        let old = self.record.config.name.clone();
        if self.record.removing.is_some() {
            let problem = DurableProblem::Removing(self.record.id.clone());
            return Err(problem.error(format!("rename container {old}")));
        }
        if name == old {
            return Err(Error::invalid(format!("container {old} has that name already")));
        }
        self.shared.durables.reserve(&name, &self.record.id)?;
        self.record.config.name.clone_from(&name);
        if let Err(error) = self.persist().await {
            self.record.config.name = old;
            self.shared.durables.release(&name, &self.record.id);
            return Err(error);
        }
        self.shared.durables.release(&old, &self.record.id);
        self.changed();
        if let Some(run) = self.run.clone()
            && has_networks(&self.record.config)
        {
            let renamed = run.ask(|reply| sandbox::Command::RenameInNetworks { name, reply }).await;
            if let Err(error) = renamed {
                tracing::warn!(
                    error = error.chain(),
                    "a container has its old name on its networks until it starts again"
                );
            }
        }
        self.announce(Action::Rename { old_name: old });
        Ok(())
    }

    /// Changes limits and policy: all of it, or nothing.
    pub(super) async fn update(&mut self, update: DurableUpdate) -> Result<()> {
        if update.restart.is_some_and(|policy| policy != RestartPolicy::No) && self.record.config.auto_remove
        {
            let problem = DurableProblem::AutoRemoved(self.record.id.clone());
            return Err(problem.error("change the restart policy"));
        }
        let asked = &update.resources;
        spec::limits(asked)?;
        let wanted = spec::resource_update(&self.record.config.container.resources, asked);
        spec::limits(&wanted)?;
        if let Some(run) = self.run.clone()
            && *asked != Resources::default()
        {
            let (id, resources) = (self.record.id.clone(), Box::new(asked.clone()));
            run.ask(|reply| sandbox::Command::Update { id, resources, reply }).await?;
        }
        let config = &mut self.record.config;
        config.container.resources = wanted;
        if let Some(policy) = update.restart {
            config.restart = policy;
        }
        if let Some(extra) = update.extra {
            config.extra = extra;
        }
        self.persist().await?;
        if self.restart_at.is_some() && self.record.config.restart == RestartPolicy::No {
            self.restart_at = None;
            self.waits.down();
        }
        self.changed();
        self.announce(Action::Update);
        Ok(())
    }

    /// Attaches it to one more network: now if it runs, and at each start from now on.
    pub(super) async fn connect(&mut self, endpoint: NetworkEndpointConfig) -> Result<()> {
        let what = format!("connect container {}", self.record.config.name);
        let network = self.shared.networks.check_endpoint(&endpoint)?;
        let networking = self.own_networking(&what)?;
        if let Some(known) = position(&self.shared, networking, &network.id) {
            // It does not run, and Docker lets one say it again: the last word counts.
            if self.run.is_some() {
                let problem = NetworkProblem::AlreadyAttached {
                    container: self.record.config.name.clone(),
                    network: network.config.name.clone(),
                };
                return Err(Error::caused_by(ErrorKind::FailedPrecondition, what, problem));
            }
            self.networking_mut()?.endpoints.remove(known);
        }
        if let Some(run) = self.run.clone() {
            let config = Box::new(endpoint.clone());
            run.ask(|reply| sandbox::Command::Connect { config, reply }).await?;
        }
        self.networking_mut()?.endpoints.push(endpoint);
        self.persist().await?;
        self.changed();
        self.publish();
        self.tell_network(&network, Action::Connect { container: self.record.id.to_string() });
        Ok(())
    }

    /// Detaches it from a network: now if it runs, and at each start from now on.
    pub(super) async fn disconnect(&mut self, network: &str) -> Result<()> {
        let what = format!("disconnect container {}", self.record.config.name);
        let definition = self.shared.networks.get(network);
        let networking = self.own_networking(&what)?;
        // A network that is gone is left by the name that is on record.
        let id = definition.as_ref().map_or(network, |d| d.id.as_str());
        let Some(at) = position(&self.shared, networking, id) else {
            let problem = NetworkProblem::NotAttached {
                container: self.record.config.name.clone(),
                network: network.to_owned(),
            };
            return Err(Error::caused_by(ErrorKind::FailedPrecondition, what, problem));
        };
        if let Some(run) = self.run.clone() {
            let network = id.to_owned();
            run.ask(|reply| sandbox::Command::Disconnect { network, reply }).await?;
        }
        self.networking_mut()?.endpoints.remove(at);
        self.persist().await?;
        self.changed();
        self.publish();
        if let Ok(definition) = definition {
            self.tell_network(&definition, Action::Disconnect { container: self.record.id.to_string() });
        }
        Ok(())
    }

    fn own_networking(&self, what: &str) -> Result<&UserNetworking> {
        if self.record.config.sandbox.namespaces.network == NamespaceMode::Host
            || self.record.config.join.network.is_some()
        {
            let why = "it uses the network of the host or of another container";
            return Err(Error::precondition(format!("{what}: {why}")));
        }
        self.record.config.sandbox.user_networking.as_deref().ok_or_else(|| {
            Error::precondition(format!(
                "{what}: it is on the node's own network, which is not left or joined"
            ))
        })
    }

    fn networking_mut(&mut self) -> Result<&mut UserNetworking> {
        let networking = self.record.config.sandbox.user_networking.as_deref_mut();
        networking.ok_or_else(|| Error::internal("a container lost its networks"))
    }

    fn tell_network(&self, network: &crate::networks::Definition, action: Action) {
        let subject = Subject::Network {
            id: network.id.clone(),
            name: network.config.name.clone(),
            driver: driver_name(network.config.driver).to_owned(),
        };
        self.shared.happenings.publish(subject, action);
    }

    /// Shares the configuration anew after a change.
    fn changed(&mut self) {
        self.config = Arc::new(self.record.config.clone());
    }
}

fn has_networks(config: &DurableConfig) -> bool {
    config.sandbox.user_networking.as_ref().is_some_and(|n| !n.endpoints.is_empty())
}

/// Which of a container's endpoints is that of a network.
fn position(shared: &crate::engine::Shared, networking: &UserNetworking, id: &str) -> Option<usize> {
    networking.endpoints.iter().position(|endpoint| match shared.networks.get(&endpoint.network) {
        Ok(definition) => definition.id == id,
        Err(_) => endpoint.network == id,
    })
}

/// A driver's name in events.
pub(crate) fn driver_name(driver: crate::model::NetworkDriver) -> &'static str {
    use crate::model::NetworkDriver as D;
    match driver {
        D::Bridge => "bridge",
        D::Macvlan => "macvlan",
        D::Host => "host",
        D::Null => "null",
    }
}
