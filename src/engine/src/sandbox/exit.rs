//! A container ended: what it came to, and what of it must go.

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
    /// Records an exit, frees what the container held in the kernel, and tells everybody who waits.
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
        let oom_kills = self.remove_cgroup(&id).await;
        let oom_killed = oom_kills > 0 && (exit.signal == Some(SIGKILL) || exit.code == 137);
        let reason = match (oom_killed, exit.code) {
            _ if exit.unknown => ExitReason::Unknown,
            (true, _) => ExitReason::OomKilled,
            (false, 0) => ExitReason::Completed,
            (false, _) => ExitReason::Error,
        };
        let record = ExitRecord {
            code: exit.code,
            reason,
            message: String::new(),
            started_at_ns,
            finished_at_ns: exit.at_ns,
        };
        tracing::info!(container = %id, exit_code = exit.code, oom_killed, "container exited");
        self.shared.metrics.container_exits.get(metrics::Exit::of(reason)).inc();
        if let Some(container) = self.record.container_mut(&id) {
            container.state = ContainerState::Exited(record);
            container.oom_kills = oom_kills;
        }
        self.persist_or_warn().await;
        // Only now may the keeper forget it: the record has the exit.
        self.release(&id).await;
        self.announce(EventKind::Stopped, Some(&id));
        self.after_exit(&id).await;
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

    /// Ends what is left in a container's cgroup and removes it; says how often the kernel killed in it for
    /// want of memory.
    pub(super) async fn remove_cgroup(&mut self, id: &ContainerId) -> u64 {
        let Some(container) = self.record.container(id) else { return 0 };
        let path = container.cgroup_path.clone();
        let rootfs = self.container_dir(id).join("rootfs");
        let cgroups = self.shared.cgroups.clone();
        let work = move || {
            let _ = sys::mount::umount_detach(&rootfs);
            let cgroup = match cgroups.open(&path) {
                Ok(cgroup) => cgroup,
                Err(error) => {
                    tracing::debug!(%error, "a cgroup could not be opened");
                    return 0;
                }
            };
            let kills = cgroup.oom_kills().unwrap_or(0);
            if let Err(error) = cgroup.kill(SIGKILL) {
                tracing::warn!(%error, "processes of a container could not be killed");
            }
            if let Err(error) = cgroup.remove() {
                tracing::warn!(%error, "a cgroup could not be removed");
            }
            kills
        };
        self.shared.blocking.run(Purpose::Lifecycle, work).await.unwrap_or(0)
    }
}
