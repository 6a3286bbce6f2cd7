//! Starting a container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;

use keeper::protocol::{Log, NamespaceKind, Origin, Reply as KeeperReply, Request, Runtime, Start, Stdio};
use oci::ContainerId;
use oci::runtime::Spec;
use tracing::Instrument;

use super::live::{Example, Keeping, LiveContainer};
use super::prepare;
use super::task::Task;
use crate::blocking::Purpose;
use crate::config::HandlerRuntime;
use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::events::EventKind;
use crate::keeper_link::borrow;
use crate::metrics;
use crate::model::{ContainerState, ExitReason, ExitRecord, MountSource, NamespaceMode};
use crate::record::{ContainerRecord, Phase, SandboxRecord};
use crate::spec::{self, Environment};
use crate::traces::step;

/// What the blocking half of a start needs.
struct Job {
    shared: Arc<Shared>,
    /// The intent, to be written before anything is done.
    record: SandboxRecord,
    sandbox_dir: PathBuf,
    container: ContainerRecord,
    dir: PathBuf,
    sandbox_id: String,
    rootfs: Option<OwnedFd>,
    join: Vec<(NamespaceKind, Joined)>,
    runtime: HandlerRuntime,
    namespaces: Arc<std::collections::BTreeMap<NamespaceKind, OwnedFd>>,
    taps: Vec<Tap>,
}

/// Where a client that was attached before the start gets standard output and standard error.
#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A namespace to join.
enum Joined {
    /// The sandbox' own.
    Sandbox,
    /// That of a process.
    Process(u32),
}

/// What the blocking half of a start made.
struct Ready {
    request: Start,
    fds: Vec<OwnedFd>,
    spec: Spec,
    cgroup: sys::cgroup::Cgroup,
}

impl Task {
    /// Starts a container that was created. A failure leaves it exited, with the reason, and nothing of it
    /// in the kernel.
    pub(super) async fn start(&mut self, id: &ContainerId, taps: Vec<Tap>) -> Result<()> {
        let phase = self.record.phase;
        let container = self.container(id)?;
        match &container.state {
            ContainerState::Created => {}
            ContainerState::Running { .. } => {
                return Err(Error::precondition(format!("container {} runs already", id.short())));
            }
            ContainerState::Exited(_) => {
                return Err(Error::precondition(format!(
                    "container {} has exited; create another one",
                    id.short()
                )));
            }
        }
        if phase != Phase::Ready {
            return Err(Error::precondition("the container's sandbox is not ready"));
        }
        container.start_asked = true;
        self.shared.link.route_container(id, &self.inbox);
        let started = std::time::Instant::now();
        let outcome = self.try_start(id, taps).await;
        self.shared.metrics.container_starts.ended(started, &outcome);
        match outcome {
            Ok(live) => {
                let pid = live.0.pid;
                let start_time = self.started(id, live)?;
                tracing::info!(container = %id, pid, start_time, "container started");
                self.announce(EventKind::Started, Some(id));
                Ok(())
            }
            Err(error) => {
                self.shared.link.unroute(id.as_str());
                self.shared.metrics.container_exits.get(metrics::Exit::StartError).inc();
                self.start_failed(id, &error).await;
                Err(error)
            }
        }
    }

    async fn try_start(&mut self, id: &ContainerId, taps: Vec<Tap>) -> Result<(LiveContainer, u64)> {
        let mut job = self.start_job(id)?;
        job.taps = taps;
        let prepared = self.shared.blocking.run(Purpose::Lifecycle, move || job.run());
        let ready = prepared.instrument(step!("make the cgroup and mounts")).await??;
        let fds = borrow(&ready.fds);
        let env_bytes = ready.request.env_bytes.clone();
        let what = format!("start container {}", id.short());
        let (sandbox, origin) = (ready.request.sandbox.clone(), origin_of(&ready.request));
        let (reply, fds) =
            self.shared.link.call(&what, Request::Start(Box::new(ready.request)), &fds).await?;
        let KeeperReply::Started { pid, start_time, stdin, terminal, stdout, stderr } = reply else {
            return Err(Error::internal("the keeper answered Start with something else"));
        };
        let mut fds = fds.into_iter();
        let pidfd = fds.next().ok_or_else(|| Error::internal("the keeper sent no pidfd"))?;
        let stdin = if stdin { fds.next() } else { None };
        let terminal = if terminal { fds.next() } else { None };
        let stdout = if stdout { fds.next() } else { None };
        let stderr = if stderr { fds.next() } else { None };
        let started_at_ns = sys::fs::now_ns();
        let process = ready
            .spec
            .process()
            .clone()
            .ok_or_else(|| Error::internal("the configuration has no process"))?;
        let live = LiveContainer {
            pid,
            pidfd,
            stdin: Mutex::new(stdin),
            terminal,
            example: Example { process, env_bytes }.into(),
            stats: Mutex::new(ready.cgroup.reader()),
            keeping: Some(Keeping { sandbox, origin, start_time, started_at_ns, stdout, stderr }),
        };
        Ok((live, start_time))
    }

    fn started(&mut self, id: &ContainerId, (live, start_time): (LiveContainer, u64)) -> Result<u64> {
        let container = self.container(id)?;
        container.state =
            ContainerState::Running { pid: live.pid, start_time, started_at_ns: sys::fs::now_ns() };
        self.live.insert(id.clone(), live);
        Ok(start_time)
    }

    async fn start_failed(&mut self, id: &ContainerId, error: &Error) {
        let code = if error.kind() == ErrorKind::InvalidArgument { 127 } else { 128 };
        let now = sys::fs::now_ns();
        if let Ok(container) = self.container(id) {
            container.state = ContainerState::Exited(ExitRecord {
                code,
                reason: ExitReason::StartError,
                message: error.chain(),
                started_at_ns: 0,
                finished_at_ns: now,
            });
        }
        self.remove_cgroup(id).await;
        self.persist_or_warn().await;
        self.announce(EventKind::Stopped, Some(id));
    }

    fn start_job(&mut self, id: &ContainerId) -> Result<Job> {
        let container = self.container(id)?.clone();
        let handler = self.shared.handler(&self.record.config.runtime_handler)?;
        let runtime = handler.runtime.clone();
        let mut join = Vec::new();
        for kind in prepare::join_kinds(&container.config, &self.record.config) {
            let from = match (&container.config.security.pid, kind) {
                (Some(NamespaceMode::Target(target)), NamespaceKind::Pid) => {
                    // A durable container may use the processes of any other, which its owner said.
                    let elsewhere = || {
                        let durable = container.config.durable.is_some();
                        durable.then(|| Engine::of(&self.shared).live_container(target).ok()).flatten()
                    };
                    let live = self.live.get(target).or_else(elsewhere).ok_or_else(|| {
                        Error::precondition(format!(
                            "target container {:?} does not run, or not in this sandbox",
                            target.as_str()
                        ))
                    })?;
                    Joined::Process(live.pid)
                }
                _ => Joined::Sandbox,
            };
            join.push((kind, from));
        }
        Ok(Job {
            shared: Arc::clone(&self.shared),
            record: self.record.clone(),
            sandbox_dir: self.dir.clone(),
            dir: self.container_dir(id),
            sandbox_id: self.record.id.to_string(),
            rootfs: self.rootfs.remove(id),
            join,
            runtime,
            namespaces: self.live.namespaces(),
            taps: Vec::new(),
            container,
        })
    }
}

impl Job {
    /// The intent; then cgroup, mounts, descriptors. Blocks.
    fn run(mut self) -> Result<Ready> {
        self.record.store(&self.sandbox_dir)?;
        let spec_path = self.dir.join("config.json");
        let spec = Spec::load(&spec_path).map_err(|error| {
            Error::caused_by(ErrorKind::Internal, format!("read {}", spec_path.display()), error)
        })?;
        self.make_log_directory()?;
        let cgroup = self.make_cgroup(&spec)?;
        let mut fds = Vec::new();
        let mut request = self.request(&cgroup);
        let image = self.shared.images.stored(&self.container.image_id)?;
        request.env_bytes = Environment::of(&self.container.config, &image.config, "", "").bytes;
        let rootfs = match self.rootfs.take() {
            Some(rootfs) => rootfs,
            None => {
                let user = self.namespaces.get(&NamespaceKind::User);
                prepare::mount_rootfs(&self.shared, &self.container.id, user)?
            }
        };
        match &self.runtime {
            HandlerRuntime::BuiltIn => {
                request.rootfs_fd = Some(push(&mut fds, rootfs));
                for (kind, from) in &self.join {
                    let fd = self.open_namespace(*kind, from)?;
                    request.join.push((*kind, push(&mut fds, fd)));
                }
            }
            HandlerRuntime::External { .. } => self.prepare_external(spec.clone(), &rootfs)?,
        }
        for mount in &self.container.config.mounts {
            let fd = match &mount.source {
                MountSource::Image { sub_path, .. } => self.image_mount(mount, sub_path)?,
                MountSource::Within { directory, sub_path } => {
                    prepare::mount_within(mount, directory, sub_path)?
                }
                MountSource::Host(_) | MountSource::Tmpfs { .. } => continue,
            };
            request.mounts.push((push(&mut fds, fd), mount.destination.clone()));
        }
        for tap in std::mem::take(&mut self.taps) {
            request.taps.push((push(&mut fds, tap.stdout), push(&mut fds, tap.stderr)));
        }
        Ok(Ready { request, fds, spec, cgroup })
    }

    /// The kubelet makes it; other clients leave it to the runtime.
    fn make_log_directory(&self) -> Result<()> {
        let Some(parent) = Path::new(&self.container.log_path).parent().filter(|p| p.is_absolute()) else {
            return Ok(());
        };
        sys::fs::ensure_directories(parent, 0o755)
            .map_err(|error| Error::io(format!("make the log directory {}", parent.display()), error))
    }

    fn make_cgroup(&self, spec: &Spec) -> Result<sys::cgroup::Cgroup> {
        let path = &self.container.cgroup_path;
        let failed = |what: &str, error: sys::cgroup::Error| {
            let kind = if matches!(error, sys::cgroup::Error::Unsupported { .. }) {
                ErrorKind::Unsupported
            } else {
                ErrorKind::Internal
            };
            Error::caused_by(kind, format!("{what} cgroup {path}"), error)
        };
        let cgroup = self.shared.cgroups.create(path).map_err(|error| failed("create", error))?;
        let mut resources = spec::limits(&self.container.config.resources)?;
        let devices =
            spec.linux().as_ref().and_then(|l| l.resources().as_ref()).and_then(|r| r.devices().clone());
        resources.set_devices(devices);
        self.shared.fit(&mut resources);
        if let Err(error) = cgroup.apply(&resources) {
            drop(cgroup.remove());
            return Err(failed("set the limits of", error));
        }
        Ok(cgroup)
    }

    fn request(&self, cgroup: &sys::cgroup::Cgroup) -> Start {
        let config = &self.container.config;
        let runtime = match &self.runtime {
            HandlerRuntime::BuiltIn => Runtime::BuiltIn,
            HandlerRuntime::External { path, root } => {
                Runtime::External { path: path.clone(), root: root.clone(), systemd_cgroup: false }
            }
        };
        let log = (!self.container.log_path.is_empty()).then(|| Log {
            path: self.container.log_path.clone().into(),
            format: config.log.format,
            max_bytes: config.log.max_bytes,
            max_files: config.log.max_files,
        });
        let terminal = config.tty.then(|| config.terminal_size.unwrap_or_default());
        Start {
            id: self.container.id.to_string(),
            sandbox: self.sandbox_id.clone(),
            bundle: self.dir.clone(),
            runtime,
            rootfs_fd: None,
            join: Vec::new(),
            mounts: Vec::new(),
            cgroups: cgroup.dirs(),
            env_bytes: Vec::new(),
            stdio: Stdio { terminal, stdin: config.stdin },
            log,
            taps: Vec::new(),
        }
    }

    fn open_namespace(&self, kind: NamespaceKind, from: &Joined) -> Result<OwnedFd> {
        let failed = |error| Error::io(format!("open the {kind:?} namespace to join"), error);
        match from {
            Joined::Sandbox => {
                let held = self.namespaces.get(&kind).ok_or_else(|| {
                    Error::internal(format!("the sandbox has no {kind:?} namespace of its own"))
                })?;
                held.try_clone().map_err(failed)
            }
            Joined::Process(pid) => sys::ns::open_of(*pid, sys::ns::Kind::Pid).map_err(failed),
        }
    }

    /// Programs that open paths get a mounted root file system and paths of namespaces that hold while this
    /// daemon holds them, which is longer than their `create` takes.
    fn prepare_external(&self, mut spec: Spec, rootfs: &OwnedFd) -> Result<()> {
        let target = self.dir.join("rootfs");
        let failed = |error| Error::io(format!("mount {}", target.display()), error);
        sys::fs::ensure_directory(&target, 0o711).map_err(failed)?;
        sys::mount::attach_at(rootfs.as_fd(), &target).map_err(failed)?;
        use std::os::fd::AsRawFd;
        let pid = std::process::id();
        let path_of = |kind: NamespaceKind| -> Option<PathBuf> {
            self.join.iter().find(|(k, _)| *k == kind).and_then(|(_, from)| match from {
                Joined::Sandbox => {
                    self.namespaces.get(&kind).map(|fd| format!("/proc/{pid}/fd/{}", fd.as_raw_fd()).into())
                }
                Joined::Process(target) => Some(format!("/proc/{target}/ns/pid").into()),
            })
        };
        crate::spec::replace_namespace_paths(&mut spec, &path_of);
        let bytes = serde_json::to_vec(&spec).map_err(spec::bug)?;
        let config = self.dir.join("config.json");
        sys::fs::write_volatile(&config, &bytes, 0o600)
            .map_err(|error| Error::io(format!("write {}", config.display()), error))
    }

    fn image_mount(&self, mount: &crate::model::ContainerMount, sub_path: &str) -> Result<OwnedFd> {
        let image = self.container.mounted_images.get(&mount.destination).ok_or_else(|| {
            Error::internal(format!("no image is recorded for mount {}", mount.destination.display()))
        })?;
        let user = self.namespaces.get(&NamespaceKind::User);
        prepare::view_image(&self.shared, image, mount, sub_path, user)
    }
}

fn origin_of(start: &Start) -> Origin {
    Origin {
        bundle: start.bundle.clone(),
        runtime: start.runtime.clone(),
        cgroups: start.cgroups.clone(),
        log: start.log.clone(),
    }
}

fn push(fds: &mut Vec<OwnedFd>, fd: OwnedFd) -> usize {
    fds.push(fd);
    fds.len() - 1
}
