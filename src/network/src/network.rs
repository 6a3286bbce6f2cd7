//! The front of the crate: one [`Network`] per daemon.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use oci::SandboxId;

use crate::attachment::{Attachment, Detachment, ValidAttachment};
use crate::conflist::Conflist;
use crate::error::{ConfigError, Error, NotReady};
use crate::result::Attached;

/// Where a [`Network`] finds and keeps its things.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of conflists, usually `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Directories of plugin programs, searched in order.
    pub bin_dirs: Vec<PathBuf>,
    /// Directory of records; it must die with the boot, as the kernel objects do.
    pub state_dir: PathBuf,
    /// Name of the nftables tables (`inet` and `bridge`), usually `berth`.
    pub table: String,
    /// Bridge of the default network, usually `berth0`.
    pub bridge: String,
    /// Network of the default network.
    pub subnet: Ipv4Net,
    /// IPv6 network of the default network.
    pub subnet6: Option<Ipv6Net>,
    /// How long an executed plugin may run.
    pub plugin_timeout: Duration,
    /// Execute the programs of `bridge`, `portmap`, `firewall`, `loopback` too, instead of the built-in ones.
    pub exec_builtin: bool,
}

/// What [`Network::gc`] removed.
#[derive(Debug, Default)]
pub struct GcReport {
    /// Attachments whose sandbox is gone, with their addresses and ports.
    pub attachments: usize,
    /// Host links without an attachment.
    pub links: usize,
    /// Whether nftables elements had to be corrected.
    pub rules_repaired: bool,
    /// What could not be removed.
    pub errors: Vec<Error>,
}

/// What a [`Watcher`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Files in the configuration directory: call [`Network::reload`].
    Conflists,
    /// nftables rules, by another process: call [`Network::repair`].
    Rules,
}

/// Waits for changes made by others.
#[derive(Debug)]
pub struct Watcher {}

impl Watcher {
    /// Blocks until something changed or the time is over; `None` waits for ever.
    pub fn wait(&mut self, timeout: Option<Duration>) -> std::io::Result<Option<Change>> {
        let _ = timeout;
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// The networks of a node. All methods may be called from any thread of the host's network namespace.
#[derive(Debug)]
pub struct Network {
    options: Options,
}

impl Network {
    /// Opens the state, reads the conflists and brings the nftables table in line with the records.
    pub fn open(options: Options) -> Result<Self, Error> {
        Ok(Self { options })
    }

    /// Reads the configuration directory again; the answer lists the files that are not used and why.
    pub fn reload(&self) -> Result<Vec<ConfigError>, Error> {
        Ok(Vec::new())
    }

    /// All networks, the default one first.
    pub fn conflists(&self) -> Vec<Arc<Conflist>> {
        Vec::new()
    }

    /// A network by name.
    pub fn conflist(&self, name: &str) -> Option<Arc<Conflist>> {
        self.conflists().into_iter().find(|c| c.name() == name)
    }

    /// The network that sandboxes get: the first file of the directory or, when there is none, the built-in bridge.
    pub fn default_conflist(&self) -> Result<Arc<Conflist>, NotReady> {
        Err(NotReady::Configuration { directory: self.options.conf_dir.clone(), problem: String::new() })
    }

    /// Whether a network can be used now (CNI STATUS).
    pub fn status(&self, conflist: &Conflist) -> Result<(), NotReady> {
        let _ = conflist;
        Ok(())
    }

    /// Attaches a namespace. On failure everything that was done is undone.
    pub fn attach(&self, attachment: &Attachment<'_>) -> Result<Attached, Error> {
        Err(Error::InterfaceName { name: attachment.ifname.to_owned() })
    }

    /// The result of an attachment that exists.
    pub fn attached(&self, sandbox: &SandboxId, ifname: &str) -> Option<Attached> {
        let _ = (sandbox, ifname);
        None
    }

    /// Undoes an attachment. Idempotent; goes on after errors and returns all of them. The record stays until there
    /// was none, so that a retry or [`Network::gc`] can finish.
    pub fn detach(&self, detachment: &Detachment<'_>) -> Result<(), Vec<Error>> {
        let _ = detachment;
        Ok(())
    }

    /// Checks that an attachment is still as it was set up (CNI CHECK).
    pub fn check(
        &self,
        sandbox: &SandboxId,
        ifname: &str,
        netns: BorrowedFd<'_>,
        netns_path: Option<&Path>,
    ) -> Result<(), Error> {
        let _ = (sandbox, ifname, netns, netns_path);
        Ok(())
    }

    /// Removes everything of attachments that are not in `valid`: addresses, ports, links, records; then asks the
    /// plugins to do the same (CNI GC).
    pub fn gc(&self, valid: &[ValidAttachment]) -> GcReport {
        let _ = valid;
        GcReport::default()
    }

    /// Restores the nftables tables if somebody changed them; whether that was necessary.
    pub fn repair(&self) -> Result<bool, Error> {
        Ok(false)
    }

    /// Starts to watch the configuration directory and the rules.
    pub fn watch(&self) -> Result<Watcher, Error> {
        Ok(Watcher {})
    }

    /// Sets up the loopback interface of a namespace that gets no network.
    pub fn loopback_up(netns: BorrowedFd<'_>) -> Result<(), Error> {
        let _ = netns;
        Ok(())
    }
}
