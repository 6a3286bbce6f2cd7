//! The log of a container.

use std::sync::Arc;

use engine::{DurableProblem, LogLine, LogQuery, LogSource};

use super::attach::content_type;
use super::target;
use crate::app::App;
use crate::http::{ApiError, Call, Out, Reply, Result, Stream, frame};
use crate::text;

/// How lines are told.
#[derive(Debug, Clone, Copy)]
struct Form {
    framed: bool,
    timestamps: bool,
}

pub(super) async fn logs(app: Arc<App>, call: &Call, reference: &str) -> Result<Reply> {
    let (stdout, stderr) = (call.params.flag("stdout"), call.params.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::bad("Bad parameters: you must choose at least one stream"));
    }
    let target = target::find(&app, reference)?;
    let tty = target.config().tty;
    let query = query(call, stdout, stderr || tty)?;
    let mut lines = app.engine.logs(target.id().as_str(), query).await.map_err(|error| unreadable(&error))?;
    let form = Form { framed: !tty, timestamps: call.params.flag("timestamps") };
    let stop = app.stop.clone();
    Ok(Reply::stream(content_type(!tty, call), move |out| async move {
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = stop.cancelled() => return,
            };
            match line {
                Some(Ok(line)) => {
                    if send(&out, &line, form).await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => {
                    let text = format!("Error grabbing logs: {}\n", error.chain());
                    let text = if form.framed { frame(Stream::System, text.as_bytes()) } else { text.into() };
                    drop(out.send(text).await);
                    return;
                }
                None => return,
            }
        }
    }))
}

/// A container without a log, in the words for it.
fn unreadable(error: &engine::Error) -> ApiError {
    match error.cause() {
        Some(DurableProblem::NoLog(_)) => {
            ApiError::not_implemented("configured logging driver does not support reading")
        }
        _ => ApiError::from_engine(error),
    }
}

fn query(call: &Call, stdout: bool, stderr: bool) -> Result<LogQuery> {
    let now = text::now_ns();
    let moment = |key: &str| match call.params.get(key) {
        "" | "0" => Ok(None),
        given => text::moment(given, now)
            .map(Some)
            .ok_or_else(|| ApiError::bad(format!("invalid value for {key}: {given:?} is no point in time"))),
    };
    let tail = match call.params.get("tail") {
        "" | "all" => None,
        // Anything that is no number, and a negative one, means everything.
        given => given.parse::<usize>().ok(),
    };
    if call.params.flag("details") {
        return Err(ApiError::bad("details of log lines are not part of this release: leave --details out"));
    }
    let (since_ns, until_ns) = (moment("since")?, moment("until")?);
    Ok(LogQuery { stdout, stderr, since_ns, until_ns, tail, follow: call.params.flag("follow") })
}

async fn send(out: &Out, line: &LogLine, form: Form) -> std::result::Result<(), crate::http::Gone> {
    let mut text = Vec::with_capacity(line.bytes.len() + 32);
    if form.timestamps {
        text.extend_from_slice(text::rfc3339_nanos(line.at_ns).as_bytes());
        text.push(b' ');
    }
    text.extend_from_slice(&line.bytes);
    if !form.framed {
        return out.send(text).await;
    }
    let stream = match line.source {
        LogSource::Stdout => Stream::Stdout,
        LogSource::Stderr => Stream::Stderr,
    };
    out.send(frame(stream, &text)).await
}
