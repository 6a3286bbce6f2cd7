//! From errors to what a client is told.

use std::error::Error;
use std::io;

use crate::protocol::{Failure, FailureKind};

/// A request that makes no sense.
pub(super) fn invalid(message: String) -> Failure {
    Failure { kind: FailureKind::Invalid, message, errno: None }
}

/// No such container, session or key.
pub(super) fn not_found(message: String) -> Failure {
    Failure { kind: FailureKind::NotFound, message, errno: None }
}

/// An id that is in use.
pub(super) fn exists(id: &str) -> Failure {
    Failure { kind: FailureKind::Exists, message: format!("{id} is in use"), errno: None }
}

/// A failed system call: running out of something is told apart, for waiting may help.
pub(super) fn io(operation: &str, error: &io::Error) -> Failure {
    let errno = error.raw_os_error();
    Failure { kind: kind_of(errno), message: format!("{operation}: {error}"), errno }
}

/// What an errno of setting something up means to the client.
pub(super) fn kind_of(errno: Option<i32>) -> FailureKind {
    match errno.map(io::Error::from_raw_os_error).map(|error| error.kind()) {
        Some(io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory | io::ErrorKind::StorageFull) => {
            FailureKind::Exhausted
        }
        // EMFILE and ENFILE have no kind of their own.
        Some(_) if matches!(errno, Some(23 | 24)) => FailureKind::Exhausted,
        _ => FailureKind::Setup,
    }
}

/// The error and its causes in one sentence.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}
