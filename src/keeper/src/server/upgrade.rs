//! Becoming a newer keeper without anybody noticing.
//!
//! The keeper executes its binary anew, in the same process: children stay its children, descriptors stay
//! open, and a sealed memfd says which is which. Connections are closed; clients connect again and list. If
//! anything fails before the exec, the keeper goes on as it was.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sys::socket::Listener;

use super::builtin::Setup;
use super::external::ExternalRuntime;
use super::namespaces::{Init, Pinned};
use super::process::{Ending, Process};
use super::reap::Owner;
use super::{Keeper, Target, warn};
use crate::log::file::LogFile;
use crate::log::format::Channel;
use crate::log::pump::{Output, Source};
use crate::log::split::Splitter;
use crate::protocol::{Exit, Log, NamespaceKind};

/// Names the descriptor of the state for the new binary.
const VARIABLE: &str = "BERTH_KEEPER_STATE";

/// How long log pumps may take to stop before the upgrade is called off.
const PATIENCE: Duration = Duration::from_secs(5);

/// The form of the state; a keeper that reads another one refuses to start from it.
const FORM: u32 = 1;

/// Everything the next keeper must know. Numbers of descriptors are valid after the exec.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    form: u32,
    listener: i32,
    lock: i32,
    last_number: u64,
    processes: Vec<ProcessState>,
    namespaces: Vec<NamespacesState>,
    outputs: Vec<OutputState>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ProcessState {
    id: String,
    sandbox: String,
    exec_in: Option<String>,
    pid: u32,
    start_time: u64,
    pidfd: i32,
    stdin: Option<i32>,
    terminal: Option<i32>,
    #[serde(default)]
    stdout: Option<i32>,
    #[serde(default)]
    stderr: Option<i32>,
    #[serde(default)]
    log: Option<Log>,
    /// Whether it is not our child.
    #[serde(default)]
    stranger: bool,
    started_at_ns: i64,
    exit: Option<Exit>,
    ending: Option<Exit>,
    key: u64,
    bundle: PathBuf,
    cgroups: Vec<PathBuf>,
    external: Option<ExternalRuntime>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NamespacesState {
    key: String,
    fds: Vec<(NamespaceKind, i32)>,
    init: Option<(u32, i32)>,
    /// Whether the init is not our child.
    #[serde(default)]
    stranger: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct OutputState {
    key: u64,
    sources: Vec<(i32, Channel, Splitter, bool)>,
    log: Option<(Log, i32)>,
    taps: Vec<(Channel, i32)>,
    exited: bool,
}

/// Outputs taken from the pumps: their state, and the descriptors that must stay open for it.
#[derive(Debug, Default)]
struct Stopped {
    states: Vec<OutputState>,
    fds: Vec<OwnedFd>,
}

/// Descriptors and state left by the keeper that executed this one.
#[derive(Debug)]
pub(super) struct Inherited {
    state: State,
    /// Its lock is held on.
    pub(super) lock: OwnedFd,
    /// It never stopped listening.
    pub(super) listener: Listener,
}

/// Reads what the previous keeper left, if there was one.
pub(super) fn inherited() -> io::Result<Option<Inherited>> {
    let Some(number) = std::env::var(VARIABLE).ok().and_then(|value| value.parse().ok()) else {
        return Ok(None);
    };
    let mut file = std::fs::File::from(sys::reaper::inherit(number)?);
    let mut json = Vec::new();
    io::Seek::rewind(&mut file)?;
    file.read_to_end(&mut json)?;
    let state: State = serde_json::from_slice(&json)?;
    if state.form != FORM {
        return Err(io::Error::other(format!("state of form {}; this keeper knows {FORM}", state.form)));
    }
    let lock = sys::reaper::inherit(state.lock)?;
    let listener = Listener::from(sys::reaper::inherit(state.listener)?);
    Ok(Some(Inherited { state, lock, listener }))
}

impl Keeper {
    /// Whether an upgrade is possible now, and if not why.
    pub(super) fn can_upgrade(&self) -> Result<(), &'static str> {
        if self.births.is_empty()
            && self.tools.is_empty()
            && self.makings.is_empty()
            && self.adoptions.is_empty()
            && self.leaving.is_empty()
        {
            Ok(())
        } else {
            Err("containers are being started or cleaned up; try again")
        }
    }

    /// Executes the keeper's binary anew. Returns only if that is not possible.
    pub(super) fn upgrade(&mut self) {
        if let Err(reason) = self.can_upgrade() {
            return warn(&format!("not upgrading: {reason}"));
        }
        let stopped = self.stop_pumps();
        let result = match &stopped {
            Some(stopped) => self.execute(stopped),
            None => io::Error::other("a log's file system does not answer"),
        };
        super::fail_loudly(&format!("not upgrading: {result}"));
        if let Some(stopped) = stopped {
            // The descriptors are still open under the numbers in the state.
            stopped.fds.into_iter().for_each(|fd| self.kept.push(fd));
            self.add_outputs(stopped.states, |keeper, number| keeper.take_kept(number));
            self.kept.clear();
        }
    }

    /// Takes over from the keeper that was here before.
    pub(super) fn restore(&mut self, state: State) {
        self.last_number = self.last_number.max(state.last_number);
        for process in state.processes {
            let id = process.id.clone();
            if let Err(error) = self.restore_process(process) {
                super::fail_loudly(&format!("take over {id}: {error}"));
            }
        }
        for namespaces in state.namespaces {
            let key = namespaces.key.clone();
            if let Err(error) = self.restore_namespaces(namespaces) {
                super::fail_loudly(&format!("take over the namespaces of {key}: {error}"));
            }
        }
        self.add_outputs(state.outputs, |_, number| sys::reaper::inherit(number));
    }

    fn restore_process(&mut self, state: ProcessState) -> io::Result<()> {
        let inherit = |number: Option<i32>| number.map(sys::reaper::inherit).transpose();
        let deadline = Instant::now() + Duration::from_secs(30);
        let ending = state.ending.map(|exit| Ending { exit, log_open: true, deleting: false, deadline });
        let pidfd = Rc::new(sys::reaper::inherit(state.pidfd)?);
        let runs = state.exit.is_none() && ending.is_none();
        let stranger =
            if state.stranger && runs { Some(self.watch_stranger(&state.id, &pidfd)?) } else { None };
        let process = Process {
            sandbox: state.sandbox,
            exec_in: state.exec_in,
            pid: state.pid,
            start_time: state.start_time,
            pidfd,
            stdin: inherit(state.stdin)?.map(Rc::new),
            terminal: inherit(state.terminal)?.map(Rc::new),
            stdout: inherit(state.stdout)?.map(Rc::new),
            stderr: inherit(state.stderr)?.map(Rc::new),
            started_at_ns: state.started_at_ns,
            exit: state.exit,
            ending,
            key: state.key,
            pump: None,
            setup: Rc::new(Setup { bundle: state.bundle, cgroups: state.cgroups, log: state.log }),
            external: state.external,
            stranger,
        };
        if runs && process.stranger.is_none() {
            self.owners.insert(state.pid, Owner::Process(state.id.clone()));
        }
        self.processes.insert(state.id, process);
        Ok(())
    }

    fn restore_namespaces(&mut self, state: NamespacesState) -> io::Result<()> {
        let mut fds = Vec::new();
        for (kind, number) in state.fds {
            fds.push((kind, Rc::new(sys::reaper::inherit(number)?)));
        }
        let init = match state.init {
            Some((pid, number)) => {
                let pidfd = sys::reaper::inherit(number)?;
                let watch = if state.stranger {
                    Some(self.watch(&pidfd, Target::StrangeInit(state.key.clone()))?)
                } else {
                    self.owners.insert(pid, Owner::Init(state.key.clone()));
                    None
                };
                Some(Init { pid, pidfd, watch })
            }
            None => None,
        };
        self.namespaces.insert(state.key, Pinned { fds, init });
        Ok(())
    }

    fn add_outputs(
        &mut self,
        states: Vec<OutputState>,
        mut fd: impl FnMut(&mut Keeper, i32) -> io::Result<OwnedFd>,
    ) {
        for state in states {
            let key = state.key;
            let output = output_of(state, |number| fd(self, number));
            match output.and_then(|output| self.pumps.add(output)) {
                Ok(pump) => {
                    if let Some(process) = self.processes.values_mut().find(|process| process.key == key) {
                        process.pump = Some(pump);
                    }
                }
                Err(error) => super::fail_loudly(&format!("take over the output of {key}: {error}")),
            }
        }
    }

    fn take_kept(&mut self, number: i32) -> io::Result<OwnedFd> {
        let at = self.kept.iter().position(|fd| fd.as_raw_fd() == number);
        at.map(|at| self.kept.swap_remove(at)).ok_or_else(|| io::Error::other("descriptor was not kept"))
    }

    /// Stops the pumps and takes what they hold; `None` if one does not stop in time, and all go on.
    fn stop_pumps(&mut self) -> Option<Stopped> {
        self.pumps.stop();
        let deadline = Instant::now() + PATIENCE;
        while !self.pumps.stopped() {
            if Instant::now() > deadline {
                self.pumps.go_on();
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut stopped = Stopped::default();
        for output in self.pumps.collect() {
            stopped.keep(output);
        }
        self.take_notes();
        Some(stopped)
    }

    /// The exec itself; returns only with an error.
    fn execute(&mut self, stopped: &Stopped) -> io::Error {
        match self.try_execute(stopped) {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    fn try_execute(&mut self, stopped: &Stopped) -> io::Result<std::convert::Infallible> {
        let program = own_program()?;
        let mut fds: Vec<i32> = stopped.fds.iter().map(AsRawFd::as_raw_fd).collect();
        let json = {
            let mut keep = |fd: &dyn AsFd| {
                fds.push(fd.as_fd().as_raw_fd());
                fd.as_fd().as_raw_fd()
            };
            let state = StateRef {
                form: FORM,
                listener: keep(&self.listener),
                lock: keep(&self.lock),
                last_number: self.last_number,
                processes: self
                    .processes
                    .iter()
                    .map(|(id, process)| process_state(id, process, &mut keep))
                    .collect(),
                namespaces: self
                    .namespaces
                    .iter()
                    .map(|(key, pinned)| namespaces_state(key, pinned, &mut keep))
                    .collect(),
                outputs: &stopped.states,
            };
            serde_json::to_vec(&state)?
        };
        let memfd = sys::memfd::sealed("berth-keeper-state", &json)?;
        fds.push(memfd.as_raw_fd());
        let mut command = std::process::Command::new(program);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, memfd.as_raw_fd().to_string());
        sys::reaper::keep_across_exec(&fds, true)?;
        let error = command.exec();
        sys::reaper::keep_across_exec(&fds, false)?;
        Err(error)
    }
}

#[derive(Serialize)]
struct StateRef<'a> {
    form: u32,
    listener: i32,
    lock: i32,
    last_number: u64,
    processes: Vec<ProcessState>,
    namespaces: Vec<NamespacesState>,
    outputs: &'a [OutputState],
}

impl Stopped {
    fn keep(&mut self, output: Output) {
        let mut number = |fd: OwnedFd| {
            let number = fd.as_raw_fd();
            self.fds.push(fd);
            number
        };
        let sources = output.sources.into_iter();
        let sources = sources.map(|s| (number(s.fd), s.channel, s.splitter, s.grown)).collect();
        let log = output.file.map(LogFile::into_parts).map(|(log, fd)| (log, number(fd)));
        let taps = output.taps.into_iter().map(|(channel, fd)| (channel, number(fd))).collect();
        self.states.push(OutputState { key: output.key, sources, log, taps, exited: output.exited });
    }
}

impl Inherited {
    /// The state alone, once lock and listener have found their places.
    pub(super) fn into_parts(self) -> (State, OwnedFd, Listener) {
        (self.state, self.lock, self.listener)
    }
}

fn output_of(state: OutputState, mut fd: impl FnMut(i32) -> io::Result<OwnedFd>) -> io::Result<Output> {
    let mut sources = Vec::new();
    for (number, channel, splitter, grown) in state.sources {
        sources.push(Source { fd: fd(number)?, channel, splitter, grown });
    }
    let file = match state.log {
        Some((log, number)) => Some(LogFile::adopt(log, fd(number)?)?),
        None => None,
    };
    let mut taps = Vec::new();
    for (channel, number) in state.taps {
        taps.push((channel, fd(number)?));
    }
    Ok(Output { key: state.key, sources, file, taps, exited: state.exited })
}

fn process_state(id: &str, process: &Process, keep: &mut impl FnMut(&dyn AsFd) -> i32) -> ProcessState {
    ProcessState {
        id: id.to_owned(),
        sandbox: process.sandbox.clone(),
        exec_in: process.exec_in.clone(),
        pid: process.pid,
        start_time: process.start_time,
        pidfd: keep(&process.pidfd),
        stdin: process.stdin.as_ref().map(|fd| keep(fd)),
        terminal: process.terminal.as_ref().map(|fd| keep(fd)),
        stdout: process.stdout.as_ref().map(|fd| keep(fd)),
        stderr: process.stderr.as_ref().map(|fd| keep(fd)),
        log: process.setup.log.clone(),
        stranger: process.stranger.is_some(),
        started_at_ns: process.started_at_ns,
        exit: process.exit,
        ending: process.ending.map(|ending| ending.exit),
        key: process.key,
        bundle: process.setup.bundle.clone(),
        cgroups: process.setup.cgroups.clone(),
        external: process.external.clone(),
    }
}

fn namespaces_state(key: &str, pinned: &Pinned, keep: &mut impl FnMut(&dyn AsFd) -> i32) -> NamespacesState {
    NamespacesState {
        key: key.to_owned(),
        fds: pinned.fds.iter().map(|(kind, fd)| (*kind, keep(fd))).collect(),
        init: pinned.init.as_ref().map(|init| (init.pid, keep(&init.pidfd))),
        stranger: pinned.init.as_ref().is_some_and(|init| init.watch.is_some()),
    }
}

/// The path of the own binary, where a new one is after an upgrade of the package.
fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}
