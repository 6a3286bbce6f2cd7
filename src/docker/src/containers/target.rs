//! The container that a client's text stands for: one of Docker's own kind, or one of a pod.

use std::sync::Arc;

use engine::{
    ContainerState, ContainerStatus, DurablePhase, DurableProblem, DurableStatus, ErrorKind, HealthState,
    SandboxStatus,
};
use oci::ContainerId;

use crate::app::App;
use crate::http::{ApiError, Result};
use crate::text;

/// A container.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// One that was made here.
    Own(Arc<DurableStatus>),
    /// One of a pod, which Kubernetes looks after.
    Pod(Arc<SandboxStatus>, Box<ContainerStatus>),
}

/// Finds a container by id, unambiguous beginning of an id, or name.
pub(super) fn find(app: &App, reference: &str) -> Result<Target> {
    match app.engine.durable(reference) {
        Ok(status) => return Ok(Target::Own(status)),
        Err(error) if !matches!(error.cause(), Some(DurableProblem::NotFound(_))) => return Err(error.into()),
        Err(_) => {}
    }
    let name = reference.trim_start_matches('/');
    if let Some(target) = pods(app).into_iter().find(|target| target.name() == name) {
        return Ok(target);
    }
    match app.engine.container_status(reference) {
        Ok(status) => match app.engine.sandbox_status(status.sandbox.as_str()) {
            Ok(sandbox) => Ok(Target::Pod(sandbox, Box::new(status))),
            Err(_) => Err(ApiError::no_container(reference)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Err(ApiError::no_container(reference)),
        Err(error) => Err(error.into()),
    }
}

/// A container of Docker's own kind; those of pods are refused with what would have been done to them.
pub(crate) fn own(app: &App, reference: &str, what: &str) -> Result<Arc<DurableStatus>> {
    match find(app, reference)? {
        Target::Own(status) => Ok(status),
        Target::Pod(_, container) => Err(ApiError::new(
            http::StatusCode::FORBIDDEN,
            format!(
                "cannot {what} container {}: it belongs to a pod, which Kubernetes looks after (kubectl)",
                container.id.short()
            ),
        )),
    }
}

/// All containers.
pub(super) fn all(app: &App) -> Vec<Target> {
    let mut all: Vec<Target> = app.engine.durables().into_iter().map(Target::Own).collect();
    all.extend(pods(app));
    all
}

/// Containers of pods.
fn pods(app: &App) -> Vec<Target> {
    let sandboxes = app.engine.sandboxes();
    let of_pods = sandboxes.into_iter().filter(|sandbox| sandbox.config.durable.is_none());
    of_pods
        .flat_map(|sandbox| {
            let containers = sandbox.containers.clone();
            containers.into_iter().map(move |one| Target::Pod(Arc::clone(&sandbox), Box::new(one)))
        })
        .collect()
}

impl Target {
    pub(crate) fn id(&self) -> &ContainerId {
        match self {
            Self::Own(status) => &status.id,
            Self::Pod(_, status) => &status.id,
        }
    }

    /// Its name; that of a pod's container tells its pod, as kubelets used to name them.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Own(status) => status.name.clone(),
            Self::Pod(sandbox, status) => {
                let (pod, key) = (&sandbox.config.metadata, &status.config.key);
                format!("k8s_{}_{}_{}_{}_{}", key.name, pod.name, pod.namespace, pod.uid, key.attempt)
            }
        }
    }

    pub(crate) fn created_at_ns(&self) -> i64 {
        match self {
            Self::Own(status) => status.created_at_ns,
            Self::Pod(_, status) => status.created_at_ns,
        }
    }

    pub(crate) fn image_id(&self) -> &oci::Digest {
        match self {
            Self::Own(status) => &status.image_id,
            Self::Pod(_, status) => &status.image_id,
        }
    }

    /// The image as the user wrote it.
    pub(crate) fn image(&self) -> &str {
        let config = self.config();
        if config.user_image.is_empty() { &config.image } else { &config.user_image }
    }

    pub(crate) fn config(&self) -> &engine::ContainerConfig {
        match self {
            Self::Own(status) => &status.config.container,
            Self::Pod(_, status) => &status.config,
        }
    }

    /// Its state in one word.
    pub(crate) fn state(&self) -> &'static str {
        match self {
            Self::Own(status) => match status.phase {
                DurablePhase::Created => "created",
                DurablePhase::Running => "running",
                DurablePhase::Paused => "paused",
                DurablePhase::Restarting => "restarting",
                DurablePhase::Exited => "exited",
                DurablePhase::Removing => "removing",
                DurablePhase::Dead => "dead",
            },
            Self::Pod(_, status) => match status.state {
                ContainerState::Created => "created",
                ContainerState::Running { .. } => "running",
                ContainerState::Exited(_) => "exited",
            },
        }
    }

    /// Whether it has processes.
    pub(crate) fn is_running(&self) -> bool {
        match self {
            Self::Own(status) => status.is_running() || status.phase == DurablePhase::Restarting,
            Self::Pod(_, status) => matches!(status.state, ContainerState::Running { .. }),
        }
    }

    /// Pid of its first process and when that was started, if it runs.
    pub(crate) fn process(&self) -> Option<(u32, i64)> {
        match self {
            Self::Own(status) => status.run.as_ref().map(|run| (run.pid, run.started_at_ns)),
            Self::Pod(_, status) => match status.state {
                ContainerState::Running { pid, started_at_ns, .. } => Some((pid, started_at_ns)),
                ContainerState::Created | ContainerState::Exited(_) => None,
            },
        }
    }

    /// How it ended last.
    pub(crate) fn exit(&self) -> Option<&engine::ExitRecord> {
        match self {
            Self::Own(status) => status.last_exit.as_ref(),
            Self::Pod(_, status) => match &status.state {
                ContainerState::Exited(exit) => Some(exit),
                ContainerState::Created | ContainerState::Running { .. } => None,
            },
        }
    }

    /// What probes of its health say, in one word.
    pub(crate) fn health(&self) -> Option<&'static str> {
        match self {
            Self::Own(status) => status.health.as_ref().map(|health| match health.state {
                HealthState::Starting => "starting",
                HealthState::Healthy => "healthy",
                HealthState::Unhealthy => "unhealthy",
            }),
            Self::Pod(..) => None,
        }
    }

    /// Its state in the words of a list.
    pub(crate) fn status_text(&self, now_ns: i64) -> String {
        let since = |at_ns: i64| text::human_duration(now_ns - at_ns);
        let code = self.exit().map_or(0, |exit| exit.code);
        let finished = self.exit().map_or(0, |exit| exit.finished_at_ns);
        match self.state() {
            "running" => {
                let up = format!("Up {}", since(self.process().map_or(now_ns, |(_, at)| at)));
                match self.health() {
                    Some("starting") => format!("{up} (health: starting)"),
                    Some(health) => format!("{up} ({health})"),
                    None => up,
                }
            }
            "paused" => format!("Up {} (Paused)", since(self.process().map_or(now_ns, |(_, at)| at))),
            "restarting" => format!("Restarting ({code}) {} ago", since(finished)),
            "exited" if finished == 0 => "Created".to_owned(),
            "exited" => format!("Exited ({code}) {} ago", since(finished)),
            "removing" => "Removal In Progress".to_owned(),
            "dead" => "Dead".to_owned(),
            _ => "Created".to_owned(),
        }
    }

    /// Attachments to networks.
    pub(crate) fn endpoints(&self) -> &[engine::EndpointStatus] {
        match self {
            Self::Own(status) => status.run.as_ref().map_or(&[], |run| &run.endpoints),
            Self::Pod(sandbox, _) => &sandbox.endpoints,
        }
    }

    /// Ports that are published.
    pub(crate) fn bound_ports(&self) -> Vec<engine::BoundPort> {
        match self {
            Self::Own(status) => status.run.as_ref().map(|run| run.bound_ports.clone()).unwrap_or_default(),
            Self::Pod(sandbox, _) => {
                let of_pod = sandbox.config.ports.iter().filter(|port| port.host_port != 0);
                of_pod
                    .map(|port| engine::BoundPort {
                        container_port: port.container_port,
                        protocol: port.protocol,
                        host_ip: port.host_ip.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()),
                        host_port: port.host_port,
                    })
                    .collect()
            }
        }
    }
}
