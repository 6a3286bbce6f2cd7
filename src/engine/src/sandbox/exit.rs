//! A container ended: what it came to, and what of it must go.

use std::sync::Arc;

use keeper::protocol::{Exit, Request};
use oci::ContainerId;

use super::task::{Task, answer};
use crate::blocking::Purpose;
use crate::events::EventKind;
use crate::metrics::{self, Stop};
use crate::model::{ContainerState, ExitReason, ExitRecord};
use crate::record::Phase;

const SIGKILL: i32 = 9;

impl Task {
    /// Records an exit, tells everybody, then frees what the container held in the kernel. What of the latter is
    /// interrupted is done by the next daemon ([`Task::clear_remains`]).
    pub(super) async fn exited(&mut self, id: ContainerId, exit: Exit) {
        let Some(container) = self.record.container(&id) else { return };
        let started_at_ns = match container.state {
            ContainerState::Running { started_at_ns, .. } => started_at_ns,
            // It ended between the keeper's answer and ours, or while the daemon was down.
            ContainerState::Created => container.created_at_ns,
            ContainerState::Exited(_) => return,
        };
        self.live.remove(&id);
        self.shared.rates.forget(id.as_str());
        let Some((ended, oom_kills)) = self.settle(&id, &exit, started_at_ns).await else { return };
        let oom_killed = ended.reason == ExitReason::OomKilled;
        tracing::info!(container = %id, exit_code = exit.code, oom_killed, "container exited");
        self.shared.metrics.container_exits.get(metrics::Exit::of(ended.reason)).inc();
        if let Some(container) = self.record.container_mut(&id) {
            container.state = ContainerState::Exited(ended);
            container.oom_kills = oom_kills;
        }
        self.announce(EventKind::Stopped, Some(&id));
        // Only now may the keeper forget it: the record has the exit.
        self.clear_remains(&id).await;
        self.after_exit(&id).await;
    }

    /// Ends what is left of an ended container's processes, finds out why it ended, and writes that down: one
    /// blocking job, for everybody who watches waits for it. `None` when the engine ends.
    async fn settle(&self, id: &ContainerId, exit: &Exit, started_at_ns: i64) -> Option<(ExitRecord, u64)> {
        let cgroup_path = self.record.container(id)?.cgroup_path.clone();
        let (cgroups, dir, exit, id) =
            (Arc::clone(&self.shared.cgroups), self.dir.clone(), *exit, id.clone());
        let mut record = self.record.clone();
        let work = move || {
            let oom_kills = end_rest(&cgroups, &cgroup_path);
            let ended = ExitRecord {
                code: exit.code,
                reason: reason(&exit, oom_kills),
                message: String::new(),
                started_at_ns,
                finished_at_ns: exit.at_ns,
            };
            if let Some(container) = record.container_mut(&id) {
                container.state = ContainerState::Exited(ended.clone());
                container.oom_kills = oom_kills;
            }
            if let Err(error) = record.write(&dir) {
                tracing::warn!(container = %id, %error, "the record of an exit could not be written");
            }
            (ended, oom_kills)
        };
        self.shared.blocking.run(Purpose::Lifecycle, work).await.ok()
    }

    /// Frees what an ended container still holds: the keeper's memory of it, its cgroup, its mount.
    pub(super) async fn clear_remains(&mut self, id: &ContainerId) {
        self.release(id).await;
        self.remove_cgroup(id).await;
    }

    async fn after_exit(&mut self, id: &ContainerId) {
        if let Some(stopping) = self.stops.remove(id) {
            let how = if stopping.kill_at.is_some() { Stop::Graceful } else { Stop::Killed };
            self.shared.metrics.container_stops.get(how).inc();
            self.shared.metrics.container_stop_seconds.observe(stopping.since.elapsed().as_secs_f64());
            for waiter in stopping.waiters {
                answer(waiter, Ok(()));
            }
            if !stopping.removers.is_empty() {
                let outcome = self.delete_container(id).await;
                for remover in stopping.removers {
                    answer(remover, outcome.clone());
                }
            }
        }
        if self.record.phase == Phase::Stopping {
            self.continue_stopping().await;
        }
    }

    pub(super) async fn release(&self, id: &ContainerId) {
        let request = Request::Release { id: id.to_string() };
        if let Err(error) = self.shared.link.call("release a container", request, &[]).await {
            tracing::debug!(container = %id, error = error.chain(), "the keeper could not release a container");
        }
    }

    /// Ends what is left in a container's cgroup and removes it.
    pub(super) async fn remove_cgroup(&mut self, id: &ContainerId) {
        let Some(container) = self.record.container(id) else { return };
        let path = container.cgroup_path.clone();
        let rootfs = self.container_dir(id).join("rootfs");
        let cgroups = Arc::clone(&self.shared.cgroups);
        let work = move || {
            let _ = sys::mount::umount_detach(&rootfs);
            let cgroup = match cgroups.open(&path) {
                Ok(cgroup) if cgroup.exists() => cgroup,
                Ok(_) => return,
                Err(error) => return tracing::debug!(%error, "a cgroup could not be opened"),
            };
            if let Err(error) = cgroup.kill(SIGKILL) {
                tracing::warn!(%error, "processes of a container could not be killed");
            }
            if let Err(error) = cgroup.remove() {
                tracing::warn!(%error, "a cgroup could not be removed");
            }
        };
        // A job that was refused is done when the daemon starts again.
        drop(self.shared.blocking.run(Purpose::Lifecycle, work).await);
    }
}

/// Kills what is left in a container's cgroup; says how often the kernel killed in it for want of memory.
fn end_rest(cgroups: &sys::cgroup::Layout, path: &str) -> u64 {
    let cgroup = match cgroups.open(path) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            tracing::debug!(%error, "a cgroup could not be opened");
            return 0;
        }
    };
    let oom_kills = cgroup.oom_kills().unwrap_or(0);
    if let Err(error) = cgroup.kill(SIGKILL) {
        tracing::warn!(%error, "processes of a container could not be killed");
    }
    oom_kills
}

fn reason(exit: &Exit, oom_kills: u64) -> ExitReason {
    let killed = exit.signal == Some(SIGKILL) || exit.code == 137;
    match exit.code {
        _ if exit.unknown => ExitReason::Unknown,
        _ if oom_kills > 0 && killed => ExitReason::OomKilled,
        0 => ExitReason::Completed,
        _ => ExitReason::Error,
    }
}
