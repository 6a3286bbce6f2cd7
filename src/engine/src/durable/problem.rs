//! Why something about a durable container was refused, for front ends that have words of their own for it.

use oci::ContainerId;

use crate::error::{Error, ErrorKind};

/// The typed cause of an error of a durable container; see [`Error::cause`](crate::Error::cause).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurableProblem {
    /// No durable container of this name or id.
    #[error("no container {0:?}")]
    NotFound(String),
    /// Several have an id that begins so.
    #[error("container id {0:?} is ambiguous; give more of it")]
    Ambiguous(String),
    /// The name cannot be one.
    #[error("a name is a letter or digit and at least one more of a-z A-Z 0-9 _ . -, not {0:?}")]
    BadName(String),
    /// The name is taken.
    #[error("the name {name} is that of container {id}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: ContainerId,
    },
    /// Its image is not here.
    #[error("image {0:?} is not on this node")]
    ImageMissing(String),
    /// It does not run.
    #[error("container {0} does not run")]
    NotRunning(ContainerId),
    /// It runs, and this is for one that does not.
    #[error("container {0} runs; stop it first")]
    Running(ContainerId),
    /// It is paused.
    #[error("container {0} is paused; let it go on first")]
    Paused(ContainerId),
    /// It is not paused.
    #[error("container {0} is not paused")]
    NotPaused(ContainerId),
    /// It ended and is started again in a moment.
    #[error("container {0} is restarting; wait until it runs")]
    Restarting(ContainerId),
    /// It is being removed.
    #[error("container {0} is being removed")]
    Removing(ContainerId),
    /// No exec session of this id.
    #[error("no exec session {0:?}")]
    NoExec(String),
    /// The exec session was started before.
    #[error("exec session {id} {}", if *.running { "runs already" } else { "has run already" })]
    ExecUsed {
        /// Its id.
        id: String,
        /// Whether it still runs.
        running: bool,
    },
    /// Its output goes nowhere that can be read.
    #[error("container {0} has no log that can be read")]
    NoLog(ContainerId),
    /// It is removed when it ends, so nothing can start it again.
    #[error("container {0} is removed when it ends, which no restart policy goes with")]
    AutoRemoved(ContainerId),
}

impl DurableProblem {
    /// An error of this cause.
    pub(crate) fn error(self, what: impl Into<String>) -> Error {
        let kind = match &self {
            Self::NotFound(_) | Self::ImageMissing(_) | Self::NoExec(_) => ErrorKind::NotFound,
            Self::Ambiguous(_) | Self::BadName(_) => ErrorKind::InvalidArgument,
            Self::NameTaken { .. } => ErrorKind::AlreadyExists,
            Self::NotRunning(_)
            | Self::Running(_)
            | Self::Paused(_)
            | Self::NotPaused(_)
            | Self::Restarting(_)
            | Self::Removing(_)
            | Self::ExecUsed { .. }
            | Self::AutoRemoved(_) => ErrorKind::FailedPrecondition,
            Self::NoLog(_) => ErrorKind::Unsupported,
        };
        Error::caused_by(kind, what, self)
    }
}
