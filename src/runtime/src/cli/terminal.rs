//! Terminals of the command line: the console socket, and a container in the foreground.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use oci::runtime::Spec;
use sys::epoll::{Events, Interest, Poller, Signals};
use sys::socket::Stream;

const SIGWINCH: i32 = 28;
/// Those that mean the container when it runs in the foreground.
const FORWARDED: [i32; 6] = [1, 2, 3, 10, 12, 15];

/// The size a terminal is to have: the specification's, else that of our own.
pub(super) fn wanted_size(spec: &Spec) -> (u16, u16) {
    size_of(spec.process().as_ref().and_then(oci::runtime::Process::console_size))
}

pub(super) fn size_of(wanted: Option<oci::runtime::Box>) -> (u16, u16) {
    match wanted {
        Some(size) if size.width() != 0 && size.height() != 0 => {
            let number = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
            (number(size.width()), number(size.height()))
        }
        _ => sys::pty::size(std::io::stdin().as_fd()).unwrap_or((0, 0)),
    }
}

/// Sends the master of a terminal to whoever listens on a socket.
pub(super) fn hand_over(socket: Option<&Path>, master: OwnedFd) -> Result<()> {
    let path = socket.context("a terminal needs --console-socket")?;
    let stream = Stream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
    stream
        .send(b"/dev/ptmx", &[master.as_fd()])
        .with_context(|| format!("send the terminal to {}", path.display()))?;
    Ok(())
}

/// Waits for a process in the foreground: signals go to it, and with a terminal what is typed and shown
/// passes through. Its exit code.
pub(super) fn attend(process: BorrowedFd<'_>, console: Option<OwnedFd>) -> Result<u8> {
    let mut blocked = FORWARDED.to_vec();
    blocked.push(SIGWINCH);
    let signals = Signals::block(&blocked).context("take signals")?;
    let raw = match &console {
        Some(_) => sys::pty::make_raw(std::io::stdin().as_fd()).ok(),
        None => None,
    };
    let result = attend_raw(process, console.map(File::from), &signals);
    if let Some(saved) = raw {
        // A terminal that is gone needs no restoring.
        let _ = sys::pty::restore(std::io::stdin().as_fd(), &saved);
    }
    result
}

fn attend_raw(process: BorrowedFd<'_>, console: Option<File>, signals: &Signals) -> Result<u8> {
    const PROCESS: u64 = 0;
    const SIGNALS: u64 = 1;
    const CONSOLE: u64 = 2;
    const INPUT: u64 = 3;
    let poller = Poller::new().context("make a poller")?;
    poller.add(process, PROCESS, Interest::Read).context("watch the process")?;
    poller.add(signals.as_fd(), SIGNALS, Interest::Read).context("watch signals")?;
    if let Some(console) = &console {
        poller.add(console.as_fd(), CONSOLE, Interest::Read).context("watch the terminal")?;
        // A regular file cannot be watched; then nothing is typed.
        let _ = poller.add(std::io::stdin().as_fd(), INPUT, Interest::Read);
    }
    let mut events = Events::with_capacity(8);
    loop {
        poller.wait(&mut events, None).context("wait")?;
        let tokens: Vec<u64> = events.iter().map(|event| event.token).collect();
        for token in &tokens {
            match (*token, &console) {
                (SIGNALS, _) => forward(signals, process, console.as_ref()),
                (CONSOLE, Some(console)) if !copy(console, std::io::stdout()) => {
                    poller.remove(console.as_fd())
                }
                (INPUT, Some(console)) if !copy(std::io::stdin(), console) => {
                    poller.remove(std::io::stdin().as_fd());
                }
                _ => {}
            }
        }
        if tokens.contains(&PROCESS) {
            // What it wrote last; others that still hold the terminal are not waited for.
            while let Some(console) = &console {
                poller.wait(&mut events, Some(Duration::ZERO)).context("wait")?;
                if !events.iter().any(|event| event.token == CONSOLE) || !copy(console, std::io::stdout()) {
                    break;
                }
            }
            let status = sys::pidfd::wait_blocking(process).context("wait for the process")?;
            return Ok(u8::try_from(status.code() & 0xff).unwrap_or(u8::MAX));
        }
    }
}

fn forward(signals: &Signals, process: BorrowedFd<'_>, console: Option<&File>) {
    while let Some(signal) = signals.next() {
        match (signal, console) {
            (SIGWINCH, Some(console)) => {
                if let Ok((columns, rows)) = sys::pty::size(std::io::stdin().as_fd()) {
                    let _ = sys::pty::resize(console.as_fd(), columns, rows);
                }
            }
            (SIGWINCH, None) => {}
            // It may just have ended.
            _ => drop(sys::pidfd::signal(process, signal)),
        }
    }
}

/// False at the end.
fn copy(mut from: impl Read, mut to: impl Write) -> bool {
    let mut buffer = [0; 4096];
    match from.read(&mut buffer) {
        Ok(0) | Err(_) => false,
        Ok(length) => to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_ok(),
    }
}
