//! Probing whether a container does its work.
//!
//! A task per run runs the probes and reports them; the supervisor comes to the verdict. Nothing survives the daemon:
//! the next one probes at once.

use std::time::Duration;

use oci::ContainerId;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::supervisor::Supervisor;
use crate::engine::Engine;
use crate::error::ErrorKind;
use crate::happenings::{Action, Subject};
use crate::model::{
    DurablePhase, ExecSyncConfig, Health, HealthConfig, HealthProbe, HealthState, HealthTest,
};

/// Probes that are kept to be looked at.
const KEPT: usize = 5;

/// Bytes of what a probe wrote that are kept.
const OUTPUT_BYTES: usize = 4096;

/// The exit code of a probe that came to none.
const NO_CODE: i32 = -1;

/// Probes of a run, and the verdict so far.
#[derive(Debug)]
pub(super) struct Probing {
    pub(super) health: Health,
    config: HealthConfig,
    started_at_ns: i64,
    reports: mpsc::Receiver<HealthProbe>,
    _ends_with_this: DropGuard,
}

impl Probing {
    /// The next probe that came to its end; for ever if nothing is probed.
    pub(super) async fn next(probing: Option<&mut Self>) -> HealthProbe {
        let next = match probing {
            Some(probing) => probing.reports.recv().await,
            None => None,
        };
        match next {
            Some(probe) => probe,
            None => std::future::pending().await,
        }
    }

    /// Takes a probe in; whether the verdict changed.
    fn take(&mut self, probe: HealthProbe) -> bool {
        let before = self.health.state;
        judge(&mut self.health, &self.config, self.started_at_ns, &probe);
        self.health.log.push(probe);
        if self.health.log.len() > KEPT {
            self.health.log.remove(0);
        }
        self.health.state != before
    }
}

/// A success makes it healthy and begins to count anew; failures count once it was healthy or has had its time to start.
fn judge(health: &mut Health, config: &HealthConfig, started_at_ns: i64, probe: &HealthProbe) {
    if probe.exit_code == 0 {
        (health.state, health.failing_streak) = (HealthState::Healthy, 0);
        return;
    }
    if health.state == HealthState::Starting && is_starting(config, started_at_ns, probe.started_at_ns) {
        return;
    }
    health.failing_streak = health.failing_streak.saturating_add(1);
    if health.failing_streak >= config.retries {
        health.state = HealthState::Unhealthy;
    }
}

fn is_starting(config: &HealthConfig, started_at_ns: i64, at_ns: i64) -> bool {
    let age = Duration::from_nanos(u64::try_from(at_ns.saturating_sub(started_at_ns)).unwrap_or(0));
    age < config.start_period
}

impl Supervisor {
    /// Begins to probe the run that has begun, or that was taken over, if it is to be probed.
    pub(super) fn begin_probing(&mut self, at_once: bool) {
        self.probing = None;
        let (Some(config), Some(run)) = (&self.record.config.health, &self.run) else { return };
        let status = run.status();
        let Some(crate::ContainerState::Running { started_at_ns, .. }) =
            status.containers.first().map(|c| &c.state)
        else {
            return;
        };
        let (sender, reports) = mpsc::channel(KEPT);
        let over = CancellationToken::new();
        let prober = Prober {
            engine: Engine::of(&self.shared),
            id: self.record.id.clone(),
            subject: super::supervisor::subject(&self.record),
            config: config.clone(),
            started_at_ns: *started_at_ns,
        };
        self.shared.tracker.spawn(prober.run(sender, over.clone(), at_once));
        self.probing = Some(Probing {
            health: Health::default(),
            config: config.clone(),
            started_at_ns: *started_at_ns,
            reports,
            _ends_with_this: over.drop_guard(),
        });
    }

    pub(super) fn probed(&mut self, probe: HealthProbe) {
        let Some(probing) = &mut self.probing else { return };
        let changed = probing.take(probe);
        let state = probing.health.state;
        self.publish();
        if changed {
            tracing::info!(?state, "health changed");
            self.tell(Action::Health(state));
        }
    }
}

struct Prober {
    engine: Engine,
    id: ContainerId,
    subject: Subject,
    config: HealthConfig,
    started_at_ns: i64,
}

impl Prober {
    async fn run(self, reports: mpsc::Sender<HealthProbe>, over: CancellationToken, at_once: bool) {
        let shutdown = self.engine.shared().shutdown.clone();
        let mut was_healthy = false;
        let mut wait = if at_once { Duration::ZERO } else { self.interval(was_healthy) };
        loop {
            let probing = async {
                tokio::time::sleep(wait).await;
                if self.is_paused() { None } else { Some(self.probe().await) }
            };
            // A probe that is dropped is killed with all it started.
            let probe = tokio::select! {
                probe = probing => probe,
                () = over.cancelled() => return,
                () = shutdown.cancelled() => return,
            };
            if let Some(probe) = probe {
                was_healthy |= probe.exit_code == 0;
                if reports.send(probe).await.is_err() {
                    return;
                }
            }
            wait = self.interval(was_healthy);
        }
    }

    fn interval(&self, was_healthy: bool) -> Duration {
        let starting = !was_healthy && is_starting(&self.config, self.started_at_ns, sys::fs::now_ns());
        match starting {
            true if !self.config.start_interval.is_zero() => self.config.start_interval,
            _ => self.config.interval,
        }
    }

    /// A frozen container answers nothing.
    fn is_paused(&self) -> bool {
        self.engine.durable(self.id.as_str()).is_ok_and(|status| status.phase == DurablePhase::Paused)
    }

    async fn probe(&self) -> HealthProbe {
        let command = match &self.config.test {
            HealthTest::Exec(command) => command.clone(),
            HealthTest::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
        };
        let line = command.join(" ");
        let exec = crate::exec::new_exec_id().unwrap_or_default();
        self.tell(Action::ExecCreate { exec: exec.clone(), command: line.clone() });
        self.tell(Action::ExecStart { exec: exec.clone(), command: line });
        let started_at_ns = sys::fs::now_ns();
        let timeout = self.config.timeout;
        let config = ExecSyncConfig { command, timeout: Some(timeout), max_output_bytes: OUTPUT_BYTES };
        let (exit_code, output) = match self.engine.exec_sync(&self.id, config).await {
            Ok(output) => {
                let mut bytes = [output.stdout, output.stderr].concat();
                bytes.truncate(OUTPUT_BYTES);
                (output.exit_code, String::from_utf8_lossy(&bytes).into_owned())
            }
            Err(error) if error.kind() == ErrorKind::DeadlineExceeded => {
                (NO_CODE, format!("the probe took longer than {timeout:?} and was killed"))
            }
            Err(error) => (NO_CODE, error.chain()),
        };
        self.tell(Action::ExecDie { exec, exit_code });
        HealthProbe { started_at_ns, ended_at_ns: sys::fs::now_ns(), exit_code, output }
    }

    fn tell(&self, action: Action) {
        self.engine.tell(self.subject.clone(), action);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_probes() {
        let second = Duration::from_secs(1);
        let config = HealthConfig {
            test: HealthTest::Shell("true".into()),
            interval: second,
            timeout: second,
            start_period: 10 * second,
            start_interval: second,
            retries: 2,
        };
        let mut health = Health::default();
        let mut probe = |at_seconds: i64, exit_code: i32| {
            let started_at_ns = at_seconds * 1_000_000_000;
            let probe = HealthProbe { started_at_ns, ended_at_ns: 0, exit_code, output: String::new() };
            judge(&mut health, &config, 0, &probe);
            (health.state, health.failing_streak)
        };
        use HealthState::{Healthy, Starting, Unhealthy};
        assert_eq!(probe(1, 1), (Starting, 0), "it may take its time");
        assert_eq!(probe(2, 0), (Healthy, 0));
        assert_eq!(probe(3, 1), (Healthy, 1), "once it was healthy failures count");
        assert_eq!(probe(4, 1), (Unhealthy, 2));
        assert_eq!(probe(5, 0), (Healthy, 0));
        let mut health = Health::default();
        for (at_seconds, expected) in [(9, Starting), (10, Starting), (11, Unhealthy)] {
            let started_at_ns = at_seconds * 1_000_000_000;
            let probe = HealthProbe { started_at_ns, ended_at_ns: 0, exit_code: -1, output: String::new() };
            judge(&mut health, &config, 0, &probe);
            assert_eq!(health.state, expected, "{at_seconds}");
        }
    }
}
