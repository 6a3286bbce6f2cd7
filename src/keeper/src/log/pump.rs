//! The thread that moves bytes from pipes to files.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sys::epoll::{Event, Events, Interest, Poller};

use super::file::LogFile;
use super::format::{Channel, Encoder};
use super::pumps::{Command, Inbox, Note, Outbox};
use super::split::Splitter;
use super::taps::Taps;

/// Most bytes taken from a pipe at once.
const READ_BYTES: usize = 256 * 1024;

/// About how many bytes go to the file in one write.
const WRITE_BYTES: usize = 256 * 1024;

/// After a process ended and its bytes are read: how long its pipes must be quiet before its log counts as
/// complete although somebody still holds them open.
const QUIET: Duration = Duration::from_millis(250);

/// And how long at most, if they are never quiet.
const LATEST: Duration = Duration::from_secs(2);

const WAKE: u64 = u64::MAX;
const FIRST_TAP: u64 = 2;

/// One container's output. It is given to a pump, and comes back when the pump is stopped.
#[derive(Debug)]
pub(crate) struct Output {
    /// Names the container to the pump's owner.
    pub(crate) key: u64,
    /// The reading ends; a terminal's master is a stdout.
    pub(crate) sources: Vec<Source>,
    /// Where it goes.
    pub(crate) file: Option<LogFile>,
    /// Copies for attached clients.
    pub(crate) taps: Vec<(Channel, OwnedFd)>,
    /// Whether the process has ended and the owner waits for the end of the log.
    pub(crate) exited: bool,
}

/// The reading end of one channel.
#[derive(Debug)]
pub(crate) struct Source {
    /// Nonblocking.
    pub(crate) fd: OwnedFd,
    /// Which.
    pub(crate) channel: Channel,
    /// The line that has begun.
    pub(crate) splitter: Splitter,
    /// Whether reads have been full and the pipe was made larger.
    pub(crate) grown: bool,
}

/// State of a pump's thread.
pub(crate) struct Pump {
    poller: Poller,
    inbox: Arc<Inbox>,
    outbox: Arc<Outbox>,
    containers: HashMap<u64, Container>,
    /// Containers with a deadline, to be looked at after each wait.
    watched: Vec<u64>,
    buffer: Vec<u8>,
    entries: Vec<u8>,
}

struct Container {
    sources: [Option<Open>; 2],
    file: Option<LogFile>,
    taps: Taps,
    ending: Option<Ending>,
}

struct Open {
    source: Source,
    paused: bool,
}

/// A process has ended; bytes it wrote may still be in its pipes.
struct Ending {
    unread: [u64; 2],
    quiet_at: Instant,
    latest: Instant,
}

impl Pump {
    /// Runs until told to stop; returns everything it holds.
    pub(crate) fn run(inbox: Arc<Inbox>, outbox: Arc<Outbox>) -> std::io::Result<Vec<Output>> {
        let poller = Poller::new()?;
        poller.add(inbox.waker.as_fd(), WAKE, Interest::Read)?;
        let mut pump = Pump {
            poller,
            inbox,
            outbox,
            containers: HashMap::new(),
            watched: Vec::new(),
            buffer: vec![0; READ_BYTES],
            entries: Vec::new(),
        };
        let mut events = Events::with_capacity(64);
        let mut next = None;
        loop {
            let timeout = next.map(|at: Instant| at.saturating_duration_since(Instant::now()));
            pump.poller.wait(&mut events, timeout)?;
            let mut woken = false;
            for event in events.iter() {
                match event.token {
                    WAKE => woken = true,
                    _ => pump.ready(event),
                }
            }
            if woken && pump.obey() {
                return Ok(pump.into_outputs());
            }
            next = pump.expire(Instant::now());
        }
    }

    fn ready(&mut self, event: Event) {
        let (key, part) = (event.token >> 8, event.token & 0xFF);
        if part < FIRST_TAP {
            let channel = if part == 0 { Channel::Stdout } else { Channel::Stderr };
            self.read(key, channel);
        } else if let Some(container) = self.containers.get_mut(&key) {
            let number = u8::try_from(part - FIRST_TAP).unwrap_or(u8::MAX);
            container.taps.ready(&self.poller, number, event.hangup, event.token);
            self.resume(key);
        }
    }

    /// Reads once from a channel and passes the bytes on.
    fn read(&mut self, key: u64, channel: Channel) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(open) = container.sources[channel.index()].as_mut().filter(|open| !open.paused) else {
            return;
        };
        let n = match sys::pipe::read(open.source.fd.as_fd(), &mut self.buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            // A terminal whose last slave closed says EIO; nothing else is expected, and all are final.
            Err(_) => 0,
        };
        if n == 0 {
            return self.end(key, channel);
        }
        let bytes = &self.buffer[..n];
        let trouble = container.log(channel, bytes, &mut self.entries);
        container.taps.copy(&self.poller, channel, bytes, |number| tap_token(key, number));
        container.note_read(channel, n);
        let waits = container.taps.waits(channel);
        if let Some(open) = container.sources[channel.index()].as_mut() {
            grow_pipe(&mut open.source, bytes);
            if waits {
                open.paused = true;
                self.poller.remove(open.source.fd.as_fd());
            }
        }
        if waits && !self.watched.contains(&key) {
            self.watched.push(key);
        }
        if let Some(message) = trouble {
            self.outbox.put(Note::Trouble { key, message });
        }
    }

    /// A channel ended: what is left of its last line is logged and its taps are closed.
    fn end(&mut self, key: u64, channel: Channel) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(mut open) = container.sources[channel.index()].take() else { return };
        self.poller.remove(open.source.fd.as_fd());
        container.taps.end(&self.poller, channel);
        if let Some(file) = &mut container.file {
            let encoder = Encoder::new(file.format(), channel, now_ns());
            open.source.splitter.finish(&encoder, &mut self.entries);
            let trouble = if self.entries.is_empty() { None } else { file.append(&self.entries) };
            self.entries.clear();
            if let Some(message) = trouble {
                self.outbox.put(Note::Trouble { key, message });
            }
        }
        if container.is_drained() && container.ending.take().is_some() {
            self.outbox.put(Note::Drained { key });
        }
    }

    /// Carries out commands; true when one says to stop.
    fn obey(&mut self) -> bool {
        self.inbox.waker.drain();
        for command in self.inbox.take() {
            match command {
                Command::Add(output) => self.add(*output),
                Command::Exited { key } => self.exited(key),
                Command::Reopen { key, ticket } => {
                    let file = self.containers.get_mut(&key).and_then(|container| container.file.as_mut());
                    let result = file.map_or(Ok(()), LogFile::reopen);
                    self.outbox.put(Note::Done { ticket, result });
                }
                Command::Attach { key, fds, ticket } => {
                    let result = self.attach(key, fds);
                    self.outbox.put(Note::Done { ticket, result });
                }
                Command::Remove { key } => self.remove(key),
            }
        }
        self.inbox.stop.load(std::sync::atomic::Ordering::Acquire)
    }

    fn add(&mut self, output: Output) {
        let key = output.key;
        let mut container =
            Container { sources: [None, None], file: output.file, taps: Taps::default(), ending: None };
        for source in output.sources {
            let part = source.channel.index();
            if self.poller.add(source.fd.as_fd(), source_token(key, source.channel), Interest::Read).is_ok() {
                container.sources[part] = Some(Open { source, paused: false });
            }
        }
        for (channel, fd) in output.taps {
            // A tap that does not survive an upgrade is one whose client attaches again.
            let _ = container.taps.add(&self.poller, fd, channel, |number| tap_token(key, number));
        }
        self.containers.insert(key, container);
        if output.exited {
            self.exited(key);
        }
    }

    fn exited(&mut self, key: u64) {
        let Some(container) = self.containers.get_mut(&key) else {
            return self.outbox.put(Note::Drained { key });
        };
        if container.is_drained() {
            return self.outbox.put(Note::Drained { key });
        }
        let unread = container.sources.each_ref().map(|source| {
            let fd = source.as_ref().map(|open| open.source.fd.as_fd());
            fd.and_then(|fd| sys::pipe::readable_bytes(fd).ok()).unwrap_or(0)
        });
        let now = Instant::now();
        container.ending = Some(Ending { unread, quiet_at: now + QUIET, latest: now + LATEST });
        self.watched.push(key);
    }

    fn attach(&mut self, key: u64, fds: Vec<OwnedFd>) -> std::io::Result<()> {
        let Some(container) = self.containers.get_mut(&key) else { return Ok(()) };
        for (fd, channel) in fds.into_iter().zip([Channel::Stdout, Channel::Stderr]) {
            if container.sources[channel.index()].is_some() {
                container.taps.add(&self.poller, fd, channel, |number| tap_token(key, number))?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: u64) {
        for channel in [Channel::Stdout, Channel::Stderr] {
            self.end(key, channel);
        }
        self.containers.remove(&key);
    }

    /// Reads a channel again whose taps have taken their bytes.
    fn resume(&mut self, key: u64) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        for open in container.sources.iter_mut().flatten().filter(|open| open.paused) {
            let channel = open.source.channel;
            if !container.taps.waits(channel) {
                let token = source_token(key, channel);
                open.paused = self.poller.add(open.source.fd.as_fd(), token, Interest::Read).is_err();
            }
        }
    }

    /// Cuts slow taps and reports logs that count as complete; returns when to do it again.
    fn expire(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for key in std::mem::take(&mut self.watched) {
            let Some(container) = self.containers.get_mut(&key) else { continue };
            let tap_at = container.taps.expire(&self.poller, now);
            let end_at = container.ending.as_ref().map(|ending| ending.quiet_at.min(ending.latest));
            let ended = container.ending.as_ref().is_some_and(|ending| ending.is_over(now));
            if ended {
                container.ending = None;
                self.outbox.put(Note::Drained { key });
            }
            self.resume(key);
            // A log that is late only because a tap or the disk holds it up is looked at again in a while.
            let end_at = end_at.filter(|_| !ended).map(|at| at.max(now + Duration::from_millis(10)));
            if let Some(at) = [tap_at, end_at].into_iter().flatten().min() {
                self.watched.push(key);
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        next
    }

    fn into_outputs(self) -> Vec<Output> {
        let output = |(key, container): (u64, Container)| Output {
            key,
            sources: container.sources.into_iter().flatten().map(|open| open.source).collect(),
            file: container.file,
            taps: container.taps.into_fds(),
            exited: container.ending.is_some(),
        };
        self.containers.into_iter().map(output).collect()
    }
}

impl Container {
    /// Writes `bytes` to the log; returns what there is to complain about.
    fn log(&mut self, channel: Channel, bytes: &[u8], entries: &mut Vec<u8>) -> Option<String> {
        let file = self.file.as_mut()?;
        let splitter = &mut self.sources[channel.index()].as_mut()?.source.splitter;
        let encoder = Encoder::new(file.format(), channel, now_ns());
        let (mut left, mut trouble) = (bytes, None);
        while !left.is_empty() {
            let used = splitter.feed(left, &encoder, entries, file.room().min(WRITE_BYTES));
            left = &left[used..];
            if !entries.is_empty() {
                trouble = file.append(entries).or(trouble);
                entries.clear();
            }
        }
        trouble
    }

    fn note_read(&mut self, channel: Channel, bytes: usize) {
        if let Some(ending) = &mut self.ending {
            let unread = &mut ending.unread[channel.index()];
            *unread = unread.saturating_sub(bytes as u64);
            ending.quiet_at = Instant::now() + QUIET;
        }
    }

    fn is_drained(&self) -> bool {
        self.sources.iter().all(Option::is_none)
    }
}

impl Ending {
    fn is_over(&self, now: Instant) -> bool {
        self.unread == [0, 0] && (now >= self.quiet_at || now >= self.latest)
    }
}

/// A pipe that is read full at once by long lines gets more room; short lines do better in a small one, which
/// stays in the processor's cache.
fn grow_pipe(source: &mut Source, bytes: &[u8]) {
    if !source.grown && bytes.len() >= 64 * 1024 {
        source.grown = true;
        let sample = &bytes[..4096];
        if memchr::memchr_iter(b'\n', sample).count() < 64 {
            // The system may allow no more, and a terminal has no such size.
            let _ = sys::pipe::set_capacity(source.fd.as_fd(), READ_BYTES);
        }
    }
}

fn source_token(key: u64, channel: Channel) -> u64 {
    key << 8 | channel.index() as u64
}

fn tap_token(key: u64, number: u8) -> u64 {
    key << 8 | (FIRST_TAP + u64::from(number))
}

fn now_ns() -> i64 {
    sys::fs::now_ns()
}
