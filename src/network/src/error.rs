//! What can go wrong.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use oci::SandboxId;

use crate::attachment::PortMapping;

/// The owner of a port that no sandbox has.
pub(crate) const HOST_PROCESS: &str = "a process of the host";

/// Coarse class of an [`Error`], for the caller's own error mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request or the configuration is wrong; a retry gives the same.
    Invalid,
    /// Something else holds the port, address or name.
    Conflict,
    /// No address is left.
    Exhausted,
    /// A plugin did not answer in time.
    Timeout,
    /// The network is not ready yet; a retry may succeed.
    Unavailable,
    /// The kernel, the disk or a plugin failed.
    Internal,
}

/// A network operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that the kernel would refuse.
    #[error("invalid interface name {name:?}")]
    InterfaceName {
        /// The name.
        name: String,
    },
    /// A request that makes no sense.
    #[error("invalid {what} {text:?}")]
    Request {
        /// The part of the request.
        what: &'static str,
        /// Its text.
        text: String,
    },
    /// The attachment exists already.
    #[error("sandbox {sandbox} already has an attachment {ifname}")]
    AlreadyAttached {
        /// The sandbox.
        sandbox: SandboxId,
        /// Interface name.
        ifname: String,
    },
    /// A configuration file or a conflist is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The network cannot be used now.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// Every address of a range set is leased.
    #[error("network {network} has no free address in {pool}")]
    Exhausted {
        /// Network.
        network: String,
        /// The ranges.
        pool: String,
    },
    /// A requested address is leased to somebody else.
    #[error("address {address} on network {network} is leased to {owner}")]
    AddressTaken {
        /// Network.
        network: String,
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: String,
    },
    /// A requested address does not belong to the network.
    #[error("address {address} is not in the ranges of network {network}")]
    AddressOutside {
        /// Network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// A host port has an owner.
    #[error("host port {} is taken by {owner}", show_port(.mapping))]
    HostPortTaken {
        /// The port.
        mapping: PortMapping,
        /// A sandbox, or `a process of the host`.
        owner: String,
    },
    /// An option that a built-in plugin does not have.
    #[error("plugin {plugin}: {option} is not supported by the built-in plugin: {advice}")]
    Unsupported {
        /// Plugin type.
        plugin: &'static str,
        /// The option.
        option: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// An executed plugin failed.
    #[error(transparent)]
    Plugin(#[from] Box<PluginError>),
    /// The kernel refused.
    #[error("{operation} {object}")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// A state file could not be read or written.
    #[error("{operation} {}", path.display())]
    State {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// The check of an attachment found something else than was set up.
    #[error("attachment {ifname} of sandbox {sandbox}: {problem}")]
    Check {
        /// The sandbox.
        sandbox: SandboxId,
        /// Interface name.
        ifname: String,
        /// What differs.
        problem: String,
    },
}

impl Error {
    /// Whether a plugin was not run because there is no program for it.
    pub(crate) fn is_missing_program(&self) -> bool {
        matches!(self, Self::Plugin(error) if matches!(error.failure, PluginFailure::NotFound { .. }))
    }

    /// Whether a port is taken by a process of the host, not by a sandbox.
    pub fn is_port_of_host(&self) -> bool {
        matches!(self, Self::HostPortTaken { owner, .. } if owner == HOST_PROCESS)
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InterfaceName { .. }
            | Self::Request { .. }
            | Self::Config(_)
            | Self::AddressOutside { .. }
            | Self::Unsupported { .. } => ErrorKind::Invalid,
            Self::AlreadyAttached { .. } | Self::AddressTaken { .. } | Self::HostPortTaken { .. } => {
                ErrorKind::Conflict
            }
            Self::Exhausted { .. } => ErrorKind::Exhausted,
            Self::NotReady(_) => ErrorKind::Unavailable,
            Self::Plugin(error) => match error.failure {
                PluginFailure::TimedOut { .. } => ErrorKind::Timeout,
                PluginFailure::Reported { code: 11 | 50 | 51, .. } => ErrorKind::Unavailable,
                PluginFailure::NotFound { .. } => ErrorKind::Invalid,
                PluginFailure::Reported { .. }
                | PluginFailure::Spawn { .. }
                | PluginFailure::Exited { .. }
                | PluginFailure::TooMuchOutput { .. }
                | PluginFailure::BadOutput { .. } => ErrorKind::Internal,
            },
            Self::Kernel { .. } | Self::State { .. } | Self::Check { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn kernel(
        operation: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        let object = object.into();
        move |source| Self::Kernel { operation, object, source }
    }

    pub(crate) fn state(operation: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::State { operation, path, source }
    }
}

impl From<sys::netlink::Error> for Error {
    fn from(error: sys::netlink::Error) -> Self {
        let object = match &error.detail {
            Some(detail) => format!("{} ({detail})", error.object),
            None => error.object,
        };
        Self::Kernel { operation: error.operation, object, source: error.source }
    }
}

fn show_port(mapping: &PortMapping) -> String {
    match mapping.host_ip {
        Some(ip) => {
            format!("{}/{}", std::net::SocketAddr::new(ip, mapping.host_port), mapping.protocol.as_str())
        }
        None => format!("{}/{}", mapping.host_port, mapping.protocol.as_str()),
    }
}

/// Why a network cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The configuration directory has files, but none is valid.
    #[error("no valid network configuration in {}: {problem}", directory.display())]
    Configuration {
        /// The directory.
        directory: PathBuf,
        /// The first problem.
        problem: String,
    },
    /// A plugin says that it cannot serve.
    #[error("network {network}: {problem}")]
    Plugin {
        /// The network.
        network: String,
        /// What it said.
        problem: String,
    },
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {problem}", path.as_ref().map_or_else(|| "conflist".to_owned(), |p| p.display().to_string()),
        line.map_or_else(String::new, |l| format!(":{l}")))]
pub struct ConfigError {
    /// The file, if it came from one.
    pub path: Option<PathBuf>,
    /// Line, from 1.
    pub line: Option<usize>,
    /// What is wrong with it.
    pub problem: String,
}

/// An executed plugin that failed.
#[derive(Debug, thiserror::Error)]
#[error("plugin {plugin} {verb} on network {network}: {failure}{}", show_stderr(.stderr))]
pub struct PluginError {
    /// Plugin type.
    pub plugin: String,
    /// `ADD`, `DEL`, …
    pub verb: &'static str,
    /// Network.
    pub network: String,
    /// What happened.
    pub failure: PluginFailure,
    /// What it wrote to standard error, cut to 4 KiB.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

/// How a plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginFailure {
    /// No such program.
    #[error("no program of this name in {}", directories.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFound {
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// It could not be started.
    #[error("cannot be started ({source})")]
    Spawn {
        /// The reason.
        source: io::Error,
    },
    /// It reported an error as the specification says.
    #[error("{msg} (code {code}){}", if details.is_empty() { String::new() } else { format!(": {details}") })]
    Reported {
        /// Error code.
        code: u32,
        /// Message.
        msg: String,
        /// Details.
        details: String,
    },
    /// It failed without a readable report.
    #[error("ended with {status}")]
    Exited {
        /// Exit status or signal.
        status: String,
    },
    /// It was killed at its deadline.
    #[error("killed after {} ms", deadline.as_millis())]
    TimedOut {
        /// The deadline.
        deadline: Duration,
    },
    /// It was killed because it wrote more than a result can be.
    #[error("killed after writing more than {limit_bytes} bytes")]
    TooMuchOutput {
        /// The limit.
        limit_bytes: usize,
    },
    /// It succeeded with an unreadable result.
    #[error("unreadable result ({problem})")]
    BadOutput {
        /// What is wrong.
        problem: String,
    },
}

fn show_stderr(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!("; stderr: {text}") }
}
