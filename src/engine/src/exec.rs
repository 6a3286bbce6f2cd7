//! Exec, attach and port forwarding. None of them asks the sandbox' task: they use what is alive.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keeper::protocol::{Exec, Exit, NamespaceKind, Reply as KeeperReply, Request};
use oci::runtime::Spec;
use oci::{ContainerId, SandboxId};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::blocking::Purpose;
use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::keeper_link::borrow;
use crate::metrics::{ExecKind, Outcome, Within};
use crate::model::{ExecConfig, ExecOutput, ExecSyncConfig};
use crate::sandbox::{Example, LiveContainer};
use crate::sessions::{AttachSession, ExecSession, Streams, Terminal};
use crate::spec::{self, Environment};

/// After the process of a synchronous exec ended, its output may be held open by a child it left behind;
/// silence for this long ends the wait for it.
const DRAIN_SILENCE: Duration = Duration::from_secs(2);

/// Ends what an exec session started, and frees what the keeper holds of it.
#[derive(Debug)]
pub(crate) struct Cleanup {
    shared: Arc<Shared>,
    id: String,
    /// The cgroup its processes are in, below the container's.
    cgroup: Option<PathBuf>,
    ended: bool,
    exit: Option<oneshot::Receiver<Exit>>,
    /// Counts it among those that run.
    active: Option<Within>,
    /// Whether the session is killed when its owner gives up.
    kill_when_dropped: bool,
}

impl Cleanup {
    /// Waits for the first process; what it leaves behind lives on, as it would under any shell. `None` says
    /// that the keeper went away.
    pub(crate) async fn wait(&mut self) -> Option<Exit> {
        let exit = self.exit.as_mut()?.await.ok();
        self.ended = true;
        exit
    }

    /// Kills every process of the session.
    pub(crate) fn kill(&self) {
        if let Some(cgroup) = self.cgroup.clone() {
            self.shared.tracker.spawn_blocking(move || {
                if let Err(error) = sys::cgroup::kill_directory(&cgroup) {
                    tracing::warn!(%error, "processes of an exec session could not be killed");
                }
            });
        }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let (shared, id, cgroup) = (Arc::clone(&self.shared), self.id.clone(), self.cgroup.take());
        let kill = self.kill_when_dropped && !self.ended;
        let running = self.exit.take().filter(|_| !self.ended);
        let active = self.active.take();
        let tracker = shared.tracker.clone();
        tracker.spawn(async move {
            if kill && let Some(cgroup) = cgroup.clone() {
                let killed = shared.blocking.run(Purpose::Lifecycle, move || sys::cgroup::kill_directory(&cgroup)).await;
                if let Ok(Err(error)) = killed {
                    tracing::warn!(exec = %id, %error, "processes of an abandoned exec session could not be killed");
                }
            }
            // The keeper holds a session while it runs; the daemon's end must not keep its own from ending.
            if let Some(exit) = running {
                tokio::select! {
                    // Whether it ended or the keeper went away: there is nothing more to wait for.
                    _ = exit => {}
                    () = shared.shutdown.cancelled() => return,
                }
            }
            drop(active);
            let request = Request::Release { id: id.clone() };
            if let Err(error) = shared.link.call("release an exec session", request, &[]).await {
                tracing::debug!(exec = %id, error = error.chain(), "the keeper could not release an exec session");
            }
            if let Some(cgroup) = cgroup {
                // Not empty means that something the session left behind still runs: it goes with the container.
                let _ = shared.blocking.run(Purpose::Lifecycle, move || std::fs::remove_dir(&cgroup)).await;
            }
        });
    }
}

impl Engine {
    /// Starts a process in a container and returns its streams.
    pub async fn exec(&self, container: &ContainerId, config: ExecConfig) -> Result<ExecSession> {
        let live = self.live_container(container)?;
        let (theirs, streams) =
            if config.tty { (Vec::new(), Streams::default()) } else { pipes(config.stdin)? };
        let id = new_exec_id()?;
        let mut session =
            self.counted_exec(ExecKind::Stream, &live, theirs, id, (container, &config)).await?;
        if !config.tty {
            session.streams = streams;
        }
        Ok(session)
    }

    /// Starts a process in a container under an id that was given out before; `attach` is false when nobody wants its
    /// streams.
    pub(crate) async fn exec_as(
        &self,
        id: String,
        container: &ContainerId,
        config: &ExecConfig,
        attach: bool,
    ) -> Result<ExecSession> {
        let live = self.live_container(container)?;
        let (theirs, streams) = match (config.tty, attach) {
            (true, _) => (Vec::new(), Streams::default()),
            (false, true) => pipes(config.stdin)?,
            (false, false) => (nulls()?, Streams::default()),
        };
        let mut session = self.counted_exec(ExecKind::Stream, &live, theirs, id, (container, config)).await?;
        if !config.tty {
            session.streams = streams;
        }
        Ok(session)
    }

    /// Runs a process in a container to its end. When the time is over everything it started is killed.
    pub async fn exec_sync(&self, container: &ContainerId, config: ExecSyncConfig) -> Result<ExecOutput> {
        let asked = ExecConfig { command: config.command.clone(), ..ExecConfig::default() };
        let live = self.live_container(container)?;
        let (theirs, streams) = pipes(false)?;
        let id = new_exec_id()?;
        let mut session = self.counted_exec(ExecKind::Sync, &live, theirs, id, (container, &asked)).await?;
        session.streams = streams;
        // Nobody can ever see what a command goes on to do once its client is gone.
        session.cleanup.kill_when_dropped = true;
        let limit = config.max_output_bytes;
        let stdout = collect(session.streams.stdout.take(), limit);
        let stderr = collect(session.streams.stderr.take(), limit);
        let outcome = {
            let run = run_to_end(&mut session, stdout, stderr);
            match config.timeout {
                Some(timeout) => tokio::time::timeout(timeout, run).await,
                None => Ok(run.await),
            }
        };
        match outcome {
            Ok(outcome) => outcome,
            Err(_) => {
                session.kill();
                // Bounded: SIGKILL was sent; what does not die of it is in the kernel.
                drop(tokio::time::timeout(Duration::from_secs(5), session.wait()).await);
                let text = format!(
                    "command {:?} timed out after {:?} and was killed",
                    config.command.join(" "),
                    config.timeout.unwrap_or_default()
                );
                Err(Error::new(ErrorKind::DeadlineExceeded, text))
            }
        }
    }

    async fn counted_exec(
        &self,
        kind: ExecKind,
        live: &LiveContainer,
        theirs: Vec<OwnedFd>,
        id: String,
        what: (&ContainerId, &ExecConfig),
    ) -> Result<ExecSession> {
        let started = self.run_exec(live, theirs, id, what).await;
        self.shared().metrics.exec_sessions.get((kind, Outcome::of(&started))).inc();
        started
    }

    async fn run_exec(
        &self,
        live: &LiveContainer,
        theirs: Vec<OwnedFd>,
        id: String,
        (container, config): (&ContainerId, &ExecConfig),
    ) -> Result<ExecSession> {
        let shared = self.shared();
        let user = match config.user.as_str() {
            "" => None,
            text => Some(self.exec_user(live, text).await?),
        };
        let example = self.example(container, live).await?;
        let process = spec::exec_process(&example.process, config, user.as_ref(), None)?;
        let process = serde_json::to_value(&process).map_err(spec::bug)?;
        let (cgroups, own) = self.exec_cgroups(container, &id).await?;
        let mut cleanup = Cleanup {
            shared: Arc::clone(shared),
            id: id.clone(),
            cgroup: own,
            // Until it runs there is nothing to wait for.
            ended: true,
            exit: None,
            active: None,
            kill_when_dropped: false,
        };
        let exit = shared.link.route_exec(&id);
        let request = Request::Exec(Box::new(Exec {
            id: id.clone(),
            container: container.to_string(),
            process,
            env_bytes: example.env_bytes.clone(),
            terminal: config.tty.then(|| config.size.unwrap_or_default()),
            cgroups,
        }));
        let what = format!("execute {:?} in container {}", config.command[0], container.short());
        let started = std::time::Instant::now();
        let called = shared.link.call(&what, request, &borrow(&theirs)).await;
        if called.is_err() {
            shared.link.unroute(&id);
        }
        let (reply, fds) = called?;
        shared.metrics.exec_start_seconds.observe(started.elapsed().as_secs_f64());
        cleanup.active = Some(Within::enter(&shared.metrics.exec_active));
        cleanup.exit = Some(exit);
        cleanup.ended = false;
        let KeeperReply::Started { pid, terminal, stdin, .. } = reply else {
            return Err(Error::internal("the keeper answered Exec with something else"));
        };
        let mut fds = fds.into_iter().skip(1 + usize::from(stdin));
        let mut streams = Streams::default();
        if terminal && let Some(master) = fds.next() {
            streams.terminal = Some(Terminal::new(master)?);
        }
        Ok(ExecSession { id, pid, streams, cleanup })
    }

    /// What sessions in a container are made like.
    async fn example<'a>(&self, container: &ContainerId, live: &'a LiveContainer) -> Result<&'a Example> {
        if let Some(known) = live.example.get() {
            return Ok(known);
        }
        let status = self.container_status(container.as_str())?;
        let shared = Arc::clone(self.shared());
        let work = move || {
            let bundle = shared.sandbox_dir(&status.sandbox).join("containers").join(&status.id);
            let path = bundle.join("config.json");
            let failed = || format!("read {}", path.display());
            let spec =
                Spec::load(&path).map_err(|error| Error::caused_by(ErrorKind::Internal, failed(), error))?;
            let process =
                spec.process().clone().ok_or_else(|| Error::internal("the configuration has no process"))?;
            let image = shared.images.stored(&status.image_id)?;
            let env_bytes = Environment::of(&status.config, &image.config, "", "").bytes;
            Ok::<_, Error>(Example { process, env_bytes })
        };
        let read = self.shared().blocking.run(Purpose::Lifecycle, work).await??;
        Ok(live.example.get_or_init(|| read))
    }

    async fn exec_user(&self, live: &LiveContainer, text: &str) -> Result<crate::model::ResolvedUser> {
        let (pid, text) = (live.pid, text.to_owned());
        let work = move || {
            let root = std::fs::File::open(format!("/proc/{pid}/root"))
                .map_err(|error| Error::io("open the container's root", error))?;
            crate::user::resolve_exec(root.as_fd(), &text)
        };
        Ok(self.shared().blocking.run(Purpose::Lifecycle, work).await??.user)
    }

    /// A cgroup of the session's own, in one hierarchy: enough to kill all it starts, and cheap.
    async fn exec_cgroups(
        &self,
        container: &ContainerId,
        id: &str,
    ) -> Result<(Vec<PathBuf>, Option<PathBuf>)> {
        let status = self.container_status(container.as_str())?;
        let shared = self.shared().clone();
        let name = format!("exec-{}", &id[..16]);
        let work = move || -> Result<(Vec<PathBuf>, Option<PathBuf>)> {
            let failed = |error| Error::caused_by(ErrorKind::Internal, "find the container's cgroup", error);
            let cgroup = shared.cgroups.open(&status.cgroup_path).map_err(failed)?;
            let mut dirs = cgroup.dirs();
            let Some(index) = kill_hierarchy(&dirs, cgroup.unified_dir()) else { return Ok((dirs, None)) };
            let own = dirs[index].join(&name);
            std::fs::create_dir(&own)
                .map_err(|error| Error::io(format!("make cgroup {}", own.display()), error))?;
            dirs[index].clone_from(&own);
            Ok((dirs, Some(own)))
        };
        self.shared().blocking.run(Purpose::Lifecycle, work).await?
    }

    /// Connects to a container's streams: output from now on, and its standard input.
    pub async fn attach(&self, container: &ContainerId, stdin: bool) -> Result<AttachSession> {
        let live = self.live_container(container)?;
        let (stdout_theirs, stdout) = output_pipe()?;
        let (stderr_theirs, stderr) = output_pipe()?;
        let request = Request::Attach { id: container.to_string() };
        let what = format!("attach to container {}", container.short());
        self.shared().link.call(&what, request, &[stdout_theirs.as_fd(), stderr_theirs.as_fd()]).await?;
        let failed = |error| Error::io("duplicate a container's stream", error);
        let terminal = live.terminal.as_ref().map(OwnedFd::try_clone).transpose().map_err(failed)?;
        let mut streams = Streams { stdout: Some(stdout), ..Streams::default() };
        match &terminal {
            Some(master) if stdin => {
                streams.terminal = Some(Terminal::new(master.try_clone().map_err(failed)?)?);
            }
            Some(_) => {}
            None => {
                streams.stderr = Some(stderr);
                if stdin {
                    streams.stdin = stdin_of(&live)?;
                }
            }
        }
        Ok(AttachSession { streams, tty: live.terminal.is_some(), terminal })
    }

    /// Closes a container's standard input: the client that attached with it has gone.
    pub async fn close_stdin(&self, container: &ContainerId) -> Result<()> {
        let live = self.live_container(container)?;
        drop(live.stdin.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let request = Request::CloseStdin { id: container.to_string() };
        self.shared().link.call("close a container's standard input", request, &[]).await?;
        Ok(())
    }

    /// Connects to a port of a sandbox' loopback interface, IPv4 first.
    pub async fn port_forward(&self, sandbox: &SandboxId, port: u16) -> Result<tokio::net::TcpStream> {
        let handle = self.sandbox(sandbox.as_str())?;
        if handle.status().state != crate::SandboxState::Ready {
            return Err(Error::precondition(format!("sandbox {} is not ready", sandbox.short())));
        }
        let namespaces = handle.live.namespaces();
        let deadline = listening_deadline(&handle.status());
        let work = move || {
            let connect = || connect_local(port, deadline);
            match namespaces.get(&NamespaceKind::Net) {
                Some(netns) => sys::ns::in_netns(netns.as_fd(), connect).and_then(|r| r),
                None => connect(),
            }
        };
        let failed = |error| {
            Error::caused_by(
                ErrorKind::Unavailable,
                format!("connect to port {port} in sandbox {}", sandbox.short()),
                error,
            )
        };
        let stream = self.shared().blocking.run(Purpose::Reading, work).await?.map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        tokio::net::TcpStream::from_std(stream).map_err(failed)
    }
}

/// Which of a container's cgroup directories gets one below it for an exec session: that of the unified
/// hierarchy, where killing is one write; without it that of the pids controller, whose limit holds for
/// children, too.
fn kill_hierarchy(dirs: &[PathBuf], unified: Option<&std::path::Path>) -> Option<usize> {
    let pids = |dir: &PathBuf| dir.components().any(|c| c.as_os_str() == "pids");
    match unified {
        Some(unified) => dirs.iter().position(|dir| dir == unified),
        None => dirs.iter().position(pids),
    }
}

/// How long a container that was just started may take to listen before a refused connection is final:
/// clients forward ports as soon as the start returned, and give up a session at the first refusal.
const LISTEN_PATIENCE: Duration = Duration::from_secs(2);

/// When the youngest container of a sandbox has had its time to listen.
fn listening_deadline(status: &crate::SandboxStatus) -> std::time::Instant {
    let youngest = status.containers.iter().filter_map(|container| match container.state {
        crate::ContainerState::Running { started_at_ns, .. } => Some(started_at_ns),
        crate::ContainerState::Created | crate::ContainerState::Exited(_) => None,
    });
    let age_ns = youngest.max().map_or(i64::MAX, |started| sys::fs::now_ns().saturating_sub(started));
    let age = Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0));
    std::time::Instant::now() + LISTEN_PATIENCE.saturating_sub(age)
}

fn connect_local(port: u16, deadline: std::time::Instant) -> std::io::Result<std::net::TcpStream> {
    let timeout = Duration::from_secs(10);
    let v4 = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let v6 = std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    loop {
        let connected = std::net::TcpStream::connect_timeout(&v4, timeout)
            .or_else(|error| std::net::TcpStream::connect_timeout(&v6, timeout).map_err(|_| error));
        match connected {
            Err(error)
                if error.kind() == std::io::ErrorKind::ConnectionRefused
                    && std::time::Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

pub(crate) fn stdin_of(live: &LiveContainer) -> Result<Option<pipe::Sender>> {
    let stdin = live.stdin.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(fd) = stdin.as_ref() else { return Ok(None) };
    let failed = |error| Error::io("open the container's standard input", error);
    let fd = fd.try_clone().map_err(failed)?;
    sys::stream::set_nonblocking(&fd, true).map_err(failed)?;
    pipe::Sender::from_owned_fd(fd).map(Some).map_err(failed)
}

pub(crate) fn new_exec_id() -> Result<String> {
    let random = sys::fs::random_bytes().map_err(|error| Error::io("make an exec id", error))?;
    Ok(oci::ExecId::from_random(random).to_string())
}

/// Streams of a process that nobody listens to.
fn nulls() -> Result<Vec<OwnedFd>> {
    let failed = |error| Error::io("open /dev/null", error);
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed)?;
    let null = OwnedFd::from(null);
    Ok(vec![null.try_clone().map_err(failed)?, null.try_clone().map_err(failed)?, null])
}

/// Three descriptors for the process and our ends of them.
fn pipes(stdin: bool) -> Result<(Vec<OwnedFd>, Streams)> {
    let (stdout_theirs, stdout) = output_pipe()?;
    let (stderr_theirs, stderr) = output_pipe()?;
    let failed = |error| Error::io("make a pipe", error);
    let (stdin_theirs, stdin) = if stdin {
        let (sender, receiver) = pipe::pipe().map_err(failed)?;
        (receiver.into_blocking_fd().map_err(failed)?, Some(sender))
    } else {
        let null = std::fs::File::open("/dev/null").map_err(|error| Error::io("open /dev/null", error))?;
        (OwnedFd::from(null), None)
    };
    let streams = Streams { stdin, stdout: Some(stdout), stderr: Some(stderr), terminal: None };
    Ok((vec![stdin_theirs, stdout_theirs, stderr_theirs], streams))
}

pub(crate) fn output_pipe() -> Result<(OwnedFd, pipe::Receiver)> {
    let failed = |error| Error::io("make a pipe", error);
    let (sender, receiver) = pipe::pipe().map_err(failed)?;
    Ok((sender.into_blocking_fd().map_err(failed)?, receiver))
}

/// Reads a stream to its end, keeping the first `limit` bytes, on a task of its own so that neither stream
/// waits for the other. The task ends with the pipe.
fn collect(stream: Option<pipe::Receiver>, limit: usize) -> Collector {
    let shared = Arc::new(std::sync::Mutex::new(Collected::default()));
    let (done, ended) = tokio::sync::watch::channel(0_u64);
    let Some(mut stream) = stream else { return Collector { shared, progress: ended, task: None } };
    let kept = Arc::clone(&shared);
    let task = async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    let mut kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let room = limit.saturating_sub(kept.bytes.len()).min(count);
                    kept.bytes.extend_from_slice(&buffer[..room]);
                    drop(kept);
                    done.send_modify(|n| *n += 1);
                }
            }
        }
    };
    // The collector owns its task: dropping it aborts the task.
    #[allow(clippy::disallowed_methods, reason = "aborted when its owner is dropped, so it needs no tracker")]
    let task = tokio::spawn(task);
    Collector { shared, progress: ended, task: Some(task) }
}

#[derive(Debug, Default)]
struct Collected {
    bytes: Vec<u8>,
}

struct Collector {
    shared: Arc<std::sync::Mutex<Collected>>,
    progress: tokio::sync::watch::Receiver<u64>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Collector {
    /// Waits for the end of the stream, or for silence.
    async fn finish(mut self) -> Vec<u8> {
        // `changed` fails when the task dropped its sender: end of stream.
        while let Ok(Ok(())) = tokio::time::timeout(DRAIN_SILENCE, self.progress.changed()).await {}
        std::mem::take(&mut self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner).bytes)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn run_to_end(session: &mut ExecSession, stdout: Collector, stderr: Collector) -> Result<ExecOutput> {
    let exit_code = session.wait().await?;
    let (stdout, stderr) = tokio::join!(stdout.finish(), stderr.finish());
    Ok(ExecOutput { stdout, stderr, exit_code })
}
