//! Pseudo-terminals.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// A new terminal of the host's devpts: master and slave.
pub fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

/// Tells a terminal its size; the foreground process group gets SIGWINCH if it changed.
pub fn resize(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// The size of a terminal: columns and rows.
pub fn size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(terminal)?;
    Ok((size.ws_col, size.ws_row))
}

/// The state of a terminal, to be put back.
#[derive(Debug, Clone)]
pub struct Saved(rustix::termios::Termios);

/// Switches a terminal to raw mode and returns what it was.
pub fn make_raw(terminal: BorrowedFd<'_>) -> io::Result<Saved> {
    let saved = rustix::termios::tcgetattr(terminal)?;
    let mut raw = saved.clone();
    raw.make_raw();
    rustix::termios::tcsetattr(terminal, rustix::termios::OptionalActions::Now, &raw)?;
    Ok(Saved(saved))
}

/// Puts back what [`make_raw`] changed.
pub fn restore(terminal: BorrowedFd<'_>, saved: &Saved) -> io::Result<()> {
    Ok(rustix::termios::tcsetattr(terminal, rustix::termios::OptionalActions::Now, &saved.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_size_set_on_one_end_is_seen_on_the_other() {
        let (master, slave) = open().unwrap();
        resize(master.as_fd(), 132, 43).unwrap();
        assert_eq!(size(slave.as_fd()).unwrap(), (132, 43));
        let saved = make_raw(slave.as_fd()).unwrap();
        restore(slave.as_fd(), &saved).unwrap();
    }
}
