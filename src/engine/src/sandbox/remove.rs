//! Removing containers and sandboxes, and everything of theirs on disk.

use std::time::Duration;

use oci::ContainerId;

use super::Reply;
use super::task::{Task, answer};
use crate::blocking::Purpose;
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::record::Phase;

impl Task {
    /// Removes a container, killing it first if it runs. One that is gone is removed already.
    pub(super) async fn remove_container(&mut self, id: ContainerId, reply: Reply<()>) {
        if self.record.container(&id).is_none() {
            answer(reply, Ok(()));
            return;
        }
        if self.is_running(&id) {
            self.signal_stop(&id, None, Duration::ZERO);
            if let Some(stopping) = self.stops.get_mut(&id) {
                stopping.removers.push(reply);
            }
            return;
        }
        let outcome = self.delete_container(&id).await;
        answer(reply, outcome);
    }

    /// Deletes what is left of a container that does not run.
    pub(super) async fn delete_container(&mut self, id: &ContainerId) -> Result<()> {
        self.rootfs.remove(id);
        let (shared, dir, id_of) = (self.shared.clone(), self.container_dir(id), id.clone());
        let is_durable = self.record.config.durable.is_some();
        let work = move || {
            if is_durable {
                return remove_bundle(&dir);
            }
            let trash = shared.storage.remove(&id_of).map_err(|error| {
                super::prepare::storage_error(
                    format!("remove the snapshot of container {}", id_of.short()),
                    error,
                )
            })?;
            shared.images.empty(trash);
            remove_bundle(&dir)
        };
        self.shared.blocking.run(Purpose::Lifecycle, work).await??;
        let key = self.record.container(id).map(|c| c.config.key.clone());
        self.record.containers.retain(|c| c.id != *id);
        self.persist_or_warn().await;
        self.shared.forget_container(&self.record.id, id, key.as_ref());
        tracing::info!(container = %id, "container removed");
        self.announce(EventKind::Deleted, Some(id));
        Ok(())
    }

    /// Removes the sandbox with its containers, stopping it first.
    pub(super) async fn remove_sandbox(&mut self, reply: Reply<()>) {
        self.remove_waiters.push(reply);
        if self.record.phase == Phase::Stopped {
            self.finish_removal(Ok(())).await;
        } else {
            self.stop_sandbox(None).await;
        }
    }

    /// The sandbox is down, or could not be taken down: removes the rest, and tells who waits.
    pub(super) async fn finish_removal(&mut self, stopped: Result<()>) {
        let outcome = match stopped {
            Ok(()) => self.remove_rest().await,
            Err(error) => Err(error),
        };
        self.gone = outcome.is_ok();
        for waiter in self.remove_waiters.drain(..) {
            answer(waiter, outcome.clone());
        }
    }

    async fn remove_rest(&mut self) -> Result<()> {
        let ids: Vec<ContainerId> = self.record.containers.iter().map(|c| c.id.clone()).collect();
        for id in &ids {
            self.delete_container(id).await?;
        }
        self.remove_directory().await?;
        self.shared.forget_sandbox(&self.record);
        tracing::info!("sandbox removed");
        self.announce(EventKind::Deleted, None);
        Ok(())
    }
}

fn remove_bundle(dir: &std::path::Path) -> Result<()> {
    sys::fs::remove_tree(dir).map_err(|error| Error::io(format!("remove {}", dir.display()), error))
}
