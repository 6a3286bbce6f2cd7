//! Processes on their way from a request to their program.
//!
//! ```text
//! built-in:  cloned ──report──> set up ──log open──> started ──report──> Process
//! external:  create ──exit 0──> created ──log open──> start ──exit 0──> Process
//!            any failure ──> killed ──reaped──> [external: delete] ──> Failure to the client
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use sys::pidfd::WaitStatus;

use super::builtin::{Builtin, Setup, Step};
use super::external::External;
use super::failure::kind_of;
use super::process::Process;
use super::reap::Owner;
use super::requests::Client;
use super::{Keeper, SIGKILL};
use crate::log::file::LogFile;
use crate::log::format::Channel;
use crate::log::pump::{Output, Source};
use crate::log::split::Splitter;
use crate::protocol::{Failure, FailureKind, Reply, Stdio};

#[derive(Debug)]
pub(super) struct Birth {
    pub(super) client: Client,
    pub(super) id: String,
    pub(super) sandbox: String,
    pub(super) exec_in: Option<String>,
    pub(super) stdio: OwnEnds,
    pub(super) log: LogState,
    pub(super) setup: Rc<Setup>,
    /// Clients that were attached beforehand.
    pub(super) taps: Vec<(Channel, OwnedFd)>,
    pub(super) how: How,
    /// Why it will not come to run.
    pub(super) failure: Option<Failure>,
}

#[derive(Debug)]
pub(super) enum How {
    BuiltIn { child: Box<Builtin>, report: Option<u64>, set_up: bool },
    External(Box<External>),
}

/// The log file of a process that is being started.
#[derive(Debug)]
pub(super) enum LogState {
    /// Output is not logged.
    None,
    /// On its way.
    Opening,
    /// Open.
    Open(Box<LogFile>),
}

/// The keeper's ends of a process' standard streams.
#[derive(Debug, Default)]
pub(super) struct OwnEnds {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) terminal: Option<OwnedFd>,
}

/// The process' ends.
#[derive(Debug)]
pub(super) struct ChildEnds {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Makes the pipes of a container.
pub(super) fn pipes(stdio: &Stdio) -> io::Result<(OwnEnds, ChildEnds)> {
    let (stdin, stdin_writer) = if stdio.stdin {
        let (reader, writer) = sys::pipe::pair()?;
        (reader, Some(writer))
    } else {
        (std::fs::File::open("/dev/null")?.into(), None)
    };
    let (stdout_reader, stdout) = sys::pipe::pair()?;
    let (stderr_reader, stderr) = sys::pipe::pair()?;
    let own = OwnEnds {
        stdin: stdin_writer,
        stdout: Some(stdout_reader),
        stderr: Some(stderr_reader),
        terminal: None,
    };
    Ok((own, ChildEnds { stdin, stdout, stderr }))
}

impl Keeper {
    /// The child has something to report, or its log is open now.
    pub(super) fn advance(&mut self, number: u64) {
        loop {
            let Some(birth) = self.births.get_mut(&number) else { return };
            if birth.failure.is_some() {
                return;
            }
            let log_ready = !matches!(birth.log, LogState::Opening);
            let How::BuiltIn { child, set_up, .. } = &mut birth.how else { return };
            if *set_up && !log_ready {
                return;
            }
            match child.advance() {
                Ok(Step::Pending) => return,
                Ok(Step::SetUp) if log_ready => {
                    *set_up = true;
                    if let Err(failure) = child.start() {
                        return self.abort(number, failure);
                    }
                }
                Ok(Step::SetUp) => {
                    *set_up = true;
                    return;
                }
                Ok(Step::Running) => return self.born(number),
                Err(failure) => return self.abort(number, failure),
            }
        }
    }

    pub(super) fn log_opened(&mut self, number: u64, result: io::Result<LogFile>) {
        let Some(birth) = self.births.get_mut(&number) else { return };
        match result {
            Ok(file) => {
                birth.log = LogState::Open(Box::new(file));
                match &mut birth.how {
                    How::BuiltIn { set_up: true, child, .. } => match child.start() {
                        Ok(()) => self.advance(number),
                        Err(failure) => self.abort(number, failure),
                    },
                    How::BuiltIn { .. } => self.advance(number),
                    How::External(_) => self.start_external(number),
                }
            }
            Err(error) => {
                let failure = super::failure::io("open the log", &error);
                self.abort(number, failure);
            }
        }
    }

    /// The program runs: the client is told and the output is pumped.
    pub(super) fn born(&mut self, number: u64) {
        let Some(mut birth) = self.births.remove(&number) else { return };
        let (pid, pidfd, start_time, external) = match birth.how {
            How::BuiltIn { child, report, .. } => {
                if let Some(token) = report {
                    self.unwatch(&child.report_fd(), token);
                }
                let (parts, console) = child.into_parts();
                birth.stdio.terminal = console.or(birth.stdio.terminal);
                (parts.pid, parts.pidfd, parts.start_time, None)
            }
            How::External(external) => {
                let Some(parts) = external.parts else { return };
                (parts.pid, parts.pidfd, parts.start_time, Some(external.runtime))
            }
        };
        let outputs = birth.stdio.duplicate_outputs();
        let ((stdout, stderr), lost) = match outputs {
            Ok(outputs) => (outputs, None),
            Err(error) => ((None, None), Some(error)),
        };
        let pumped = if birth.exec_in.is_some() {
            Ok(None)
        } else {
            self.pump(number, &mut birth.stdio, birth.log, birth.taps)
        };
        let process = Process {
            sandbox: birth.sandbox,
            exec_in: birth.exec_in,
            pid,
            start_time,
            pidfd: Rc::new(pidfd),
            stdin: birth.stdio.stdin.map(Rc::new),
            terminal: birth.stdio.terminal.map(Rc::new),
            stdout,
            stderr,
            started_at_ns: sys::fs::now_ns(),
            exit: None,
            ending: None,
            key: number,
            pump: pumped.as_ref().ok().copied().flatten(),
            setup: birth.setup,
            external,
            stranger: None,
        };
        self.owners.insert(pid, Owner::Process(birth.id.clone()));
        super::inform(|| format!("{} runs as process {pid}", birth.id));
        let started = Reply::Started {
            pid,
            start_time,
            stdin: process.stdin.is_some(),
            terminal: process.terminal.is_some(),
            stdout: process.stdout.is_some(),
            stderr: process.stderr.is_some(),
        };
        let fds = [
            Some(&process.pidfd),
            process.stdin.as_ref(),
            process.terminal.as_ref(),
            process.stdout.as_ref(),
            process.stderr.as_ref(),
        ];
        let fds = fds.into_iter().flatten().map(Rc::clone).collect();
        self.processes.insert(birth.id.clone(), process);
        self.reply(birth.client, started, fds);
        if let Some(error) = lost {
            super::warn(&format!("{}: duplicate the output: {error}; a crash would lose it", birth.id));
        }
        if let Err(error) = pumped {
            let message = format!("pump output: {error}");
            self.emit(&crate::protocol::Event::LogTrouble { id: birth.id, message });
        }
    }

    /// Gives the output of a process to a log pump.
    pub(super) fn pump(
        &mut self,
        key: u64,
        stdio: &mut OwnEnds,
        log: LogState,
        mut taps: Vec<(Channel, OwnedFd)>,
    ) -> io::Result<Option<crate::log::pumps::PumpId>> {
        let mut sources = Vec::new();
        let master = stdio.terminal.as_ref().map(sys::pipe::duplicate).transpose()?;
        for (fd, channel) in [
            (stdio.stdout.take(), Channel::Stdout),
            (stdio.stderr.take(), Channel::Stderr),
            (master, Channel::Stdout),
        ] {
            if let Some(fd) = fd {
                sys::pipe::set_nonblocking(fd.as_fd(), true)?;
                sources.push(Source { fd, channel, splitter: Splitter::default(), grown: false });
            }
        }
        let file = match log {
            LogState::Open(file) => Some(*file),
            LogState::None | LogState::Opening => None,
        };
        taps.retain(|(channel, _)| sources.iter().any(|source| source.channel == *channel));
        self.pumps.add(Output { key, sources, file, taps, exited: false }).map(Some)
    }

    /// It will not come to run: what there is of it is killed, and the client told when that is done.
    pub(super) fn abort(&mut self, number: u64, failure: Failure) {
        let Some(birth) = self.births.get_mut(&number) else { return };
        birth.failure.get_or_insert(failure);
        match &mut birth.how {
            How::BuiltIn { child, report, .. } => {
                // A child that is gone already is reaped all the same.
                let _ = sys::pidfd::signal(child.pidfd(), SIGKILL);
                if let Some(token) = report.take() {
                    self.poller.remove(child.report_fd());
                    self.targets.remove(&token);
                }
            }
            How::External(_) => self.abort_external(number),
        }
    }

    /// The child of a birth was reaped: it has failed, or what it says is lost.
    pub(super) fn birth_ended(&mut self, number: u64, status: WaitStatus) {
        let Some(birth) = self.births.get_mut(&number) else { return };
        if let How::External(external) = &mut birth.how {
            external.ended = Some(status);
            // While its runtime's command runs it may still turn out to have started well.
            if external.tool.is_none() || birth.failure.is_some() {
                self.abort_external(number);
            }
            return;
        }
        let failure = birth.failure.take().unwrap_or_else(|| {
            let message = match status {
                WaitStatus::Exited(code) => {
                    format!("{}: set-up ended with code {code} and no report", birth.id)
                }
                WaitStatus::Signaled(signal) => format!("{}: set-up was killed by signal {signal}", birth.id),
            };
            Failure { kind: kind_of(None), message, errno: None }
        });
        self.stillborn(number, failure);
    }

    /// Nothing is left of it.
    pub(super) fn stillborn(&mut self, number: u64, failure: Failure) {
        let Some(birth) = self.births.remove(&number) else { return };
        if let How::BuiltIn { child, report: Some(token), .. } = &birth.how {
            self.unwatch(&child.report_fd(), *token);
        }
        self.fail(birth.client, failure);
    }

    /// The client does not want it any more.
    pub(super) fn give_up(&mut self, id: &str) {
        let number = self.births.iter().find(|(_, birth)| birth.id == id).map(|(number, _)| *number);
        if let Some(number) = number {
            let message = format!("{id} was released while it was being started");
            self.abort(number, Failure { kind: FailureKind::Internal, message, errno: None });
        }
    }

    /// Whether an id is taken.
    pub(super) fn is_used(&self, id: &str) -> bool {
        self.processes.contains_key(id) || self.births.values().any(|birth| birth.id == id)
    }
}
