//! What the engine can say of itself and its host.

use std::sync::Arc;

use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::images::Chain;

/// A condition that is met or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it is met.
    pub met: bool,
    /// One word for programs; empty when met.
    pub reason: String,
    /// One sentence for people; empty when met.
    pub message: String,
}

impl Condition {
    /// A condition that is met.
    pub fn met() -> Self {
        Self { met: true, reason: String::new(), message: String::new() }
    }

    /// A condition that is not met.
    pub fn unmet(reason: &str, message: impl Into<String>) -> Self {
        Self { met: false, reason: reason.to_owned(), message: message.into() }
    }
}

/// What a runtime handler can do on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HandlerFeatures {
    /// Name; the default handler is listed under its name and under the empty one.
    pub name: String,
    /// Mounts whose submounts are read-only, too.
    pub recursive_read_only_mounts: bool,
    /// User namespaces.
    pub user_namespaces: bool,
}

/// What the engine as a whole can do on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFeatures {
    /// Both policies for supplementary groups.
    pub supplemental_groups_policy: bool,
    /// User namespaces together with the host's network.
    pub user_namespaces_host_network: bool,
    /// Mount options of single mounts.
    pub mount_options: bool,
}

/// The state of the engine.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    /// Whether containers can be run.
    pub runtime: Condition,
    /// Whether sandboxes get a network.
    pub network: Condition,
    /// Per handler.
    pub handlers: Vec<HandlerFeatures>,
    /// For all handlers.
    pub features: NodeFeatures,
    /// What is degraded on this host, a sentence each.
    pub degraded: Vec<String>,
    /// Settings in force, for people and for conformance suites that look for directories.
    pub config: serde_json::Value,
}

impl Engine {
    /// The engine's state, and what this host can and cannot do.
    pub async fn status(&self) -> EngineStatus {
        let shared = self.shared();
        let runtime = if *shared.link.connection().borrow() {
            Condition::met()
        } else {
            Condition::unmet(
                "KeeperUnreachable",
                "the keeper cannot be reached; running containers are not affected",
            )
        };
        let network = self.network_condition().await;
        EngineStatus {
            runtime,
            network,
            handlers: self.handler_features(),
            features: NodeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: true,
                mount_options: true,
            },
            degraded: shared.degraded.clone(),
            config: self.settings(),
        }
    }

    /// Plugins may be asked for their state, which runs programs.
    async fn network_condition(&self) -> Condition {
        let network = Arc::clone(&self.shared().network);
        let ask = move || network.default_conflist().and_then(|conflist| network.status(&conflist));
        match self.shared().blocking.run(Purpose::Reading, ask).await {
            Ok(Ok(())) => Condition::met(),
            Ok(Err(error)) => Condition::unmet("NetworkPluginNotReady", Chain(&error).to_string()),
            Err(error) => Condition::unmet("NetworkUnknown", error.chain()),
        }
    }

    fn handler_features(&self) -> Vec<HandlerFeatures> {
        let config = &self.shared().config;
        let of = |name: &str, handler: &crate::Handler| {
            let built_in = handler.runtime == crate::HandlerRuntime::BuiltIn;
            HandlerFeatures {
                name: name.to_owned(),
                recursive_read_only_mounts: built_in,
                user_namespaces: built_in,
            }
        };
        let mut all: Vec<_> = config.handlers.iter().map(|(name, handler)| of(name, handler)).collect();
        if let Some(default) = config.handlers.get(&config.default_handler) {
            all.push(of("", default));
        }
        all
    }

    fn settings(&self) -> serde_json::Value {
        let config = &self.shared().config;
        serde_json::json!({
            "rootDir": config.root,
            "stateDir": config.root.join("storage"),
            "runDir": config.state,
            "keeperSocket": config.keeper_socket,
            "cniConfDir": config.network.conf_dir,
            "cniBinDirs": config.network.bin_dirs,
            "defaultRuntimeHandler": config.default_handler,
            "runtimeHandlers": config.handlers.keys().collect::<Vec<_>>(),
            "cgroupRoot": config.cgroups.root,
            "registryConfigDir": config.images.registry_config_dir,
        })
    }
}
