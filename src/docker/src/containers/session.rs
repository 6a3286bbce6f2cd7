//! Streams of a process over a connection without HTTP, for attach and exec.
//!
//! The session ends when everything the process wrote is sent, when the client goes away, or when it types the
//! keys that mean "leave it running".

use engine::AttachInput;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::detach::DetachKeys;
use crate::http::{Io, Stream, frame};

const BUFFER: usize = 32 * 1024;

/// Where input goes.
pub(super) enum Input {
    /// To a container.
    Container(AttachInput),
    /// To a process of an exec session.
    Pipe(pipe::Sender),
    /// To a terminal that is also read.
    Terminal(std::sync::Arc<engine::Terminal>),
}

impl Input {
    async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Container(input) => input.write_all(bytes).await,
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::Terminal(terminal) => terminal.write_all(bytes).await,
        }
    }

    /// The client has no more to say.
    async fn finish(self) {
        if let Self::Container(input) = self
            && let Err(error) = input.finish().await
        {
            tracing::debug!(error = error.chain(), "the end of a client's input did not reach its container");
        }
    }
}

/// Streams of a process.
#[derive(Default)]
pub(super) struct Process {
    pub(super) stdin: Option<Input>,
    pub(super) stdout: Option<pipe::Receiver>,
    pub(super) stderr: Option<pipe::Receiver>,
    pub(super) terminal: Option<std::sync::Arc<engine::Terminal>>,
    /// What is to be waited for behind the output, so that a client that asks for the exit code is told.
    pub(super) ended: Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// How streams and connection are put together.
pub(super) struct Wiring {
    /// Whether output is framed.
    pub(super) framed: bool,
    /// Keys that end the session, where there is a terminal.
    pub(super) detach: Option<DetachKeys>,
    /// Whether the end of the client's input ends the session, instead of that of the output.
    pub(super) ends_with_input: bool,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With the output.
    Done,
    /// The client went away, or asked to leave the process running.
    Detached,
}

/// Moves bytes both ways until the session ends.
pub(super) async fn run(io: Box<dyn Io>, process: Process, wiring: Wiring) -> Ended {
    let (mut from, to) = tokio::io::split(io);
    let to = tokio::sync::Mutex::new(to);
    let Process { stdin, stdout, stderr, terminal, ended } = process;
    let (framed, ends_with_input) = (wiring.framed, wiring.ends_with_input);
    let output = async {
        let out = copy(stdout, &to, framed.then_some(Stream::Stdout));
        let err = copy(stderr, &to, framed.then_some(Stream::Stderr));
        let all = tokio::join!(out, err, copy_terminal(terminal, &to));
        let sent = all.0.and(all.1).and(all.2);
        if let (Ok(()), Some(ended)) = (&sent, ended) {
            ended.await;
        }
        sent
    };
    let input = async {
        let ended = pump(&mut from, stdin, wiring.detach).await;
        // A client that says nothing more may still listen.
        if ended == Ended::Done && !ends_with_input {
            std::future::pending::<()>().await;
        }
        ended
    };
    let ended = tokio::select! {
        sent = output => if sent.is_ok() { Ended::Done } else { Ended::Detached },
        ended = input => ended,
    };
    drop(to.lock().await.shutdown().await);
    ended
}

type Writer = tokio::sync::Mutex<tokio::io::WriteHalf<Box<dyn Io>>>;

async fn copy(from: Option<pipe::Receiver>, to: &Writer, stream: Option<Stream>) -> std::io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return Ok(());
        }
        send(to, &buffer[..count], stream).await?;
    }
}

async fn copy_terminal(from: Option<std::sync::Arc<engine::Terminal>>, to: &Writer) -> std::io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return Ok(());
        }
        send(to, &buffer[..count], None).await?;
    }
}

async fn send(to: &Writer, bytes: &[u8], stream: Option<Stream>) -> std::io::Result<()> {
    let mut to = to.lock().await;
    match stream {
        Some(stream) => to.write_all(&frame(stream, bytes)).await?,
        None => to.write_all(bytes).await?,
    }
    to.flush().await
}

/// Input from the client, to its end.
async fn pump(
    from: &mut tokio::io::ReadHalf<Box<dyn Io>>,
    mut to: Option<Input>,
    mut detach: Option<DetachKeys>,
) -> Ended {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(_) => return Ended::Detached,
        };
        let (bytes, leave) = match &mut detach {
            Some(keys) => keys.filter(&buffer[..count]),
            None => (buffer[..count].to_vec(), false),
        };
        if let Some(input) = &mut to
            && !bytes.is_empty()
            && let Err(error) = input.write_all(&bytes).await
        {
            tracing::debug!(%error, "a process does not read its input any more");
            to = None;
        }
        if leave {
            return Ended::Detached;
        }
    }
    if let Some(input) = to {
        input.finish().await;
    }
    Ended::Done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> (Process, pipe::Sender, pipe::Receiver) {
        let (out, stdout) = pipe::pipe().unwrap();
        let (stdin, input) = pipe::pipe().unwrap();
        let process = Process { stdin: Some(Input::Pipe(stdin)), stdout: Some(stdout), ..Process::default() };
        (process, out, input)
    }

    fn wiring(framed: bool) -> Wiring {
        Wiring { framed, detach: None, ends_with_input: false }
    }

    #[tokio::test]
    async fn output_flows_on_after_the_end_of_input() {
        let (process, mut out, mut input) = process();
        let (client, server) = tokio::io::duplex(1024);
        let (mut from, mut to) = tokio::io::split(client);
        let client = async {
            to.write_all(b"question").await.unwrap();
            to.shutdown().await.unwrap();
            let mut asked = String::new();
            input.read_to_string(&mut asked).await.unwrap();
            out.write_all(b"answer").await.unwrap();
            drop(out);
            let mut told = Vec::new();
            from.read_to_end(&mut told).await.unwrap();
            (asked, told)
        };
        let (ended, (asked, told)) = tokio::join!(run(Box::new(server), process, wiring(true)), client);
        assert_eq!((ended, asked.as_str()), (Ended::Done, "question"));
        assert_eq!(told, b"\x01\0\0\0\0\0\0\x06answer");
    }

    #[tokio::test]
    async fn keys_leave_the_process_running() {
        let (process, out, mut input) = process();
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(b"ls\x10\x11").await.unwrap();
        let wiring = Wiring { detach: Some(DetachKeys::parse("").unwrap()), ..wiring(false) };
        assert_eq!(run(Box::new(server), process, wiring).await, Ended::Detached);
        drop(out);
        let mut asked = String::new();
        input.read_to_string(&mut asked).await.unwrap();
        assert_eq!(asked, "ls");
    }
}
