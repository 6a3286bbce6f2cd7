//! Attaching to the streams of a container.

use std::sync::Arc;

use engine::{Action, AttachOptions, Subject};

use super::detach::DetachKeys;
use super::session::{self, Ended, Input, Process, Wiring};
use super::target::{self, Target};
use crate::app::App;
use crate::http::{ApiError, Call, Reply, Result};

/// Type of a connection's bytes.
pub(super) fn content_type(framed: bool, call: &Call) -> &'static str {
    if framed && call.version.since(42) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    }
}

pub(super) async fn attach(app: Arc<App>, mut call: Call, reference: &str) -> Result<Reply> {
    let (stdin, stdout, stderr) =
        (call.params.flag("stdin"), call.params.flag("stdout"), call.params.flag("stderr"));
    let detach = DetachKeys::parse(call.params.get("detachKeys"))?;
    if call.params.flag("logs") {
        return Err(ApiError::not_implemented(
            "attaching with the log before it is not part of this release: read the log first",
        ));
    }
    if !call.params.flag("stream") {
        return Err(ApiError::bad("nothing to attach to: set stream=1"));
    }
    let target = target::find(&app, reference)?;
    let tty = target.config().tty;
    let (mut process, subject) = match &target {
        Target::Own(status) => {
            let options = AttachOptions { stdin, stdout, stderr };
            let attached = app.engine.attach_durable(status.id.as_str(), options).await?;
            let process = Process {
                stdin: attached.stdin.map(Input::Container),
                stdout: attached.stdout,
                stderr: attached.stderr,
                ..Process::default()
            };
            let config = &status.config.container;
            let subject = Subject::Container {
                id: status.id.clone(),
                name: status.name.clone(),
                image: config.user_image.clone(),
                labels: Arc::new(config.labels.clone()),
            };
            (process, Some(subject))
        }
        Target::Pod(_, status) => {
            let streams = app.engine.attach(&status.id, stdin).await?.streams;
            let terminal = streams.terminal.map(Arc::new);
            let typed = terminal.clone().filter(|_| stdin).map(Input::Terminal);
            let process = Process {
                stdin: typed.or(streams.stdin.map(Input::Pipe)),
                stdout: streams.stdout.filter(|_| stdout),
                stderr: streams.stderr.filter(|_| stderr),
                terminal,
                ended: None,
            };
            (process, None)
        }
    };
    if !stdin {
        process.stdin = None;
    }
    let once = target.config().stdin_once && !tty;
    let wiring = Wiring { framed: !tty, detach: tty.then_some(detach), ends_with_input: stdin && !once };
    let content_type = content_type(!tty, &call);
    let session = move |io| {
        let ended = Box::pin(async move {
            if session::run(io, process, wiring).await == Ended::Detached
                && let Some(subject) = subject
            {
                app.engine.tell(subject, Action::Detach);
            }
        });
        ended as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
    };
    Ok(Reply::Hijack { content_type, input: call.take_body(), session: Box::new(session) })
}
