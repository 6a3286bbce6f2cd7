//! Containers and exec sessions that have started.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sys::pidfd::WaitStatus;

use super::Keeper;
use super::adopt::Stranger;
use super::external::ExternalRuntime;
use crate::log::pumps::{Command, PumpId};
use crate::protocol::{Event, Exit};

/// How long an exit waits for its log when the log's device does not answer at all. Where it does, the pump
/// says much earlier that the log is complete.
const LOG_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Process {
    pub(super) sandbox: String,
    pub(super) exec_in: Option<String>,
    pub(super) pid: u32,
    pub(super) start_time: u64,
    pub(super) pidfd: Rc<OwnedFd>,
    pub(super) stdin: Option<Rc<OwnedFd>>,
    pub(super) terminal: Option<Rc<OwnedFd>>,
    /// Duplicates of what the pump reads, for clients to keep.
    pub(super) stdout: Option<Rc<OwnedFd>>,
    pub(super) stderr: Option<Rc<OwnedFd>>,
    pub(super) started_at_ns: i64,
    /// How it ended; what clients see.
    pub(super) exit: Option<Exit>,
    /// How it ended, while the log or the runtime's clean-up is not complete.
    pub(super) ending: Option<Ending>,
    /// Names its output to the pump.
    pub(super) key: u64,
    pub(super) pump: Option<PumpId>,
    /// What the process was started with, for exec sessions to start alike.
    pub(super) setup: Rc<super::builtin::Setup>,
    pub(super) external: Option<ExternalRuntime>,
    /// It is not our child.
    pub(super) stranger: Option<Stranger>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) exit: Exit,
    pub(super) log_open: bool,
    pub(super) deleting: bool,
    pub(super) deadline: Instant,
}

/// What clients are told about a wait status.
pub(super) fn exit_of(status: WaitStatus) -> Exit {
    let at_ns = sys::fs::now_ns();
    match status {
        WaitStatus::Exited(code) => Exit { code, signal: None, at_ns, unknown: false },
        WaitStatus::Signaled(signal) => {
            Exit { code: 128 + signal, signal: Some(signal), at_ns, unknown: false }
        }
    }
}

impl Keeper {
    /// A process ended: its exit is told once its log is complete and its runtime has cleaned up.
    pub(super) fn process_ended(&mut self, id: &str, status: WaitStatus) {
        self.process_exited(id, exit_of(status));
    }

    pub(super) fn process_exited(&mut self, id: &str, exit: Exit) {
        let Some(process) = self.processes.get_mut(id) else { return };
        (process.stdin, process.stdout, process.stderr) = (None, None, None);
        let log_open = match process.pump {
            Some(pump) => self.pumps.tell(pump, Command::Exited { key: process.key }).is_ok(),
            None => false,
        };
        let delete = process.external.clone().filter(|_| process.exec_in.is_none());
        let deadline = Instant::now() + LOG_DEADLINE;
        process.ending = Some(Ending { exit, log_open, deleting: delete.is_some(), deadline });
        if let Some(runtime) = delete {
            self.delete_external(id, &runtime);
        }
        self.tell_exit_if_complete(id);
    }

    pub(super) fn log_complete(&mut self, key: u64) {
        let Some(id) = self.id_of(key) else { return };
        if let Some(ending) = self.processes.get_mut(&id).and_then(|process| process.ending.as_mut()) {
            ending.log_open = false;
        }
        self.tell_exit_if_complete(&id);
    }

    pub(super) fn deleted(&mut self, id: &str) {
        if let Some(ending) = self.processes.get_mut(id).and_then(|process| process.ending.as_mut()) {
            ending.deleting = false;
        }
        self.tell_exit_if_complete(id);
    }

    fn tell_exit_if_complete(&mut self, id: &str) {
        let Some(process) = self.processes.get_mut(id) else { return };
        let Some(ending) = process.ending.take_if(|ending| !ending.log_open && !ending.deleting) else {
            return;
        };
        process.exit = Some(ending.exit);
        super::inform(|| format!("{id} ended with code {}", ending.exit.code));
        self.emit(&Event::Exited { id: id.to_owned(), exit: ending.exit });
    }

    pub(super) fn id_of(&self, key: u64) -> Option<String> {
        self.processes.iter().find(|(_, process)| process.key == key).map(|(id, _)| id.clone())
    }

    pub(super) fn has_deadlines(&self) -> bool {
        let waits =
            |process: &Process| process.ending.is_some() || process.stranger.is_some_and(Stranger::asks);
        self.processes.values().any(waits)
    }

    pub(super) fn check_deadlines(&mut self, now: Instant) {
        if !self.has_deadlines() {
            return;
        }
        self.ask_about_strangers();
        let late = |process: &Process| process.ending.is_some_and(|ending| ending.deadline <= now);
        let late: Vec<String> =
            self.processes.iter().filter(|(_, process)| late(process)).map(|(id, _)| id.clone()).collect();
        for id in late {
            if let Some(ending) = self.processes.get_mut(&id).and_then(|process| process.ending.as_mut()) {
                (ending.log_open, ending.deleting) = (false, false);
            }
            let message = "the log's file system did not take the last output in time".to_owned();
            self.emit(&Event::LogTrouble { id: id.clone(), message });
            self.tell_exit_if_complete(&id);
        }
    }

    /// Forgets a process that has ended.
    pub(super) fn forget(&mut self, id: &str) {
        if let Some(process) = self.processes.remove(id) {
            self.owners.remove(&process.pid);
            if let Some(pump) = process.pump {
                // Remove is never refused.
                let _ = self.pumps.tell(pump, Command::Remove { key: process.key });
            }
        }
    }
}
