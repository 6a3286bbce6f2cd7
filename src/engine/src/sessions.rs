//! Sessions that front ends stream: exec and attach.

use std::os::fd::OwnedFd;

use keeper::protocol::TerminalSize;
use tokio::net::unix::pipe;

use crate::error::{Error, Result};

/// The daemon's ends of a process' streams.
#[derive(Debug, Default)]
pub struct Streams {
    /// Where its standard input is written; dropping it is end of file.
    pub stdin: Option<pipe::Sender>,
    /// Its standard output.
    pub stdout: Option<pipe::Receiver>,
    /// Its standard error.
    pub stderr: Option<pipe::Receiver>,
    /// The master of its terminal, instead of the three.
    pub terminal: Option<Terminal>,
}

/// A terminal: reads what the process writes and the other way round.
#[derive(Debug)]
pub struct Terminal(pub(crate) tokio::io::unix::AsyncFd<OwnedFd>);

impl Terminal {
    /// Takes over a pty's master.
    pub(crate) fn new(master: OwnedFd) -> Result<Self> {
        let failed = |error| Error::io("watch a terminal", error);
        sys::stream::set_nonblocking(&master, true).map_err(failed)?;
        async_fd(master).map(Self).map_err(failed)
    }

    /// Reads what the process wrote; 0 when it has ended.
    pub async fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| sys::stream::read(fd.get_ref(), buffer)) {
                // The slave side is closed: that is how a pty says end of file.
                Ok(Err(error)) if error.raw_os_error() == Some(5) => return Ok(0),
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Writes to the process.
    pub async fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| sys::stream::write(fd.get_ref(), bytes)) {
                Ok(Ok(written)) => bytes = &bytes[written..],
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// The master again, for whoever only changes its size.
    pub(crate) fn duplicate(&self) -> std::io::Result<OwnedFd> {
        self.0.get_ref().try_clone()
    }

    /// Changes the terminal's size.
    pub fn resize(&self, size: TerminalSize) -> std::io::Result<()> {
        use std::os::fd::AsFd;
        sys::pty::resize(self.0.get_ref().as_fd(), size.columns, size.rows)
    }
}

/// Watches a descriptor that is owned, so that nobody closes it under the watch.
#[allow(
    deprecated,
    reason = "the replacement is unsafe for the sake of types that do not own their descriptor"
)]
pub(crate) fn async_fd(fd: OwnedFd) -> std::io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    tokio::io::unix::AsyncFd::new(fd)
}

/// A process that was executed in a container.
#[derive(Debug)]
pub struct ExecSession {
    /// Its id.
    pub id: String,
    /// Its pid in the host.
    pub pid: u32,
    /// Its streams.
    pub streams: Streams,
    pub(crate) cleanup: crate::exec::Cleanup,
}

impl ExecSession {
    /// Its exit code. Whoever drops a session before it ended leaves the process to itself.
    pub async fn wait(&mut self) -> Result<i32> {
        match self.cleanup.wait().await {
            Some(exit) => Ok(exit.code),
            None => Err(Error::new(
                crate::ErrorKind::Unavailable,
                format!("exec session {}: the keeper went away before the process ended", self.id),
            )),
        }
    }

    /// Kills everything the session started.
    pub fn kill(&self) {
        self.cleanup.kill();
    }
}

/// A client's view of a container's streams.
#[derive(Debug)]
pub struct AttachSession {
    /// The streams; output from now on.
    pub streams: Streams,
    /// Whether the container has a terminal: resize with [`AttachSession::resize`].
    pub tty: bool,
    pub(crate) terminal: Option<OwnedFd>,
}

impl AttachSession {
    /// Changes the size of the container's terminal.
    pub fn resize(&self, size: TerminalSize) -> std::io::Result<()> {
        use std::os::fd::AsFd;
        match &self.terminal {
            Some(master) => sys::pty::resize(master.as_fd(), size.columns, size.rows),
            None => Ok(()),
        }
    }
}
