//! A child on its way to its program, seen by a caller that must not block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::process::{Message, Op, Report, Step};

use crate::request::IdMaps;

/// A container or exec session whose program does not run yet, or just does.
#[derive(Debug)]
pub struct Child {
    /// Its id in our PID namespace.
    pub pid: u32,
    /// The same, by descriptor.
    pub pidfd: OwnedFd,
    /// With the id it names the process for good.
    pub start_time: u64,
    pub(crate) report: Report,
    /// The steps, to name one that failed.
    pub(crate) steps: Vec<Step>,
    pub(crate) maps: IdMaps,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) warnings: Vec<String>,
    pub(crate) executing: bool,
}

/// How far a child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Wait until [`Child::report_fd`] is readable.
    Pending,
    /// It waits in the middle of its set-up: after the namespaces are made. Call [`Child::start`] to go on.
    Waiting,
    /// Everything is set up; the program starts after [`Child::start`].
    NeedsStart,
    /// The program runs.
    Running,
}

/// What went wrong in a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such program in the container: exit code 127.
    ProgramNotFound,
    /// The program cannot be executed: exit code 126.
    NotExecutable,
    /// An operation of the set-up failed.
    Setup,
}

/// A child that never came to run its program. It has exited, or will at once, and must be reaped.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct ChildError {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// The operation that failed, in words.
    pub operation: String,
    /// Its errno; 0 when the child ended without a report.
    pub errno: i32,
    #[source]
    source: io::Error,
}

/// The clone itself failed; nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[error("clone a process")]
pub struct SpawnError(#[source] pub(crate) io::Error);

impl SpawnError {
    /// The errno, if the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.0.raw_os_error()
    }
}

impl Child {
    /// Becomes readable when there is something for [`Child::advance`].
    #[must_use]
    pub fn report_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// Takes what the child has reported; never waits.
    pub fn advance(&mut self) -> Result<Progress, ChildError> {
        loop {
            match self.report.next() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Pending),
                Err(error) => return Err(lost("read the report of a child", error)),
                Ok(message) => {
                    if let Some(progress) = self.take(message)? {
                        return Ok(progress);
                    }
                }
            }
        }
    }

    /// Like [`Child::advance`], but waits until there is progress: for a caller with nothing else to do.
    pub fn wait_blocking(&mut self) -> Result<Progress, ChildError> {
        loop {
            let message =
                self.report.next_blocking().map_err(|error| lost("read the report of a child", error))?;
            if let Some(progress) = self.take(message)? {
                return Ok(progress);
            }
        }
    }

    /// Lets a child that waits go on.
    pub fn start(&mut self) -> io::Result<()> {
        self.report.go_on()
    }

    /// The master of the terminal, once it has come.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// What could not be done as asked, and was left as it was.
    #[must_use]
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn take(&mut self, message: Option<Message>) -> Result<Option<Progress>, ChildError> {
        Ok(match message {
            None if self.executing => Some(Progress::Running),
            None => {
                return Err(lost(
                    "the child ended before it ran its program",
                    io::ErrorKind::BrokenPipe.into(),
                ));
            }
            Some(Message::NeedsMaps) => {
                self.maps
                    .write(self.pid)
                    .map_err(|error| lost("write the maps of a user namespace", error))?;
                self.report.go_on().map_err(|error| lost("answer a child", error))?;
                None
            }
            Some(Message::Waiting) => Some(Progress::Waiting),
            Some(Message::Ready) => Some(Progress::NeedsStart),
            Some(Message::Console(master)) => {
                self.console = Some(master);
                None
            }
            Some(Message::Warning { step, errno }) => {
                let reason = io::Error::from_raw_os_error(errno);
                self.warnings.push(format!("{}: {reason}", describe(&self.steps, step)));
                None
            }
            Some(Message::Failed { step, errno }) => return Err(failed(&self.steps, step, errno)),
            Some(Message::Executing) => {
                self.executing = true;
                None
            }
        })
    }
}

/// Reads the reports of a container that was started by connecting to the socket it waits on, until its
/// program runs.
pub fn wait_started(report: &Report) -> Result<(), ChildError> {
    let mut executing = false;
    loop {
        match report.next_blocking().map_err(|error| lost("read the report of a child", error))? {
            None if executing => return Ok(()),
            None => {
                return Err(lost(
                    "the child ended before it ran its program",
                    io::ErrorKind::BrokenPipe.into(),
                ));
            }
            Some(Message::Executing) => executing = true,
            Some(Message::Failed { errno, .. }) => {
                return Err(program_error("execute the program".into(), errno));
            }
            Some(_) => {}
        }
    }
}

fn describe(steps: &[Step], step: usize) -> String {
    steps.get(step).map_or_else(|| format!("step {step}"), |step| step.op.to_string())
}

pub(crate) fn failed(steps: &[Step], step: usize, errno: i32) -> ChildError {
    let operation = describe(steps, step);
    if matches!(steps.get(step).map(|step| &step.op), Some(Op::Exec(_))) {
        return program_error(operation, errno);
    }
    ChildError { kind: ErrorKind::Setup, operation, errno, source: io::Error::from_raw_os_error(errno) }
}

fn program_error(operation: String, errno: i32) -> ChildError {
    /// `ENOENT`.
    const NOT_FOUND: i32 = 2;
    let kind = if errno == NOT_FOUND { ErrorKind::ProgramNotFound } else { ErrorKind::NotExecutable };
    ChildError { kind, operation, errno, source: io::Error::from_raw_os_error(errno) }
}

pub(crate) fn lost(operation: &str, source: io::Error) -> ChildError {
    ChildError {
        kind: ErrorKind::Setup,
        operation: operation.to_owned(),
        errno: source.raw_os_error().unwrap_or(0),
        source,
    }
}
