//! Durable containers: they outlive their runs, the daemon and the boot.
//!
//! ```text
//!                  commands (bounded)            record (synced, before and after each effect)
//!  Engine ────────────────────────▶ Supervisor ───────────────────────▶ <root>/containers/<id>
//!     ▲                              │      ▲
//!     └── snapshot (watch), waits ◀──┘      └── its run: an implicit sandbox with one container of the same id
//! ```
//!
//! One supervisor per container is the only writer of its record. A run is an ordinary sandbox with a task of its
//! own ([`crate::sandbox`]), so exec, attach, statistics and the keeper know nothing of durable containers. The
//! run's own record, in the state directory, says whose run it is: after a crash the two records are put together
//! again by [`recovery`], whichever was written last.
//!
//! | crash after | found at the next start | comes to |
//! |---|---|---|
//! | the snapshot of a new container | a snapshot without a record | swept |
//! | the record of a new container | a record without a snapshot | the snapshot is made by the first start |
//! | the intent to run | a run without a sandbox | not started; its policy goes on |
//! | the sandbox of a run, before its container runs | a sandbox whose container never started | taken down, as above |
//! | the start of the run | a container that runs | adopted |
//! | an exit, before it is on record here | a sandbox with the exit | recorded, its policy goes on |
//! | that record, before the sandbox is gone | a sandbox that is no run | taken down |
//! | the intent to remove | a record that says so | removed |

mod attach;
mod change;
mod config;
mod engine;
mod exec;
mod exit;
mod health;
mod problem;
mod record;
mod recovery;
mod registry;
mod remove;
mod start;
mod stop;
mod supervisor;
mod top;
mod waits;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use oci::ContainerId;
use tokio::sync::{mpsc, oneshot, watch};

pub use attach::{AttachInput, AttachOptions, DurableAttach};
pub(crate) use exec::ExecRegistry;
pub use exec::{ExecSpec, ExecState, ExecStatus, RunningExec};
pub use problem::DurableProblem;
pub(crate) use recovery::recover;
pub(crate) use registry::Durables;
pub use top::ProcessRow;
pub use waits::WaitExit;
use waits::Waits;

use crate::error::{Error, Result};
use crate::model::{DurableStatus, DurableUpdate, NetworkEndpointConfig, RemoveDurable, Started, Stopped};
use crate::sandbox::Tap;

/// Commands that may wait for a supervisor before senders have to.
const QUEUE: usize = 64;

/// Where the answer goes.
type Reply<T> = oneshot::Sender<Result<T>>;

/// What a supervisor is asked to do.
#[derive(Debug)]
enum Command {
    Start {
        reply: Reply<Started>,
    },
    Stop {
        how: StopHow,
        reply: Reply<Stopped>,
    },
    Restart {
        how: StopHow,
        reply: Reply<()>,
    },
    Kill {
        signal: i32,
        reply: Reply<()>,
    },
    Remove {
        how: RemoveDurable,
        reply: Reply<()>,
    },
    Pause {
        reply: Reply<()>,
    },
    Unpause {
        reply: Reply<()>,
    },
    Rename {
        name: String,
        reply: Reply<()>,
    },
    Update {
        update: Box<DurableUpdate>,
        reply: Reply<()>,
    },
    Connect {
        endpoint: Box<NetworkEndpointConfig>,
        reply: Reply<()>,
    },
    Disconnect {
        network: String,
        reply: Reply<()>,
    },
    /// Output of the run that is there, or else of the next one.
    Attach {
        tap: Tap,
        reply: Reply<()>,
    },
}

/// How to stop.
#[derive(Debug, Clone, Copy)]
struct StopHow {
    /// Another signal than the container's own stop signal.
    signal: Option<i32>,
    /// Another time to end in than the container's own.
    grace: Option<Duration>,
}

/// How the rest of the engine reaches a durable container.
#[derive(Debug, Clone)]
pub(crate) struct Durable {
    id: ContainerId,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<DurableStatus>>,
    waits: Arc<Waits>,
}

impl Durable {
    pub(crate) fn status(&self) -> Arc<DurableStatus> {
        self.status.borrow().clone()
    }

    /// News of its status.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<DurableStatus>> {
        self.status.clone()
    }

    /// Sends a command and waits for its answer.
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || not_found(self.id.as_str());
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn not_found(reference: &str) -> Error {
    DurableProblem::NotFound(reference.to_owned()).error("find the container")
}

/// Nobody has to wait for an answer.
fn answer<T>(reply: Reply<T>, result: Result<T>) {
    drop(reply.send(result));
}
