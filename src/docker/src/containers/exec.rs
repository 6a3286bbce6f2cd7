//! Commands in running containers.

use std::sync::Arc;

use engine::{DurableProblem, ExecConfig, ExecSpec, ExecState, TerminalSize};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::attach::content_type;
use super::detach::DetachKeys;
use super::session::{self, Input, Process, Wiring};
use super::target;
use crate::app::App;
use crate::http::{ApiError, Call, Reply, Result, Stream, frame};
use crate::networks::null_is_empty;

/// A command to make.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Create {
    #[serde(deserialize_with = "null_is_empty")]
    attach_stdin: bool,
    #[serde(deserialize_with = "null_is_empty")]
    attach_stdout: bool,
    #[serde(deserialize_with = "null_is_empty")]
    attach_stderr: bool,
    #[serde(deserialize_with = "null_is_empty")]
    detach_keys: String,
    #[serde(deserialize_with = "null_is_empty")]
    tty: bool,
    #[serde(deserialize_with = "null_is_empty")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    privileged: bool,
    #[serde(deserialize_with = "null_is_empty")]
    user: String,
    #[serde(deserialize_with = "null_is_empty")]
    working_dir: String,
    console_size: Option<[u16; 2]>,
}

/// How to start it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Start {
    #[serde(deserialize_with = "null_is_empty")]
    detach: bool,
    console_size: Option<[u16; 2]>,
}

/// The size of a terminal, if it has one.
pub(super) fn size(rows_and_columns: Option<[u16; 2]>) -> Option<TerminalSize> {
    rows_and_columns
        .filter(|[rows, columns]| *rows > 0 && *columns > 0)
        .map(|[rows, columns]| TerminalSize { rows, columns })
}

/// Which streams are wanted, and with which keys they are left.
#[derive(Debug)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    detach: String,
}

impl Wanted {
    fn keep(&self) -> Value {
        json!({"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr, "detach": self.detach})
    }

    fn kept(words: &Value) -> Self {
        let flag = |key: &str| words[key].as_bool().unwrap_or_default();
        let detach = words["detach"].as_str().unwrap_or_default().to_owned();
        Self { stdin: flag("stdin"), stdout: flag("stdout"), stderr: flag("stderr"), detach }
    }
}

pub(super) async fn create(app: &App, mut call: Call, reference: &str) -> Result<Reply> {
    let asked: Create = call.json().await?;
    if asked.cmd.is_empty() {
        return Err(ApiError::bad("No exec command specified"));
    }
    DetachKeys::parse(&asked.detach_keys)?;
    let target = target::find(app, reference)?;
    let wanted = Wanted {
        stdin: asked.attach_stdin,
        stdout: asked.attach_stdout,
        stderr: asked.attach_stderr,
        detach: asked.detach_keys,
    };
    let config = ExecConfig {
        command: asked.cmd,
        tty: asked.tty,
        stdin: asked.attach_stdin,
        size: size(asked.console_size),
        env: asked.env,
        working_dir: asked.working_dir,
        user: asked.user,
        privileged: asked.privileged,
        security: None,
    };
    let spec = ExecSpec { config, extra: wanted.keep() };
    let id = app.engine.create_exec(target.id().as_str(), spec).map_err(|error| refused(&error))?;
    Ok(Reply::json_with(StatusCode::CREATED, &json!({"Id": id})))
}

fn refused(error: &engine::Error) -> ApiError {
    match error.cause() {
        Some(DurableProblem::Paused(id)) => {
            ApiError::conflict(format!("Container {id} is paused, unpause the container before exec"))
        }
        _ => ApiError::from_engine(error),
    }
}

pub(crate) async fn route(app: Arc<App>, call: Call, rest: &str) -> Result<Reply> {
    let (id, operation) = rest.split_once('/').unwrap_or((rest, ""));
    match (call.method.as_str(), operation) {
        ("POST", "start") => start(app, call, id).await,
        ("POST", "resize") => {
            app.engine.resize_exec(id, super::change::terminal_size(&call)?)?;
            Ok(Reply::empty(StatusCode::OK))
        }
        ("GET", "json") => inspect(&app, id),
        _ => Err(ApiError::page_not_found()),
    }
}

async fn start(app: Arc<App>, mut call: Call, id: &str) -> Result<Reply> {
    let how: Start = call.optional_json().await?.unwrap_or_default();
    let status = app.engine.exec_status(id)?;
    if how.detach {
        app.engine.start_exec(id, false, size(how.console_size)).await.map_err(|error| refused(&error))?;
        return Ok(Reply::empty(StatusCode::OK));
    }
    // What cannot be started any more is told before the connection is taken over.
    if status.state != ExecState::Created {
        let running = matches!(status.state, ExecState::Running { .. });
        let problem = if running { "is already running" } else { "has already run" };
        return Err(ApiError::conflict(format!("exec command {id} {problem}")));
    }
    let wanted = Wanted::kept(&status.spec.extra);
    let tty = status.spec.config.tty;
    let detach = DetachKeys::parse(&wanted.detach)?;
    let content_type = content_type(!tty, &call);
    let (id, at_first) = (id.to_owned(), size(how.console_size));
    let session = move |mut io: Box<dyn crate::http::Io>| {
        let session = Box::pin(async move {
            let started = app.engine.start_exec(&id, true, at_first).await;
            let mut running = match started {
                Ok(running) => running,
                Err(error) => {
                    // The connection is a stream already; the client learns the exit code by asking.
                    let text = format!("OCI runtime exec failed: {}\r\n", error.chain());
                    let told: bytes::Bytes =
                        if tty { text.into() } else { frame(Stream::Stdout, text.as_bytes()) };
                    drop(io.write_all(&told).await);
                    drop(io.shutdown().await);
                    return;
                }
            };
            let streams = std::mem::take(&mut running.streams);
            let terminal = streams.terminal.map(Arc::new);
            let typed = terminal.clone().filter(|_| wanted.stdin).map(Input::Terminal);
            let process = Process {
                stdin: typed.or(streams.stdin.map(Input::Pipe)),
                stdout: streams.stdout,
                stderr: streams.stderr,
                terminal,
                ended: Some(Box::pin(async move {
                    running.wait().await;
                })),
            };
            let wiring = Wiring { framed: !tty, detach: tty.then_some(detach), ends_with_input: false };
            session::run(io, process, wiring).await;
        });
        session as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
    };
    Ok(Reply::Hijack { content_type, input: None, session: Box::new(session) })
}

fn inspect(app: &App, id: &str) -> Result<Reply> {
    let status = app.engine.exec_status(id)?;
    let (config, wanted) = (&status.spec.config, Wanted::kept(&status.spec.extra));
    let (running, code, pid) = match status.state {
        ExecState::Created => (false, Value::Null, 0),
        ExecState::Running { pid } => (true, Value::Null, pid),
        ExecState::Ended { exit_code, pid } => (false, json!(exit_code), pid),
    };
    let (entry, arguments) =
        config.command.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    Ok(Reply::json(&json!({
        "ID": status.id,
        "Running": running,
        "ExitCode": code,
        "ProcessConfig": {
            "tty": config.tty, "entrypoint": entry, "arguments": arguments, "privileged": config.privileged, "user": config.user,
        },
        "OpenStdin": wanted.stdin,
        "OpenStderr": wanted.stderr,
        "OpenStdout": wanted.stdout,
        "CanRemove": false,
        "ContainerID": status.container.as_str(),
        "DetachKeys": "",
        "Pid": pid,
    })))
}
