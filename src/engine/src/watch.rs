//! Standing watches: network configuration, packet filter rules, the keeper.

use std::sync::Arc;
use std::time::Duration;

use oci::ContainerId;

use crate::blocking::Purpose;
use crate::engine::{Engine, Shared};
use crate::images::Chain;
use crate::metrics::Success;

/// How often the image store is looked through.
const COLLECT_EVERY: Duration = Duration::from_secs(600);

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
    loop {
        tokio::select! {
            // Nothing is lost by not seeing a change: the loop looks at the value.
            lost = connection.wait_for(|up| !up) => if lost.is_err() { return },
            () = shared.shutdown.cancelled() => return,
        }
        tracing::error!("the connection to the keeper is lost; containers go on, new ones wait for it");
        watch_orphans(shared, |_| true);
        let again = Arc::clone(shared);
        let connected = tokio::task::spawn_blocking(move || {
            again.link.connect(
                &again.config.keeper_socket,
                again.config.keeper_program.as_deref(),
                &again.config.state,
            )
        });
        match connected.await {
            Ok(Ok(())) => {
                shared.metrics.keeper_reconnects.inc();
                tracing::info!("connected to the keeper again");
            }
            Ok(Err(error)) => {
                tracing::warn!(error = error.chain(), "the keeper cannot be reached");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(_) => return,
        }
    }
}

/// The keeper is gone and with it whoever reaps: the daemon's own pidfds tell when containers end, and on
/// kernels that keep it (Linux 6.15) how.
pub(crate) fn watch_orphans(shared: &Arc<Shared>, is_orphan: impl Fn(&ContainerId) -> bool) {
    for (id, inbox) in shared.link.waiting().into_iter().filter(|(id, _)| is_orphan(id)) {
        let Some(live) = shared.handles().into_iter().find_map(|handle| handle.live.get(&id)) else {
            continue;
        };
        let watching = Arc::clone(shared);
        shared.tracker.spawn(async move {
            let Ok(pidfd) = live.pidfd.try_clone().and_then(crate::sessions::async_fd) else { return };
            tokio::select! {
                ended = pidfd.readable() => if ended.is_err() { return },
                () = watching.shutdown.cancelled() => return,
            }
            // Whoever inherited the process reaps it; until then its status is not there to be read.
            let mut status = None;
            for _ in 0..20 {
                status = sys::pidfd::exit_info(std::os::fd::AsFd::as_fd(pidfd.get_ref())).ok().flatten();
                if status.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            watching.link.unroute(id.as_str());
            // 255 and no signal is what an exit that nobody saw is reported as.
            let code = status.map_or(255, sys::pidfd::WaitStatus::code);
            inbox.put(id, keeper::protocol::Exit { code, signal: None, at_ns: sys::fs::now_ns() });
        });
    }
}
