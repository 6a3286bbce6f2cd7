//! Sandboxes: one task each, the only writer of its state.
//!
//! ```text
//!            commands (bounded)                 record (before and after each effect)
//!  Engine ─────────────────────▶ Task ────────────────────────────▶ state directory
//!     ▲                           │  ▲
//!     └── snapshot (watch) ◀──────┘  └── exits (inbox, filled by the keeper's link)
//! ```
//!
//! A command carries a reply channel. Nobody has to be at its other end: work that was begun runs to an end.

mod bring_up;
mod create;
mod exit;
mod live;
mod networks;
mod prepare;
mod remove;
mod start;
mod stop;
mod task;
mod update;

use std::sync::Arc;
use std::time::Duration;

use oci::{ContainerId, SandboxId};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use create::check as check_container;
pub(crate) use live::{Keeping, Live, LiveContainer};
pub(crate) use prepare::{matches_glob, prepare_snapshot, storage_error, to_storage_maps};
pub(crate) use task::{Adopted, adopt, spawn};

use crate::error::{Error, Result};
use crate::model::{ContainerConfig, NetworkEndpointConfig, Resources, SandboxStatus};
use crate::names::Progress;

/// Commands that may wait for a sandbox' task before senders have to.
pub(crate) const QUEUE: usize = 64;

/// Where the answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What a sandbox' task is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Create {
        config: Box<ContainerConfig>,
        progress: watch::Sender<Progress<ContainerId>>,
    },
    Start {
        id: ContainerId,
        reply: Reply<()>,
    },
    /// `signal` is another than the container's own stop signal.
    Stop {
        id: ContainerId,
        signal: Option<i32>,
        grace: Duration,
        reply: Reply<()>,
    },
    RemoveContainer {
        id: ContainerId,
        reply: Reply<()>,
    },
    Update {
        id: ContainerId,
        resources: Box<Resources>,
        reply: Reply<()>,
    },
    UpdateSandbox {
        overhead: Option<Box<Resources>>,
        resources: Option<Box<Resources>>,
        reply: Reply<()>,
    },
    Connect {
        config: Box<NetworkEndpointConfig>,
        reply: Reply<()>,
    },
    Disconnect {
        network: String,
        reply: Reply<()>,
    },
    RenameInNetworks {
        name: String,
        reply: Reply<()>,
    },
    StopSandbox {
        reply: Reply<()>,
    },
    RemoveSandbox {
        reply: Reply<()>,
    },
}

/// How the rest of the engine reaches a sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) id: SandboxId,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<Arc<SandboxStatus>>,
    pub(crate) live: Arc<Live>,
}

impl Handle {
    /// The latest snapshot.
    pub(crate) fn status(&self) -> Arc<SandboxStatus> {
        self.status.borrow().clone()
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::no_sandbox(self.id.as_str());
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
