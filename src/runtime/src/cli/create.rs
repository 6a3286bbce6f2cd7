//! Creating, starting and running containers.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci::runtime::Spec;
use runtime::{Child, Hold, HookPlan, Host, Progress, Request, Rootfs, SeccompCache, Stdio};
use sys::cgroup::Cgroup;
use sys::process::Report;

use super::arguments::{Create, Run};
use super::record::{self, Record, Root, START_SOCKET};
use super::{hooks, netdevices, terminal};

pub(super) fn create(root: &Root, arguments: &Create) -> Result<()> {
    let made = make(root, arguments, true)?;
    if let Some(master) = made.console {
        terminal::hand_over(arguments.console_socket.as_deref(), master)?;
    }
    Ok(())
}

/// Starts a container that waits.
pub(super) fn start(root: &Root, id: &str) -> Result<()> {
    let record = root.load(id)?;
    let spec = root.spec(id)?;
    record.running()?;
    let directory = File::open(root.directory(id)?).context("open the state of the container")?;
    let report = match Report::connect(directory.as_fd(), START_SOCKET) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("container {id} has been started already")
        }
        other => other.with_context(|| format!("connect to container {id}"))?,
    };
    let socket = root.start_socket(id)?;
    std::fs::remove_file(&socket).with_context(|| format!("remove {}", socket.display()))?;
    runtime::wait_started(&report).with_context(|| format!("start container {id}"))?;
    hooks::after_start(root, &record, &spec);
    Ok(())
}

pub(super) fn run(root: &Root, arguments: &Run) -> Result<u8> {
    let id = &arguments.create.id;
    let made = make(root, &arguments.create, false)?;
    let spec = root.spec(id)?;
    hooks::after_start(root, &made.record, &spec);
    if arguments.detach {
        if let Some(master) = made.console {
            terminal::hand_over(arguments.create.console_socket.as_deref(), master)?;
        }
        return Ok(0);
    }
    let code = terminal::attend(made.child.pidfd.as_fd(), made.console)?;
    if !arguments.keep {
        super::manage::delete(root, id, true)?;
    }
    Ok(code)
}

struct Made {
    child: Child,
    record: Record,
    console: Option<OwnedFd>,
}

/// Creates a container, which then waits or runs. After a failure nothing is left.
fn make(root: &Root, arguments: &Create, hold: bool) -> Result<Made> {
    if arguments.no_pivot {
        bail!("--no-pivot is refused: the host's files would stay reachable");
    }
    let bundle = arguments
        .bundle
        .canonicalize()
        .with_context(|| format!("find the bundle {}", arguments.bundle.display()))?;
    let spec = record::read_new_spec(&bundle.join("config.json"))?;
    let terminal = spec.process().as_ref().and_then(oci::runtime::Process::terminal).unwrap_or(false);
    let detached = hold || arguments.console_socket.is_some();
    if terminal && detached && arguments.console_socket.is_none() {
        bail!("a container with a terminal needs --console-socket");
    }
    let directory = root.reserve(&arguments.id)?;
    let mut workshop = Workshop { root, arguments, bundle, directory, spec, group: None, record: None };
    let result = workshop.make(terminal, hold);
    if result.is_err() {
        workshop.undo();
    }
    result
}

/// The parts of a container that is being created.
struct Workshop<'a> {
    root: &'a Root,
    arguments: &'a Create,
    bundle: PathBuf,
    directory: PathBuf,
    spec: Spec,
    group: Option<Cgroup>,
    record: Option<u32>,
}

impl Workshop<'_> {
    fn make(&mut self, terminal: bool, hold: bool) -> Result<Made> {
        let rootfs = self.rootfs()?;
        let group = self.group()?;
        let directory = File::open(&self.directory).context("open the state of the container")?;
        let listener = hold
            .then(|| sys::process::listen(directory.as_fd(), START_SOCKET))
            .transpose()
            .context("make the socket to start the container by")?;
        let state = sys::memfd::anonymous("state").context("make a file for the state")?;
        let idmaps =
            runtime::prepare_idmaps(&self.spec).context("make user namespaces for idmapped mounts")?;
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let (columns, rows) = terminal::wanted_size(&self.spec);
        let host = Host::detect().context("look at the machine")?;
        let env_bytes = super::exec::home(&self.spec, self.spec.process().as_ref(), &rootfs);
        let keyring = (!self.arguments.no_new_keyring).then(|| Record::keyring_name(&self.arguments.id));
        let request = Request {
            spec: &self.spec,
            bundle: &self.bundle,
            rootfs: Rootfs::Path(&rootfs),
            join: Vec::new(),
            mounts: Vec::new(),
            cgroups: group.dirs(),
            idmaps: idmaps.iter().map(|(index, fd)| (*index, fd.as_fd())).collect(),
            stdio: if terminal {
                Stdio::Terminal { columns, rows }
            } else {
                Stdio::Fds { stdin: stdin.as_fd(), stdout: stdout.as_fd(), stderr: stderr.as_fd() }
            },
            env_bytes: &env_bytes,
            program: None,
            hold: listener.as_ref().map_or(Hold::No, |socket| Hold::UntilConnected(socket.as_fd())),
            preserve_fds: self.arguments.preserve_fds,
            keyring: keyring.as_deref(),
            host: &host,
        };
        let (create_container, start_container) = hooks::inside(&self.spec);
        let hook_plan = HookPlan {
            pause: hooks::any(&self.spec) || netdevices::any(&self.spec),
            create_container,
            start_container,
            state: Some(state.as_fd()),
        };
        let plan = runtime::plan_with_hooks(&request, &hook_plan, &mut SeccompCache::default())
            .context("plan the container")?;
        let mut child = plan.spawn().context("create the container")?;
        self.record = Some(child.pid);
        let record = self.record(&child, rootfs.clone(), &group);
        self.settle(&mut child, &record, &state)?;
        for warning in child.take_warnings() {
            eprintln!("berth-runtime: warning: {warning}");
        }
        self.root.save(&record, &self.spec)?;
        if let Some(path) = &self.arguments.pid_file {
            write_pid(path, child.pid)?;
        }
        let console = child.take_console();
        Ok(Made { child, record, console })
    }

    /// Until the container waits or runs; the hooks on the way.
    fn settle(&self, child: &mut Child, record: &Record, state: &OwnedFd) -> Result<()> {
        loop {
            match child.wait_blocking().context("create the container")? {
                Progress::Waiting => {
                    netdevices::hand_over(&self.spec, child.pid)?;
                    hooks::at_creation(self.root, record, &self.spec, state)?;
                    child.start().context("let the container go on")?;
                }
                Progress::NeedsStart | Progress::Running => return Ok(()),
                Progress::Pending => {}
            }
        }
    }

    fn rootfs(&self) -> Result<PathBuf> {
        let root = self.spec.root().as_ref().context("the specification has no root")?;
        let path = self.bundle.join(root.path());
        if !path.is_dir() {
            bail!("the root file system {} is no directory", path.display());
        }
        Ok(path)
    }

    fn group(&mut self) -> Result<Cgroup> {
        let linux = self.spec.linux().as_ref();
        let path = linux
            .and_then(|linux| linux.cgroups_path().as_ref())
            .map(|path| path.to_string_lossy().into_owned());
        let path = path.filter(|path| !path.is_empty()).unwrap_or_else(|| format!("/{}", self.arguments.id));
        let group = record::layout()?.create(&path).with_context(|| format!("make the cgroup {path}"))?;
        self.group = Some(group.clone());
        if let Some(resources) = linux.and_then(|linux| linux.resources().as_ref()) {
            let mut resources = resources.clone();
            // Without any rule of the specification every device is allowed as it is.
            if let Some(rules) = resources.devices_mut().as_mut().filter(|rules| !rules.is_empty()) {
                rules.extend(runtime::default_device_rules());
            }
            group.apply(&resources).with_context(|| format!("set the limits of the cgroup {path}"))?;
        }
        Ok(group)
    }

    fn record(&self, child: &Child, rootfs: PathBuf, group: &Cgroup) -> Record {
        Record {
            version: 1,
            id: self.arguments.id.clone(),
            bundle: self.bundle.clone(),
            rootfs,
            pid: child.pid,
            start_time: child.start_time,
            created_ns: sys::fs::now_ns(),
            annotations: self.spec.annotations().clone(),
            cgroup: group.path().to_owned(),
            keyring: !self.arguments.no_new_keyring,
        }
    }

    /// Best effort: the caller learns of what failed first.
    fn undo(&mut self) {
        if let Some(pidfd) = self.record.and_then(|pid| sys::pidfd::open(pid).ok()) {
            let _ = sys::pidfd::signal(pidfd.as_fd(), 9);
            let _ = sys::pidfd::wait_blocking(pidfd.as_fd());
        }
        if let Some(group) = &self.group {
            let _ = group.remove();
        }
        let _ = self.root.forget(&self.arguments.id);
    }
}

pub(super) fn write_pid(path: &Path, pid: u32) -> Result<()> {
    sys::fs::write_volatile(path, pid.to_string().as_bytes(), 0o644)
        .with_context(|| format!("write {}", path.display()))
}
