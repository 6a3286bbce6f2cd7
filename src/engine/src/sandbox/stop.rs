//! Stopping: a signal, a grace period, a kill; then the sandbox itself.

use std::os::fd::AsFd;
use std::time::Duration;

use oci::ContainerId;
use tokio::time::Instant;

use super::Reply;
use super::task::{Task, answer};
use crate::error::Error;
use crate::events::EventKind;
use crate::model::ContainerState;
use crate::record::Phase;

const SIGKILL: i32 = 9;

/// A grace period that is as good as none at all, and that clocks can add up.
const LONGEST_GRACE: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A container that was told to end.
#[derive(Debug)]
pub(super) struct Stopping {
    /// When it is killed; `None` when it was.
    pub(super) kill_at: Option<Instant>,
    /// When it was told first.
    pub(super) since: Instant,
    pub(super) waiters: Vec<Reply<()>>,
    /// Who wants it removed once it ended.
    pub(super) removers: Vec<Reply<()>>,
}

impl Task {
    /// Stops a container; one that does not run is stopped already. A second request may shorten the grace
    /// period of the first one, never lengthen it.
    pub(super) fn stop(&mut self, id: ContainerId, signal: Option<i32>, grace: Duration, reply: Reply<()>) {
        let Some(container) = self.record.container(&id) else {
            answer(reply, Err(Error::no_container(id.as_str())));
            return;
        };
        if !container.is_running() {
            answer(reply, Ok(()));
            return;
        }
        self.signal_stop(&id, signal, grace);
        if let Some(stopping) = self.stops.get_mut(&id) {
            stopping.waiters.push(reply);
        }
    }

    /// Sends `signal` or else the stop signal, or SIGKILL when there is no grace, and sets the deadline.
    pub(super) fn signal_stop(&mut self, id: &ContainerId, signal: Option<i32>, grace: Duration) {
        let deadline = Instant::now() + grace.min(LONGEST_GRACE);
        let first = !self.stops.contains_key(id);
        let stopping = self.stops.entry(id.clone()).or_insert_with(|| Stopping {
            kill_at: Some(deadline),
            since: Instant::now(),
            waiters: Vec::new(),
            removers: Vec::new(),
        });
        let Some(kill_at) = &mut stopping.kill_at else { return };
        *kill_at = (*kill_at).min(deadline);
        if grace.is_zero() {
            stopping.kill_at = None;
            self.send_signal(id, SIGKILL);
        } else if first {
            let own = self.record.container(id).map_or(SIGKILL, |c| c.stop_signal);
            let signal = signal.unwrap_or(own);
            self.send_signal(id, signal);
        }
    }

    fn send_signal(&self, id: &ContainerId, signal: i32) {
        let Some(live) = self.live.get(id) else { return };
        if signal == SIGKILL
            && let Some(container) = self.record.container(id)
        {
            // A frozen process cannot die.
            if let Ok(cgroup) = self.shared.cgroups.open(&container.cgroup_path) {
                let _ = cgroup.thaw();
            }
        }
        match sys::pidfd::signal(live.pidfd.as_fd(), signal) {
            Ok(()) => tracing::debug!(container = %id, signal, "signal sent"),
            // It ended on its own; the exit is on its way.
            Err(error) => tracing::debug!(container = %id, signal, %error, "signal not sent"),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.stops.values().filter_map(|s| s.kill_at).min()
    }

    /// Kills the containers whose grace period is over.
    pub(super) fn kill_overdue(&mut self) {
        let now = Instant::now();
        let overdue: Vec<ContainerId> = self
            .stops
            .iter()
            .filter(|(_, s)| s.kill_at.is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in overdue {
            if let Some(stopping) = self.stops.get_mut(&id) {
                stopping.kill_at = None;
            }
            self.send_signal(&id, SIGKILL);
        }
    }

    /// Stops the sandbox: kills what runs in it, then takes it down. Stopping it again tries again what
    /// failed.
    pub(super) async fn stop_sandbox(&mut self, reply: Option<Reply<()>>) {
        self.stop_waiters.extend(reply);
        if self.record.phase == Phase::Stopped {
            self.answer_stop(&Ok(()));
            return;
        }
        self.record.phase = Phase::Stopping;
        self.persist_or_warn().await;
        self.publish();
        self.continue_stopping().await;
    }

    /// Goes on with a stop: kills containers that run, and takes the sandbox down once none does.
    pub(super) async fn continue_stopping(&mut self) {
        let running: Vec<ContainerId> =
            self.record.containers.iter().filter(|c| c.is_running()).map(|c| c.id.clone()).collect();
        for id in &running {
            self.signal_stop(id, None, Duration::ZERO);
        }
        if !running.is_empty() {
            return;
        }
        self.rootfs.clear();
        let started = std::time::Instant::now();
        let outcome = self.take_down().await;
        self.shared.metrics.sandbox_stops.ended(started, &outcome);
        if outcome.is_ok() {
            self.record.phase = Phase::Stopped;
            self.record.addresses.clear();
        }
        self.persist_or_warn().await;
        if outcome.is_ok() {
            tracing::info!("sandbox stopped");
            self.announce(EventKind::Stopped, None);
        }
        self.answer_stop(&outcome);
        if !self.remove_waiters.is_empty() {
            self.finish_removal(outcome).await;
        }
    }

    fn answer_stop(&mut self, outcome: &crate::Result<()>) {
        for waiter in self.stop_waiters.drain(..) {
            answer(waiter, outcome.clone());
        }
    }

    /// After a restart: goes on with what the daemon was in the middle of. A sandbox that was being brought
    /// up has no owner who knows its id, and one that was being stopped is stopped.
    pub(super) async fn finish_interrupted(&mut self) {
        let ended = self.record.containers.iter().filter(|c| matches!(c.state, ContainerState::Exited(_)));
        let ended: Vec<ContainerId> = ended.map(|c| c.id.clone()).collect();
        for id in &ended {
            self.clear_remains(id).await;
        }
        match self.record.phase {
            Phase::Starting | Phase::Stopping => self.stop_sandbox(None).await,
            Phase::Ready | Phase::Stopped => {}
        }
    }

    pub(super) fn is_running(&self, id: &ContainerId) -> bool {
        self.record.container(id).is_some_and(|c| matches!(c.state, ContainerState::Running { .. }))
    }
}
