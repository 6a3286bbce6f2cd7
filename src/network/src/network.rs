//! The front of the crate: one [`Network`] per daemon.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use oci::SandboxId;
use serde_json::json;
use sys::netlink::{Batch, LinkChange, LinkRef};

use crate::conflist::{self, Conflist, Plugin, Version};
use crate::error::{ConfigError, Error, NotReady};
use crate::exec::{Call, Executor, Verb};
use crate::ipam::Pool;
use crate::plugins::{Builtin, bridge};
use crate::record::{Key, Record, Store};
use crate::result::Attached;
use crate::rules::Tables;
use crate::user::HeldPorts;

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
pub struct Watcher {
    directory: sys::watch::Directory,
    rules: sys::nft::Monitor,
    rules_pending: bool,
}

impl Watcher {
    /// Blocks until something changed or the time is over; `None` waits for ever.
    pub fn wait(&mut self, timeout: Option<Duration>) -> std::io::Result<Option<Change>> {
        let deadline = timeout.and_then(sys::watch::deadline_in);
        loop {
            if std::mem::take(&mut self.rules_pending) {
                return Ok(Some(Change::Rules));
            }
            let ready = sys::watch::readable(&[self.directory.as_fd(), self.rules.as_fd()], deadline)?;
            if !ready.contains(&true) {
                return Ok(None);
            }
            self.rules_pending = self.rules.drain()?;
            if self.directory.drain()? {
                return Ok(Some(Change::Conflists));
            }
        }
    }
}

/// The networks of a node. All methods may be called from any thread of the host's network namespace.
#[derive(Debug)]
pub struct Network {
    pub(crate) options: Options,
    pub(crate) executor: Executor,
    pub(crate) store: Store,
    pub(crate) tables: Tables,
    pub(crate) bridges: bridge::Bridges,
    /// Begins the names of host links of this state directory, so that garbage collection knows its own.
    pub(crate) link_prefix: String,
    held: Mutex<HeldPorts>,
    loaded: RwLock<Loaded>,
    state: Mutex<State>,
    /// Subnets of the built-in network.
    subnets: RwLock<(Ipv4Net, Option<Ipv6Net>)>,
}

#[derive(Debug, Default)]
struct Loaded {
    conflists: Vec<Arc<Conflist>>,
    problems: Vec<ConfigError>,
}

/// What attachments hold, in memory.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) records: BTreeMap<Key, Record>,
    pub(crate) pools: HashMap<String, Pool>,
}

impl State {
    /// The pool of a network, rebuilt from the records when it is first used.
    pub(crate) fn pool(&mut self, store: &Store, network: &str) -> &mut Pool {
        let records = &self.records;
        self.pools.entry(network.to_owned()).or_insert_with(|| {
            let mut pool = Pool::default();
            for record in records.values().filter(|r| r.network == network) {
                let owner = record.key().owner();
                record.leases.iter().for_each(|lease| pool.adopt(lease.address.addr(), &owner));
            }
            store.load_cursors(network).into_iter().for_each(|(set, ip)| pool.resume_after(set, ip));
            pool
        })
    }
}

impl Network {
    /// Opens the state, reads the conflists and brings the nftables tables in line with the records.
    pub fn open(options: Options) -> Result<Self, Error> {
        crate::host::check_ifname(&options.bridge)
            .map_err(|()| Error::InterfaceName { name: options.bridge.clone() })?;
        let store = Store::open(&options.state_dir)?;
        let records = store.load()?.into_iter().map(|r| (r.key(), r)).collect();
        let network = Self {
            executor: Executor { bin_dirs: options.bin_dirs.clone(), timeout: options.plugin_timeout },
            tables: Tables::new(&options.table),
            bridges: bridge::Bridges::default(),
            link_prefix: link_prefix(options.state_dir.as_os_str().as_encoded_bytes()),
            held: Mutex::default(),
            loaded: RwLock::default(),
            subnets: RwLock::new((options.subnet, options.subnet6)),
            state: Mutex::new(State { records, pools: HashMap::new() }),
            options,
            store,
        };
        network.reload()?;
        network.tables.repair(&|| network.records())?;
        network.hold_again();
        Ok(network)
    }

    /// Reads the configuration directory again; the answer lists the files that are not used and why. A file that has become
    /// invalid does not take away the network that it described before.
    pub fn reload(&self) -> Result<Vec<ConfigError>, Error> {
        let directory = &self.options.conf_dir;
        let (good, problems) =
            conflist::load_directory(directory).map_err(Error::state("read directory", directory))?;
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        let mut conflists: Vec<Arc<Conflist>> = good.into_iter().map(Arc::new).collect();
        for old in &loaded.conflists {
            let is_broken_now =
                old.source().is_some() && problems.iter().any(|p| p.path.as_deref() == old.source());
            if is_broken_now && !conflists.iter().any(|c| c.name() == old.name()) {
                conflists.push(Arc::clone(old));
            }
        }
        conflists.sort_by(|a, b| a.source().cmp(&b.source()));
        if conflists.is_empty() && problems.is_empty() {
            conflists.push(Arc::new(self.built_in()?));
        }
        *loaded = Loaded { conflists, problems: problems.clone() };
        Ok(problems)
    }

    /// Gives the built-in network other subnets: new attachments get addresses of these, existing ones keep theirs. It
    /// makes no difference to networks of the configuration directory.
    pub fn set_subnets(&self, subnet: Ipv4Net, subnet6: Option<Ipv6Net>) -> Result<(), Error> {
        let previous = {
            let mut subnets = self.subnets.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *subnets, (subnet, subnet6))
        };
        if let Err(error) = self.built_in() {
            *self.subnets.write().unwrap_or_else(PoisonError::into_inner) = previous;
            return Err(error);
        }
        self.reload().map(|_| ())
    }

    /// All networks, the default one first.
    pub fn conflists(&self) -> Vec<Arc<Conflist>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).conflists.clone()
    }

    /// The files of the configuration directory that are not used, and why.
    pub fn problems(&self) -> Vec<ConfigError> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).problems.clone()
    }

    /// A network by name.
    pub fn conflist(&self, name: &str) -> Option<Arc<Conflist>> {
        self.conflists().into_iter().find(|c| c.name() == name)
    }

    /// The network that sandboxes get: the first file of the directory or, when there is none, the built-in bridge.
    pub fn default_conflist(&self) -> Result<Arc<Conflist>, NotReady> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.conflists.first().cloned().ok_or_else(|| NotReady::Configuration {
            directory: self.options.conf_dir.clone(),
            problem: loaded.problems.first().map(ToString::to_string).unwrap_or_default(),
        })
    }

    /// The first network of another directory, for sandboxes that are to be kept apart; read now, and not watched.
    pub fn conflist_in(&self, directory: &std::path::Path) -> Result<Arc<Conflist>, NotReady> {
        let not_ready =
            |problem: String| NotReady::Configuration { directory: directory.to_owned(), problem };
        let (good, problems) =
            conflist::load_directory(directory).map_err(|error| not_ready(error.to_string()))?;
        let problem = || problems.first().map_or_else(|| "there is no file".to_owned(), ToString::to_string);
        good.into_iter().next().map(Arc::new).ok_or_else(|| not_ready(problem()))
    }

    /// Whether a network can be used now: programs are there, and plugins that can tell say so (CNI STATUS).
    pub fn status(&self, conflist: &Conflist) -> Result<(), NotReady> {
        let not_ready = |problem: String| NotReady::Plugin { network: conflist.name().to_owned(), problem };
        for plugin in conflist.plugins().iter().filter(|p| self.builtin(p).is_none()) {
            self.executor
                .find(plugin.kind())
                .map_err(|e| not_ready(format!("plugin {}: {e}", plugin.kind())))?;
            if conflist.version() < Version::V1_1_0 {
                continue;
            }
            let config = crate::calls::bare_config(conflist, plugin);
            let call = Call {
                plugin: plugin.kind(),
                verb: Verb::Status,
                network: conflist.name(),
                config: &config,
                environment: &[],
            };
            self.executor.run(&call).map_err(|e| not_ready(e.to_string()))?;
        }
        Ok(())
    }

    /// The result of an attachment that exists.
    pub fn attached(&self, sandbox: &SandboxId, ifname: &str) -> Option<Attached> {
        let state = self.state();
        let record = state.records.get(&Key(sandbox.clone(), ifname.to_owned()))?;
        Attached::from_value(record.result.as_ref()?).ok()
    }

    /// Restores the nftables tables if somebody changed them; whether that was necessary.
    pub fn repair(&self) -> Result<bool, Error> {
        self.tables.repair(&|| self.records())
    }

    /// Starts to watch the configuration directory and the rules.
    pub fn watch(&self) -> Result<Watcher, Error> {
        let directory = &self.options.conf_dir;
        Ok(Watcher {
            directory: sys::watch::Directory::open(directory).map_err(Error::state("watch", directory))?,
            rules: sys::nft::Monitor::open().map_err(Error::kernel("monitor", "nftables"))?,
            rules_pending: false,
        })
    }

    /// Sets up the loopback interface of a namespace that gets no network.
    pub fn loopback_up(netns: BorrowedFd<'_>) -> Result<(), Error> {
        let work = || {
            let mut batch = Batch::new();
            batch.change(LinkRef::Name("lo"), LinkChange { up: true, ..LinkChange::default() });
            Ok(bridge::open_route()?.apply(batch)?)
        };
        sys::ns::in_netns(netns, work).map_err(Error::kernel("enter network namespace for", "lo"))?
    }

    /// The built-in form of a plugin, if it has one and may use it.
    pub(crate) fn builtin<'p>(&self, plugin: &'p Plugin) -> Option<&'p Builtin> {
        plugin.builtin.as_ref().filter(|_| !self.options.exec_builtin)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, HeldPorts> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        self.state().records.values().cloned().collect()
    }

    /// The network that exists when nothing is configured.
    fn built_in(&self) -> Result<Conflist, Error> {
        let (subnet, subnet6) = *self.subnets.read().unwrap_or_else(PoisonError::into_inner);
        let subnets = std::iter::once(subnet.to_string()).chain(subnet6.map(|s| s.to_string()));
        let ranges: Vec<_> = subnets.map(|subnet| json!([{ "subnet": subnet }])).collect();
        let text = json!({
            "cniVersion": "1.1.0",
            "name": "berth",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": self.options.bridge,
                    "isDefaultGateway": true,
                    "ipMasq": true,
                    "hairpinMode": true,
                    "capabilities": { "ips": true, "mac": true },
                    "ipam": { "type": "host-local", "ranges": ranges },
                },
                { "type": "portmap", "capabilities": { "portMappings": true } },
                { "type": "firewall" },
            ],
        });
        Ok(Conflist::parse(&text.to_string())?)
    }
}

/// `bp` and five digits made of the state directory's name (FNV-1a), so that two daemons on a host leave each other's
/// links alone.
fn link_prefix(state_dir: &[u8]) -> String {
    let hash = state_dir.iter().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    format!("bp{:05x}", hash >> 12)
}
