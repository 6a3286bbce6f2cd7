//! Standing watches: network configuration, packet filter rules, the keeper.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oci::ContainerId;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::blocking::Purpose;
use crate::engine::{Engine, Shared};
use crate::images::Chain;
use crate::metrics::Success;

/// How often the image store is looked through.
const COLLECT_EVERY: Duration = Duration::from_secs(600);

/// How long a keeper that was lost may take to come back before the daemon itself reports how containers end:
/// a keeper does it better, for it writes their last lines first.
const KEEPER_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked for.
const RECONNECT_EVERY: Duration = Duration::from_millis(50);

/// A daemon that used less than [`QUIET`] of a processor for so long is quiet, and gives memory back if it has
/// worked for [`WORK`] since it last did.
const QUIET_AFTER: Duration = Duration::from_secs(3);
const QUIET: Duration = Duration::from_millis(3);
const WORK: Duration = Duration::from_millis(10);

/// How long a watch sleeps before it looks whether the engine ends.
const TURN: Duration = Duration::from_millis(500);

impl Engine {
    /// Starts the watches. They end with the engine.
    pub(crate) fn start_watching(&self) {
        let shared = Arc::clone(self.shared());
        self.shared().tracker.spawn_blocking(move || watch_network(&shared));
        let shared = Arc::clone(self.shared());
        self.shared().tracker.spawn(async move { watch_keeper(&shared).await });
        let shared = Arc::clone(self.shared());
        self.shared().tracker.spawn(async move { collect_now_and_then(&shared).await });
        let shared = Arc::clone(self.shared());
        self.shared().tracker.spawn(async move { give_memory_back_when_quiet(&shared).await });
    }
}

/// Removes layers and blobs that no image, container or pull needs: what pulls that failed have left.
async fn collect_now_and_then(shared: &Arc<Shared>) {
    loop {
        let collecting = Arc::clone(shared);
        let work = move || collecting.storage.gc(storage::GcOptions::default());
        let started = std::time::Instant::now();
        let collected = shared.blocking.run(Purpose::Images, work).await;
        shared.metrics.gc_seconds.observe(started.elapsed().as_secs_f64());
        match collected {
            Ok(Ok(report)) => {
                shared.metrics.collected(report.layers.len(), report.blobs.len(), report.blob_bytes);
                if !report.layers.is_empty() || !report.blobs.is_empty() {
                    let (layers, blobs) = (report.layers.len(), report.blobs.len());
                    tracing::info!(layers, blobs, bytes = report.blob_bytes, "collected what no image needs");
                }
                shared.images.empty(report.trash);
            }
            Ok(Err(error)) => {
                shared.metrics.gc_runs.get(Success::Failed).inc();
                tracing::warn!(error = %Chain(&error), "collecting what no image needs failed");
            }
            Err(_) => return,
        }
        tokio::select! {
            () = tokio::time::sleep(COLLECT_EVERY) => {}
            () = shared.shutdown.cancelled() => return,
        }
    }
}

/// A node waits most of its time, and code that starting or a burst of pods took is not needed to wait.
async fn give_memory_back_when_quiet(shared: &Arc<Shared>) {
    // What the process had used when memory was given back last.
    let mut given_back_at = Duration::ZERO;
    let mut before = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(QUIET_AFTER) => {}
            () = shared.shutdown.cancelled() => return,
        }
        let used = sys::memory::processor_time();
        let is_quiet = used.saturating_sub(before) < QUIET;
        before = used;
        if !is_quiet || used.saturating_sub(given_back_at) < WORK {
            continue;
        }
        match shared.blocking.run(Purpose::Reading, sys::memory::give_back).await {
            Ok(Ok(bytes)) => tracing::debug!(bytes, "gave memory back"),
            Ok(Err(error)) => tracing::warn!(%error, "memory cannot be given back"),
            Err(_) => return,
        }
        before = sys::memory::processor_time();
        given_back_at = before;
    }
}

fn watch_network(shared: &Shared) {
    let mut watcher = match shared.network.watch() {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "network configuration is not watched; restart after a change");
            return;
        }
    };
    while !shared.shutdown.is_cancelled() {
        match watcher.wait(Some(TURN)) {
            Ok(None) => {}
            Ok(Some(network::Change::Conflists)) => match shared.network.reload() {
                Ok(problems) => {
                    for problem in &problems {
                        tracing::warn!(error = %Chain(problem), "a network configuration is not used");
                    }
                    tracing::info!(networks = shared.network.conflists().len(), "network configuration read");
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "network configuration could not be read")
                }
            },
            Ok(Some(network::Change::Rules)) => match shared.network.repair() {
                Ok(true) => tracing::warn!("packet filter rules were gone and have been put back"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "packet filter rules could not be put back")
                }
            },
            Err(error) => {
                tracing::warn!(%error, "watching the network failed");
                std::thread::sleep(TURN);
            }
        }
    }
}

/// Connects to the keeper again when the connection is lost, starting another one if that is ours to do.
async fn watch_keeper(shared: &Arc<Shared>) {
    let mut connection = shared.link.connection();
    // Ends the watches of the daemon's own when it is dropped.
    let mut outage: Option<DropGuard> = None;
    let mut lost_at: Option<Instant> = None;
    loop {
        tokio::select! {
            // Nothing is lost by not seeing a change: the loop looks at the value.
            lost = connection.wait_for(|up| !up) => if lost.is_err() { return },
            () = shared.shutdown.cancelled() => return,
        }
        let since = *lost_at.get_or_insert_with(Instant::now);
        if since.elapsed() < RECONNECT_EVERY {
            tracing::error!("the connection to the keeper is lost; containers go on, new ones wait for it");
        }
        let again = Arc::clone(shared);
        let connected = tokio::task::spawn_blocking(move || {
            again.link.connect(
                &again.config.keeper_socket,
                again.config.keeper_program.as_deref(),
                &again.config.state,
            )
        });
        match connected.await {
            Ok(Ok(is_another)) => {
                shared.metrics.keeper_reconnects.inc();
                tracing::info!("connected to the keeper again");
                // Those that have not ended by now are the keeper's to watch.
                (outage, lost_at) = (None, None);
                if is_another {
                    let left = crate::adoption::hand_over(shared).await;
                    watch_orphans(shared, &shared.shutdown, |id| left.contains(id));
                }
            }
            Ok(Err(error)) => {
                if since.elapsed() < KEEPER_PATIENCE {
                    tokio::time::sleep(RECONNECT_EVERY).await;
                    continue;
                }
                // It takes longer: until there is a keeper nobody else sees containers end. What they wrote last
                // is not in their logs then.
                if outage.is_none() {
                    let over = shared.shutdown.child_token();
                    watch_orphans(shared, &over, |_| true);
                    outage = Some(over.drop_guard());
                }
                tracing::warn!(error = error.chain(), "the keeper cannot be reached");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(_) => return,
        }
    }
}

/// The keeper is gone and with it whoever reaps: the daemon's own pidfds tell when containers end, and on
/// kernels that keep it (Linux 6.15) how.
/// They end when `over` is cancelled.
pub(crate) fn watch_orphans(
    shared: &Arc<Shared>,
    over: &CancellationToken,
    is_orphan: impl Fn(&ContainerId) -> bool,
) {
    for (id, inbox) in shared.link.waiting().into_iter().filter(|(id, _)| is_orphan(id)) {
        let Some(live) = shared.handles().into_iter().find_map(|handle| handle.live.get(&id)) else {
            continue;
        };
        let (watching, over) = (Arc::clone(shared), over.clone());
        shared.tracker.spawn(async move {
            let Ok(pidfd) = live.pidfd.try_clone().and_then(crate::sessions::async_fd) else { return };
            tokio::select! {
                ended = pidfd.readable() => if ended.is_err() { return },
                () = over.cancelled() => return,
            }
            // Whoever inherited the process reaps it; a kernel that forgets it then cannot say how it ended.
            let started = live.keeping.as_ref().map_or(0, |keeping| keeping.start_time);
            let mut status = None;
            for _ in 0..20 {
                let fd = std::os::fd::AsFd::as_fd(pidfd.get_ref());
                status = sys::pidfd::status_of_stranger(fd, live.pid, started).ok().flatten();
                if status.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            watching.link.unroute(id.as_str());
            let signal = match status {
                Some(sys::pidfd::WaitStatus::Signaled(signal)) => Some(signal),
                Some(sys::pidfd::WaitStatus::Exited(_)) | None => None,
            };
            let code = status.map_or(255, sys::pidfd::WaitStatus::code);
            let (at_ns, unknown) = (sys::fs::now_ns(), status.is_none());
            inbox.put(id, keeper::protocol::Exit { code, signal, at_ns, unknown });
        });
    }
}
