//! Streaming sessions on the engine: moves bytes between a client and a process or a port.

use std::io;
use std::time::Duration;

use engine::{AttachSession, Engine, ExecConfig, ExecSession, TerminalSize};
use oci::{ContainerId, SandboxId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::streaming::{
    self, Attach, Backend, BoxFuture, Exec, Input, Output, PortIo, SessionError, SessionIo,
};

/// A child may hold the output of an ended process open; silence for this long ends the session.
const DRAIN: Duration = Duration::from_secs(1);
const BUFFER_BYTES: usize = 32 * 1024;

/// Carries sessions out on an engine.
#[derive(Debug, Clone)]
pub(crate) struct Sessions(pub(crate) Engine);

fn failed(error: engine::Error) -> SessionError {
    SessionError(error.chain())
}

impl Backend for Sessions {
    fn exec(&self, exec: Exec, io: SessionIo) -> BoxFuture<'_, Result<i32, SessionError>> {
        Box::pin(async move {
            let config = ExecConfig {
                command: exec.command,
                tty: exec.streams.tty,
                stdin: exec.streams.stdin,
                ..ExecConfig::default()
            };
            let session = self.0.exec(&exec.container, config).await.map_err(failed)?;
            run_exec(session, io).await.map_err(failed)
        })
    }

    fn attach(&self, attach: Attach, io: SessionIo) -> BoxFuture<'_, Result<(), SessionError>> {
        Box::pin(async move {
            let session = self.0.attach(&attach.container, attach.streams.stdin).await.map_err(failed)?;
            let once = self.0.container_status(attach.container.as_str()).is_ok_and(|c| c.config.stdin_once);
            let stdin_once = (once && attach.streams.stdin).then_some(&attach.container);
            self.run_attach(session, io, stdin_once).await
        })
    }

    fn port_forward(
        &self,
        sandbox: SandboxId,
        port: u16,
        io: PortIo,
    ) -> BoxFuture<'_, Result<(), SessionError>> {
        Box::pin(async move {
            let mut stream = self.0.port_forward(&sandbox, port).await.map_err(failed)?;
            let (read, write) = stream.split();
            let PortIo { input, output, closed } = io;
            tokio::select! {
                moved = exchange((input, output), (read, write)) => {
                    moved.map_err(|error| SessionError(error.to_string()))
                }
                () = closed.cancelled() => Ok(()),
            }
        })
    }
}

/// Moves bytes between a client and a program until both have ended. Each direction ends by itself.
///
/// A program that resets its connection, or closes it with input unread, has ended it: clients take an error
/// for a failure of the forwarding, and give up all connections for the sake of one.
async fn exchange(
    (mut input, mut output): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    (mut read, mut write): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let to_program = async {
        let moved = unless_hung_up(tokio::io::copy(&mut input, &mut write).await);
        unless_hung_up(write.shutdown().await)?;
        moved.map(drop)
    };
    let to_client = async {
        // What the program wrote before it went has arrived, so the end is all that is left to tell.
        unless_hung_up(tokio::io::copy(&mut read, &mut output).await)?;
        output.shutdown().await
    };
    tokio::try_join!(to_program, to_client).map(drop)
}

/// Takes the other side's hanging up for the end of a connection.
fn unless_hung_up<T: Default>(result: io::Result<T>) -> io::Result<T> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    match result {
        Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected) => Ok(T::default()),
        other => other,
    }
}

/// Copies to the end, and passes the end on.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// Copies output as long as the client takes it and there is some.
async fn output(from: Option<impl AsyncRead + Unpin>, to: Option<Output>) {
    let Some(mut from) = from else { return };
    match to {
        Some(to) => drop(copy(from, to).await),
        // Nobody listens: the process must not wait for a reader.
        None => drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await),
    }
}

/// Copies input to its end; dropping `to` is the end for the process.
async fn input(from: Option<Input>, to: Option<impl AsyncWrite + Unpin>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        drop(tokio::io::copy(&mut from, &mut to).await);
    }
}

/// Applies sizes as long as they come, and never ends.
async fn resize(
    sizes: Option<mpsc::Receiver<streaming::TerminalSize>>,
    apply: impl Fn(TerminalSize) -> io::Result<()>,
) -> std::convert::Infallible {
    if let Some(mut sizes) = sizes {
        while let Some(size) = sizes.recv().await {
            if let Err(error) = apply(TerminalSize { columns: size.columns, rows: size.rows }) {
                tracing::debug!(%error, "terminal not resized");
            }
        }
    }
    std::future::pending().await
}

async fn run_exec(mut session: ExecSession, io: SessionIo) -> engine::Result<i32> {
    let streams = std::mem::take(&mut session.streams);
    if let Some(terminal) = &streams.terminal {
        return run_terminal(&mut session, terminal, io).await;
    }
    let outputs =
        async { tokio::join!(output(streams.stdout, io.stdout), output(streams.stderr, io.stderr)) };
    let mut outputs = std::pin::pin!(outputs);
    let mut drained = false;
    let code = tokio::select! {
        code = session.wait() => code,
        never = background(input(io.stdin, streams.stdin)) => match never {},
        never = background(async { (&mut outputs).await; drained = true; }) => match never {},
    };
    if !drained {
        // All that the process itself wrote is in the pipe by now.
        drop(timeout(DRAIN, outputs).await);
    }
    code
}

/// Does the work and then waits forever: its end is not the end of the session.
async fn background(work: impl Future<Output = ()>) -> std::convert::Infallible {
    work.await;
    std::future::pending().await
}

async fn run_terminal(
    session: &mut ExecSession,
    terminal: &engine::Terminal,
    io: SessionIo,
) -> engine::Result<i32> {
    let show = read_terminal(terminal, io.stdout);
    let mut show = std::pin::pin!(show);
    let mut shown = false;
    let code = tokio::select! {
        code = session.wait() => code,
        never = background(type_into(terminal, io.stdin)) => match never {},
        never = background(async { (&mut show).await; shown = true; }) => match never {},
        never = resize(io.resize, |size| terminal.resize(size)) => match never {},
    };
    if !shown {
        drop(timeout(DRAIN, show).await);
    }
    code
}

async fn read_terminal(terminal: &engine::Terminal, to: Option<Output>) {
    let mut to = to;
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = terminal.read(&mut buffer).await {
        if let Some(open) = &mut to
            && open.write_all(&buffer[..count]).await.is_err()
        {
            // The client is gone; the process must not wait for it.
            to = None;
        }
    }
}

async fn type_into(terminal: &engine::Terminal, from: Option<Input>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if terminal.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

impl Sessions {
    /// Ends when the container's output ends or the client leaves.
    async fn run_attach(
        &self,
        mut session: AttachSession,
        io: SessionIo,
        stdin_once: Option<&ContainerId>,
    ) -> Result<(), SessionError> {
        let streams = std::mem::take(&mut session.streams);
        let keys = async {
            match &streams.terminal {
                Some(terminal) => type_into(terminal, io.stdin).await,
                None => input(io.stdin, streams.stdin).await,
            }
            if let Some(container) = stdin_once
                && let Err(error) = self.0.close_stdin(container).await
            {
                tracing::debug!(%container, error = error.chain(), "standard input not closed");
            }
        };
        let mut keys = std::pin::pin!(keys);
        let mut typed = false;
        let outputs =
            async { tokio::join!(output(streams.stdout, io.stdout), output(streams.stderr, io.stderr)) };
        tokio::select! {
            _ = outputs => {}
            never = background(async { (&mut keys).await; typed = true; }) => match never {},
            never = resize(io.resize, |size| session.resize(size)) => match never {},
            () = io.closed.cancelled() => {}
        }
        if !typed && io.closed.is_cancelled() {
            // The input of a client that left has ended, too: what follows from that still has to happen.
            drop(timeout(DRAIN, keys).await);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A program that answers and closes with a request unread resets the connection: the answer arrives,
    /// and the connection ends without an error.
    #[tokio::test]
    async fn a_reset_ends_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut forwarded = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut program, _) = listener.accept().await.unwrap();
        let (mut client, ours) = tokio::io::duplex(64 * 1024);
        client.write_all(b"request that nobody reads").await.unwrap();
        let (input, output) = tokio::io::split(ours);
        let talk = async {
            // Once it has come it can be left unread.
            program.readable().await.unwrap();
            program.write_all(b"answer").await.unwrap();
            drop(program);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            drop(client);
            answer
        };
        let (moved, answer) = tokio::join!(exchange((input, output), forwarded.split()), talk);
        moved.unwrap();
        assert_eq!(answer, b"answer");
    }
}
