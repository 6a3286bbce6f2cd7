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
use tracing::{Instrument, Span};

pub(crate) use create::check as check_container;
pub(crate) use live::{Example, Keeping, Live, LiveContainer};
pub(crate) use prepare::{
    matches_glob, mount_within, prepare_snapshot, storage_error, to_storage_maps, view_image,
};
pub(crate) use start::Tap;
pub(crate) use task::{Adopted, adopt, spawn};

use crate::error::{Error, Result};
use crate::model::{ContainerConfig, NetworkEndpointConfig, Resources, SandboxStatus};
use crate::names::Progress;
use crate::traces::step;

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
        taps: Vec<Tap>,
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

/// A command on its way, with the span of whoever waits for it: the work is below it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) command: Command,
    pub(crate) span: Span,
}

impl Command {
    /// A span for a command to `sandbox`, from its sending to its answer.
    fn span(&self, sandbox: &SandboxId) -> Span {
        match self {
            Self::Create { config, .. } => {
                step!("create container", %sandbox, name = config.key.name, image = config.image)
            }
            Self::Start { id, .. } => step!("start container", %sandbox, container = %id),
            Self::Stop { id, grace, .. } => {
                step!("stop container", %sandbox, container = %id, grace_s = grace.as_secs())
            }
            Self::RemoveContainer { id, .. } => step!("remove container", %sandbox, container = %id),
            Self::Update { id, .. } => step!("update container", %sandbox, container = %id),
            Self::UpdateSandbox { .. } => step!("update sandbox", %sandbox),
            Self::Connect { .. } => step!("connect to a network", %sandbox),
            Self::Disconnect { network, .. } => step!("disconnect from a network", %sandbox, network),
            Self::RenameInNetworks { name, .. } => step!("rename in networks", %sandbox, name),
            Self::StopSandbox { .. } => step!("stop sandbox", %sandbox),
            Self::RemoveSandbox { .. } => step!("remove sandbox", %sandbox),
        }
    }
}

/// How the rest of the engine reaches a sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) id: SandboxId,
    pub(crate) commands: mpsc::Sender<Asked>,
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
        let command = command(reply);
        let span = command.span(&self.id);
        let asked = Asked { command, span: span.clone() };
        let gone = || Error::no_sandbox(self.id.as_str());
        let wait = async {
            self.commands.send(asked).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        wait.instrument(span).await
    }

    /// Sends a command whose answer comes another way. It fails when the sandbox is gone.
    pub(crate) async fn send(&self, command: Command) -> Result<()> {
        let span = command.span(&self.id);
        let sent = self.commands.send(Asked { command, span }).await;
        sent.map_err(|_| Error::no_sandbox(self.id.as_str()))
    }
}
