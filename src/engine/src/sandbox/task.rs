//! The task that owns a sandbox.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use keeper::protocol::{Exit, NamespaceKind};
use oci::{ContainerId, SandboxId};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::Instrument;

use super::stop::Stopping;
use super::{Asked, Command, Handle, Live, LiveContainer, QUEUE, Reply};
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::happenings::{Action, Subject};
use crate::keeper_link::ExitInbox;
use crate::model::{ContainerState, ContainerStatus, SandboxConfig, SandboxState, SandboxStatus};
use crate::names::Progress;
use crate::networks::Resolver;
use crate::record::{ContainerRecord, Phase, SandboxRecord, VERSION};
use crate::traces::step;

/// A sandbox and everything its task knows of it.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    /// Its directory below the state directory.
    pub(super) dir: PathBuf,
    pub(super) record: SandboxRecord,
    pub(super) commands: mpsc::Receiver<Asked>,
    pub(super) published: watch::Sender<Arc<SandboxStatus>>,
    pub(super) live: Arc<Live>,
    pub(super) inbox: Arc<ExitInbox>,
    /// Root file systems that are mounted and wait for their container to start.
    pub(super) rootfs: HashMap<ContainerId, OwnedFd>,
    /// Containers that are being stopped.
    pub(super) stops: HashMap<ContainerId, Stopping>,
    /// Who waits for the sandbox to be stopped, and for it to be removed.
    pub(super) stop_waiters: Vec<Reply<()>>,
    pub(super) remove_waiters: Vec<Reply<()>>,
    /// Whether it is removed and the task ends.
    pub(super) gone: bool,
    /// Answers its questions about names, if it is on user networks.
    pub(super) resolver: Option<Resolver>,
}

/// What survived of a sandbox when the daemon starts again.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    /// The built-in init of its PID namespace.
    pub(crate) init_pid: Option<u32>,
    pub(crate) namespaces: BTreeMap<NamespaceKind, OwnedFd>,
    /// Containers whose process runs.
    pub(crate) running: Vec<(ContainerId, LiveContainer)>,
    /// Containers that ended, whether the daemon saw it or not.
    pub(crate) exits: Vec<(ContainerId, Exit)>,
}

/// Starts the task of a new sandbox. `progress` learns how bringing it up ended.
pub(crate) fn spawn(
    shared: &Arc<Shared>,
    id: SandboxId,
    config: SandboxConfig,
    progress: watch::Sender<Progress<SandboxId>>,
) -> Handle {
    let record = SandboxRecord {
        version: VERSION,
        boot_id: shared.boot_id.clone(),
        hostname: super::bring_up::hostname(&config, &id),
        id,
        config,
        phase: Phase::Starting,
        created_at_ns: sys::fs::now_ns(),
        has_namespaces: false,
        network: None,
        addresses: Vec::new(),
        endpoints: Vec::new(),
        bound_ports: Vec::new(),
        containers: Vec::new(),
    };
    let (mut task, handle) = Task::new(shared, record);
    let starting = step!("start sandbox", sandbox = %handle.id);
    let span = span_of(&handle.id);
    let work = async move {
        if task.bring_up(progress).instrument(starting).await {
            task.run().await;
        }
    };
    shared.tracker.spawn(work.instrument(span));
    handle
}

/// The span that names the sandbox in the log. It outlives the request that the sandbox was made for, so it is not
/// below it.
fn span_of(id: &SandboxId) -> tracing::Span {
    tracing::info_span!(parent: None, "sandbox", sandbox = %id)
}

/// Starts the task of a sandbox that was there before the daemon.
pub(crate) fn adopt(shared: &Arc<Shared>, record: SandboxRecord, adopted: Adopted) -> Handle {
    let (mut task, handle) = Task::new(shared, record);
    let span = span_of(&handle.id);
    task.take_over(adopted);
    let work = async move {
        task.finish_interrupted().await;
        task.take_over_networks().await;
        task.run().await;
    };
    shared.tracker.spawn(work.instrument(span));
    handle
}

impl Task {
    fn new(shared: &Arc<Shared>, record: SandboxRecord) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let live = Arc::new(Live::default());
        let id = record.id.clone();
        let (published, status) = watch::channel(Arc::new(status_of(&record)));
        let task = Self {
            shared: Arc::clone(shared),
            dir: shared.sandbox_dir(&id),
            record,
            commands,
            published,
            live: Arc::clone(&live),
            inbox: Arc::default(),
            rootfs: HashMap::new(),
            stops: HashMap::new(),
            stop_waiters: Vec::new(),
            remove_waiters: Vec::new(),
            gone: false,
            resolver: None,
        };
        (task, Handle { id, commands: sender, status, live })
    }

    /// Serves commands and exits until the sandbox is removed or the daemon ends. When it ends, containers
    /// live on.
    async fn run(mut self) {
        while !self.gone {
            let overdue = self.next_deadline();
            tokio::select! {
                // Exits stay in the inbox when another branch wins.
                exits = take_exits(Arc::clone(&self.inbox)) => {
                    for (id, exit) in exits {
                        self.exited(id, exit).await;
                    }
                }
                // A command stays in the queue when another branch wins.
                command = self.commands.recv() => match command {
                    Some(Asked { command, span }) => self.handle(command).instrument(span).await,
                    None => return,
                },
                // A deadline is computed anew each turn.
                () = sleep_until(overdue), if overdue.is_some() => self.kill_overdue(),
            }
        }
    }

    async fn handle(&mut self, command: Command) {
        match command {
            // The largest of them: on its own, it does not make every command's future as large.
            Command::Create { config, progress } => Box::pin(self.create(*config, progress)).await,
            Command::Start { id, taps, reply } => {
                let outcome = self.start(&id, taps).await;
                let started = outcome.is_ok();
                answer(reply, outcome);
                if started {
                    // Nobody has to wait for it: the keeper knows what it runs, and the record says it was asked to.
                    self.persist_or_warn().await;
                }
            }
            Command::Stop { id, signal, grace, reply } => self.stop(id, signal, grace, reply),
            Command::RemoveContainer { id, reply } => self.remove_container(id, reply).await,
            Command::Update { id, resources, reply } => answer(reply, self.update(&id, &resources).await),
            Command::UpdateSandbox { overhead, resources, reply } => {
                answer(reply, self.update_sandbox(overhead, resources).await);
            }
            Command::Connect { config, reply } => answer(reply, self.connect(*config).await),
            Command::Disconnect { network, reply } => answer(reply, self.disconnect(&network).await),
            Command::RenameInNetworks { name, reply } => {
                answer(reply, self.rename_in_networks(name).await);
            }
            Command::StopSandbox { reply } => self.stop_sandbox(Some(reply)).await,
            Command::RemoveSandbox { reply } => self.remove_sandbox(reply).await,
        }
    }

    /// Writes the record. Called before an effect whose intent it holds, and after it.
    pub(super) async fn persist(&mut self) -> Result<()> {
        let (record, dir) = (self.record.clone(), self.dir.clone());
        self.shared.blocking.run(crate::blocking::Purpose::Lifecycle, move || record.store(&dir)).await?
    }

    /// Writes the record where a failure must not undo what happened already.
    pub(super) async fn persist_or_warn(&mut self) {
        if let Err(error) = self.persist().await {
            tracing::warn!(error = error.chain(), "the record could not be written");
        }
    }

    /// Makes the present state visible to readers.
    pub(super) fn publish(&self) -> Arc<SandboxStatus> {
        let status = Arc::new(status_of(&self.record));
        self.published.send_replace(Arc::clone(&status));
        status
    }

    /// Makes the present state visible, then tells what happened.
    pub(super) fn announce(&self, kind: EventKind, container: Option<&ContainerId>) {
        let status = self.publish();
        // A durable container tells of itself what it comes to.
        if status.config.durable.is_some() {
            return;
        }
        if let Some(id) = container {
            self.tell(kind, id);
        }
        self.shared.bus.publish(kind, container.cloned(), status);
    }

    /// Tells those who follow containers of all kinds.
    fn tell(&self, kind: EventKind, id: &ContainerId) {
        // One that is gone has no record any more; its sandbox' owner learns of it from the bus.
        let Some(container) = self.record.container(id) else { return };
        let subject = Subject::Container {
            id: id.clone(),
            name: container.config.key.name.clone(),
            image: container.config.user_image.clone(),
            labels: Arc::new(container.config.labels.clone()),
        };
        let action = match (kind, &container.state) {
            (EventKind::Created, _) => Action::Create,
            (EventKind::Started, _) => Action::Start,
            (EventKind::Stopped, ContainerState::Exited(exit)) => Action::Die { exit_code: exit.code },
            (EventKind::Stopped | EventKind::Deleted, _) => return,
        };
        self.shared.happenings.publish(subject, action);
    }

    pub(super) fn container(&mut self, id: &ContainerId) -> Result<&mut ContainerRecord> {
        self.record.container_mut(id).ok_or_else(|| Error::no_container(id.as_str()))
    }

    fn take_over(&mut self, adopted: Adopted) {
        self.live.set_namespaces(adopted.namespaces);
        self.live.set_init_pid(adopted.init_pid);
        for (id, container) in adopted.running {
            self.shared.link.route_container(&id, &self.inbox);
            self.live.insert(id, container);
        }
        for (id, exit) in adopted.exits {
            self.inbox.put(id, exit);
        }
        self.publish();
    }
}

/// The inbox by value: the loop's other branches borrow the task.
async fn take_exits(inbox: Arc<ExitInbox>) -> Vec<(ContainerId, Exit)> {
    inbox.take().await
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Nobody has to wait for an answer.
pub(super) fn answer<T>(reply: Reply<T>, result: Result<T>) {
    drop(reply.send(result));
}

fn status_of(record: &SandboxRecord) -> SandboxStatus {
    let ready = record.phase == Phase::Ready;
    SandboxStatus {
        id: record.id.clone(),
        config: record.config.clone(),
        state: if ready { SandboxState::Ready } else { SandboxState::NotReady },
        created_at_ns: record.created_at_ns,
        addresses: record.addresses.clone(),
        netns_path: None,
        endpoints: record.endpoints.clone(),
        bound_ports: record.bound_ports.clone(),
        containers: record.containers.iter().map(|c| container_status(record, c)).collect(),
        observed_at_ns: sys::fs::now_ns(),
    }
}

fn container_status(sandbox: &SandboxRecord, record: &ContainerRecord) -> ContainerStatus {
    ContainerStatus {
        id: record.id.clone(),
        sandbox: sandbox.id.clone(),
        config: record.config.clone(),
        state: record.state.clone(),
        created_at_ns: record.created_at_ns,
        image_id: record.image_id.clone(),
        image_ref: record.image_ref.clone(),
        log_path: record.log_path.clone(),
        user: record.user.clone(),
        stop_signal: record.stop_signal,
        mounted_images: record.mounted_images.clone(),
        cgroup_path: record.cgroup_path.clone(),
    }
}

impl ContainerRecord {
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }
}
