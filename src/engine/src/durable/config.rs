//! From a durable container's configuration to that of a run: pure.

use std::path::Path;

use oci::ContainerId;

use super::record::DurableRecord;
use crate::error::{Error, Result};
use crate::model::{
    ContainerConfig, ContainerKey, DurableConfig, HealthTest, LogConfig, LogFormat, LogSettings,
    NamespaceMode, RestartPolicy, SandboxConfig, SandboxMetadata,
};

use super::DurableProblem;

/// Checks that need neither image nor host.
pub(super) fn check(config: &DurableConfig, id: &ContainerId) -> Result<()> {
    if config.auto_remove && config.restart != RestartPolicy::No {
        return Err(DurableProblem::AutoRemoved(id.clone()).error("make the container"));
    }
    if let LogConfig::JsonFile { max_files: 0, .. } | LogConfig::Local { max_files: 0, .. } = &config.log {
        return Err(Error::invalid("a log needs at least one file"));
    }
    if let LogConfig::JsonFile { max_bytes: None, max_files }
    | LogConfig::Local { max_bytes: None, max_files } = &config.log
        && *max_files > 1
    {
        return Err(Error::invalid("a log of several files needs a size at which a new one is begun"));
    }
    let networks = config.sandbox.user_networking.is_some() || !config.sandbox.hostname.is_empty();
    if config.join.network.is_some() && networks {
        return Err(Error::invalid(
            "a container that uses another's network has neither networks nor a host name",
        ));
    }
    if let Some(health) = &config.health {
        if health.retries == 0 || health.interval.is_zero() || health.timeout.is_zero() {
            return Err(Error::invalid("a health check needs an interval, a timeout and at least one retry"));
        }
        if matches!(&health.test, HealthTest::Exec(command) if command.is_empty()) {
            return Err(Error::invalid("a health check needs a command"));
        }
    }
    if config.sandbox.hostname.is_empty()
        && config.sandbox.user_networking.as_ref().is_some_and(|n| !n.domainname.is_empty())
    {
        return Err(Error::invalid("a domain name needs a host name before it"));
    }
    Ok(())
}

/// Name of the log file.
fn log_name(id: &ContainerId, log: &LogConfig) -> Option<String> {
    match log {
        LogConfig::JsonFile { .. } => Some(format!("{id}-json.log")),
        LogConfig::Local { .. } => Some(format!("{id}-local.log")),
        LogConfig::None => None,
    }
}

/// Absolute path of the log; empty without one.
pub(super) fn log_path(dir: &Path, id: &ContainerId, log: &LogConfig) -> String {
    log_name(id, log).map(|name| dir.join(name).to_string_lossy().into_owned()).unwrap_or_default()
}

fn log_settings(log: &LogConfig) -> LogSettings {
    let settings = |format, max_bytes: Option<u64>, max_files| LogSettings {
        format,
        max_bytes,
        max_files: max_bytes.map(|_| max_files),
    };
    match log {
        LogConfig::JsonFile { max_bytes, max_files } => settings(LogFormat::JsonFile, *max_bytes, *max_files),
        LogConfig::Local { max_bytes, max_files } => settings(LogFormat::Cri, *max_bytes, *max_files),
        LogConfig::None => LogSettings::default(),
    }
}

/// The sandbox of a run.
pub(super) fn sandbox(record: &DurableRecord, dir: &Path) -> SandboxConfig {
    let config = &record.config;
    let mut sandbox = config.sandbox.clone();
    sandbox.metadata = SandboxMetadata {
        name: config.name.clone(),
        uid: record.id.to_string(),
        namespace: String::new(),
        attempt: 0,
    };
    sandbox.durable = Some(record.id.clone());
    sandbox.log_directory = dir.to_string_lossy().into_owned();
    if sandbox.hostname.is_empty() {
        sandbox.hostname = record.id.short().to_owned();
    }
    if let Some(networking) = &mut sandbox.user_networking {
        networking.container_id = record.id.to_string();
        networking.container_name.clone_from(&config.name);
    }
    // A PID namespace that a sandbox shares has the built-in init as its first process.
    sandbox.namespaces.pid = match (&sandbox.namespaces.pid, config.init) {
        (NamespaceMode::Sandbox | NamespaceMode::Container, true) => NamespaceMode::Sandbox,
        (NamespaceMode::Sandbox | NamespaceMode::Container, false) => NamespaceMode::Container,
        (other, _) => other.clone(),
    };
    sandbox
}

/// The container of a run.
pub(super) fn container(record: &DurableRecord) -> ContainerConfig {
    let config = &record.config;
    let mut container = config.container.clone();
    container.key = ContainerKey { name: config.name.clone(), attempt: 0 };
    if container.user_image.is_empty() {
        container.user_image.clone_from(&config.container.image);
    }
    container.image = record.image_id.to_string();
    container.log_path = log_name(&record.id, &config.log).unwrap_or_default();
    container.log = log_settings(&config.log);
    container.durable = Some(record.id.clone());
    container
}
