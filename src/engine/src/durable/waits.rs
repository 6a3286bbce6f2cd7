//! Waiting for a container's end: registered at once, so that no end is lost between asking and waiting.

use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::model::{WaitFor, WaitOutcome};

/// A wait that is registered: what happens from here on is not missed.
#[derive(Debug)]
pub struct WaitExit(oneshot::Receiver<WaitOutcome>);

impl WaitExit {
    /// Waits. The engine ending while it waits is an error in the outcome.
    pub async fn outcome(self) -> WaitOutcome {
        self.0.await.unwrap_or_else(|_| WaitOutcome {
            code: -1,
            error: Some("the daemon ended while the container was waited for; wait again".into()),
        })
    }
}

impl std::future::IntoFuture for WaitExit {
    type Output = WaitOutcome;
    type IntoFuture = std::pin::Pin<Box<dyn Future<Output = WaitOutcome> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.outcome())
    }
}

/// Who waits for a container.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whether it runs, or is about to run again.
    up: bool,
    last_code: i32,
    removed: Option<WaitOutcome>,
    waiters: Vec<(WaitFor, oneshot::Sender<WaitOutcome>)>,
}

impl State {
    fn answer(&mut self, outcome: &WaitOutcome, whom: impl Fn(WaitFor) -> bool) {
        for (until, waiter) in std::mem::take(&mut self.waiters) {
            if whom(until) {
                // Whoever waited may have gone.
                drop(waiter.send(outcome.clone()));
            } else if !waiter.is_closed() {
                self.waiters.push((until, waiter));
            }
        }
    }
}

impl Waits {
    pub(crate) fn wait(&self, until: WaitFor) -> WaitExit {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        let done = match (&state.removed, until) {
            (Some(outcome), _) => Some(outcome.clone()),
            (None, WaitFor::NotRunning) if !state.up => {
                Some(WaitOutcome { code: state.last_code, error: None })
            }
            (None, WaitFor::NotRunning | WaitFor::NextExit | WaitFor::Removed) => None,
        };
        match done {
            Some(outcome) => drop(sender.send(outcome)),
            None => state.waiters.push((until, sender)),
        }
        WaitExit(receiver)
    }

    /// It runs, or is about to run again.
    pub(crate) fn up(&self) {
        self.lock().up = true;
    }

    /// What it was when the daemon started.
    pub(crate) fn was(&self, code: i32) {
        self.lock().last_code = code;
    }

    /// A run ended; `up` says whether another one follows.
    pub(crate) fn ended(&self, code: i32, up: bool) {
        let mut state = self.lock();
        (state.up, state.last_code) = (up, code);
        state.answer(&WaitOutcome { code, error: None }, |until| until != WaitFor::Removed);
    }

    /// It will not run again by itself.
    pub(crate) fn down(&self) {
        let mut state = self.lock();
        state.up = false;
        let outcome = WaitOutcome { code: state.last_code, error: None };
        state.answer(&outcome, |until| until == WaitFor::NotRunning);
    }

    /// It could not be started, and is not tried again.
    pub(crate) fn start_failed(&self, code: i32) {
        self.lock().last_code = code;
        self.down();
    }

    /// It is gone.
    pub(crate) fn removed(&self) {
        let mut state = self.lock();
        let outcome = WaitOutcome { code: state.last_code, error: None };
        state.removed = Some(outcome.clone());
        state.answer(&outcome, |_| true);
    }

    /// It should have gone, and has not.
    pub(crate) fn not_removed(&self, why: String) {
        let mut state = self.lock();
        let outcome = WaitOutcome { code: state.last_code, error: Some(why) };
        state.answer(&outcome, |until| until == WaitFor::Removed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(wait: &mut WaitExit) -> Option<i32> {
        wait.0.try_recv().ok().map(|outcome| outcome.code)
    }

    #[test]
    fn each_condition_has_its_moment() {
        let waits = Waits::default();
        let mut created = waits.wait(WaitFor::NotRunning);
        assert_eq!(code(&mut created), Some(0), "what never ran does not run");
        let mut next = waits.wait(WaitFor::NextExit);
        let mut removed = waits.wait(WaitFor::Removed);
        waits.up();
        let mut stopped = waits.wait(WaitFor::NotRunning);
        assert_eq!((code(&mut next), code(&mut stopped)), (None, None));
        waits.ended(3, true);
        assert_eq!((code(&mut next), code(&mut stopped), code(&mut removed)), (Some(3), Some(3), None));
        let mut again = waits.wait(WaitFor::NotRunning);
        assert_eq!(code(&mut again), None, "it is about to run again");
        waits.down();
        assert_eq!(code(&mut again), Some(3));
        waits.removed();
        assert_eq!(code(&mut removed), Some(3));
        assert_eq!(code(&mut waits.wait(WaitFor::NextExit)), Some(3), "what is gone never ends again");
    }

    #[tokio::test]
    async fn the_end_of_the_daemon_is_no_exit() {
        let waits = Waits::default();
        let wait = waits.wait(WaitFor::NextExit);
        drop(waits);
        assert!(wait.await.error.is_some());
    }
}
