//! The server with real connections: own SPDY and WebSocket clients against a backend that plays tricks.

mod http;
mod spdy;
mod websocket;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oci::SandboxId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;

/// How long anything in a test may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Plays programs by name.
#[derive(Default)]
struct Programs {
    /// Sessions whose client left while they ran.
    abandoned: AtomicUsize,
    /// Releases `wait`.
    release: tokio::sync::Notify,
}

impl Programs {
    async fn program(&self, command: &[String], mut io: SessionIo) -> Result<i32, SessionError> {
        let failed = |error: std::io::Error| SessionError(error.to_string());
        match command[0].as_str() {
            "cat" => {
                let (mut input, mut output) = (io.stdin.unwrap(), io.stdout.unwrap());
                tokio::io::copy(&mut input, &mut output).await.map_err(failed)?;
                Ok(0)
            }
            "exit" => Ok(command[1].parse().unwrap()),
            "warn" => {
                io.stderr.unwrap().write_all(b"careful").await.map_err(failed)?;
                Ok(0)
            }
            // Waits for input, then writes as much as it is told.
            "flood" => {
                io.stdin.unwrap().read_u8().await.map_err(failed)?;
                let bytes = vec![b'x'; command[1].parse().unwrap()];
                io.stdout.unwrap().write_all(&bytes).await.map_err(failed)?;
                Ok(0)
            }
            // Reads only when it is released.
            "wait" => {
                self.release.notified().await;
                let mut sink = Vec::new();
                io.stdin.unwrap().read_to_end(&mut sink).await.map_err(failed)?;
                io.stdout.unwrap().write_all(sink.len().to_string().as_bytes()).await.map_err(failed)?;
                Ok(0)
            }
            "size" => {
                let size = io.resize.as_mut().unwrap().recv().await.unwrap();
                let text = format!("{}x{}", size.columns, size.rows);
                io.stdout.unwrap().write_all(text.as_bytes()).await.map_err(failed)?;
                Ok(0)
            }
            "hang" => {
                io.closed.cancelled().await;
                let mut input = io.stdin.unwrap();
                if input.read_u8().await.is_err() {
                    self.abandoned.fetch_add(1, Ordering::SeqCst);
                }
                Ok(0)
            }
            _ => Err(SessionError("no such program".into())),
        }
    }
}

impl Backend for Programs {
    fn exec(&self, exec: Exec, io: SessionIo) -> BoxFuture<'_, Result<i32, SessionError>> {
        Box::pin(async move { self.program(&exec.command, io).await })
    }

    fn attach(&self, _: Attach, io: SessionIo) -> BoxFuture<'_, Result<(), SessionError>> {
        Box::pin(async move { self.program(&["cat".into()], io).await.map(drop) })
    }

    fn port_forward(
        &self,
        _: SandboxId,
        port: u16,
        mut io: PortIo,
    ) -> BoxFuture<'_, Result<(), SessionError>> {
        Box::pin(async move {
            if port != 80 {
                return Err(SessionError("connection refused".into()));
            }
            tokio::io::copy(&mut io.input, &mut io.output).await.map_err(|e| SessionError(e.to_string()))?;
            Ok(())
        })
    }
}

struct Fixture {
    server: Server,
    programs: Arc<Programs>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(Config::loopback()).await
    }

    async fn with(config: Config) -> Self {
        let programs = Arc::new(Programs::default());
        let server = Server::start(config, programs.clone(), &CancellationToken::new()).await.unwrap();
        Self { server, programs }
    }

    /// Path of a new URL.
    fn path(&self, operation: Operation) -> String {
        let url = self.server.issue(operation).unwrap();
        let base = format!("http://{}", self.server.address());
        url.strip_prefix(&base).unwrap_or_else(|| panic!("{url} is not below {base}")).to_owned()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.address()).await.unwrap()
    }
}

/// An exec with input and output, and a terminal if wanted.
fn exec(command: &[&str], tty: bool) -> Operation {
    Operation::Exec(Exec {
        container: "c1".parse().unwrap(),
        command: command.iter().map(|arg| (*arg).to_owned()).collect(),
        streams: StreamSet { stdin: true, stdout: true, stderr: !tty, tty },
    })
}

fn forward(ports: &[u16]) -> Operation {
    Operation::PortForward(PortForward { sandbox: "p1".parse().unwrap(), ports: ports.to_vec() })
}

/// Sends a request and returns the head of the answer.
async fn request<IO>(io: &mut IO, head: &str) -> String
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    io.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        match timeout(DEADLINE, io.read_u8()).await.expect("the server answers") {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(answer).unwrap()
}

const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;
