//! Reading containers' logs: the last lines, a span of time, and what comes next, over rotated files.
//!
//! The keeper writes them and says that a container has ended only when its log is complete. So a reader that looks
//! whether it has ended, and then reads to the end, misses nothing. It waits for the kernel to tell of changes and
//! never looks now and then.

mod entry;
mod files;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use oci::{ContainerId, SandboxId};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::blocking::Purpose;
use crate::durable::DurableProblem;
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::model::{ContainerState, DurableStatus, LogConfig, LogFormat, SandboxStatus};

pub use entry::{LogLine, LogSource};
use files::Reader;

/// What of a log to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
    /// Nothing older, nanoseconds since the Unix epoch.
    pub since_ns: Option<i64>,
    /// Nothing younger, nanoseconds since the Unix epoch; the first younger line ends the reading.
    pub until_ns: Option<i64>,
    /// Only so many lines from the end, of both streams together.
    pub tail: Option<usize>,
    /// Whether to wait for more until the container's run ends. One that does not run has no more.
    pub follow: bool,
}

/// Lines of a log, in the order they were written.
#[derive(Debug)]
pub struct LogStream {
    shared: Arc<Shared>,
    what: String,
    lines: VecDeque<LogLine>,
    reader: Option<Reader>,
    following: Option<Following>,
}

#[derive(Debug)]
struct Following {
    changes: AsyncFd<OwnedFd>,
    run: Run,
}

/// The run whose end ends following.
#[derive(Debug)]
enum Run {
    Durable(watch::Receiver<Arc<DurableStatus>>, SandboxId),
    Pod(watch::Receiver<Arc<SandboxStatus>>, ContainerId),
}

impl Run {
    fn has_ended(&mut self) -> bool {
        match self {
            Run::Durable(status, run) => {
                let gone = status.has_changed().is_err();
                gone || !is_run(&status.borrow_and_update(), run)
            }
            Run::Pod(status, id) => {
                let gone = status.has_changed().is_err();
                gone || !runs(&status.borrow_and_update(), id)
            }
        }
    }

    async fn ended(&mut self) {
        // A sender that is gone is an end, too.
        match self {
            Run::Durable(status, run) => drop(status.wait_for(|status| !is_run(status, run)).await),
            Run::Pod(status, id) => drop(status.wait_for(|status| !runs(status, id)).await),
        }
    }
}

fn is_run(status: &DurableStatus, run: &SandboxId) -> bool {
    status.run.as_ref().is_some_and(|now| now.sandbox == *run)
}

fn runs(status: &SandboxStatus, id: &ContainerId) -> bool {
    let is_it = |c: &crate::ContainerStatus| c.id == *id && matches!(c.state, ContainerState::Running { .. });
    status.containers.iter().any(is_it)
}

/// Where a log is.
struct Place {
    path: PathBuf,
    format: LogFormat,
    /// Whether the keeper rotates it to numbered files; the client's own rotation is not followed back.
    is_numbered: bool,
    run: Option<Run>,
}

impl Engine {
    /// Reads the log of a durable container, or of one of a pod.
    pub async fn logs(&self, reference: &str, query: LogQuery) -> Result<LogStream> {
        let shared = Arc::clone(self.shared());
        let what = format!("read the log of container {reference}");
        let place = match shared.durables.find(reference) {
            Ok(durable) => durable_place(&durable.status(), durable.watch(), &what)?,
            Err(error) => self.pod_place(reference, error)?,
        };
        let following = match place.run {
            Some(run) if query.follow => {
                let failed = |error| Error::io(format!("{what}: watch its directory"), error);
                let dir = place.path.parent().unwrap_or(&place.path);
                let changes = sys::watch::changes(dir).map_err(failed)?;
                Some(Following { changes: crate::sessions::async_fd(changes).map_err(failed)?, run })
            }
            _ => None,
        };
        let opening = what.clone();
        let work = move || {
            Reader::open(&place.path, place.format, place.is_numbered, query)
                .map_err(|error| Error::io(opening, error))
        };
        let reader = shared.blocking.run(Purpose::Reading, work).await??;
        Ok(LogStream { shared, what, lines: VecDeque::new(), reader: Some(reader), following })
    }

    fn pod_place(&self, reference: &str, unknown: Error) -> Result<Place> {
        let Some((handle, id)) = self.find_container(reference)? else { return Err(unknown) };
        let status = self.container_status(id.as_str())?;
        if status.log_path.is_empty() {
            return Err(DurableProblem::NoLog(id).error("read its log"));
        }
        let run = Run::Pod(handle.status.clone(), id);
        let path = status.log_path.into();
        Ok(Place { path, format: LogFormat::Cri, is_numbered: false, run: Some(run) })
    }
}

fn durable_place(
    status: &DurableStatus,
    watch: watch::Receiver<Arc<DurableStatus>>,
    what: &str,
) -> Result<Place> {
    let format = match &status.config.log {
        LogConfig::JsonFile { .. } => LogFormat::JsonFile,
        LogConfig::Local { .. } => LogFormat::Cri,
        LogConfig::None => return Err(DurableProblem::NoLog(status.id.clone()).error(what)),
    };
    let run = status.run.as_ref().map(|run| Run::Durable(watch, run.sandbox.clone()));
    Ok(Place { path: (&status.log_path).into(), format, is_numbered: true, run })
}

impl LogStream {
    /// The next line; `None` at the end. Not to be dropped before it is ready and then asked again.
    pub async fn next(&mut self) -> Option<Result<LogLine>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(line));
            }
            let reader = self.reader.take()?;
            // Looked at before reading: what was written before the end is read then.
            let has_ended = self.following.as_mut().is_none_or(|following| following.run.has_ended());
            match self.read(reader).await {
                Err(error) => return Some(Err(error)),
                Ok(reader) if reader.is_done() => {}
                Ok(reader) if self.lines.is_empty() => {
                    if has_ended && reader.is_at_end() {
                        return None;
                    }
                    let at_end = reader.is_at_end();
                    self.reader = Some(reader);
                    if at_end && let Some(error) = self.wait().await {
                        return Some(Err(error));
                    }
                }
                Ok(reader) => self.reader = Some(reader),
            }
        }
    }

    /// One job: the next lines.
    async fn read(&mut self, mut reader: Reader) -> Result<Reader> {
        let what = self.what.clone();
        let work = move || {
            let mut lines = VecDeque::new();
            reader.read(&mut lines).map_err(|error| Error::io(what, error))?;
            Ok::<_, Error>((reader, lines))
        };
        let (reader, lines) = self.shared.blocking.run(Purpose::Reading, work).await??;
        self.lines = lines;
        Ok(reader)
    }

    /// Waits for a change of a file, or for the end of the run.
    async fn wait(&mut self) -> Option<Error> {
        let following = self.following.as_mut()?;
        let changed = tokio::select! {
            ready = following.changes.readable() => ready.map(|mut ready| {
                sys::watch::take_changes(ready.get_inner());
                ready.clear_ready();
            }),
            // Seen again by the loop, which then reads the rest.
            () = following.run.ended() => Ok(()),
        };
        changed.err().map(|error| Error::io(self.what.clone(), error))
    }
}
