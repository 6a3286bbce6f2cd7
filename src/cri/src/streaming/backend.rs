//! What the streaming server asks of whoever runs containers.

use std::pin::Pin;

use oci::{ContainerId, SandboxId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A future that may be stored.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// A stream that comes from the client.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// A stream that goes to the client. Dropping it ends it.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Which streams a session has. With a terminal there is no separate `stderr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSet {
    /// The client sends input.
    pub stdin: bool,
    /// The client wants output.
    pub stdout: bool,
    /// The client wants error output.
    pub stderr: bool,
    /// The session is on a terminal, which the client may resize.
    pub tty: bool,
}

/// A new process in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Where.
    pub container: ContainerId,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its streams.
    pub streams: StreamSet,
}

/// The main process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// Which.
    pub container: ContainerId,
    /// The streams to attach.
    pub streams: StreamSet,
}

/// Ports of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// Which.
    pub sandbox: SandboxId,
    /// The ports that were announced, if any: the client may use no others then.
    pub ports: Vec<u16>,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Width in characters.
    pub columns: u16,
    /// Height in characters.
    pub rows: u16,
}

/// The client's ends of a session.
pub struct SessionIo {
    /// Input. It ends when the client ends it, and fails when the client is gone.
    pub stdin: Option<Input>,
    /// Output. Writes wait for the client and fail when it is gone.
    pub stdout: Option<Output>,
    /// Error output.
    pub stderr: Option<Output>,
    /// New sizes of the terminal.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
    /// Fires when the client is gone.
    pub closed: CancellationToken,
}

impl std::fmt::Debug for SessionIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionIo")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("resize", &self.resize.is_some())
            .finish_non_exhaustive()
    }
}

/// A connection to a port, as the client's ends of it.
pub struct PortIo {
    /// What the client sends. It ends when the client ends it, and fails when the client is gone.
    pub input: Input,
    /// What the client receives. Dropping it ends it.
    pub output: Output,
    /// Fires when the client is gone.
    pub closed: CancellationToken,
}

impl std::fmt::Debug for PortIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortIo").finish_non_exhaustive()
    }
}

/// Why a session failed, in one line for the client.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SessionError(pub String);

/// Runs sessions. A returned future is dropped when the client has been gone for a while, so work
/// that must come to its end belongs to a task of its own.
pub trait Backend: Send + Sync + 'static {
    /// Runs a process and moves its streams until it has ended and all output is written. Returns its exit code.
    fn exec(&self, exec: Exec, io: SessionIo) -> BoxFuture<'_, Result<i32, SessionError>>;

    /// Moves the streams of a running process until it has ended or the client leaves.
    fn attach(&self, attach: Attach, io: SessionIo) -> BoxFuture<'_, Result<(), SessionError>>;

    /// Connects to a port inside the sandbox and moves bytes until both directions have ended.
    fn port_forward(
        &self,
        sandbox: SandboxId,
        port: u16,
        io: PortIo,
    ) -> BoxFuture<'_, Result<(), SessionError>>;
}
