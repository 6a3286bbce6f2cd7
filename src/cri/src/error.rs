//! Engine errors and bad requests as gRPC statuses.

use engine::ErrorKind;
use tonic::{Code, Status};

/// Longest message: a status travels in a header, which clients bound.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Something in a request that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(String);

impl Invalid {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.0)
    }
}

/// The only place where kinds become codes.
pub(crate) fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        // Not Unimplemented, which clients take for "this RPC does not exist".
        ErrorKind::FailedPrecondition | ErrorKind::Unsupported => Code::FailedPrecondition,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The status for an engine error, with all its causes.
pub(crate) fn status(error: &engine::Error) -> Status {
    Status::new(code(error.kind()), shorten(error.chain()))
}

fn shorten(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES - 3).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_the_kind_and_all_causes() {
        let cause = std::io::Error::other("disk on fire");
        let error = engine::Error::caused_by(ErrorKind::Exhausted, "make a snapshot", cause);
        let status = status(&error);
        assert_eq!(
            (status.code(), status.message()),
            (Code::ResourceExhausted, "make a snapshot: disk on fire")
        );
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let message = shorten("ä".repeat(4000));
        assert!(message.len() <= MAX_MESSAGE_BYTES && message.ends_with("ä…"));
    }
}
