//! The task that owns a durable container.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::Instrument;

use super::exit::run_exit;
use super::health::Probing;
use super::record::{DurableRecord, directory};
use super::recovery::Found;
use super::{Command, Durable, QUEUE, Reply, Waits, answer, config};
use crate::blocking::Purpose;
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::happenings::{Action, Subject};
use crate::model::{
    ContainerState, DurableConfig, DurablePhase, DurableStatus, ExitReason, ExitRecord, Health, RunInfo,
    Stopped,
};
use crate::sandbox::{Handle, Tap};

/// The first wait before a container is started again.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest one.
const LAST_BACKOFF: Duration = Duration::from_secs(60);

/// A run of this length ends a series of failures.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// A durable container and everything its task knows of it.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    /// Its directory below the root.
    pub(super) dir: PathBuf,
    pub(super) record: DurableRecord,
    /// The record's configuration, shared with readers.
    pub(super) config: Arc<DurableConfig>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) published: watch::Sender<Arc<DurableStatus>>,
    pub(super) waits: Arc<Waits>,
    /// The sandbox of its run, while its process is taken to run.
    pub(super) run: Option<Handle>,
    /// Sandboxes of earlier runs that could not be taken down.
    pub(super) leftovers: Vec<Handle>,
    pub(super) paused: bool,
    pub(super) probing: Option<Probing>,
    /// Clients that wait for the output of the next run.
    pub(super) taps: Vec<Tap>,
    /// When its policy starts it again.
    pub(super) restart_at: Option<Instant>,
    pub(super) backoff: Backoff,
    /// Who waits for its run to end.
    pub(super) ending: Option<Ending>,
    /// Why its removal failed.
    pub(super) dead: Option<String>,
    /// Whether it is removed and the task ends.
    pub(super) gone: bool,
}

/// A run that was told to end.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) stops: Vec<Reply<Stopped>>,
    pub(super) restarts: Vec<Reply<()>>,
    pub(super) removes: Vec<Reply<()>>,
    /// Whether it was told by a signal only, which nobody calls a stop.
    pub(super) killed_only: bool,
}

/// Waits between runs: each twice the one before, until a run was good.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST_BACKOFF)
    }
}

impl Backoff {
    pub(super) fn next(&mut self, run: Duration) -> Duration {
        if run >= GOOD_RUN {
            self.0 = FIRST_BACKOFF;
        }
        let wait = self.0;
        self.0 = (wait * 2).min(LAST_BACKOFF);
        wait
    }
}

/// Starts the supervisor of a container whose record is written, and makes it known.
pub(super) fn spawn(shared: &Arc<Shared>, record: DurableRecord, found: Option<Found>) -> Durable {
    let (sender, commands) = mpsc::channel(QUEUE);
    let waits = Arc::new(Waits::default());
    waits.was(record.last_exit.as_ref().map_or(0, |exit| exit.code));
    let id = record.id.clone();
    let mut supervisor = Supervisor {
        shared: Arc::clone(shared),
        dir: directory(&shared.config.root).join(&id),
        config: Arc::new(record.config.clone()),
        published: watch::channel(Arc::new(empty_status(&record))).0,
        commands,
        waits: Arc::clone(&waits),
        run: None,
        leftovers: Vec::new(),
        paused: false,
        probing: None,
        taps: Vec::new(),
        restart_at: None,
        backoff: Backoff::default(),
        ending: None,
        dead: None,
        gone: false,
        record,
    };
    if let Some(found) = found {
        supervisor.take_over(found);
    }
    supervisor.publish();
    let durable = Durable { id, commands: sender, status: supervisor.published.subscribe(), waits };
    shared.durables.insert(durable.clone());
    let span = tracing::info_span!("durable", container = %durable.id);
    shared.tracker.spawn(supervisor.supervise().instrument(span));
    durable
}

/// The very first view; replaced before anybody sees it.
fn empty_status(record: &DurableRecord) -> DurableStatus {
    DurableStatus {
        id: record.id.clone(),
        name: record.config.name.clone(),
        config: Arc::new(DurableConfig::default()),
        created_at_ns: record.created_at_ns,
        image_id: record.image_id.clone(),
        phase: DurablePhase::Created,
        run: None,
        last_exit: None,
        restart_count: 0,
        health: None,
        log_path: String::new(),
        error: String::new(),
        manually_stopped: false,
    }
}

impl Supervisor {
    /// Serves commands and ends of runs until the container is removed or the daemon ends. When it ends, the
    /// container lives on.
    async fn supervise(mut self) {
        let shutdown = self.shared.shutdown.clone();
        self.settle().await;
        while !self.gone {
            let again = self.restart_at;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                // The end stays in the run's status when another branch wins.
                exit = ended(self.run.as_mut()) => self.run_ended(exit).await,
                // A report stays in its queue when another branch wins.
                probe = Probing::next(self.probing.as_mut()) => self.probed(probe),
                // A command stays in the queue when another branch wins.
                command = self.commands.recv() => match command {
                    Some(command) => self.handle(command).await,
                    None => return,
                },
                // A deadline is looked at anew each turn.
                () = sleep_until(again), if again.is_some() => self.start_again().await,
            }
        }
    }

    async fn handle(&mut self, command: Command) {
        match command {
            Command::Start { reply } => answer(reply, self.start_by_hand().await),
            Command::Stop { how, reply } => self.stop(how, reply).await,
            Command::Restart { how, reply } => self.restart(how, reply).await,
            Command::Kill { signal, reply } => answer(reply, self.kill(signal).await),
            Command::Remove { how, reply } => self.remove(how, reply).await,
            Command::Pause { reply } => answer(reply, self.pause().await),
            Command::Unpause { reply } => answer(reply, self.unpause().await),
            Command::Rename { name, reply } => answer(reply, self.rename(name).await),
            Command::Update { update, reply } => answer(reply, self.update(*update).await),
            Command::Connect { endpoint, reply } => answer(reply, self.connect(*endpoint).await),
            Command::Disconnect { network, reply } => answer(reply, self.disconnect(&network).await),
            Command::Attach { tap, reply } => answer(reply, self.attach(tap).await),
        }
    }

    /// Writes the record. Called before an effect whose intent it holds, and after it.
    pub(super) async fn persist(&self) -> Result<()> {
        let (record, dir) = (self.record.clone(), self.dir.clone());
        let what = format!("write the record of container {}", record.id.short());
        let work = move || record.write(&dir);
        self.shared.blocking.run(Purpose::Lifecycle, work).await?.map_err(|error| Error::io(what, error))
    }

    /// Writes the record where a failure must not undo what happened already.
    pub(super) async fn persist_or_warn(&self) {
        if let Err(error) = self.persist().await {
            tracing::error!(error = error.chain(), "the record could not be written");
        }
    }

    pub(super) fn phase(&self) -> DurablePhase {
        if self.dead.is_some() {
            return DurablePhase::Dead;
        }
        if self.record.removing.is_some() {
            return DurablePhase::Removing;
        }
        match (&self.run, self.paused, self.restart_at, &self.record.last_exit) {
            (Some(_), true, _, _) => DurablePhase::Paused,
            (Some(_), false, _, _) => DurablePhase::Running,
            (None, _, Some(_), _) => DurablePhase::Restarting,
            (None, _, None, None) => DurablePhase::Created,
            // It could not be started, and never has been.
            (None, _, None, Some(exit))
                if exit.reason == ExitReason::StartError && exit.started_at_ns == 0 =>
            {
                DurablePhase::Created
            }
            (None, _, None, Some(_)) => DurablePhase::Exited,
        }
    }

    /// Without a run there is no verdict: the last one is gone with it.
    fn health(&self) -> Option<Health> {
        self.record.config.health.as_ref()?;
        Some(self.probing.as_ref().map(|probing| probing.health.clone()).unwrap_or_default())
    }

    /// Makes the present state visible to readers.
    pub(super) fn publish(&self) {
        let record = &self.record;
        self.published.send_replace(Arc::new(DurableStatus {
            id: record.id.clone(),
            name: record.config.name.clone(),
            config: Arc::clone(&self.config),
            created_at_ns: record.created_at_ns,
            image_id: record.image_id.clone(),
            phase: self.phase(),
            run: self.run.as_ref().and_then(|run| run_info(&self.shared, run)),
            last_exit: record.last_exit.clone(),
            restart_count: record.restart_count,
            health: self.health(),
            log_path: config::log_path(&self.dir, &record.id, &record.config.log),
            error: self.dead.clone().unwrap_or_else(|| record.error.clone()),
            manually_stopped: record.manually_stopped,
        }));
    }

    /// Makes the present state visible, then tells what happened.
    pub(super) fn announce(&self, action: Action) {
        self.publish();
        self.tell(action);
    }

    /// Tells what happened.
    pub(super) fn tell(&self, action: Action) {
        self.shared.happenings.publish(subject(&self.record), action);
    }
}

pub(super) fn subject(record: &DurableRecord) -> Subject {
    subject_with(&record.id, &record.config)
}

/// Whom an event is about that the supervisor has no part in.
pub(super) fn subject_of(status: &DurableStatus) -> Subject {
    subject_with(&status.id, &status.config)
}

fn subject_with(id: &oci::ContainerId, config: &DurableConfig) -> Subject {
    let container = &config.container;
    let image = if container.user_image.is_empty() { &container.image } else { &container.user_image };
    Subject::Container {
        id: id.clone(),
        name: config.name.clone(),
        image: image.clone(),
        labels: Arc::new(container.labels.clone()),
    }
}

fn run_info(shared: &Shared, run: &Handle) -> Option<RunInfo> {
    let status = run.status();
    let container = status.containers.first()?;
    let ContainerState::Running { pid, started_at_ns, .. } = container.state else { return None };
    Some(RunInfo {
        sandbox: status.id.clone(),
        pid,
        started_at_ns,
        hostname: status.config.hostname.clone(),
        endpoints: status.endpoints.clone(),
        addresses: status.addresses.clone(),
        bound_ports: status.bound_ports.clone(),
        cgroup_path: container.cgroup_path.clone(),
        files: shared.sandbox_dir(&status.id),
    })
}

/// Waits for the end of a run; for ever if there is none.
async fn ended(run: Option<&mut Handle>) -> ExitRecord {
    let Some(run) = run else { return std::future::pending().await };
    if let Ok(status) = run.status.wait_for(|status| run_exit(status).is_some()).await
        && let Some(exit) = run_exit(&status)
    {
        return exit;
    }
    // The sandbox' task is gone: it was removed by somebody else.
    ExitRecord {
        code: 255,
        reason: ExitReason::Unknown,
        message: "its sandbox was removed".into(),
        started_at_ns: 0,
        finished_at_ns: sys::fs::now_ns(),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_until_a_run_was_good() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..12).map(|_| backoff.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[9..], [51_200, 60_000, 60_000]);
        assert_eq!(backoff.next(GOOD_RUN).as_millis(), 100);
        assert_eq!(backoff.next(Duration::ZERO).as_millis(), 200);
    }
}
