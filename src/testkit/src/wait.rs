//! Waiting for a condition on a value, with a deadline, in place of sleeping.

use std::time::{Duration, Instant};

/// Polls until `probe` yields a value. Panics with `what` after `deadline`.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Polls until `probe` is true. Panics with `what` after `deadline`.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut probe: impl FnMut() -> bool) {
    wait_for(what, deadline, || probe().then_some(()));
}
