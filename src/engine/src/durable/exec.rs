//! Commands in containers that are made first and started later, and asked about after they ended.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use keeper::protocol::TerminalSize;
use oci::ContainerId;
use tokio::sync::watch;

use super::DurableProblem;
use super::start::start_code;
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::happenings::{Action, Subject};
use crate::model::{DurablePhase, ExecConfig};
use crate::sessions::{ExecSession, Streams};

/// Sessions that do not run and are kept to be asked about: the oldest make room.
const KEPT: usize = 1024;

/// A command to run in a container.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// The command and its surroundings.
    pub config: ExecConfig,
    /// The front end's own words: kept and given back, never read by the engine.
    pub extra: serde_json::Value,
}

/// Where an exec session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecState {
    /// Made, not started.
    Created,
    /// It runs.
    Running {
        /// Its pid in the host.
        pid: u32,
    },
    /// It ended, or could not be started.
    Ended {
        /// Its exit code; 126 or 127 if it could not be started.
        exit_code: i32,
        /// The pid it had; 0 if it could not be started.
        pid: u32,
    },
}

/// A moment's view of an exec session.
#[derive(Debug, Clone)]
pub struct ExecStatus {
    /// Its id: 64 hexadecimal digits.
    pub id: String,
    /// Its container.
    pub container: ContainerId,
    /// As it was asked for.
    pub spec: Arc<ExecSpec>,
    /// Where it is in its life.
    pub state: ExecState,
}

/// An exec session that was started.
#[derive(Debug)]
pub struct RunningExec {
    /// Its streams; none if nobody wanted them.
    pub streams: Streams,
    state: watch::Receiver<ExecState>,
}

impl RunningExec {
    /// Waits for its end; its exit code. Nothing depends on anybody waiting.
    pub async fn wait(&mut self) -> i32 {
        let ended = self.state.wait_for(|state| matches!(state, ExecState::Ended { .. })).await;
        match ended.as_deref() {
            Ok(ExecState::Ended { exit_code, .. }) => *exit_code,
            Ok(ExecState::Created | ExecState::Running { .. }) | Err(_) => UNKNOWN,
        }
    }
}

/// The exit code of a session whose end nobody saw.
const UNKNOWN: i32 = 255;

/// All exec sessions that were made by front ends that start them later.
#[derive(Debug, Default)]
pub(crate) struct ExecRegistry(Mutex<Sessions>);

#[derive(Debug, Default)]
struct Sessions {
    by_id: HashMap<String, Arc<Session>>,
    /// Those that do not run, in the order in which they came to that.
    idle: VecDeque<String>,
}

#[derive(Debug)]
struct Session {
    id: String,
    container: ContainerId,
    spec: Arc<ExecSpec>,
    state: watch::Sender<ExecState>,
    /// Whether a start has claimed it.
    claimed: Mutex<bool>,
    terminal: Mutex<Option<OwnedFd>>,
}

impl ExecRegistry {
    fn insert(&self, session: Session) {
        let mut sessions = self.lock();
        sessions.idle.push_back(session.id.clone());
        sessions.by_id.insert(session.id.clone(), Arc::new(session));
        sessions.make_room();
    }

    fn get(&self, id: &str) -> Result<Arc<Session>> {
        let found = self.lock().by_id.get(id).cloned();
        found.ok_or_else(|| DurableProblem::NoExec(id.to_owned()).error("find the exec session"))
    }

    fn runs(&self, id: &str) {
        self.lock().idle.retain(|idle| idle != id);
    }

    fn ended(&self, id: &str) {
        let mut sessions = self.lock();
        sessions.idle.push_back(id.to_owned());
        sessions.make_room();
    }

    /// Forgets the sessions of a container that is gone, and says which there were of one that is not.
    pub(super) fn forget(&self, container: &ContainerId) {
        let mut sessions = self.lock();
        sessions.by_id.retain(|_, session| session.container != *container);
        let sessions = &mut *sessions;
        sessions.idle.retain(|id| sessions.by_id.contains_key(id));
    }

    fn of(&self, container: &ContainerId) -> Vec<String> {
        let sessions = self.lock();
        let running = |s: &&Arc<Session>| matches!(*s.state.borrow(), ExecState::Running { .. });
        let mine = sessions.by_id.values().filter(|s| s.container == *container).filter(running);
        mine.map(|session| session.id.clone()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    fn make_room(&mut self) {
        while self.idle.len() > KEPT {
            if let Some(oldest) = self.idle.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }
}

impl Engine {
    /// Makes an exec session in a durable container or in one of a pod, which must run. Nothing is started yet.
    pub fn create_exec(&self, container: &str, spec: ExecSpec) -> Result<String> {
        if spec.config.command.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("an exec session needs a command"));
        }
        let (id, subject) = self.exec_target(container)?;
        let session = Session {
            id: crate::exec::new_exec_id()?,
            container: id,
            spec: Arc::new(spec),
            state: watch::channel(ExecState::Created).0,
            claimed: Mutex::new(false),
            terminal: Mutex::new(None),
        };
        let exec = session.id.clone();
        let command = session.spec.config.command.join(" ");
        self.shared().execs.insert(session);
        self.shared().happenings.publish(subject, Action::ExecCreate { exec: exec.clone(), command });
        Ok(exec)
    }

    /// Starts an exec session, once. Without `attach` nobody gets its streams.
    pub async fn start_exec(
        &self,
        id: &str,
        attach: bool,
        size: Option<TerminalSize>,
    ) -> Result<RunningExec> {
        let session = self.shared().execs.get(id)?;
        let (_, subject) = self.exec_target(session.container.as_str())?;
        session.claim()?;
        let mut config = session.spec.config.clone();
        config.size = size.or(config.size);
        self.shared().execs.runs(id);
        // Work that has begun runs to its end, whether or not anybody waits for it.
        let (engine, starting, told) = (self.clone(), Arc::clone(&session), subject.clone());
        let work = self.shared().tracker.spawn(async move {
            let started = engine.exec_as(starting.id.clone(), &starting.container, &config, attach).await;
            starting.started(&engine, started, told, attach)
        });
        let streams = work.await.map_err(|error| {
            Error::caused_by(crate::ErrorKind::Internal, "starting an exec session broke off", error)
        })??;
        Ok(RunningExec { streams, state: session.state.subscribe() })
    }

    /// A snapshot of an exec session.
    pub fn exec_status(&self, id: &str) -> Result<ExecStatus> {
        let session = self.shared().execs.get(id)?;
        let state = *session.state.borrow();
        let (id, spec) = (session.id.clone(), Arc::clone(&session.spec));
        Ok(ExecStatus { id, container: session.container.clone(), spec, state })
    }

    /// Ids of the exec sessions that run in a container.
    pub fn running_execs(&self, container: &ContainerId) -> Vec<String> {
        self.shared().execs.of(container)
    }

    /// Changes the size of an exec session's terminal.
    pub fn resize_exec(&self, id: &str, size: TerminalSize) -> Result<()> {
        let session = self.shared().execs.get(id)?;
        let what = || format!("resize the terminal of exec session {id}");
        if !matches!(*session.state.borrow(), ExecState::Running { .. }) {
            return Err(Error::precondition(format!("{}: it does not run", what())));
        }
        let terminal = session.terminal.lock().unwrap_or_else(PoisonError::into_inner);
        match terminal.as_ref() {
            Some(master) => sys::pty::resize(master.as_fd(), size.columns, size.rows)
                .map_err(|error| Error::io(what(), error)),
            None => Ok(()),
        }
    }

    /// The container that an exec session is for, if it can have one now.
    fn exec_target(&self, container: &str) -> Result<(ContainerId, Subject)> {
        let what = || format!("execute a command in container {container}");
        let durable = match self.shared().durables.find(container) {
            Ok(durable) => durable,
            Err(error) => return self.exec_target_of_pod(container, error),
        };
        let (id, status) = (durable.id.clone(), durable.status());
        match status.phase {
            DurablePhase::Running => Ok((id, super::supervisor::subject_of(&status))),
            DurablePhase::Paused => Err(DurableProblem::Paused(id).error(what())),
            DurablePhase::Restarting => Err(DurableProblem::Restarting(id).error(what())),
            DurablePhase::Created | DurablePhase::Exited | DurablePhase::Removing | DurablePhase::Dead => {
                Err(DurableProblem::NotRunning(id).error(what()))
            }
        }
    }

    fn exec_target_of_pod(&self, container: &str, unknown: Error) -> Result<(ContainerId, Subject)> {
        let Ok(status) = self.container_status(container) else { return Err(unknown) };
        if !matches!(status.state, crate::ContainerState::Running { .. }) {
            return Err(DurableProblem::NotRunning(status.id).error("execute a command in it"));
        }
        let subject = Subject::Container {
            id: status.id.clone(),
            name: status.config.key.name.clone(),
            image: status.config.user_image.clone(),
            labels: Arc::new(status.config.labels),
        };
        Ok((status.id, subject))
    }
}

impl Session {
    fn claim(&self) -> Result<()> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *claimed, true) {
            let running = !matches!(*self.state.borrow(), ExecState::Ended { .. });
            return Err(DurableProblem::ExecUsed { id: self.id.clone(), running }.error("start it"));
        }
        Ok(())
    }

    /// It runs, or could not be started: its end is waited for here, whoever else waits.
    fn started(
        self: &Arc<Self>,
        engine: &Engine,
        started: Result<ExecSession>,
        subject: Subject,
        attach: bool,
    ) -> Result<Streams> {
        let shared = Arc::clone(engine.shared());
        let mut running = match started {
            Ok(running) => running,
            Err(error) => {
                let exit_code = start_code(error.kind(), &error.chain());
                self.end(&shared, ExecState::Ended { exit_code, pid: 0 });
                return Err(error);
            }
        };
        let pid = running.pid;
        let streams = std::mem::take(&mut running.streams);
        let master = streams.terminal.as_ref().map(crate::sessions::Terminal::duplicate).transpose();
        *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = master.ok().flatten();
        self.state.send_replace(ExecState::Running { pid });
        let command = self.spec.config.command.join(" ");
        shared.happenings.publish(subject.clone(), Action::ExecStart { exec: self.id.clone(), command });
        let session = Arc::clone(self);
        let (streams, unwanted) = if attach { (streams, None) } else { (Streams::default(), Some(streams)) };
        let tracker = shared.tracker.clone();
        tracker.spawn(async move {
            let exit_code = tokio::select! {
                exit_code = async {
                    tokio::join!(running.wait(), drain(unwanted)).0
                } => exit_code.unwrap_or(UNKNOWN),
                // The session lives on and ends with its container or its keeper; nobody is told any more.
                () = shared.shutdown.cancelled() => return,
            };
            session.end(&shared, ExecState::Ended { exit_code, pid });
            let action = Action::ExecDie { exec: session.id.clone(), exit_code };
            shared.happenings.publish(subject, action);
        });
        Ok(streams)
    }

    fn end(&self, shared: &Shared, state: ExecState) {
        self.terminal.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.state.send_replace(state);
        shared.execs.ended(&self.id);
    }
}

/// A terminal that nobody reads must not stop its process.
async fn drain(streams: Option<Streams>) {
    let Some(terminal) = streams.and_then(|streams| streams.terminal) else { return };
    let mut buffer = [0; 4096];
    while terminal.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}
