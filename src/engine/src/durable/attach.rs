//! Attaching to a durable container: before it starts, so that nothing is missed, or while it runs.
//!
//! Output comes from the keeper, which has each client's pipes before the first byte of a run. Input goes to whatever
//! runs, once it does.

use std::os::fd::{AsFd, OwnedFd};

use keeper::protocol::{Request, TerminalSize};
use oci::ContainerId;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use super::supervisor::Supervisor;
use super::{Command, Durable, DurableProblem};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::happenings::Action;
use crate::sandbox::{LiveContainer, Tap};
use crate::sessions::Terminal;

/// What a client that is slow may be behind: at most this many bytes of each stream.
const PIPE_BYTES: usize = 1 << 20;

/// Which streams to attach to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Whether to write its standard input.
    pub stdin: bool,
    /// Whether to read its standard output.
    pub stdout: bool,
    /// Whether to read its standard error.
    pub stderr: bool,
}

/// A client's view of a durable container's streams: from now, or from the first byte of its next run, to the end of
/// that run.
#[derive(Debug)]
pub struct DurableAttach {
    /// Its standard output, or everything if it has a terminal.
    pub stdout: Option<pipe::Receiver>,
    /// Its standard error.
    pub stderr: Option<pipe::Receiver>,
    /// Its standard input.
    pub stdin: Option<AttachInput>,
    /// Whether it has a terminal.
    pub tty: bool,
}

/// A container's standard input. What is written before it runs waits until it does.
#[derive(Debug)]
pub struct AttachInput {
    engine: Engine,
    durable: Durable,
    once: bool,
    open: Option<Open>,
}

#[derive(Debug)]
enum Open {
    Pipe(pipe::Sender),
    Terminal(Terminal),
}

impl AttachInput {
    /// Writes all bytes. An error says that nobody reads them any more.
    pub async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self.opened().await? {
            Open::Pipe(pipe) => pipe.write_all(bytes).await,
            Open::Terminal(terminal) => terminal.write_all(bytes).await,
        }
    }

    /// The client has no more to say. The container learns of it if it was made to; otherwise others may go on.
    pub async fn finish(mut self) -> Result<()> {
        if !self.once {
            return Ok(());
        }
        let opened = self.opened().await.map(drop);
        opened.map_err(|error| Error::io("open the container's standard input", error))?;
        self.open = None;
        self.engine.close_stdin(&self.durable.id).await
    }

    async fn opened(&mut self) -> std::io::Result<&mut Open> {
        if self.open.is_none() {
            let gone = || std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the container was removed");
            let mut status = self.durable.status.clone();
            status.wait_for(|status| status.is_running()).await.map_err(|_| gone())?;
            let live = self.engine.live_container(&self.durable.id).map_err(std::io::Error::other)?;
            self.open = Some(open(&live)?);
        }
        self.open.as_mut().ok_or_else(|| std::io::ErrorKind::BrokenPipe.into())
    }
}

fn open(live: &LiveContainer) -> std::io::Result<Open> {
    if let Some(master) = &live.terminal {
        return Terminal::new(master.try_clone()?).map(Open::Terminal).map_err(std::io::Error::other);
    }
    match crate::exec::stdin_of(live) {
        Ok(Some(pipe)) => Ok(Open::Pipe(pipe)),
        Ok(None) => Err(std::io::Error::new(
            std::io::ErrorKind::BrokenPipe,
            "the container's standard input is not open",
        )),
        Err(error) => Err(std::io::Error::other(error)),
    }
}

impl Engine {
    /// Attaches to a durable container. One that does not run is attached to for its next run, from the first byte;
    /// the streams end with the run.
    pub async fn attach_durable(&self, reference: &str, options: AttachOptions) -> Result<DurableAttach> {
        let durable = self.shared().durables.find(reference)?;
        let status = durable.status();
        let container = &status.config.container;
        let (tty, once, has_stdin) = (container.tty, container.stdin_once, container.stdin || container.tty);
        let (stdout_theirs, stdout) = output_pipe()?;
        let (stderr_theirs, stderr) = output_pipe()?;
        let tap = Tap { stdout: stdout_theirs, stderr: stderr_theirs };
        durable.ask(|reply| Command::Attach { tap, reply }).await?;
        let stdin = (options.stdin && has_stdin).then(|| AttachInput {
            engine: self.clone(),
            durable: durable.clone(),
            once: once && !tty,
            open: None,
        });
        Ok(DurableAttach {
            stdout: options.stdout.then_some(stdout),
            stderr: (options.stderr && !tty).then_some(stderr),
            stdin,
            tty,
        })
    }

    /// Changes the size of a durable container's terminal.
    pub fn resize_durable(&self, reference: &str, size: TerminalSize) -> Result<()> {
        let durable = self.shared().durables.find(reference)?;
        let what = || format!("resize the terminal of container {}", durable.id.short());
        if !durable.status().is_running() {
            return Err(DurableProblem::NotRunning(durable.id.clone()).error(what()));
        }
        self.resize_container(&durable.id, size)?;
        let action = Action::Resize { rows: size.rows, columns: size.columns };
        self.shared().happenings.publish(super::supervisor::subject_of(&durable.status()), action);
        Ok(())
    }

    /// Changes the size of a running container's terminal; one without a terminal has none to change.
    pub fn resize_container(&self, id: &ContainerId, size: TerminalSize) -> Result<()> {
        let live = self.live_container(id)?;
        let Some(master) = &live.terminal else { return Ok(()) };
        sys::pty::resize(master.as_fd(), size.columns, size.rows)
            .map_err(|error| Error::io(format!("resize the terminal of container {}", id.short()), error))
    }
}

impl Supervisor {
    pub(super) async fn attach(&mut self, tap: Tap) -> Result<()> {
        let what = format!("attach to container {}", self.record.config.name);
        let id = self.record.id.clone();
        if self.record.removing.is_some() {
            return Err(DurableProblem::Removing(id).error(what));
        }
        if self.paused {
            return Err(DurableProblem::Paused(id).error(what));
        }
        if self.restart_at.is_some() {
            return Err(DurableProblem::Restarting(id).error(what));
        }
        if self.run.is_some() {
            let request = Request::Attach { id: id.to_string() };
            let fds = [tap.stdout.as_fd(), tap.stderr.as_fd()];
            self.shared.link.call(&what, request, &fds).await?;
        } else {
            // Those that have gone make room.
            let is_gone = |fd: &OwnedFd| sys::pipe::has_no_reader(fd.as_fd());
            self.taps.retain(|tap| !(is_gone(&tap.stdout) && is_gone(&tap.stderr)));
            if self.taps.len() >= MOST_TAPS {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!("{what}: {MOST_TAPS} clients wait for it already"),
                ));
            }
            self.taps.push(tap);
        }
        self.tell(Action::Attach);
        Ok(())
    }
}

/// Clients that may wait for a start.
const MOST_TAPS: usize = 32;

fn output_pipe() -> Result<(OwnedFd, pipe::Receiver)> {
    let (theirs, ours) = crate::exec::output_pipe()?;
    // A smaller one does, too: an unprivileged daemon has a limit on them.
    let _ = sys::pipe::set_capacity(theirs.as_fd(), PIPE_BYTES);
    Ok((theirs, ours))
}
