//! Copies of a container's output for clients that are attached.
//!
//! A tap that does not take its bytes at once is given [`PATIENCE`] to take some; meanwhile its container's
//! stream is not read. Then it is closed, which its client sees as the end of the stream.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use sys::epoll::{Interest, Poller};

use super::format::Channel;

/// How long a tap may take nothing before it is cut.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Most taps of one container.
pub(crate) const MOST: usize = 128;

/// A descriptor that gets a copy of one channel.
#[derive(Debug)]
struct Tap {
    fd: OwnedFd,
    channel: Channel,
    number: u8,
    waiting: Vec<u8>,
    since: Instant,
}

/// The taps of one container.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    taps: Vec<Tap>,
}

impl Taps {
    /// Adds a tap; `token_of` makes the poller's token from the tap's number.
    pub(crate) fn add(
        &mut self,
        poller: &Poller,
        fd: OwnedFd,
        channel: Channel,
        token_of: impl Fn(u8) -> u64,
    ) -> io::Result<()> {
        let used = |number: &u8| self.taps.iter().any(|tap| tap.number == *number);
        let free = (0..u8::try_from(MOST).unwrap_or(u8::MAX)).find(|number| !used(number));
        let number = free.ok_or_else(|| io::Error::other(format!("{MOST} clients are attached already")))?;
        sys::pipe::set_nonblocking(fd.as_fd(), true)?;
        poller.add(fd.as_fd(), token_of(number), Interest::Hangup)?;
        self.taps.push(Tap { fd, channel, number, waiting: Vec::new(), since: Instant::now() });
        Ok(())
    }

    /// Copies `bytes` to the taps of `channel`. Afterwards [`Taps::waits`] may be true.
    pub(crate) fn copy(
        &mut self,
        poller: &Poller,
        channel: Channel,
        bytes: &[u8],
        token_of: impl Fn(u8) -> u64,
    ) {
        self.taps.retain_mut(|tap| {
            if tap.channel != channel {
                return true;
            }
            let Some(written) = write_some(tap, bytes) else { return cut(poller, tap) };
            if written == bytes.len() {
                return true;
            }
            tap.waiting = bytes[written..].to_vec();
            tap.since = Instant::now();
            poller.modify(tap.fd.as_fd(), token_of(tap.number), Interest::Write).is_ok()
        });
    }

    /// Whether a tap of `channel` has not taken its bytes yet.
    pub(crate) fn waits(&self, channel: Channel) -> bool {
        self.taps.iter().any(|tap| tap.channel == channel && !tap.waiting.is_empty())
    }

    /// A tap became writable or its other end closed.
    pub(crate) fn ready(&mut self, poller: &Poller, number: u8, hangup: bool, token: u64) {
        self.taps.retain_mut(|tap| {
            if tap.number != number {
                return true;
            }
            let waiting = std::mem::take(&mut tap.waiting);
            let written = if hangup { None } else { write_some(tap, &waiting) };
            let Some(written) = written else { return cut(poller, tap) };
            if written > 0 {
                tap.since = Instant::now();
            }
            tap.waiting = waiting[written..].to_vec();
            let interest = if tap.waiting.is_empty() { Interest::Hangup } else { Interest::Write };
            poller.modify(tap.fd.as_fd(), token, interest).is_ok()
        });
    }

    /// Cuts the taps that have run out of patience; returns when to look again.
    pub(crate) fn expire(&mut self, poller: &Poller, now: Instant) -> Option<Instant> {
        self.taps.retain_mut(|tap| tap.waiting.is_empty() || now < tap.since + PATIENCE || cut(poller, tap));
        self.taps.iter().filter(|tap| !tap.waiting.is_empty()).map(|tap| tap.since + PATIENCE).min()
    }

    /// The channel ended: closes its taps.
    pub(crate) fn end(&mut self, poller: &Poller, channel: Channel) {
        self.taps.retain_mut(|tap| tap.channel != channel || cut(poller, tap));
    }

    /// Takes all descriptors out, for the keeper's next incarnation.
    pub(crate) fn into_fds(self) -> Vec<(Channel, OwnedFd)> {
        self.taps.into_iter().map(|tap| (tap.channel, tap.fd)).collect()
    }
}

fn cut(poller: &Poller, tap: &Tap) -> bool {
    poller.remove(tap.fd.as_fd());
    false
}

/// Writes what goes without waiting; `None` when the other end is gone.
fn write_some(tap: &Tap, bytes: &[u8]) -> Option<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match sys::pipe::write(tap.fd.as_fd(), &bytes[done..]) {
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return None,
        }
    }
    Some(done)
}
