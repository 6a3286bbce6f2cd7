//! How a session ended, as the client reads it on the error stream.

use serde_json::json;

use super::backend::SessionError;

/// What the error stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusFormat {
    /// A `Status` object of the Kubernetes API: protocol 4 and later.
    Json,
    /// A line of text if the session failed, nothing else.
    Text,
}

/// End of a session.
pub(crate) type Outcome = Result<i32, SessionError>;

/// Bytes for the error stream.
pub(crate) fn render(outcome: &Outcome, format: StatusFormat) -> Vec<u8> {
    match (format, outcome) {
        (StatusFormat::Json, Ok(0)) => json!({"metadata": {}, "status": "Success"}).to_string().into(),
        (StatusFormat::Json, Ok(code)) => exit_status(*code),
        (StatusFormat::Json, Err(error)) => internal_error(&error.0),
        (StatusFormat::Text, Ok(0)) => Vec::new(),
        (StatusFormat::Text, Ok(code)) => format!("command terminated with exit code {code}").into(),
        (StatusFormat::Text, Err(error)) => error.0.clone().into(),
    }
}

fn exit_status(code: i32) -> Vec<u8> {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with exit code {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
    .to_string()
    .into()
}

fn internal_error(message: &str) -> Vec<u8> {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    })
    .to_string()
    .into()
}
