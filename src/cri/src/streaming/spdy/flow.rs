//! Windows: how much may be sent, and how much was consumed and may be granted again.
//!
//! The Go implementation that the kubelet and crictl use knows no windows: it neither grants nor
//! respects any. So ours bind only once the peer has granted something, which shows that it counts;
//! and what it sends beyond our windows is held back by not reading (see `connection`).

use std::collections::{BTreeMap, HashMap};

use super::frame::MAX_WINDOW;

/// What both sides start with, per stream and for the session.
const INITIAL_WINDOW: u32 = 64 * 1024;
/// Grants smaller than this wait for more.
const GRANT_BYTES: u32 = INITIAL_WINDOW / 2;
/// The session's id in window updates.
const SESSION: u32 = 0;

/// What we may send.
#[derive(Debug)]
pub(super) struct SendWindows {
    enforced: bool,
    initial: i64,
    session: i64,
    streams: HashMap<u32, i64>,
}

impl SendWindows {
    pub(super) fn new() -> Self {
        let initial = i64::from(INITIAL_WINDOW);
        Self { enforced: false, initial, session: initial, streams: HashMap::new() }
    }

    pub(super) fn open(&mut self, stream: u32) {
        self.streams.insert(stream, self.initial);
    }

    pub(super) fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// Takes up to `want` bytes; 0 means that the window is used up.
    pub(super) fn take(&mut self, stream: u32, want: usize) -> usize {
        let Some(window) = self.streams.get_mut(&stream) else { return want };
        let take = if self.enforced {
            let room = (*window).min(self.session).max(0);
            want.min(usize::try_from(room).unwrap_or(usize::MAX))
        } else {
            want
        };
        let taken = i64::try_from(take).unwrap_or(i64::MAX);
        *window -= taken;
        self.session -= taken;
        take
    }

    /// The peer grants bytes. False: more than a window can hold, which ends the connection.
    pub(super) fn grant(&mut self, stream: u32, delta: u32) -> bool {
        self.enforced = true;
        let window = match stream {
            SESSION => &mut self.session,
            _ => match self.streams.get_mut(&stream) {
                Some(window) => window,
                // The stream may have ended while the grant was on its way.
                None => return true,
            },
        };
        *window += i64::from(delta);
        *window <= i64::from(MAX_WINDOW)
    }

    /// The peer changes the initial window, of open streams too.
    pub(super) fn set_initial(&mut self, bytes: u32) {
        let change = i64::from(bytes) - self.initial;
        self.initial += change;
        self.streams.values_mut().for_each(|window| *window += change);
    }
}

/// What the peer may send again.
#[derive(Debug, Default)]
pub(super) struct Grants(BTreeMap<u32, u32>);

impl Grants {
    /// Bytes were consumed; `None`: of a stream that is over. True: there is a grant to send.
    pub(super) fn consumed(&mut self, stream: Option<u32>, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(MAX_WINDOW);
        let mut due = false;
        for id in stream.into_iter().chain([SESSION]) {
            let pending = self.0.entry(id).or_default();
            *pending = pending.saturating_add(bytes).min(MAX_WINDOW);
            due |= *pending >= GRANT_BYTES;
        }
        due
    }

    pub(super) fn close(&mut self, stream: u32) {
        self.0.remove(&stream);
    }

    /// Takes the grants that are due, as (stream, bytes).
    pub(super) fn take_due(&mut self) -> Vec<(u32, u32)> {
        let due: Vec<_> = self.0.iter().filter(|(_, b)| **b >= GRANT_BYTES).map(|(s, b)| (*s, *b)).collect();
        self.0.retain(|_, bytes| *bytes < GRANT_BYTES);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_bind_only_once_the_peer_grants() {
        let mut windows = SendWindows::new();
        windows.open(1);
        assert_eq!(windows.take(1, 100_000), 100_000);
        assert!(windows.grant(1, 1000));
        assert_eq!(windows.take(1, 10), 0, "still in debt");
        assert!(windows.grant(1, 40_000) && windows.grant(SESSION, 34_474));
        assert_eq!(windows.take(1, 10), 10, "the session has 10 bytes");
        assert_eq!(windows.take(1, 10), 0);
    }

    #[test]
    fn windows_do_not_overflow() {
        let mut windows = SendWindows::new();
        windows.open(1);
        assert!(!windows.grant(1, MAX_WINDOW));
        assert!(windows.grant(77, MAX_WINDOW), "unknown streams are ignored");
    }

    #[test]
    fn settings_change_open_streams() {
        let mut windows = SendWindows::new();
        windows.open(1);
        windows.set_initial(10);
        windows.grant(SESSION, 0);
        assert_eq!(windows.take(1, 100), 10);
        windows.set_initial(5);
        assert_eq!(windows.take(1, 100), 0);
    }

    #[test]
    fn grants_are_collected() {
        let mut grants = Grants::default();
        assert!(!grants.consumed(Some(1), 20_000));
        assert!(grants.consumed(Some(3), 20_000), "the session's sum is due");
        assert_eq!(grants.take_due(), [(SESSION, 40_000)]);
        assert!(grants.consumed(Some(1), 20_000));
        assert_eq!(grants.take_due(), [(1, 40_000)]);
    }
}
