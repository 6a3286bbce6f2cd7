//! Standing watches: network configuration, packet filter rules, the keeper.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Engine, Shared};
use crate::images::Chain;

/// How long a watch sleeps before it looks whether the engine ends.
const TURN: Duration = Duration::from_millis(500);

impl Engine {
    /// Starts the watches. They end with the engine.
    pub(crate) fn start_watching(&self) {
        let shared = Arc::clone(self.shared());
        self.shared().tracker.spawn_blocking(move || watch_network(&shared));
        let shared = Arc::clone(self.shared());
        self.shared().tracker.spawn(async move { watch_keeper(&shared).await });
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
                Err(error) => tracing::warn!(error = %Chain(&error), "network configuration could not be read"),
            },
            Ok(Some(network::Change::Rules)) => match shared.network.repair() {
                Ok(true) => tracing::warn!("packet filter rules were gone and have been put back"),
                Ok(false) => {}
                Err(error) => tracing::error!(error = %Chain(&error), "packet filter rules could not be put back"),
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
        let again = Arc::clone(shared);
        let connected = tokio::task::spawn_blocking(move || {
            again.link.connect(&again.config.keeper_socket, again.config.keeper_program.as_deref(), &again.config.state)
        });
        match connected.await {
            Ok(Ok(())) => tracing::info!("connected to the keeper again"),
            Ok(Err(error)) => {
                tracing::warn!(error = error.chain(), "the keeper cannot be reached");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(_) => return,
        }
    }
}
