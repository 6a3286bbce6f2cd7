//! Removing: the intent first, the record last.

use std::time::Duration;

use super::record::{DurableRecord, RemovalRecord};
use super::supervisor::Supervisor;
use super::{DurableProblem, Reply, StopHow, answer};
use crate::blocking::Purpose;
use crate::error::{Error, Result};
use crate::happenings::Action;
use crate::model::RemoveDurable;
use crate::sandbox::storage_error;

impl Supervisor {
    /// Removes it; one that runs is killed if `how` says so, else refused.
    pub(super) async fn remove(&mut self, how: RemoveDurable, reply: Reply<()>) {
        if let Err(error) = self.begin_removal(how).await {
            answer(reply, Err(error));
            return;
        }
        let Some(run) = self.run.clone() else {
            let outcome = self.finish_removal().await;
            answer(reply, outcome);
            return;
        };
        match self.end_run(&run, StopHow { signal: None, grace: Some(Duration::ZERO) }).await {
            Ok(ending) => ending.removes.push(reply),
            Err(error) => answer(reply, Err(error)),
        }
    }

    async fn begin_removal(&mut self, how: RemoveDurable) -> Result<()> {
        let id = self.record.id.clone();
        let what = || format!("remove container {}", self.record.config.name);
        if self.record.removing.is_some() && self.dead.is_none() {
            return Err(DurableProblem::Removing(id).error(what()));
        }
        if !how.force && self.paused {
            return Err(DurableProblem::Paused(id).error(what()));
        }
        if !how.force && self.run.is_some() {
            return Err(DurableProblem::Running(id).error(what()));
        }
        if !how.force && self.restart_at.is_some() {
            return Err(DurableProblem::Restarting(id).error(what()));
        }
        self.restart_at = None;
        self.dead = None;
        self.record.removing = Some(RemovalRecord { volumes: how.volumes });
        self.persist().await.inspect_err(|_| self.record.removing = None)?;
        self.publish();
        Ok(())
    }

    /// Removes everything of a container that does not run. A failure leaves it dead, until it is removed again.
    pub(super) async fn finish_removal(&mut self) -> Result<()> {
        let outcome = self.try_remove().await;
        match &outcome {
            Ok(()) => {
                self.gone = true;
                self.shared.durables.remove(&self.record.id);
                self.shared.execs.forget(&self.record.id);
                tracing::info!("container removed");
                self.tell(Action::Destroy);
                self.waits.removed();
            }
            Err(error) => {
                tracing::error!(error = error.chain(), "a container could not be removed");
                self.dead = Some(error.chain());
                self.publish();
                self.waits.not_removed(error.chain());
            }
        }
        outcome
    }

    async fn try_remove(&mut self) -> Result<()> {
        if self.record.removing.is_none() {
            self.record.removing = Some(RemovalRecord { volumes: self.record.config.auto_remove });
            self.publish();
            self.persist().await?;
        }
        self.take_down_leftovers().await;
        if !self.leftovers.is_empty() {
            return Err(Error::internal("a run of it could not be taken down; remove it again"));
        }
        let (shared, dir, id) = (self.shared.clone(), self.dir.clone(), self.record.id.clone());
        let own = self.record.removing.is_some_and(|removing| removing.volumes);
        let work = move || {
            crate::volumes::release_volumes(&shared, &id, own)?;
            let what = format!("remove the snapshot of container {}", id.short());
            let trash = shared.storage.remove(&id).map_err(|error| storage_error(what, error))?;
            shared.images.empty(trash);
            DurableRecord::remove(&dir).map_err(|error| Error::io(format!("remove {}", dir.display()), error))
        };
        self.shared.blocking.run(Purpose::Lifecycle, work).await?
    }
}
