//! The streaming server: exec, attach and port-forward sessions over SPDY/3.1 and WebSocket.
//!
//! The CRI calls `Exec`, `Attach` and `PortForward` answer with a URL that [`Server::issue`] makes; the
//! client (the kubelet or crictl, or a user behind the kubelet) opens it and upgrades the connection.
//!
//! ```text
//! server ── negotiate ── token
//!    ├─ SPDY ─────────────┬─ remote_command ── session ──┐
//!    ├─ tunnel ── SPDY ───┴─ port_forward ───────────────┤── Backend
//!    └─ websocket ─────────── websocket_session ─────────┘
//! ```
//!
//! Clients are not trusted: each size, count, queue and wait is bounded, a slow reader is waited for by
//! its own session only, and a token is never logged. What runs behind a session is up to the [`Backend`].

mod backend;
mod negotiate;
mod port_forward;
mod remote_command;
mod server;
mod session;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod tunnel;
mod websocket;
mod websocket_session;

pub use backend::{
    Attach, Backend, BoxFuture, Exec, Input, Output, PortForward, PortIo, SessionError, SessionIo, StreamSet,
    TerminalSize,
};
pub use server::{Config, Server, SessionKind, StartError};
pub use tls::{TlsError, tls_config};
pub use token::{IssueError, Operation};
