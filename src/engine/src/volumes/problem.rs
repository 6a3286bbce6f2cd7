//! Why something about a volume was refused, for front ends that have words of their own for it.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind};

/// The typed cause of an error of a volume; see [`Error::cause`](crate::Error::cause).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeProblem {
    /// No volume of this name.
    #[error("no volume {0:?}")]
    NotFound(String),
    /// The name cannot be one.
    #[error("a volume's name is a letter or digit and at least one more of a-z A-Z 0-9 _ . -, not {0:?}")]
    BadName(String),
    /// Containers use it.
    #[error("volume {name} is used by {}", containers.join(", "))]
    InUse {
        /// Its name.
        name: String,
        /// Ids of the containers.
        containers: Vec<String>,
    },
    /// The name is that of a volume of another driver.
    #[error("volume {name} is there already, made by driver {driver:?}")]
    OtherDriver {
        /// Its name.
        name: String,
        /// The driver that made it.
        driver: String,
    },
    /// Nothing makes volumes under this name.
    #[error("no volume driver {0:?}")]
    NoDriver(String),
    /// An option that the driver does not have, or not so.
    #[error("{0}")]
    BadOption(String),
    /// What is to be bound is not there.
    #[error("bind source path {} does not exist", .0.display())]
    NoSource(PathBuf),
}

impl VolumeProblem {
    /// An error of this cause.
    pub(crate) fn error(self, what: impl Into<String>) -> Error {
        let kind = match &self {
            Self::NotFound(_) | Self::NoDriver(_) => ErrorKind::NotFound,
            Self::BadName(_) | Self::BadOption(_) | Self::NoSource(_) => ErrorKind::InvalidArgument,
            Self::OtherDriver { .. } => ErrorKind::AlreadyExists,
            Self::InUse { .. } => ErrorKind::FailedPrecondition,
        };
        Error::caused_by(kind, what, self)
    }
}
