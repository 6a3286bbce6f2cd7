//! The set of pump threads and the queues between them and the keeper's loop.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sys::epoll::Waker;

use super::file::LogFile;
use super::pump::{Output, Pump};
use crate::protocol::Log;

/// Most pump threads; devices beyond share them.
const MOST_PUMPS: usize = 8;

/// Most log files being opened at a time; more means that a file system hangs.
const MOST_OPENERS: usize = 16;

/// Most requests that wait for one pump; more means that its device hangs.
const MOST_WAITING: usize = 1024;

/// Enough for what a pump calls; the default of 8 MiB is never touched but counts against overcommit.
const STACK_BYTES: usize = 256 * 1024;

/// What a pump is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Take over a container's output.
    Add(Box<Output>),
    /// The process ended: say when the log is complete.
    Exited { key: u64 },
    /// Open the log file anew.
    Reopen { key: u64, ticket: u64 },
    /// Copy output to these as well: stdout, stderr.
    Attach { key: u64, fds: Vec<OwnedFd>, ticket: u64 },
    /// Forget the container.
    Remove { key: u64 },
}

/// What the keeper's loop is told.
#[derive(Debug)]
pub(crate) enum Note {
    /// The log of a process that ended is complete.
    Drained { key: u64 },
    /// Log bytes were lost, or are lost no longer.
    Trouble { key: u64, message: String },
    /// A command was carried out.
    Done { ticket: u64, result: io::Result<()> },
    /// A log file was opened.
    Opened { ticket: u64, result: io::Result<LogFile> },
}

/// Commands on their way to a pump.
#[derive(Debug)]
pub(crate) struct Inbox {
    commands: Mutex<VecDeque<Command>>,
    /// Whether the pump is to return what it holds.
    pub(crate) stop: AtomicBool,
    /// Wakes the pump.
    pub(crate) waker: Waker,
}

impl Inbox {
    /// All commands, oldest first.
    pub(crate) fn take(&self) -> VecDeque<Command> {
        std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a command. Those that come from clients as often as they like are refused when many wait.
    fn put(&self, command: Command) -> Result<(), Busy> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let refusable = matches!(command, Command::Reopen { .. } | Command::Attach { .. });
        if refusable && commands.len() >= MOST_WAITING {
            return Err(Busy);
        }
        commands.push_back(command);
        self.waker.wake();
        Ok(())
    }
}

/// Too many requests wait for a device.
#[derive(Debug, thiserror::Error)]
#[error("the file system of the log does not answer")]
pub(crate) struct Busy;

/// Notes on their way to the keeper's loop.
#[derive(Debug)]
pub(crate) struct Outbox {
    notes: Mutex<Vec<Note>>,
    waker: Waker,
}

impl Outbox {
    /// Adds a note.
    pub(crate) fn put(&self, note: Note) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
        self.waker.wake();
    }
}

/// All pumps.
#[derive(Debug)]
pub(crate) struct Pumps {
    pumps: Vec<Handle>,
    /// Which pump serves a device; 0 is output that is not logged.
    by_device: HashMap<u64, usize>,
    outbox: Arc<Outbox>,
    openers: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Handle {
    inbox: Arc<Inbox>,
    thread: JoinHandle<io::Result<Vec<Output>>>,
}

/// Names a pump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PumpId(usize);

impl Pumps {
    /// No pump yet; `waker` tells the keeper's loop of notes.
    pub(crate) fn new() -> io::Result<Pumps> {
        let outbox = Outbox { notes: Mutex::default(), waker: Waker::new()? };
        Ok(Pumps {
            pumps: Vec::new(),
            by_device: HashMap::new(),
            outbox: Arc::new(outbox),
            openers: Arc::default(),
        })
    }

    /// What wakes the keeper's loop.
    pub(crate) fn waker(&self) -> &Waker {
        &self.outbox.waker
    }

    /// All notes since the last call.
    pub(crate) fn notes(&self) -> Vec<Note> {
        self.outbox.waker.drain();
        std::mem::take(&mut *self.outbox.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a log file on a thread of its own, for that may take as long as the file system likes. The
    /// answer is [`Note::Opened`].
    pub(crate) fn open(&self, log: Log, ticket: u64) -> io::Result<()> {
        if self.openers.fetch_add(1, Ordering::AcqRel) >= MOST_OPENERS {
            self.openers.fetch_sub(1, Ordering::AcqRel);
            return Err(io::Error::other(Busy));
        }
        let (outbox, openers) = (Arc::clone(&self.outbox), Arc::clone(&self.openers));
        let work = move || {
            let result = LogFile::open(log);
            openers.fetch_sub(1, Ordering::AcqRel);
            outbox.put(Note::Opened { ticket, result });
        };
        let builder = std::thread::Builder::new().name("log-open".into()).stack_size(STACK_BYTES);
        let spawned = builder.spawn(work);
        if spawned.is_err() {
            self.openers.fetch_sub(1, Ordering::AcqRel);
        }
        spawned.map(|_| ())
    }

    /// Gives a container's output to the pump of its log's device.
    pub(crate) fn add(&mut self, output: Output) -> io::Result<PumpId> {
        let device = output.file.as_ref().map_or(Ok(0), LogFile::device)?;
        let id = self.pump_for(device)?;
        self.tell(id, Command::Add(Box::new(output))).map_err(io::Error::other)?;
        Ok(id)
    }

    /// Sends a command to a pump.
    pub(crate) fn tell(&self, id: PumpId, command: Command) -> Result<(), Busy> {
        self.pumps.get(id.0).ok_or(Busy)?.inbox.put(command)
    }

    /// Tells all pumps to stop; [`Pumps::collect`] gets what they hold.
    pub(crate) fn stop(&self) {
        for pump in &self.pumps {
            pump.inbox.stop.store(true, Ordering::Release);
            pump.inbox.waker.wake();
        }
    }

    /// Takes [`Pumps::stop`] back. Those that have stopped already are started again with what they held.
    pub(crate) fn go_on(&mut self) {
        for pump in &self.pumps {
            pump.inbox.stop.store(false, Ordering::Release);
        }
        for pump in &mut self.pumps {
            if pump.thread.is_finished()
                && let Ok(thread) = start_pump(&pump.inbox, &self.outbox)
            {
                let stopped = std::mem::replace(&mut pump.thread, thread);
                for output in stopped.join().ok().and_then(Result::ok).unwrap_or_default() {
                    // Add is never refused.
                    let _ = pump.inbox.put(Command::Add(Box::new(output)));
                }
            }
        }
    }

    /// Whether all pumps have stopped.
    pub(crate) fn stopped(&self) -> bool {
        self.pumps.iter().all(|pump| pump.thread.is_finished())
    }

    /// What the stopped pumps held, commands that came too late carried out where that is possible.
    pub(crate) fn collect(&mut self) -> Vec<Output> {
        self.by_device.clear();
        let mut outputs = Vec::new();
        for pump in self.pumps.drain(..) {
            outputs.extend(pump.thread.join().ok().and_then(Result::ok).unwrap_or_default());
            for command in pump.inbox.take() {
                match command {
                    Command::Add(output) => outputs.push(*output),
                    Command::Exited { key } => {
                        outputs
                            .iter_mut()
                            .filter(|output| output.key == key)
                            .for_each(|output| output.exited = true);
                    }
                    Command::Remove { key } => outputs.retain(|output| output.key != key),
                    Command::Reopen { ticket, .. } | Command::Attach { ticket, .. } => {
                        let result = Err(io::Error::other("the keeper is being upgraded; try again"));
                        self.outbox.put(Note::Done { ticket, result });
                    }
                }
            }
        }
        outputs
    }

    fn pump_for(&mut self, device: u64) -> io::Result<PumpId> {
        if let Some(at) = self.by_device.get(&device) {
            return Ok(PumpId(*at));
        }
        let at = if self.pumps.len() < MOST_PUMPS {
            let (commands, stop) = (Mutex::default(), AtomicBool::new(false));
            let inbox = Arc::new(Inbox { commands, stop, waker: Waker::new()? });
            let thread = start_pump(&inbox, &self.outbox)?;
            self.pumps.push(Handle { inbox, thread });
            self.pumps.len() - 1
        } else {
            usize::try_from(device % MOST_PUMPS as u64).unwrap_or(0)
        };
        self.by_device.insert(device, at);
        Ok(PumpId(at))
    }
}

fn start_pump(inbox: &Arc<Inbox>, outbox: &Arc<Outbox>) -> io::Result<JoinHandle<io::Result<Vec<Output>>>> {
    let (inbox, outbox) = (Arc::clone(inbox), Arc::clone(outbox));
    let builder = std::thread::Builder::new().name("log-pump".into()).stack_size(STACK_BYTES);
    builder.spawn(move || Pump::run(inbox, outbox))
}
