//! A run ended: what is recorded, what is taken down, and what comes next.

use std::time::Duration;

use tokio::time::Instant;

use super::answer;
use super::supervisor::{Ending, Supervisor};
use crate::blocking::Purpose;
use crate::happenings::Action;
use crate::model::{ContainerState, ExitReason, ExitRecord, RestartPolicy, SandboxStatus, Stopped};
use crate::sandbox::{self, Handle};

/// How the container of a run ended, if it has.
pub(super) fn run_exit(status: &SandboxStatus) -> Option<ExitRecord> {
    match &status.containers.first()?.state {
        ContainerState::Exited(exit) => Some(exit.clone()),
        ContainerState::Created | ContainerState::Running { .. } => None,
    }
}

/// Whether a policy starts a container again after this exit.
pub(super) fn wants_again(policy: RestartPolicy, exit_code: i32, restart_count: u32) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { max } => exit_code != 0 && (max == 0 || restart_count < max),
    }
}

/// Whether a policy starts a container that does not run when the daemon starts.
pub(super) fn wants_at_boot(
    policy: RestartPolicy,
    last_exit: Option<&ExitRecord>,
    restart_count: u32,
    manually_stopped: bool,
) -> bool {
    let Some(exit) = last_exit else { return false };
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !manually_stopped,
        RestartPolicy::OnFailure { .. } => !manually_stopped && wants_again(policy, exit.code, restart_count),
    }
}

impl Supervisor {
    /// Its run ended. The exit is on record before the run's sandbox, which has it too, goes away; the run is gone
    /// wholly, ports and all, before anybody is told.
    pub(super) async fn run_ended(&mut self, exit: ExitRecord) {
        let Some(run) = self.run.take() else { return };
        let ending = self.ending.take();
        let code = exit.code;
        let lasted = Duration::from_nanos(
            u64::try_from(exit.finished_at_ns.saturating_sub(exit.started_at_ns)).unwrap_or(0),
        );
        let oom = exit.reason == ExitReason::OomKilled;
        let policy = self.record.config.restart;
        // A container that was told to end by hand is nobody's to start but theirs who told it.
        let again = ending.is_none() && wants_again(policy, code, self.record.restart_count);
        (self.paused, self.probing) = (false, None);
        self.record.run = None;
        self.record.last_exit = Some(exit);
        self.persist_or_warn().await;
        self.take_down(run).await;
        if again {
            self.restart_at = Some(Instant::now() + self.backoff.next(lasted));
        }
        self.publish();
        if oom {
            self.tell(Action::Oom);
        }
        self.tell(Action::Die { exit_code: code });
        tracing::info!(exit_code = code, again, "run ended");
        self.waits.ended(code, again || ending.as_ref().is_some_and(|e| !e.restarts.is_empty()));
        self.after_run(ending, again).await;
    }

    async fn after_run(&mut self, ending: Option<Ending>, again: bool) {
        let Ending { stops, restarts, removes, killed_only } = ending.unwrap_or_default();
        let by_hand = !stops.is_empty() || !restarts.is_empty();
        if by_hand && !killed_only {
            self.tell(Action::Stop);
        }
        for stop in stops {
            answer(stop, Ok(Stopped::Now));
        }
        if !removes.is_empty() || self.record.removing.is_some() {
            let outcome = self.finish_removal().await;
            for remove in removes {
                answer(remove, outcome.clone());
            }
            for restart in restarts {
                answer(restart, Err(super::not_found(self.record.id.as_str())));
            }
            return;
        }
        if !restarts.is_empty() {
            let outcome = self.start(true).await;
            if outcome.is_ok() {
                self.tell(Action::Restart);
            }
            for restart in restarts {
                answer(restart, outcome.clone());
            }
            return;
        }
        if self.record.config.auto_remove && !again {
            drop(self.finish_removal().await);
        }
    }

    /// Takes down the sandbox of a run. What cannot be taken down now is tried again before the next run.
    pub(super) async fn take_down(&mut self, run: Handle) {
        if let Err(error) = remove_sandbox(&run).await {
            tracing::warn!(sandbox = %run.id, error = error.chain(), "a run could not be taken down");
            self.leftovers.push(run);
            return;
        }
        let (shared, id) = (self.shared.clone(), self.record.id.clone());
        let work = move || crate::volumes::unmount_volumes(&shared, &id);
        match self.shared.blocking.run(Purpose::Lifecycle, work).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(error = error.chain(), "a volume stays mounted; the next daemon tries again");
            }
        }
    }

    /// Takes down what is left of earlier runs.
    pub(super) async fn take_down_leftovers(&mut self) {
        for run in std::mem::take(&mut self.leftovers) {
            self.take_down(run).await;
        }
    }
}

async fn remove_sandbox(run: &Handle) -> crate::Result<()> {
    match run.ask(|reply| sandbox::Command::RemoveSandbox { reply }).await {
        // Somebody else removed it.
        Err(error) if error.kind() == crate::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> ExitRecord {
        ExitRecord {
            code,
            reason: ExitReason::Error,
            message: String::new(),
            started_at_ns: 1,
            finished_at_ns: 2,
        }
    }

    #[test]
    fn policies_after_an_exit() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        for (policy, code, count, expected) in [
            (No, 1, 0, false),
            (Always, 0, 9, true),
            (UnlessStopped, 0, 9, true),
            (OnFailure { max: 0 }, 1, 99, true),
            (OnFailure { max: 0 }, 0, 0, false),
            (OnFailure { max: 3 }, 1, 2, true),
            (OnFailure { max: 3 }, 1, 3, false),
        ] {
            assert_eq!(wants_again(policy, code, count), expected, "{policy:?} {code} {count}");
        }
    }

    #[test]
    fn policies_at_boot() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        for (policy, code, stopped, expected) in [
            (No, 255, false, false),
            (Always, 0, true, true),
            (UnlessStopped, 255, false, true),
            (UnlessStopped, 255, true, false),
            (OnFailure { max: 0 }, 255, false, true),
            (OnFailure { max: 0 }, 0, false, false),
            (OnFailure { max: 0 }, 137, true, false),
        ] {
            assert_eq!(wants_at_boot(policy, Some(&exit(code)), 0, stopped), expected, "{policy:?} {code}");
            assert!(!wants_at_boot(policy, None, 0, stopped), "one that never ran is left alone");
        }
    }
}
