//! User networks as front ends see them.

use std::sync::Arc;

use oci::SandboxId;

use super::registry::not_found;
use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::error::Result;
use crate::model::{NetworkEndpointConfig, NetworkPruneFilter, UserNetworkConfig, UserNetworkStatus};
use crate::sandbox::Command;

impl Engine {
    /// Makes a network. Its definition survives power loss, and its link is there when this returns.
    pub async fn create_user_network(&self, config: UserNetworkConfig) -> Result<Arc<UserNetworkStatus>> {
        let shared = Arc::clone(self.shared());
        let work = move || shared.networks.create(&shared.network, config);
        let made = self.shared().blocking.run(Purpose::Lifecycle, work).await??;
        tracing::info!(network = %made.config.name, id = %made.id, "network made");
        Ok(made)
    }

    /// All user networks, oldest first; `bridge`, `host` and `none` are always among them.
    pub fn user_networks(&self) -> Vec<Arc<UserNetworkStatus>> {
        self.shared().networks.statuses()
    }

    /// A network by id, name, or unambiguous beginning of an id.
    pub fn user_network(&self, reference: &str) -> Result<Arc<UserNetworkStatus>> {
        let networks = &self.shared().networks;
        let definition = networks.get(reference)?;
        networks.status(&definition.id).ok_or_else(|| not_found(reference))
    }

    /// Removes a network that nobody is attached to; its id and name.
    pub async fn remove_user_network(&self, reference: &str) -> Result<(String, String)> {
        let shared = Arc::clone(self.shared());
        let reference = reference.to_owned();
        let work = move || shared.networks.remove(&shared.network, &reference);
        let removed = self.shared().blocking.run(Purpose::Lifecycle, work).await??;
        tracing::info!(network = %removed.config.name, id = %removed.id, "network removed");
        Ok((removed.id.clone(), removed.config.name.clone()))
    }

    /// Removes the networks that nobody is attached to; their names.
    pub async fn prune_user_networks(&self, filter: NetworkPruneFilter) -> Result<Vec<String>> {
        let shared = Arc::clone(self.shared());
        let work = move || shared.networks.prune(&shared.network, &filter);
        self.shared().blocking.run(Purpose::Lifecycle, work).await
    }

    /// Checks how a container would be attached to a network; the id of the network.
    pub fn check_endpoint(&self, config: &NetworkEndpointConfig) -> Result<String> {
        self.shared().networks.check_endpoint(config).map(|definition| definition.id.clone())
    }

    /// Attaches a sandbox that is up to one more network.
    pub async fn connect_sandbox(&self, sandbox: &SandboxId, config: NetworkEndpointConfig) -> Result<()> {
        let config = Box::new(config);
        self.sandbox(sandbox.as_str())?.ask(|reply| Command::Connect { config, reply }).await
    }

    /// Detaches a sandbox that is up from a network.
    pub async fn disconnect_sandbox(&self, sandbox: &SandboxId, network: &str) -> Result<()> {
        let network = network.to_owned();
        self.sandbox(sandbox.as_str())?.ask(|reply| Command::Disconnect { network, reply }).await
    }

    /// Gives the container of a sandbox another name on its networks.
    pub async fn rename_in_networks(&self, sandbox: &SandboxId, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.sandbox(sandbox.as_str())?.ask(|reply| Command::RenameInNetworks { name, reply }).await
    }
}
