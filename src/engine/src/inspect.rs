//! What administrators ask: networks, and whether the stores fit together.

use std::sync::Arc;

use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::error::{Error, Result};
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

    /// Gives the built-in network the ranges of the cluster's pods: addresses with a prefix length, separated by
    /// commas, IPv4 among them. Networks that are configured keep theirs.
    pub async fn set_pod_ranges(&self, ranges: &str) -> Result<()> {
        let mut v4 = None;
        let mut v6 = None;
        for text in ranges.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match text.parse() {
                Ok(ipnet::IpNet::V4(net)) => v4 = v4.or(Some(net.trunc())),
                Ok(ipnet::IpNet::V6(net)) => v6 = v6.or(Some(net.trunc())),
                Err(_) => {
                    return Err(Error::invalid(format!(
                        "pod range {text:?} is not an address with a prefix length"
                    )));
                }
            }
        }
        let v4 = v4.ok_or_else(|| {
            Error::invalid(format!("pod range {ranges:?} has no IPv4 part, which the built-in network needs"))
        })?;
        let shared = Arc::clone(self.shared());
        let work = move || shared.network.set_subnets(v4, v6);
        self.shared().blocking.run(Purpose::Lifecycle, work).await?.map_err(|error| {
            Error::caused_by(
                crate::ErrorKind::InvalidArgument,
                format!("use the pod range {ranges:?}"),
                error,
            )
        })?;
        tracing::info!(pod_ranges = ranges, "the built-in network uses the cluster's pod range");
        Ok(())
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
