//! Failpoints: tests make the n-th durable step of this thread fail, as a crash or a full disk would.

use std::io;

#[cfg(test)]
thread_local! {
    static COUNTDOWN: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
}

/// Fails if a test asked for it; otherwise free.
#[cfg(test)]
pub(crate) fn point() -> io::Result<()> {
    COUNTDOWN.with(|countdown| match countdown.get() {
        Some(0) => Err(io::Error::other("injected failure")),
        Some(left) => {
            countdown.set(Some(left - 1));
            Ok(())
        }
        None => Ok(()),
    })
}

/// Fails if a test asked for it; otherwise free.
#[cfg(not(test))]
#[allow(clippy::unnecessary_wraps, reason = "it can fail in tests")]
pub(crate) fn point() -> io::Result<()> {
    Ok(())
}

/// From now on, every step of this thread after the next `steps` fails; `None` ends that.
#[cfg(test)]
pub(crate) fn after(steps: Option<u32>) {
    COUNTDOWN.with(|countdown| countdown.set(steps));
}
