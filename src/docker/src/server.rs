//! The server: listeners in, connections served.

use std::sync::Arc;

use engine::Engine;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::http::Listening;

/// What the API tells of the daemon beyond what the engine knows.
#[derive(Debug, Clone)]
pub struct Options {
    /// Version of the daemon.
    pub version: String,
    /// What it was built from; may be empty.
    pub commit: String,
}

/// The Docker Engine API on an engine.
pub struct Server {
    listening: Arc<Listening>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// A server whose connections are tasks of `tracker`. They end when `stop` fires: idle ones at once, others
    /// with their answer, streams and sessions where they are.
    pub fn new(engine: Engine, options: Options, tracker: TaskTracker, stop: CancellationToken) -> Self {
        let handler = Arc::new(App::new(engine, options, stop.clone()));
        Self { listening: Arc::new(Listening { handler, tracker, stop }) }
    }

    /// Serves a Unix socket until the server ends.
    pub async fn serve(&self, listener: UnixListener) {
        Arc::clone(&self.listening).unix(listener).await;
    }
}
