//! Stopping and killing.

use std::os::fd::AsFd;
use std::time::Duration;

use super::supervisor::{Ending, Supervisor};
use super::{DurableProblem, Reply, StopHow, answer};
use crate::error::{Error, Result};
use crate::happenings::Action;
use crate::model::Stopped;
use crate::sandbox::{self, Handle};

const SIGKILL: i32 = 9;

/// How long a container has to end when nobody says.
const GRACE: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Stops it by hand: no policy starts it again. One that does not run is stopped already.
    pub(super) async fn stop(&mut self, how: StopHow, reply: Reply<Stopped>) {
        let Some(run) = self.run.clone() else {
            let was_restarting = self.restart_at.is_some();
            let outcome = self.cancel_restart().await;
            if was_restarting && outcome.is_ok() {
                self.tell(Action::Stop);
            }
            answer(reply, outcome);
            return;
        };
        match self.end_run(&run, how).await {
            Ok(ending) => {
                ending.killed_only = false;
                ending.stops.push(reply);
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    /// Stops it if it runs, and starts it again.
    pub(super) async fn restart(&mut self, how: StopHow, reply: Reply<()>) {
        if self.record.removing.is_some() {
            let problem = DurableProblem::Removing(self.record.id.clone());
            answer(reply, Err(problem.error(format!("restart container {}", self.record.config.name))));
            return;
        }
        let Some(run) = self.run.clone() else {
            let outcome = self.start(true).await;
            if outcome.is_ok() {
                self.tell(Action::Restart);
            }
            answer(reply, outcome);
            return;
        };
        match self.end_run(&run, how).await {
            Ok(ending) => {
                ending.killed_only = false;
                ending.restarts.push(reply);
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    /// Sends a signal. One that is meant to end it is remembered as a stop by hand.
    pub(super) async fn kill(&mut self, signal: i32) -> Result<()> {
        let name = self.record.config.name.clone();
        let what = || format!("kill container {name}");
        let Some(run) = self.run.clone() else {
            if self.restart_at.is_some() {
                return self.cancel_restart().await.map(drop);
            }
            return Err(DurableProblem::NotRunning(self.record.id.clone()).error(what()));
        };
        if signal == SIGKILL || signal == stop_signal(&run) {
            self.note_stop().await?;
            self.ending.get_or_insert_with(|| Ending { killed_only: true, ..Ending::default() });
        }
        let sent = self.send(&run, signal).await;
        sent.map_err(|error| Error::io(what(), error))?;
        self.tell(Action::Kill { signal });
        Ok(())
    }

    /// Tells a run to end, and waits for nothing: its end comes as that of any run.
    pub(super) async fn end_run(&mut self, run: &Handle, how: StopHow) -> Result<&mut Ending> {
        self.note_stop().await?;
        self.thaw_to_end(run).await;
        let grace = how.grace.or(self.record.config.stop_timeout).unwrap_or(GRACE);
        let signal = if grace.is_zero() { SIGKILL } else { how.signal.unwrap_or_else(|| stop_signal(run)) };
        let (reply, _ends_with_the_run) = tokio::sync::oneshot::channel();
        let command =
            sandbox::Command::Stop { id: self.record.id.clone(), signal: Some(signal), grace, reply };
        // A sandbox that is gone has ended, which its status says.
        drop(run.send(command).await);
        if self.ending.as_ref().is_none_or(|ending| ending.killed_only) {
            self.tell(Action::Kill { signal });
        }
        Ok(self.ending.get_or_insert_with(Ending::default))
    }

    /// The intent is on record before the signal: a daemon that ends now must not start it again.
    async fn note_stop(&mut self) -> Result<()> {
        if self.record.manually_stopped {
            return Ok(());
        }
        self.record.manually_stopped = true;
        self.persist().await.inspect_err(|_| self.record.manually_stopped = false)
    }

    /// It does not run; from now on it will not by itself.
    pub(super) async fn cancel_restart(&mut self) -> Result<Stopped> {
        if self.restart_at.take().is_none() {
            return Ok(Stopped::AlreadyStopped);
        }
        self.note_stop().await?;
        self.publish();
        self.waits.down();
        Ok(Stopped::Now)
    }

    async fn send(&mut self, run: &Handle, signal: i32) -> std::io::Result<()> {
        let Some(live) = run.live.get(&self.record.id) else { return Ok(()) };
        if signal == SIGKILL {
            // A frozen process cannot die.
            self.thaw_to_end(run).await;
        }
        match sys::pidfd::signal(live.pidfd.as_fd(), signal) {
            // It ended on its own; its end is on its way.
            Err(error) if error.raw_os_error() == Some(3) => Ok(()),
            other => other,
        }
    }
}

fn stop_signal(run: &Handle) -> i32 {
    run.status().containers.first().map_or(SIGKILL, |container| container.stop_signal)
}
