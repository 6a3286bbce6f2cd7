//! Readiness: epoll, eventfd, signalfd.
//!
//! [`Poller`] is level-triggered. A descriptor must be removed before its last duplicate is closed, which is
//! why [`Poller::remove`] takes the descriptor and not the token.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// What to wait for on a descriptor. Errors and hang-ups are always reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Only errors and hang-ups.
    Hangup,
    /// Data to read.
    Read,
    /// Room to write.
    Write,
    /// Either.
    ReadWrite,
}

impl Interest {
    fn bits(self) -> u32 {
        let bits = match self {
            Interest::Hangup => 0,
            Interest::Read => libc::EPOLLIN | libc::EPOLLRDHUP,
            Interest::Write => libc::EPOLLOUT,
            Interest::ReadWrite => libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLOUT,
        };
        bits.cast_unsigned()
    }
}

/// What happened to a descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// As given to [`Poller::add`].
    pub token: u64,
    /// There is something to read, be it the end of the file.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other end is gone or the descriptor failed.
    pub hangup: bool,
}

/// Buffer for the events of one [`Poller::wait`].
pub struct Events {
    raw: Vec<libc::epoll_event>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Events {
    /// Room for `capacity` events.
    pub fn with_capacity(capacity: usize) -> Events {
        Events { raw: Vec::with_capacity(capacity.max(1)) }
    }

    /// The events of the last wait.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.raw.iter().map(|raw| {
            let bits = raw.events.cast_signed();
            let hangup = bits & (libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLRDHUP) != 0;
            Event {
                token: raw.u64,
                readable: bits & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLRDHUP) != 0,
                writable: bits & libc::EPOLLOUT != 0,
                hangup,
            }
        })
    }
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// A new instance.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller(rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)?))
    }

    /// Watches `fd`, reporting it as `token`.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes what is waited for.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Stops watching `fd`; one that is not watched is fine.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = rustix::event::epoll::delete(&self.0, fd);
    }

    /// Waits for events, at most `timeout`; rounded up to whole milliseconds.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let timeout_ms = match timeout {
            None => -1,
            Some(t) => i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX),
        };
        events.raw.clear();
        let room = i32::try_from(events.raw.capacity()).unwrap_or(i32::MAX);
        // SAFETY: the kernel writes at most `room` entries, which is the capacity of the vector.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.raw.as_mut_ptr(), room, timeout_ms) };
        match usize::try_from(n) {
            // SAFETY: the kernel initialized the first `n` entries, and `n` is at most the capacity.
            Ok(n) => unsafe { events.raw.set_len(n) },
            Err(_) => {
                let error = io::Error::last_os_error();
                // An interrupted wait is one without events: callers recompute their deadlines.
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn control(&self, op: i32, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token };
        // SAFETY: both descriptors are borrowed for the call and `event` outlives it.
        let result = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd.as_raw_fd(), &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Wakes a [`Poller`] of another thread.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// A new eventfd; add it to the poller with [`Interest::Read`].
    pub fn new() -> io::Result<Waker> {
        use rustix::event::EventfdFlags;
        Ok(Waker(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes the descriptor readable. A counter that is full is readable already.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable again; call it before looking at what the wake was about.
    pub fn drain(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Signals delivered through a descriptor.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks `signals` for this thread and the threads it makes from now on, and opens a descriptor that
    /// reports them. Programs started from here inherit the mask unless they are given another.
    pub fn block(signals: &[i32]) -> io::Result<Signals> {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initializes the set it is given.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: the set is initialized and exclusively borrowed.
            if unsafe { libc::sigaddset(&raw mut set, *signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: the set is initialized; the old mask is not asked for.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: -1 asks for a new descriptor, the set is initialized.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else has it.
        Ok(Signals(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal; several of one kind may have been merged into one.
    pub fn next(&self) -> Option<i32> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        let n = rustix::io::read(&self.0, &mut info).ok()?;
        let number = info.get(..4).filter(|_| n == info.len())?;
        i32::try_from(u32::from_ne_bytes(number.try_into().ok()?)).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_is_seen_once() {
        let (poller, waker) = (Poller::new().unwrap(), Waker::new().unwrap());
        let mut events = Events::with_capacity(4);
        poller.add(waker.as_fd(), 7, Interest::Read).unwrap();
        waker.wake();
        waker.wake();
        poller.wait(&mut events, None).unwrap();
        assert_eq!(events.iter().map(|e| (e.token, e.readable)).collect::<Vec<_>>(), [(7, true)]);
        waker.drain();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().count(), 0);
    }

    #[test]
    fn the_end_of_a_pipe_is_readable_and_hung_up() {
        let poller = Poller::new().unwrap();
        let (reader, writer) = crate::pipe::pair().unwrap();
        poller.add(reader.as_fd(), 1, Interest::Read).unwrap();
        drop(writer);
        let mut events = Events::with_capacity(4);
        poller.wait(&mut events, None).unwrap();
        let event = events.iter().next().unwrap();
        assert!(event.readable && event.hangup);
        poller.remove(reader.as_fd());
        poller.remove(reader.as_fd());
    }

    #[test]
    fn signals_arrive_through_the_descriptor() {
        std::thread::spawn(|| {
            let signals = Signals::block(&[libc::SIGUSR1]).unwrap();
            assert_eq!(signals.next(), None);
            // SAFETY: raises a signal that this thread has blocked.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
            assert_eq!(signals.next(), Some(libc::SIGUSR1));
        })
        .join()
        .unwrap();
    }
}
