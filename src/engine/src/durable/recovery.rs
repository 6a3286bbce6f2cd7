//! What a daemon that starts finds of durable containers, and what it makes of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use oci::ContainerId;
use tokio::time::Instant;

use super::exit::wants_at_boot;
use super::record::{DurableRecord, directory};
use super::start::has_started;
use super::supervisor::{self, Supervisor};
use crate::blocking::Purpose;
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::happenings::Action;
use crate::metrics::Leftover;
use crate::model::{ExitReason, ExitRecord, RestartPolicy};
use crate::sandbox::{Handle, storage_error};

/// Exit code of a run that ended while nobody saw it.
const UNSEEN: i32 = 255;

/// Sandboxes that say they are runs of a container.
#[derive(Debug, Default)]
pub(super) struct Found {
    runs: Vec<Handle>,
}

/// Takes over all durable containers. Sandboxes were taken over before; snapshots are swept after.
pub(crate) async fn recover(shared: &Arc<Shared>) -> Result<()> {
    let dir = directory(&shared.config.root);
    let reading = Arc::clone(shared);
    let read = move || {
        sys::fs::ensure_directory(&dir, 0o700)
            .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
        read_records(&reading, &dir)
    };
    let records = shared.blocking.run(Purpose::Lifecycle, read).await??;
    let mut found: HashMap<ContainerId, Found> = HashMap::new();
    for handle in shared.handles() {
        let of = handle.status.borrow().config.durable.clone();
        if let Some(id) = of {
            found.entry(id).or_default().runs.push(handle);
        }
    }
    let resuming = Arc::clone(shared);
    let running: BTreeSet<ContainerId> = found.keys().cloned().collect();
    let resume = move || crate::volumes::resume_volumes(&resuming, &running);
    shared.blocking.run(Purpose::Lifecycle, resume).await?;
    for record in records {
        shared.images.remember(&record.image_id, record.image_config.clone());
        if let Err(error) = shared.durables.reserve(&record.config.name, &record.id) {
            // Nobody can have made it so; it stays reachable by its id.
            tracing::error!(container = %record.id, error = error.chain(), "two containers have one name");
        }
        let of_it = found.remove(&record.id).unwrap_or_default();
        supervisor::spawn(shared, record, Some(of_it));
    }
    for (id, found) in found {
        shared.metrics.leftovers.get(Leftover::Container).inc();
        tracing::warn!(container = %id, "a run of a container that is gone is taken down");
        let removing = Arc::clone(shared);
        shared.tracker.spawn(async move {
            if let Err(error) = remove_leftover(&removing, id, found).await {
                tracing::warn!(error = error.chain(), "a leftover run could not be taken down");
            }
        });
    }
    Ok(())
}

/// Removes the runs and the snapshot of a container that has no record.
async fn remove_leftover(shared: &Arc<Shared>, id: ContainerId, found: Found) -> Result<()> {
    for run in found.runs {
        run.ask(|reply| crate::sandbox::Command::RemoveSandbox { reply }).await?;
    }
    let storage = Arc::clone(&shared.storage);
    let work = move || storage.remove(&id).and_then(storage::Trash::empty);
    let removed = shared.blocking.run(Purpose::Images, work).await?;
    removed.map_err(|error| storage_error("remove a leftover snapshot".into(), error))
}

/// Reads all records. A directory without one is of a container that was not made to the end.
fn read_records(shared: &Shared, dir: &std::path::Path) -> Result<Vec<DurableRecord>> {
    let failed = |error| Error::io(format!("list {}", dir.display()), error);
    let mut records = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(id) = name.parse::<ContainerId>() else { continue };
        match DurableRecord::read(&path) {
            Ok(Some(record)) => records.push(record),
            Ok(None) => {
                shared.metrics.leftovers.get(Leftover::Record).inc();
                tracing::info!(container = %id, "a container that was never made to the end is removed");
                if let Err(error) = crate::volumes::release_volumes(shared, &id, true) {
                    tracing::warn!(container = %id, error = error.chain(), "volumes that were made for it stay");
                }
                if let Err(error) = DurableRecord::remove(&path) {
                    tracing::warn!(path = %path.display(), %error, "it could not be removed");
                }
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the record of a container cannot be read; it is not served, and what is its own stays");
                shared.durables.keep_unreadable(id);
            }
        }
    }
    records.sort_by(|a, b| (a.created_at_ns, &a.id).cmp(&(b.created_at_ns, &b.id)));
    Ok(records)
}

/// One that was paused when the last daemon ended is so now.
fn is_frozen(shared: &Shared, run: &Handle) -> bool {
    let status = run.status();
    let Some(container) = status.containers.first() else { return false };
    let cgroup = shared.cgroups.open(&container.cgroup_path);
    cgroup.and_then(|cgroup| cgroup.is_frozen()).unwrap_or(false)
}

impl Supervisor {
    /// Puts its record and the sandboxes that say they are its runs together. No effect yet: [`Self::settle`] has
    /// those.
    pub(super) fn take_over(&mut self, found: Found) {
        let meant = self.record.run.as_ref().map(|run| run.sandbox.clone());
        let removing = self.record.removing.is_some();
        for run in found.runs {
            if self.run.is_none() && !removing && Some(&run.id) == meant.as_ref() && has_started(&run) {
                self.paused = is_frozen(&self.shared, &run);
                self.run = Some(run);
                self.begin_probing(true);
                self.waits.up();
            } else {
                self.leftovers.push(run);
            }
        }
    }

    /// Goes on with what the last daemon was in the middle of, and with what the policy says. Nothing to do for a
    /// container that was just made.
    pub(super) async fn settle(&mut self) {
        self.take_down_leftovers().await;
        if self.record.removing.is_some() {
            drop(self.finish_removal().await);
            return;
        }
        if self.run.is_some() {
            return;
        }
        let again = match self.record.run.take() {
            Some(run) if run.boot_id != self.shared.boot_id => {
                self.ended_unseen(run.asked_at_ns, "it ended with the machine").await;
                self.at_boot()
            }
            Some(_) => {
                self.record.error = "the daemon ended while the container was being started".into();
                self.persist_or_warn().await;
                self.publish();
                self.record.config.restart != RestartPolicy::No && !self.record.manually_stopped
            }
            None => self.at_boot(),
        };
        if again {
            self.waits.up();
            self.restart_at = Some(Instant::now());
            self.publish();
        } else if self.record.config.auto_remove && self.was_asked_to_run() {
            drop(self.finish_removal().await);
        }
    }

    fn at_boot(&self) -> bool {
        let record = &self.record;
        let (policy, count) = (record.config.restart, record.restart_count);
        wants_at_boot(policy, record.last_exit.as_ref(), count, record.manually_stopped)
    }

    fn was_asked_to_run(&self) -> bool {
        self.record.last_exit.is_some() || !self.record.error.is_empty()
    }

    async fn ended_unseen(&mut self, started_at_ns: i64, why: &str) {
        self.record.last_exit = Some(ExitRecord {
            code: UNSEEN,
            reason: ExitReason::Unknown,
            message: why.to_owned(),
            started_at_ns,
            finished_at_ns: sys::fs::now_ns(),
        });
        self.persist_or_warn().await;
        self.waits.was(UNSEEN);
        self.announce(Action::Die { exit_code: UNSEEN });
    }
}
