//! The link to the keeper: requests become futures, exits go to whoever waits for them.
//!
//! One thread reads the connection. It only completes oneshots and fills inboxes, so it never waits for a
//! task, and a task may wait for it. Whoever will want an exit says so before the process is started.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use keeper::client::{Receiver, Sender};
use keeper::protocol::{Event, Exit, Failure, FailureKind, Reply, Request, ServerMessage};
use oci::ContainerId;
use tokio::sync::{Notify, oneshot, watch};
use tracing::Instrument;

use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{KeeperRequest, Metrics, Success};
use crate::traces::step;

/// How long a keeper that was just started may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// A reply and the descriptors that came with it.
pub(crate) type Answer = (Reply, Vec<OwnedFd>);

/// Exits of a sandbox' containers, in the order they happened.
#[derive(Debug, Default)]
pub(crate) struct ExitInbox {
    exits: Mutex<Vec<(ContainerId, Exit)>>,
    arrived: Notify,
}

impl ExitInbox {
    /// Waits for exits and takes them all. Cancel safe: exits stay until they are taken.
    pub(crate) async fn take(&self) -> Vec<(ContainerId, Exit)> {
        loop {
            let arrived = self.arrived.notified();
            let exits = std::mem::take(&mut *lock(&self.exits));
            if !exits.is_empty() {
                return exits;
            }
            arrived.await;
        }
    }

    pub(crate) fn put(&self, id: ContainerId, exit: Exit) {
        lock(&self.exits).push((id, exit));
        self.arrived.notify_one();
    }
}

/// Who gets an exit.
#[derive(Debug)]
enum Route {
    Exec(oneshot::Sender<Exit>),
    Container(Arc<ExitInbox>, ContainerId),
}

#[derive(Debug)]
pub(crate) struct Link {
    sender: Mutex<Option<Sender>>,
    pending: Mutex<HashMap<u64, oneshot::Sender<std::result::Result<Answer, Failure>>>>,
    routes: Mutex<HashMap<String, Route>>,
    /// Exits that came before somebody said that they want them: at start, before sandboxes are taken over.
    unclaimed: Mutex<HashMap<String, Exit>>,
    next_id: AtomicU64,
    connected: watch::Sender<bool>,
    metrics: Arc<Metrics>,
    /// Process id of the keeper that was greeted last; 0 before.
    keeper_pid: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Connects to the keeper at `socket`, starting `program` when nobody listens. Blocks; for start-up and
    /// for the thread that watches the link.
    pub(crate) fn open(
        socket: &Path,
        program: Option<&Path>,
        state: &Path,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>> {
        let link = Arc::new(Self {
            sender: Mutex::new(None),
            pending: Mutex::new(HashMap::new()),
            routes: Mutex::new(HashMap::new()),
            unclaimed: Mutex::new(HashMap::new()),
            next_id: AtomicU64::new(1),
            connected: watch::channel(false).0,
            metrics,
            keeper_pid: AtomicU32::new(0),
        });
        link.connect(socket, program, state)?;
        Ok(link)
    }

    /// Connects (again), and says whether the keeper is another process than before: one that executed itself
    /// anew is the same. The reader thread ends with its connection.
    pub(crate) fn connect(
        self: &Arc<Self>,
        socket: &Path,
        program: Option<&Path>,
        state: &Path,
    ) -> Result<bool> {
        let (sender, receiver) = dial(socket, program, state)?;
        tracing::debug!(pid = receiver.keeper_pid(), release = receiver.release(), "connected to the keeper");
        let before = self.keeper_pid.swap(receiver.keeper_pid(), Ordering::AcqRel);
        let is_another = before != 0 && before != receiver.keeper_pid();
        if is_another {
            // Exec sessions went with the keeper that ran them; whoever waits for one is told by the drop.
            lock(&self.routes).retain(|_, route| matches!(route, Route::Container(..)));
        }
        *lock(&self.sender) = Some(sender);
        let link = Arc::clone(self);
        std::thread::Builder::new()
            .name("keeper-link".into())
            .spawn(move || link.read(receiver))
            .map_err(|error| Error::io("start the thread that listens to the keeper", error))?;
        self.call_blocking(Request::Subscribe)?;
        self.metrics.keeper_up.set(1);
        self.connected.send_replace(true);
        Ok(is_another)
    }

    /// Whether the connection is up, and news of it.
    pub(crate) fn connection(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Sends a request and waits for its reply. Dropping the future does not undo the request.
    pub(crate) async fn call(&self, what: &str, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        let (kind, started) = (KeeperRequest::of(&request), Instant::now());
        let span = step!("ask the keeper", request = what);
        let outcome = match self.send(request, fds) {
            Err(error) => Err(error),
            Ok(reply) => match reply.instrument(span).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(failure)) => Err(from_failure(what, failure)),
                Err(_) => Err(lost(what)),
            },
        };
        self.metrics.keeper_requests.get((kind, Success::of(&outcome))).inc();
        self.metrics.keeper_seconds.get(kind).observe(started.elapsed().as_secs_f64());
        outcome
    }

    fn call_blocking(&self, request: Request) -> Result<Answer> {
        let reply = self.send(request, &[])?;
        match reply.blocking_recv() {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failure)) => Err(from_failure("greet the keeper", failure)),
            Err(_) => Err(lost("greet the keeper")),
        }
    }

    fn send(
        &self,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<oneshot::Receiver<std::result::Result<Answer, Failure>>> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        lock(&self.pending).insert(id, reply);
        let sender = lock(&self.sender).clone();
        let sent = match sender {
            Some(sender) => sender.send(id, &request, fds),
            None => Err(std::io::ErrorKind::NotConnected.into()),
        };
        if let Err(error) = sent {
            lock(&self.pending).remove(&id);
            return Err(Error::caused_by(
                ErrorKind::Unavailable,
                "the keeper cannot be reached; running containers are not affected",
                error,
            ));
        }
        Ok(answer)
    }

    /// The exit of `id` will go to `inbox`. Call it before the process is started.
    pub(crate) fn route_container(&self, id: &ContainerId, inbox: &Arc<ExitInbox>) {
        let mut routes = lock(&self.routes);
        match lock(&self.unclaimed).remove(id.as_str()) {
            Some(exit) => inbox.put(id.clone(), exit),
            None => drop(routes.insert(id.to_string(), Route::Container(Arc::clone(inbox), id.clone()))),
        }
    }

    /// The exit of the exec session `id` will come from the receiver. Call it before it is started.
    pub(crate) fn route_exec(&self, id: &str) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.routes).insert(id.to_owned(), Route::Exec(sender));
        receiver
    }

    /// Nobody waits for the exit of `id` any more.
    pub(crate) fn unroute(&self, id: &str) {
        lock(&self.routes).remove(id);
    }

    /// Containers whose exit somebody waits for, with their inboxes.
    pub(crate) fn waiting(&self) -> Vec<(ContainerId, Arc<ExitInbox>)> {
        let routes = lock(&self.routes);
        let containers = routes.values().filter_map(|route| match route {
            Route::Container(inbox, id) => Some((id.clone(), Arc::clone(inbox))),
            Route::Exec(_) => None,
        });
        containers.collect()
    }

    fn read(&self, mut receiver: Receiver) {
        loop {
            match receiver.recv() {
                Ok(Some((ServerMessage::Reply { id, reply }, fds))) => self.complete(id, Ok((reply, fds))),
                Ok(Some((ServerMessage::Failure { id, failure }, _))) => self.complete(id, Err(failure)),
                Ok(Some((ServerMessage::Event { event }, _))) => self.deliver(event),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "reading from the keeper failed");
                    break;
                }
            }
        }
        *lock(&self.sender) = None;
        self.metrics.keeper_up.set(0);
        self.connected.send_replace(false);
        // Dropping the senders tells everybody who waits.
        lock(&self.pending).clear();
    }

    fn complete(&self, id: u64, answer: std::result::Result<Answer, Failure>) {
        if let Some(reply) = lock(&self.pending).remove(&id) {
            // Whoever asked may have gone; the descriptors close here then.
            drop(reply.send(answer));
        }
    }

    fn keep_unclaimed(&self, id: String, exit: Exit) {
        let mut unclaimed = lock(&self.unclaimed);
        if unclaimed.len() < UNCLAIMED {
            unclaimed.insert(id, exit);
        }
    }

    /// Nobody will claim exits that came before now.
    pub(crate) fn forget_unclaimed(&self) {
        lock(&self.unclaimed).clear();
    }

    fn deliver(&self, event: Event) {
        match event {
            Event::Exited { id, exit } => {
                let mut routes = lock(&self.routes);
                match routes.remove(&id) {
                    Some(Route::Exec(waiter)) => drop(waiter.send(exit)),
                    Some(Route::Container(inbox, container)) => inbox.put(container, exit),
                    None => self.keep_unclaimed(id, exit),
                }
            }
            Event::InitExited { key } => tracing::warn!(sandbox = %key, "init of a PID namespace ended"),
            Event::LogTrouble { id, message } => tracing::warn!(container = %id, %message, "log trouble"),
        }
    }
}

/// Exits kept for whoever will ask; beyond it they are found by asking the keeper.
const UNCLAIMED: usize = 16 << 10;

fn dial(socket: &Path, program: Option<&Path>, state: &Path) -> Result<(Sender, Receiver)> {
    let unreachable = |error: keeper::client::ConnectError| {
        Error::caused_by(
            ErrorKind::Unavailable,
            format!("connect to the keeper at {}; is berth-keeper running?", socket.display()),
            error,
        )
    };
    let first = match keeper::client::connect(socket) {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    let Some(program) = program else { return Err(unreachable(first)) };
    start_keeper(program, socket, state)?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        match keeper::client::connect(socket) {
            Ok(connection) => return Ok(connection),
            Err(error) if Instant::now() > deadline => return Err(unreachable(error)),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Starts the keeper in a session of its own: it must outlive the daemon.
fn start_keeper(program: &Path, socket: &Path, state: &Path) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(program);
    command.arg("--socket").arg(socket).arg("--state").arg(state.join("keeper"));
    command.stdin(std::process::Stdio::null()).current_dir("/").process_group(0);
    let child = command
        .spawn()
        .map_err(|error| Error::io(format!("start the keeper {}", program.display()), error))?;
    tracing::info!(pid = child.id(), "keeper started");
    // The keeper is not waited for: when it ends, the link says so. A thread reaps it so that no zombie stays.
    std::thread::spawn(move || {
        let mut child = child;
        drop(child.wait());
    });
    Ok(())
}

fn lost(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{what}: the keeper went away before it answered"))
}

fn from_failure(what: &str, failure: Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::Invalid | FailureKind::ProgramNotFound | FailureKind::ProgramNotExecutable => {
            ErrorKind::InvalidArgument
        }
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::Exists => ErrorKind::AlreadyExists,
        FailureKind::Exhausted => ErrorKind::Exhausted,
        FailureKind::Setup | FailureKind::Internal => ErrorKind::Internal,
    };
    Error::new(kind, format!("{what}: {}", failure.message))
}

/// Borrows a list of descriptors.
pub(crate) fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
