//! Ordinary programs: hooks, plugins, foreign runtimes. Clean environment, bounded output, a deadline.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

/// A program to run to its end. It inherits no environment and no descriptors but its standard streams.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// The program: an absolute path.
    pub program: PathBuf,
    /// The name it sees as its own; the path when `None`.
    pub name: Option<OsString>,
    /// Its arguments, the name not among them.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Working directory; `/` when `None`.
    pub directory: Option<PathBuf>,
    /// What it reads.
    pub stdin: Vec<u8>,
    /// It is killed when it takes longer.
    pub timeout: Option<Duration>,
}

/// How a program ended and what it wrote; each stream cut off at 16 MiB.
#[derive(Debug)]
pub struct Output {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Why a program did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{} did not end within {} ms and was killed", program.display(), timeout.as_millis())]
    Timeout {
        /// The program.
        program: PathBuf,
        /// How long it had.
        timeout: Duration,
    },
    /// Its output could not be read.
    #[error("read output of {}", program.display())]
    Read {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

const MAX_OUTPUT_BYTES: usize = 16 << 20;

impl Command {
    /// Runs the program and waits for its end.
    pub fn run(&self) -> Result<Output, RunError> {
        let start = |source| RunError::Start { program: self.program.clone(), source };
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut child = self.spawn().map_err(start)?;
        match self.collect(&mut child, deadline) {
            Ok(output) => Ok(output),
            Err(error) => {
                // Already ended is fine; either way it is reaped.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        use std::os::unix::process::CommandExt;
        let stdin: Stdio = if self.stdin.is_empty() {
            Stdio::null()
        } else {
            std::fs::File::from(crate::memfd::sealed("stdin", &self.stdin)?).into()
        };
        let mut command = std::process::Command::new(&self.program);
        if let Some(name) = &self.name {
            command.arg0(name);
        }
        let directory = self.directory.clone().unwrap_or_else(|| PathBuf::from("/"));
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .current_dir(directory);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    fn collect(&self, child: &mut Child, deadline: Option<Instant>) -> Result<Output, RunError> {
        let failed = |source| RunError::Read { program: self.program.clone(), source };
        let timed_out =
            || RunError::Timeout { program: self.program.clone(), timeout: self.timeout.unwrap_or_default() };
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while out.is_some() || err.is_some() {
            let streams = [out.as_ref().map(AsFd::as_fd), err.as_ref().map(AsFd::as_fd)];
            let Some(ready) = wait(streams, deadline).map_err(failed)? else { return Err(timed_out()) };
            if ready[0] && !read_some(&mut out, &mut stdout).map_err(failed)? {
                out = None;
            }
            if ready[1] && !read_some(&mut err, &mut stderr).map_err(failed)? {
                err = None;
            }
        }
        let pidfd = crate::pidfd::open(child.id()).map_err(failed)?;
        let left = deadline.map_or(-1, |at| {
            i32::try_from(at.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(i32::MAX)
        });
        if !crate::pidfd::wait_readable(pidfd.as_fd(), left).map_err(failed)? {
            return Err(timed_out());
        }
        Ok(Output { status: child.wait().map_err(failed)?, stdout, stderr })
    }
}

/// Which streams can be read; `None` when the time is over.
fn wait(streams: [Option<BorrowedFd<'_>>; 2], deadline: Option<Instant>) -> io::Result<Option<[bool; 2]>> {
    let mut polled: Vec<PollFd<'_>> =
        streams.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut results = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(Some(streams.map(|stream| stream.is_some() && results.next().unwrap_or(false))))
}

/// False at the end of the stream.
fn read_some(stream: &mut Option<impl Read>, to: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0_u8; 16 << 10];
    let Some(stream) = stream else { return Ok(false) };
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => {
                let room = MAX_OUTPUT_BYTES.saturating_sub(to.len());
                to.extend_from_slice(&buffer[..length.min(room)]);
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
