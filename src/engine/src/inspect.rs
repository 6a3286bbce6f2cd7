//! What administrators ask: networks, and whether the stores fit together.

use std::sync::Arc;

use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::error::Result;
use crate::images::Chain;
use crate::sandbox::storage_error;

/// A network that sandboxes can join.
#[derive(Debug, Clone)]
pub struct NetworkInfo {
    /// Its name.
    pub name: String,
    /// Version of the CNI specification its configuration follows.
    pub cni_version: String,
    /// Types of its plugins, in order.
    pub plugins: Vec<String>,
    /// The file it comes from; `None` is the built-in network.
    pub source: Option<String>,
    /// Whether sandboxes join it when they ask for nothing else.
    pub default: bool,
    /// Its configuration.
    pub text: String,
}

impl Engine {
    /// Networks, in the order they were read.
    pub fn networks(&self) -> Vec<NetworkInfo> {
        let network = &self.shared().network;
        let default = network.default_conflist().ok().map(|c| c.name().to_owned());
        let mut lists = network.conflists();
        if lists.is_empty() {
            lists.extend(network.default_conflist().ok());
        }
        lists
            .into_iter()
            .map(|list| NetworkInfo {
                name: list.name().to_owned(),
                cni_version: list.version().as_str().to_owned(),
                plugins: list.plugins().iter().map(|p| p.kind().as_str().to_owned()).collect(),
                source: list.source().map(|path| path.display().to_string()),
                default: default.as_deref() == Some(list.name()),
                text: list.text().to_owned(),
            })
            .collect()
    }

    /// What does not fit together in the stores, a sentence each; with `repair`, after putting right what
    /// can be.
    pub async fn check_stores(&self, repair: bool) -> Result<Vec<String>> {
        let shared = Arc::clone(self.shared());
        let work = move || shared.storage.check(repair);
        let problems = self
            .shared()
            .blocking
            .run(Purpose::Images, work)
            .await?
            .map_err(|error| storage_error("check the image store".to_owned(), error))?;
        Ok(problems.iter().map(|problem| Chain(problem).to_string()).collect())
    }
}
