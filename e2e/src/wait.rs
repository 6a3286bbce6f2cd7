//! Waiting for a condition on a value, with a deadline, in place of sleeping.

use std::time::{Duration, Instant};

/// Polls until `probe` yields a value.
///
/// # Panics
///
/// When it has not by the deadline.
#[track_caller]
pub fn wait_for<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Polls until `probe` is true.
///
/// # Panics
///
/// When it is not by the deadline.
#[track_caller]
pub fn wait_until(what: &str, patience: Duration, mut probe: impl FnMut() -> bool) {
    wait_for(what, patience, || probe().then_some(()));
}
