//! Taking over what a keeper that is gone has left, from a client that kept duplicates of its descriptors.
//!
//! An adopted process is nobody's child here: whoever inherited it reaps it. Its pidfd says when it ends, and
//! the kernel how: as long as it is a zombie by `/proc`, afterwards by `PIDFD_GET_INFO` (Linux 6.15). Where
//! neither tells, the exit is unknown, and said to be.
//!
//! ```text
//!  Adopt ── log open ──▶ Process ── pidfd readable ──▶ status known ──▶ Exited
//!                                               └────▶ a zombie that nobody reaps: looked at again and again
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::births::{LogState, OwnEnds};
use super::builtin::Setup;
use super::external::ExternalRuntime;
use super::failure::{exists, invalid, io as io_failure};
use super::namespaces::{Init, Pinned};
use super::process::Process;
use super::requests::{Attached, Client};
use super::{Keeper, Target};
use crate::log::file::LogFile;
use crate::protocol::{Adopt, AdoptNamespaces, Event, Exit, Failure, Reply, Runtime};

/// How long a process that has ended is asked how, before that counts as unknown.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process whose log is being opened.
#[derive(Debug)]
pub(super) struct Adoption {
    client: Client,
    adopt: Adopt,
    pidfd: OwnedFd,
    ends: OwnEnds,
}

/// How the end of a process that is not our child is noticed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stranger {
    /// The poller's token of its pidfd.
    token: u64,
    /// It has ended, and how is asked until then.
    until: Option<Instant>,
}

impl Stranger {
    /// Whether it has ended and nobody has said how.
    pub(super) fn asks(self) -> bool {
        self.until.is_some()
    }
}

impl Keeper {
    /// Begins to take over a process; the client is answered once its output is pumped.
    pub(super) fn adopt(
        &mut self,
        client: Client,
        adopt: Adopt,
        mut attached: Attached,
    ) -> Result<(), Failure> {
        if self.is_used(&adopt.id) || self.adoptions.values().any(|other| other.adopt.id == adopt.id) {
            return Err(exists(&adopt.id));
        }
        let pidfd = attached.take(adopt.pidfd)?;
        let mut take = |index: Option<usize>| index.map(|index| attached.take(index)).transpose();
        let ends = OwnEnds {
            stdin: take(adopt.stdin)?,
            stdout: take(adopt.stdout)?,
            stderr: take(adopt.stderr)?,
            terminal: take(adopt.terminal)?,
        };
        let number = self.number();
        let log = adopt.log.clone();
        self.adoptions.insert(number, Adoption { client, adopt, pidfd, ends });
        match log.map(|log| self.pumps.open(log, number)) {
            Some(Ok(())) => {}
            Some(Err(error)) => self.adopted(number, Err(error)),
            None => self.finish_adoption(number, LogState::None),
        }
        Ok(())
    }

    /// The log of an adopted process is open, or cannot be: then its output is taken all the same, for a process
    /// must not wait for a reader for ever.
    pub(super) fn adopted(&mut self, number: u64, result: io::Result<LogFile>) {
        match result {
            Ok(file) => self.finish_adoption(number, LogState::Open(Box::new(file))),
            Err(error) => {
                if let Some(adoption) = self.adoptions.get(&number) {
                    let message = format!("open the log anew: {error}; output is lost");
                    self.emit(&Event::LogTrouble { id: adoption.adopt.id.clone(), message });
                }
                self.finish_adoption(number, LogState::None);
            }
        }
    }

    fn finish_adoption(&mut self, number: u64, log: LogState) {
        let Some(adoption) = self.adoptions.remove(&number) else { return };
        let Adoption { client, adopt, pidfd, mut ends } = adoption;
        let id = adopt.id.clone();
        let token = match self.watch(&pidfd, Target::Stranger(id.clone())) {
            Ok(token) => token,
            Err(error) => return self.fail(client, io_failure("watch an adopted process", &error)),
        };
        let outputs = ends.duplicate_outputs();
        let pumped =
            outputs.and_then(|outputs| Ok((outputs, self.pump(number, &mut ends, log, Vec::new())?)));
        let ((stdout, stderr), pump) = match pumped {
            Ok(pumped) => pumped,
            Err(error) => {
                self.unwatch(&pidfd, token);
                return self.fail(client, io_failure("pump the output of an adopted process", &error));
            }
        };
        let external = match adopt.runtime {
            Runtime::BuiltIn => None,
            Runtime::External { path, root, systemd_cgroup } => {
                Some(ExternalRuntime { program: path, root, systemd_cgroup, id: id.clone() })
            }
        };
        super::inform(|| format!("{id}, process {}, is adopted", adopt.pid));
        let process = Process {
            sandbox: adopt.sandbox,
            exec_in: None,
            pid: adopt.pid,
            start_time: adopt.start_time,
            pidfd: Rc::new(pidfd),
            stdin: ends.stdin.map(Rc::new),
            terminal: ends.terminal.map(Rc::new),
            stdout,
            stderr,
            started_at_ns: adopt.started_at_ns,
            exit: None,
            ending: None,
            key: number,
            pump,
            setup: Rc::new(Setup { bundle: adopt.bundle, cgroups: adopt.cgroups, log: adopt.log }),
            external,
            stranger: Some(Stranger { token, until: None }),
        };
        self.processes.insert(id, process);
        self.reply(client, Reply::Done, Vec::new());
    }

    /// Watches a process that another incarnation of this keeper had adopted.
    pub(super) fn watch_stranger(&mut self, id: &str, pidfd: &Rc<OwnedFd>) -> io::Result<Stranger> {
        let token = self.watch(&**pidfd, Target::Stranger(id.to_owned()))?;
        Ok(Stranger { token, until: None })
    }

    /// An adopted process has ended, or it was reaped by now.
    pub(super) fn stranger_ended(&mut self, id: &str) {
        let Some(process) = self.processes.get_mut(id) else { return };
        let Some(stranger) = &mut process.stranger else { return };
        let until = *stranger.until.get_or_insert_with(|| Instant::now() + PATIENCE);
        let status = sys::pidfd::status_of_stranger(process.pidfd.as_fd(), process.pid, process.start_time);
        let (token, pidfd) = (stranger.token, Rc::clone(&process.pidfd));
        let exit = match status {
            Ok(Some(status)) => super::process::exit_of(status),
            // It stays readable: only the hang-up that reaping causes is news, and the clock.
            Ok(None) if Instant::now() < until => {
                let _ = self.poller.modify(pidfd.as_fd(), token, sys::epoll::Interest::Hangup);
                return;
            }
            Ok(None) | Err(_) => Exit { code: 255, signal: None, at_ns: sys::fs::now_ns(), unknown: true },
        };
        process.stranger = None;
        self.unwatch(&*pidfd, token);
        self.process_exited(id, exit);
    }

    /// Asks again about those that have ended and were not reaped yet.
    pub(super) fn ask_about_strangers(&mut self) {
        let asks = |process: &Process| process.stranger.is_some_and(Stranger::asks);
        let waiting: Vec<String> =
            self.processes.iter().filter(|(_, process)| asks(process)).map(|(id, _)| id.clone()).collect();
        waiting.iter().for_each(|id| self.stranger_ended(id));
    }

    /// Takes over namespaces, and the init of the PID namespace among them.
    pub(super) fn adopt_namespaces(
        &mut self,
        adopt: AdoptNamespaces,
        mut attached: Attached,
    ) -> Result<Option<Reply>, Failure> {
        let AdoptNamespaces { key, namespaces, init_pid } = adopt;
        if self.namespaces.contains_key(&key) {
            return Err(exists(&key));
        }
        let mut fds = Vec::new();
        for (kind, index) in namespaces {
            fds.push((kind, Rc::new(attached.take(index)?)));
        }
        let pid_namespace = fds.iter().find(|(kind, _)| *kind == crate::protocol::NamespaceKind::Pid);
        let init = match (init_pid, pid_namespace) {
            (Some(pid), Some((_, namespace))) => find_init(pid, namespace.as_fd())?,
            (Some(_), None) => return Err(invalid(format!("{key} has an init and no PID namespace"))),
            (None, _) => None,
        };
        let init = match init {
            Some((pid, pidfd)) => {
                let token = self
                    .watch(&pidfd, Target::StrangeInit(key.clone()))
                    .map_err(|error| io_failure("watch an adopted init", &error))?;
                Some(Init { pid, pidfd, watch: Some(token) })
            }
            None => None,
        };
        super::inform(|| format!("namespaces of {key} are adopted"));
        self.namespaces.insert(key, Pinned { fds, init });
        Ok(Some(Reply::Done))
    }

    /// An adopted init has ended.
    pub(super) fn strange_init_ended(&mut self, key: &str) {
        let Some(pinned) = self.namespaces.get_mut(key) else { return };
        if let Some(Init { pidfd, watch: Some(token), .. }) = pinned.init.take() {
            self.unwatch(&pidfd, token);
        }
        self.init_ended(key);
    }

    /// An adopted init whose namespaces were dropped has ended: whoever dropped them is told.
    pub(super) fn strange_init_dropped(&mut self, token: u64, client: Client) {
        if let Some(pidfd) = self.leaving.remove(&token) {
            self.unwatch(&pidfd, token);
            self.reply(client, Reply::Done, Vec::new());
        }
    }

    /// What is pumped for an adopted process' client, if it has asked for something meanwhile.
    pub(super) fn is_adopting(&self, number: u64) -> bool {
        self.adoptions.contains_key(&number)
    }
}

/// The init by number, if the process of that number is the one of this namespace. It is opened first: then it
/// cannot become another while it is looked at.
fn find_init(pid: u32, namespace: std::os::fd::BorrowedFd<'_>) -> Result<Option<(u32, OwnedFd)>, Failure> {
    let Ok(pidfd) = sys::pidfd::open(pid) else { return Ok(None) };
    let theirs = sys::ns::open_of(pid, sys::ns::Kind::Pid);
    let identity = |fd| sys::ns::identity(fd).map_err(|error| io_failure("look at a namespace", &error));
    match theirs {
        Ok(theirs) if identity(theirs.as_fd())? == identity(namespace)? => Ok(Some((pid, pidfd))),
        // It has ended: the namespace holds no process any more.
        Ok(_) | Err(_) => Ok(None),
    }
}

impl OwnEnds {
    /// Duplicates of the ends that a client may need again.
    pub(super) fn duplicate_outputs(&self) -> io::Result<Outputs> {
        let duplicate = |fd: &Option<OwnedFd>| {
            fd.as_ref().map(sys::pipe::duplicate).transpose().map(|fd| fd.map(Rc::new))
        };
        Ok((duplicate(&self.stdout)?, duplicate(&self.stderr)?))
    }
}

/// Duplicates of the reading ends of standard output and standard error.
pub(super) type Outputs = (Option<Rc<OwnedFd>>, Option<Rc<OwnedFd>>);
