//! The keeper itself: one thread, one epoll loop, and the log pumps beside it.
//!
//! Nothing here may block: children are cloned and report through descriptors, log files are opened and
//! written by other threads, sockets are nonblocking. Everything that ends is noticed in one place, the queue
//! of dead children ([`reap`]), where a pid cannot have been reused yet.

mod adopt;
mod births;
mod builtin;
mod connection;
mod exec;
mod external;
mod failure;
mod journal;
mod namespaces;
mod process;
mod reap;
mod requests;
mod start;
mod tools;
mod upgrade;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sys::epoll::{Event, Events, Interest, Poller, Signals};
use sys::socket::Listener;

use self::births::Birth;
use self::connection::Connection;
pub use self::journal::LogLevel;
use self::namespaces::{Making, Pinned};
use self::process::Process;
use self::reap::Owner;
use self::tools::Tool;
use crate::log::pumps::{Note, Pumps};
use crate::protocol;

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// How often deadlines are looked at while there are any.
const TICK: Duration = Duration::from_millis(250);

/// Where the keeper listens and keeps its files.
#[derive(Debug, Clone)]
pub struct Options {
    /// The socket.
    pub socket: PathBuf,
    /// Directory for small files that die with the boot.
    pub state: PathBuf,
    /// How much it says on standard error.
    pub log_level: LogLevel,
}

/// Why the keeper cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another keeper serves the socket.
    #[error(
        "another keeper serves {} already; ask it with `berth status`, or give this one another --socket and --state",
        socket.display()
    )]
    Busy {
        /// The socket.
        socket: PathBuf,
    },
    /// A step of setting up failed.
    #[error("{operation}")]
    Setup {
        /// What was tried, and on what.
        operation: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The loop cannot wait for events any more.
    #[error("wait for events")]
    Loop(#[source] io::Error),
}

/// Serves until told to end. Degradations are written to standard error, as lines for the journal.
pub fn run(options: Options) -> Result<(), RunError> {
    journal::set_level(options.log_level);
    let keeper = Keeper::new(options)?;
    // Starting took code that waiting does not.
    if let Err(error) = sys::memory::give_back() {
        journal::say(LogLevel::Warn, &format!("cannot give memory back: {error}"));
    }
    keeper.serve()
}

/// What an event of the poller is about.
#[derive(Debug, Clone)]
enum Target {
    Listener,
    Signals,
    Pumps,
    Connection(u64),
    Report(u64),
    Namespaces(u64),
    /// An adopted process' pidfd.
    Stranger(String),
    /// An adopted init's pidfd.
    StrangeInit(String),
    /// That of one whose namespaces were dropped.
    LeavingInit(requests::Client),
}

struct Keeper {
    options: Options,
    poller: Poller,
    signals: Signals,
    listener: Listener,
    /// Held for its lock.
    lock: OwnedFd,
    targets: HashMap<u64, Target>,
    last_number: u64,
    connections: HashMap<u64, Connection>,
    processes: BTreeMap<String, Process>,
    births: HashMap<u64, Birth>,
    tools: HashMap<u64, Tool>,
    owners: HashMap<u32, Owner>,
    namespaces: BTreeMap<String, Pinned>,
    makings: HashMap<u64, Making>,
    adoptions: HashMap<u64, adopt::Adoption>,
    /// Adopted inits that were killed, by token.
    leaving: HashMap<u64, OwnedFd>,
    /// Descriptors of an upgrade that was called off, on their way back to the pumps.
    kept: Vec<OwnedFd>,
    pumps: Pumps,
    /// Requests a pump is busy with.
    tickets: HashMap<u64, requests::Client>,
    workshop: builtin::Workshop,
    /// Given up for a moment when descriptors run out, so that a client can be told.
    spare: Option<OwnedFd>,
    stopping: bool,
    asked_to_stop: bool,
}

impl Keeper {
    fn new(options: Options) -> Result<Keeper, RunError> {
        let setup = |operation: String| move |source: io::Error| RunError::Setup { operation, source };
        let state = &options.state;
        sys::fs::ensure_directories(state, 0o700).map_err(setup(format!("create {}", state.display())))?;
        let inherited =
            upgrade::inherited().map_err(setup("read the state of the previous keeper".into()))?;
        let (inherited, lock, listener) = match inherited.map(upgrade::Inherited::into_parts) {
            Some((state, lock, listener)) => (Some(state), lock, listener),
            None => {
                let lock = lock(&options)?;
                let listener = Listener::bind(&options.socket, 0o600);
                (None, lock, listener.map_err(setup(format!("listen on {}", options.socket.display())))?)
            }
        };
        degrade("be the reaper of orphans", sys::reaper::adopt_orphans());
        degrade("raise the limit of open files", sys::reaper::raise_open_files());
        degrade("lower the own OOM score to -999", sys::reaper::set_oom_score_adj(-999));
        let signals =
            Signals::block(&[SIGINT, SIGTERM, SIGCHLD, SIGUSR2]).map_err(setup("block signals".into()))?;
        let workshop = builtin::Workshop::new().map_err(setup("learn what the machine can do".into()))?;
        let poller = Poller::new().map_err(setup("create an epoll instance".into()))?;
        let pumps = Pumps::new().map_err(setup("create the queue of the log pumps".into()))?;
        let spare = std::fs::File::open("/dev/null").ok().map(OwnedFd::from);
        let mut keeper = Keeper {
            options,
            poller,
            signals,
            listener,
            lock,
            targets: HashMap::new(),
            last_number: 0,
            connections: HashMap::new(),
            processes: BTreeMap::new(),
            births: HashMap::new(),
            tools: HashMap::new(),
            owners: HashMap::new(),
            namespaces: BTreeMap::new(),
            makings: HashMap::new(),
            adoptions: HashMap::new(),
            leaving: HashMap::new(),
            kept: Vec::new(),
            pumps,
            tickets: HashMap::new(),
            workshop,
            spare,
            stopping: false,
            asked_to_stop: false,
        };
        keeper.watch_own().map_err(setup("watch own descriptors".into()))?;
        if let Some(state) = inherited {
            keeper.restore(state);
        }
        Ok(keeper)
    }

    fn watch_own(&mut self) -> io::Result<()> {
        for target in [Target::Listener, Target::Signals, Target::Pumps] {
            let token = self.number();
            let fd = match target {
                Target::Listener => self.listener.as_fd(),
                Target::Signals => self.signals.as_fd(),
                _ => self.pumps.waker().as_fd(),
            };
            self.poller.add(fd, token, Interest::Read)?;
            self.targets.insert(token, target);
        }
        Ok(())
    }

    fn serve(mut self) -> Result<(), RunError> {
        let mut events = Events::with_capacity(64);
        // Children may have ended before the signals were blocked, or during an upgrade.
        self.reap();
        while !self.stopping {
            let timeout = self.has_deadlines().then_some(TICK);
            self.poller.wait(&mut events, timeout).map_err(RunError::Loop)?;
            for event in events.iter() {
                if let Some(target) = self.targets.get(&event.token).cloned() {
                    self.handle(event, target);
                }
            }
            self.check_deadlines(Instant::now());
            self.flush_all();
        }
        self.flush_all();
        Ok(())
    }

    fn handle(&mut self, event: Event, target: Target) {
        match target {
            Target::Listener => self.accept(),
            Target::Signals => self.take_signals(),
            Target::Pumps => self.take_notes(),
            Target::Connection(id) => self.serve_connection(id, event),
            Target::Report(birth) => self.advance(birth),
            Target::Namespaces(making) => self.advance_namespaces(making),
            Target::Stranger(id) => self.stranger_ended(&id),
            Target::StrangeInit(key) => self.strange_init_ended(&key),
            Target::LeavingInit(client) => self.strange_init_dropped(event.token, client),
        }
    }

    fn take_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            match signal {
                SIGCHLD => self.reap(),
                SIGUSR2 => self.upgrade(),
                _ => self.terminate(),
            }
        }
    }

    /// The first request to end is followed only if nothing runs; the second one always, for the containers
    /// outlive the keeper and whoever asks twice means it.
    fn terminate(&mut self) {
        if self.is_idle() || self.asked_to_stop {
            self.stopping = true;
        } else {
            self.asked_to_stop = true;
            warn("told to end, but containers run; the next such signal ends the keeper without them");
        }
    }

    fn is_idle(&self) -> bool {
        let runs = |process: &Process| process.exit.is_none();
        self.births.is_empty()
            && self.makings.is_empty()
            && self.adoptions.is_empty()
            && self.namespaces.is_empty()
            && !self.processes.values().any(runs)
    }

    fn take_notes(&mut self) {
        for note in self.pumps.notes() {
            self.take_note(note);
        }
    }

    fn take_note(&mut self, note: Note) {
        match note {
            Note::Drained { key } => self.log_complete(key),
            Note::Trouble { key, message } => {
                if let Some(id) = self.id_of(key) {
                    self.emit(&protocol::Event::LogTrouble { id, message });
                }
            }
            Note::Done { ticket, result } => self.pump_done(ticket, result),
            Note::Opened { ticket, result } if self.is_adopting(ticket) => self.adopted(ticket, result),
            Note::Opened { ticket, result } => self.log_opened(ticket, result),
        }
    }

    /// A number that was not used before: token, key, ticket.
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn watch(&mut self, fd: &impl AsFd, target: Target) -> io::Result<u64> {
        let token = self.number();
        self.poller.add(fd.as_fd(), token, Interest::Read)?;
        self.targets.insert(token, target);
        Ok(token)
    }

    fn unwatch(&mut self, fd: &impl AsFd, token: u64) {
        self.poller.remove(fd.as_fd());
        self.targets.remove(&token);
    }
}

fn lock(options: &Options) -> Result<OwnedFd, RunError> {
    let mut path = options.socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let locked = sys::fs::lock_exclusive(&path)
        .map_err(|source| RunError::Setup { operation: format!("lock {}", path.display()), source })?;
    locked.ok_or_else(|| RunError::Busy { socket: options.socket.clone() })
}

/// Says what does not work here but is not needed.
fn degrade<T>(operation: &str, result: io::Result<T>) {
    if let Err(error) = result {
        warn(&format!("cannot {operation}: {error}; going on without"));
    }
}

fn warn(message: &str) {
    journal::say(LogLevel::Warn, message);
}

fn fail_loudly(message: &str) {
    journal::say(LogLevel::Error, message);
}

/// Says what has changed, if anybody wants to know.
fn inform(message: impl FnOnce() -> String) {
    if journal::says(LogLevel::Info) {
        journal::say(LogLevel::Info, &message());
    }
}
