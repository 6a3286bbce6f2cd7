//! Starting a run: a sandbox of its own, and the container in it.

use oci::{ContainerId, SandboxId};
use tokio::sync::watch;

use super::record::RunRecord;
use super::supervisor::Supervisor;
use super::{DurableProblem, config};
use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::happenings::Action;
use crate::model::{
    ContainerMount, ContainerState, ExitReason, ExitRecord, NamespaceMode, SandboxConfig, Started,
};
use crate::names::{Progress, wait};
use crate::sandbox::{self, Handle};

impl Supervisor {
    /// Starts it because a client asks.
    pub(super) async fn start_by_hand(&mut self) -> Result<Started> {
        let id = self.record.id.clone();
        let what = || format!("start container {}", self.record.config.name);
        if self.record.removing.is_some() {
            return Err(DurableProblem::Removing(id).error(what()));
        }
        if self.paused {
            return Err(DurableProblem::Paused(id).error(what()));
        }
        if self.run.is_some() {
            return Ok(Started::AlreadyRunning);
        }
        self.start(true).await.map(|()| Started::Now)
    }

    /// Starts it because its policy says so.
    pub(super) async fn start_again(&mut self) {
        self.restart_at = None;
        self.record.restart_count = self.record.restart_count.saturating_add(1);
        if let Err(error) = self.start(false).await {
            tracing::warn!(error = error.chain(), "a container could not be started again");
        }
    }

    /// Starts a run. When it fails nothing of it is left, and the reason is on record.
    pub(super) async fn start(&mut self, by_hand: bool) -> Result<()> {
        self.restart_at = None;
        if by_hand {
            self.record.restart_count = 0;
            self.record.manually_stopped = false;
        }
        self.take_down_leftovers().await;
        match self.try_start().await {
            Ok(run) => {
                self.run = Some(run);
                self.begin_probing(false);
                self.waits.up();
                tracing::info!("run started");
                self.announce(Action::Start);
                Ok(())
            }
            Err(error) => {
                self.start_failed(&error, by_hand).await;
                Err(error)
            }
        }
    }

    async fn try_start(&mut self) -> Result<Handle> {
        let sandbox = self.run_config()?;
        let random = sys::fs::random_bytes().map_err(|error| Error::io("make a sandbox id", error))?;
        let id = SandboxId::from_random(random);
        self.record.error.clear();
        self.record.run = Some(RunRecord {
            sandbox: id.clone(),
            boot_id: self.shared.boot_id.clone(),
            asked_at_ns: sys::fs::now_ns(),
        });
        let (report, progress) = progress("queued");
        // The sandbox' own record says whose run it is, so either record may be the first on disk. Before anybody is
        // told that it runs, both are.
        let run = sandbox::spawn(&self.shared, id, sandbox, report);
        self.shared.insert_sandbox(run.clone());
        let what = format!("the run of container {}", self.record.config.name);
        let (written, up) = tokio::join!(self.persist(), wait(progress, &what, None));
        if let Err(error) = up {
            // It has been taken down, or stays until it can be.
            self.take_down(run).await;
            return Err(error);
        }
        let ran = match written {
            Ok(()) => self.run_container(&run).await,
            Err(error) => Err(error),
        };
        match ran {
            Ok(()) => Ok(run),
            Err(error) => {
                self.take_down(run).await;
                Err(error)
            }
        }
    }

    fn run_config(&self) -> Result<SandboxConfig> {
        let mut sandbox = config::sandbox(&self.record, &self.dir);
        self.join(&mut sandbox)?;
        crate::engine::check_sandbox(&sandbox)?;
        self.shared.handler(&sandbox.runtime_handler)?;
        Ok(sandbox)
    }

    /// Looks up the containers whose namespaces it uses.
    fn join(&self, sandbox: &mut SandboxConfig) -> Result<()> {
        let join = &self.record.config.join;
        if let Some(other) = &join.network {
            let (handle, _) = self.joined(other)?;
            sandbox.hostname = handle.status().config.hostname.clone();
            match handle.status().config.namespaces.network {
                NamespaceMode::Host => sandbox.namespaces.network = NamespaceMode::Host,
                _ => sandbox.joined.network = Some(handle.id),
            }
        }
        if let Some(other) = &join.ipc {
            let (handle, _) = self.joined(other)?;
            match handle.status().config.namespaces.ipc {
                NamespaceMode::Host => sandbox.namespaces.ipc = NamespaceMode::Host,
                _ => sandbox.joined.ipc = Some(handle.id),
            }
        }
        Ok(())
    }

    /// A container that runs, with its sandbox.
    fn joined(&self, reference: &str) -> Result<(Handle, ContainerId)> {
        let engine = Engine::of(&self.shared);
        let id = match self.shared.durables.find(reference) {
            Ok(durable) => durable.status().id.clone(),
            Err(unknown) => match engine.find_container(reference)? {
                Some((_, id)) => id,
                None => return Err(unknown),
            },
        };
        let what = || format!("join the namespaces of container {reference}");
        let not_running = || DurableProblem::NotRunning(id.clone()).error(what());
        if id == self.record.id {
            return Err(Error::invalid("a container cannot join its own namespaces"));
        }
        let (handle, id) = engine.find_container(id.as_str())?.ok_or_else(not_running)?;
        if handle.live.get(&id).is_none() {
            return Err(DurableProblem::NotRunning(id).error(what()));
        }
        Ok((handle, id))
    }

    async fn run_container(&mut self, run: &Handle) -> Result<()> {
        let mut container = Box::new(config::container(&self.record));
        if let Some(other) = &self.record.config.join.pid {
            let (_, id) = self.joined(other)?;
            container.security.pid = Some(NamespaceMode::Target(id));
        }
        container.mounts.extend(self.mount_volumes().await?);
        let (report, created) = progress("queued");
        let create = sandbox::Command::Create { config: container, progress: report };
        run.send(create).await?;
        let what = format!("container {}", self.record.config.name);
        let id = wait(created, &what, None).await?;
        let taps = std::mem::take(&mut self.taps);
        run.ask(|reply| sandbox::Command::Start { id, taps, reply }).await
    }

    /// What it is given of files, as this run sees it.
    async fn mount_volumes(&self) -> Result<Vec<ContainerMount>> {
        let (shared, id) = (self.shared.clone(), self.record.id.clone());
        let work = move || crate::volumes::mount_volumes(&shared, &id);
        self.shared.blocking.run(Purpose::Lifecycle, work).await?
    }

    /// A start failed: the reason and the exit code that stands for it are on record.
    async fn start_failed(&mut self, error: &Error, by_hand: bool) {
        let text = error.chain();
        // Whoever is attached learns of the end.
        self.taps.clear();
        self.record.run = None;
        self.record.error.clone_from(&text);
        let started_at_ns = self.record.last_exit.as_ref().map_or(0, |exit| exit.started_at_ns);
        let exit = ExitRecord {
            code: start_code(error.kind(), &text),
            reason: ExitReason::StartError,
            message: text,
            started_at_ns,
            finished_at_ns: sys::fs::now_ns(),
        };
        let code = exit.code;
        self.record.last_exit = Some(exit);
        let again =
            !by_hand && super::exit::wants_again(self.record.config.restart, code, self.record.restart_count);
        self.persist_or_warn().await;
        if again {
            let wait = self.backoff.next(std::time::Duration::ZERO);
            self.restart_at = Some(tokio::time::Instant::now() + wait);
        }
        self.publish();
        if again {
            return;
        }
        self.waits.start_failed(code);
        if self.record.config.auto_remove {
            drop(self.finish_removal().await);
        }
    }
}

/// Whether a run is one: its process was started.
pub(super) fn has_started(run: &Handle) -> bool {
    run.status().containers.first().is_some_and(|container| match container.state {
        ContainerState::Running { .. } | ContainerState::Exited(_) => true,
        ContainerState::Created => false,
    })
}

fn progress<T: Clone>(stage: &'static str) -> (watch::Sender<Progress<T>>, watch::Receiver<Progress<T>>) {
    watch::channel(Progress { since: std::time::Instant::now(), stage, outcome: None })
}

/// The exit code that stands for a failed start, as shells have it: 127 for a program that is not there, 126 for one
/// that cannot be executed, 128 for everything else.
pub(super) fn start_code(kind: ErrorKind, text: &str) -> i32 {
    let has = |part: &str| text.contains(part);
    match kind {
        ErrorKind::InvalidArgument if has("not found") || has("No such file") || has("no such file") => 127,
        ErrorKind::InvalidArgument if has("ermission denied") || has("ot executable") => 126,
        _ => 128,
    }
}
