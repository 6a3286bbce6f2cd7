//! Mirrors and retries: which endpoint to try next, and when.
//!
//! All endpoints are tried in order; after a round in which at least one failed in a way that may pass, there
//! is a pause and another round with those. An endpoint that answered is not asked again.

use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Fault};
use crate::transport::Remote;

const FIRST_BACKOFF: Duration = Duration::from_millis(200);

/// The tries of one operation.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    remotes: &'a [Remote],
    state: Vec<State>,
    position: usize,
    round: u32,
    retries: u32,
    max_backoff: Duration,
}

#[derive(Debug, Clone)]
enum State {
    Open,
    /// Failed in this round; may be tried in the next.
    Failed(Fault),
    /// Failed for good.
    Closed(Fault),
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(remotes: &'a [Remote], config: &Config) -> Self {
        Self {
            remotes,
            state: vec![State::Open; remotes.len()],
            position: 0,
            round: 0,
            retries: config.retries,
            max_backoff: config.max_backoff,
        }
    }

    /// The endpoint to try now, after a pause if one is due. `Err` when there is none left: what to report.
    pub(crate) async fn next(&mut self) -> Result<&'a Remote, (Fault, String)> {
        loop {
            while let Some(remote) = self.remotes.get(self.position) {
                if !matches!(self.state[self.position], State::Closed(_)) {
                    return Ok(remote);
                }
                self.position += 1;
            }
            let Some(pause) = self.pause() else { return Err(self.verdict()) };
            tokio::time::sleep(pause).await;
            self.round += 1;
            self.position = 0;
        }
    }

    /// The endpoint given out last failed.
    pub(crate) fn failed(&mut self, fault: Fault) {
        if let (Some(state), Some(remote)) =
            (self.state.get_mut(self.position), self.remotes.get(self.position))
        {
            tracing::debug!(
                host = %remote.endpoint.host, kind = ?fault.kind, reason = %fault.detail, "registry request failed"
            );
            *state = if fault.is_transient() { State::Failed(fault) } else { State::Closed(fault) };
        }
        self.position += 1;
    }

    /// The endpoint given out last failed, but not before it was of use: try it again, without counting.
    pub(crate) fn broke_off(&mut self, fault: Fault) {
        self.round = 0;
        let may_go_on = fault.is_transient();
        let position = self.position;
        self.failed(fault);
        if may_go_on {
            self.position = position;
            self.round = 1;
        }
    }

    /// How long to wait before the next round; `None`: there is none.
    fn pause(&self) -> Option<Duration> {
        let waits = self.state.iter().filter_map(|state| match state {
            State::Failed(fault) => Some(fault.retry_after),
            State::Open | State::Closed(_) => None,
        });
        // The round starts when the first of them is ready; `min` puts those without a wish first.
        let wish = waits.min()?;
        if self.round >= self.retries {
            return None;
        }
        let backoff = FIRST_BACKOFF.saturating_mul(1 << self.round.min(16)).min(self.max_backoff);
        let backoff = backoff.mul_f64(jitter());
        match wish {
            Some(wish) if wish > self.max_backoff => None,
            Some(wish) => Some(backoff.max(wish)),
            None => Some(backoff),
        }
    }

    /// The registry's own answer counts most; what mirrors said is added.
    fn verdict(&self) -> (Fault, String) {
        let mut faults: Vec<(&Remote, &Fault)> = Vec::new();
        for (remote, state) in self.remotes.iter().zip(&self.state) {
            if let State::Failed(fault) | State::Closed(fault) = state {
                faults.push((remote, fault));
            }
        }
        let main = faults.iter().rposition(|(remote, _)| remote.endpoint.is_origin);
        let Some(main) = main.or(faults.len().checked_sub(1)) else {
            let detail = "no configured host has the capability this needs";
            return (Fault::new(ErrorKind::Config, detail), String::new());
        };
        let (remote, fault) = faults.remove(main);
        let mut fault = fault.clone();
        if !faults.is_empty() {
            let others =
                faults.iter().map(|(remote, fault)| format!("{}: {}", remote.endpoint.host, fault.detail));
            fault.detail = format!("{} (also tried {})", fault.detail, others.collect::<Vec<_>>().join("; "));
        }
        (fault, remote.endpoint.host.clone())
    }
}

/// Names the operation and its object in what [`Attempts::next`] reports.
pub(crate) fn named(
    operation: &str,
    object: impl std::fmt::Display,
) -> impl FnOnce((Fault, String)) -> Error {
    move |(fault, host)| fault.during(operation, object, host)
}

/// A factor between 0.5 and 1, so that many clients do not come back at once.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    0.5 + f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX) / 2.0
}
