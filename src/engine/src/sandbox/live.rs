//! What a running container is reached by: descriptors that only exist while it runs.
//!
//! Exec, attach and statistics use these without asking the sandbox' task.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use keeper::protocol::{NamespaceKind, Origin};
use oci::ContainerId;
use oci::runtime::Process;

/// A container that runs.
#[derive(Debug)]
pub(crate) struct LiveContainer {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    /// The write end of its standard input.
    pub(crate) stdin: Mutex<Option<OwnedFd>>,
    /// The master of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// What exec sessions are made like; read from its bundle when the first is asked for, if another daemon
    /// started it.
    pub(crate) example: OnceLock<Example>,
    /// Statistics of its cgroup, through files kept open.
    pub(crate) stats: Mutex<sys::cgroup::Reader>,
    /// What another keeper needs to take it over; `None` if it has lost that already.
    pub(crate) keeping: Option<Keeping>,
}

impl LiveContainer {
    /// Reads the statistics of its cgroup; one reader at a time.
    pub(crate) fn reader(&self) -> MutexGuard<'_, sys::cgroup::Reader> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container's first process.
#[derive(Debug)]
pub(crate) struct Example {
    pub(crate) process: Process,
    /// The part of its environment that is not UTF-8.
    pub(crate) env_bytes: Vec<Vec<u8>>,
}

/// What a keeper holds of a container, in duplicate. Nothing is read from the pipes here: while a keeper lives
/// they are its own, and when it does not what is in them waits for the next one.
#[derive(Debug)]
pub(crate) struct Keeping {
    pub(crate) sandbox: String,
    pub(crate) origin: Origin,
    pub(crate) start_time: u64,
    pub(crate) started_at_ns: i64,
    /// The read end of its standard output.
    pub(crate) stdout: Option<OwnedFd>,
    /// The read end of its standard error.
    pub(crate) stderr: Option<OwnedFd>,
}

/// What of a sandbox is alive.
#[derive(Debug, Default)]
pub(crate) struct Live {
    containers: RwLock<HashMap<ContainerId, Arc<LiveContainer>>>,
    namespaces: RwLock<Arc<BTreeMap<NamespaceKind, OwnedFd>>>,
    /// The built-in init of its PID namespace.
    init_pid: Mutex<Option<u32>>,
    stats: Mutex<Option<sys::cgroup::Reader>>,
    /// Reads the counters of its interfaces. It keeps the network namespace alive, so it goes with it.
    counters: Mutex<Option<sys::netlink::CounterReader>>,
}

impl Live {
    pub(crate) fn get(&self, id: &ContainerId) -> Option<Arc<LiveContainer>> {
        self.containers.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn insert(&self, id: ContainerId, container: LiveContainer) {
        self.containers.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::new(container));
    }

    pub(crate) fn remove(&self, id: &ContainerId) -> Option<Arc<LiveContainer>> {
        self.containers.write().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    /// All that run.
    pub(crate) fn containers(&self) -> Vec<(ContainerId, Arc<LiveContainer>)> {
        let containers = self.containers.read().unwrap_or_else(PoisonError::into_inner);
        containers.iter().map(|(id, live)| (id.clone(), Arc::clone(live))).collect()
    }

    pub(crate) fn init_pid(&self) -> Option<u32> {
        *self.init_pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_init_pid(&self, pid: Option<u32>) {
        *self.init_pid.lock().unwrap_or_else(PoisonError::into_inner) = pid;
    }

    pub(crate) fn namespaces(&self) -> Arc<BTreeMap<NamespaceKind, OwnedFd>> {
        self.namespaces.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_namespaces(&self, namespaces: BTreeMap<NamespaceKind, OwnedFd>) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.namespaces.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(namespaces);
    }

    /// Counters of the interfaces in the sandbox' network namespace; none with the host's.
    pub(crate) fn counters(&self) -> std::io::Result<Vec<sys::netlink::InterfaceCounters>> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = match &mut *counters {
            Some(reader) => reader,
            empty => {
                let namespaces = self.namespaces();
                let Some(netns) = namespaces.get(&NamespaceKind::Net) else { return Ok(Vec::new()) };
                empty.insert(sys::netlink::CounterReader::open(netns.as_fd())?)
            }
        };
        reader.read()
    }

    /// Reads the statistics of the sandbox' own cgroup, opening its files with `open` the first time.
    pub(crate) fn sandbox_stats(
        &self,
        detail: sys::cgroup::Detail,
        open: impl FnOnce() -> Option<sys::cgroup::Reader>,
    ) -> Option<sys::cgroup::Stats> {
        let mut reader = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.is_none() {
            *reader = open();
        }
        let stats = reader.as_mut()?.read(detail);
        match stats {
            Ok(stats) => Some(stats),
            Err(_) => {
                *reader = None;
                None
            }
        }
    }
}
