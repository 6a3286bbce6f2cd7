//! Exec sessions.

use std::time::Duration;

pub use keeper::protocol::TerminalSize;

use super::Security;

/// One more process in a container, with streams.
#[derive(Debug, Clone, Default)]
pub struct ExecConfig {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is open.
    pub stdin: bool,
    /// Size of the terminal at first.
    pub size: Option<TerminalSize>,
    /// More environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; empty means the container's.
    pub working_dir: String,
    /// `user[:group]` in the container's files; empty means the container's.
    pub user: String,
    /// Whether it has every capability.
    pub privileged: bool,
    /// Overrides of the container's security settings; `None` means the container's.
    pub security: Option<Security>,
}

/// One more process in a container, run to its end.
#[derive(Debug, Clone, Default)]
pub struct ExecSyncConfig {
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may take; `None` is without limit.
    pub timeout: Option<Duration>,
    /// How many bytes of each stream to keep; the rest is read and dropped.
    pub max_output_bytes: usize,
}

/// What a process wrote and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}
