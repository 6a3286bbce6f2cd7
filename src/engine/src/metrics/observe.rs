//! States are read when somebody asks; nothing polls them.

use super::{ContainerLabel, SandboxLabel, Stored};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::{ContainerState, SandboxState};

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Engine {
    /// Brings the gauges up to date. What can be read is; the first failure is returned.
    ///
    /// # Errors
    ///
    /// When the image store cannot be measured.
    pub async fn observe(&self) -> Result<()> {
        self.observe_sandboxes();
        let metrics = &self.shared().metrics;
        let (subscribers, queued) = self.shared().bus.load();
        metrics.event_subscribers.set(whole(subscribers as u64));
        metrics.events_queued.set(whole(queued as u64));
        self.observe_store().await
    }

    fn observe_sandboxes(&self) {
        let metrics = &self.shared().metrics;
        let mut sandboxes = [0_i64; 2];
        let mut containers = [0_i64; 3];
        let (mut queued, mut longest) = (0_usize, 0_usize);
        for handle in self.shared().handles() {
            let waiting = handle.commands.max_capacity() - handle.commands.capacity();
            queued += waiting;
            longest = longest.max(waiting);
            let status = handle.status();
            sandboxes[usize::from(status.state != SandboxState::Ready)] += 1;
            for container in &status.containers {
                let index = match container.state {
                    ContainerState::Created => 0,
                    ContainerState::Running { .. } => 1,
                    ContainerState::Exited(_) => 2,
                };
                containers[index] += 1;
            }
        }
        let labels = [SandboxLabel::Ready, SandboxLabel::NotReady];
        labels.into_iter().zip(sandboxes).for_each(|(label, count)| metrics.sandboxes.get(label).set(count));
        let labels = [ContainerLabel::Created, ContainerLabel::Running, ContainerLabel::Exited];
        labels
            .into_iter()
            .zip(containers)
            .for_each(|(label, count)| metrics.containers.get(label).set(count));
        metrics.commands_queued.set(whole(queued as u64));
        metrics.commands_queued_max.set(whole(longest as u64));
    }

    async fn observe_store(&self) -> Result<()> {
        let metrics = &self.shared().metrics;
        metrics.images.set(whole(self.shared().storage.images().len() as u64));
        let info = self.store_info().await?;
        for (label, used) in [(Stored::Images, info.images), (Stored::Containers, info.containers)] {
            metrics.stored_bytes.get(label).set(whole(used.bytes));
            metrics.stored_inodes.get(label).set(whole(used.inodes));
        }
        let disk = sys::fs::statfs(&info.mountpoint)
            .map_err(|error| Error::io(format!("measure {}", info.mountpoint.display()), error))?;
        metrics.store_capacity_bytes.set(whole(disk.total_bytes));
        metrics.store_available_bytes.set(whole(disk.available_bytes));
        metrics.store_inodes_free.set(whole(disk.inodes_free));
        Ok(())
    }
}
