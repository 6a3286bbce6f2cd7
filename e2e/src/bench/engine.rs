//! An engine under measurement: how to start it, reach it, know its processes and stop it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1 as cri;

use super::machine;
use super::peers;
use super::turn::Place;
use crate::client::Client;
use crate::lab::Lab;
use crate::process::Process;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Berth, release build.
    Berth,
    /// containerd with Debian's runc.
    ContainerdRunc,
    /// containerd with Debian's crun.
    ContainerdCrun,
    /// CRI-O with Debian's crun.
    CrioCrun,
}

impl Kind {
    /// Everyone, ourselves first.
    pub const ALL: [Kind; 4] = [Kind::Berth, Kind::ContainerdRunc, Kind::ContainerdCrun, Kind::CrioCrun];

    /// Its name in plans, files and the table.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Berth => "berth",
            Kind::ContainerdRunc => "containerd-runc",
            Kind::ContainerdCrun => "containerd-crun",
            Kind::CrioCrun => "crio-crun",
        }
    }

    /// The kind of a name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Names of its own processes, as the kernel cuts them; containers' programs have others.
    fn processes(self) -> &'static [&'static str] {
        match self {
            Kind::Berth => &["berth", "berth-keeper"],
            Kind::ContainerdRunc | Kind::ContainerdCrun => &["containerd", "containerd-shim", "pause"],
            Kind::CrioCrun => &["crio", "conmon", "pause"],
        }
    }

    /// Its programs on disk.
    pub(super) fn programs(self) -> Result<Vec<PathBuf>> {
        Ok(match self {
            Kind::Berth => vec![Lab::binary("berth")?, Lab::binary("berth-keeper")?],
            Kind::ContainerdRunc => {
                vec![Lab::tool("containerd")?, Lab::tool("containerd-shim-runc-v2")?, peers::runtime("runc")?]
            }
            Kind::ContainerdCrun => {
                vec![Lab::tool("containerd")?, Lab::tool("containerd-shim-runc-v2")?, peers::runtime("crun")?]
            }
            Kind::CrioCrun => vec![Lab::tool("crio")?, peers::runtime("conmon")?, peers::runtime("crun")?],
        })
    }
}

/// A running engine; dropping it ends its processes and removes what it keeps for a boot.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    dir: PathBuf,
    state: PathBuf,
    socket: PathBuf,
    daemon: Process,
    /// Berth's second process.
    _keeper: Option<Process>,
    /// Connected to the daemon, without a thread of its own.
    pub(super) client: Client,
}

impl Engine {
    /// Starts an engine that pulls from the registry at `registry`. It finds the images of earlier turns.
    pub(super) fn start(kind: Kind, place: &Place, registry: &str) -> Result<Engine> {
        let dir = place.engine(kind);
        // Empty in each turn: `hack/isolate` mounts a new file system there.
        let state = PathBuf::from("/run/berth").join(kind.name());
        for made in [&dir, &state, &dir.join("net.d"), &dir.join("logs")] {
            std::fs::create_dir_all(made).with_context(|| format!("create {}", made.display()))?;
        }
        std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .context("set the state's mode")?;
        for host in crate::MIRRORED_HOSTS {
            crate::write_mirror(&dir.join("certs.d"), host, &format!("http://{registry}"))?;
        }
        std::fs::write(dir.join("net.d/10-bench.conflist"), CONFLIST).context("write the conflist")?;
        let socket = state.join("cri.sock");
        let keeper = match kind {
            Kind::Berth => Some(start_keeper(&dir, &state)?),
            _ => None,
        };
        write_configuration(kind, &dir, &state, &socket)?;
        let daemon = start_daemon(kind, &dir, &state, &socket)?;
        let client = Client::connect_single_threaded(&socket)?;
        let mut engine = Engine { kind, dir, state, socket, daemon, _keeper: keeper, client };
        engine.wait_ready()?;
        Ok(engine)
    }

    /// Another connection.
    pub(super) fn connect(&self) -> Result<Client> {
        Client::connect_single_threaded(&self.socket)
    }

    /// `unix://…` of its socket.
    pub(super) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Its directory on disk.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its directory on a tmpfs.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// A directory for the logs of one pod.
    pub(super) fn logs(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join("logs").join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }

    /// Its processes: daemon and helpers, and what it adds to a pod, but no program of a container.
    pub(super) fn pids(&self) -> Vec<u32> {
        machine::processes(self.kind.processes())
    }

    /// The long-lived processes whose system calls are counted, with all that they start.
    pub(super) fn roots(&self) -> Vec<u32> {
        machine::processes(&["berth", "berth-keeper", "containerd", "crio"])
    }

    /// Kills the daemon as a crash would. Pods live on.
    pub(super) fn kill_daemon(&mut self) {
        self.daemon.kill9();
    }

    /// Starts the daemon after [`Engine::kill_daemon`], and returns how long it took until it answered.
    pub(super) fn start_daemon(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.daemon = start_daemon(self.kind, &self.dir, &self.state, &self.socket)?;
        let deadline = start + Duration::from_secs(60);
        // A client of its own: one that saw the connection break waits before it tries again.
        while std::os::unix::net::UnixStream::connect(&self.socket).is_err() {
            if Instant::now() > deadline {
                bail!("{} does not listen\n{}", self.kind.name(), self.last_words());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        loop {
            let client = self.connect()?;
            match client.version(cri::VersionRequest::default()) {
                Ok(_) => {
                    let took = start.elapsed();
                    self.client = client;
                    return Ok(took);
                }
                Err(status) if Instant::now() > deadline => {
                    bail!("{} does not answer: {status}\n{}", self.kind.name(), self.last_words())
                }
                Err(_) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// What it logged last, for failure messages.
    pub(super) fn last_words(&self) -> String {
        self.daemon.tail(30)
    }

    /// Waits until it says that runtime and network are ready.
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.client.status(cri::StatusRequest { verbose: false });
            let problem = match answer {
                Ok(answer) => {
                    let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
                    let ready =
                        |name: &str| conditions.iter().any(|found| found.r#type == name && found.status);
                    if ready("RuntimeReady") && ready("NetworkReady") {
                        return Ok(());
                    }
                    format!("conditions: {conditions:?}")
                }
                Err(status) => status.to_string(),
            };
            if let Some(status) = self.daemon.exited() {
                bail!("{} ended with {status}\n{}", self.kind.name(), self.last_words());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready: {problem}\n{}", self.kind.name(), self.last_words());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes every pod.
    pub(super) fn remove_pods(&self) -> Result<()> {
        for pod in self.client.list_pod_sandbox(cri::ListPodSandboxRequest::default())?.items {
            self.client.remove_pod(&pod.id)?;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // After a failure pods may be left; what cannot be removed ends with the turn's namespaces.
        let _ = self.remove_pods();
        self.daemon.terminate(Duration::from_secs(10));
        // Logs of pods, as the kubelet removes them.
        let _ = std::fs::remove_dir_all(self.dir.join("logs"));
    }
}

/// The network of every engine: one bridge, addresses from a range, masquerading, host ports.
const CONFLIST: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "bench",
  "plugins": [
    {"type": "bridge", "bridge": "bench0", "isGateway": true, "ipMasq": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/16"}]], "dataDir": "/run/berth/ipam",
              "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"#;

fn start_keeper(dir: &Path, state: &Path) -> Result<Process> {
    let mut command = Command::new(Lab::binary("berth-keeper")?);
    command.arg("--socket").arg(state.join("keeper.sock")).arg("--state").arg(state.join("keeper"));
    let keeper = Process::spawn(command, &dir.join("keeper.log"))?;
    crate::wait_until("the keeper to listen", Duration::from_secs(10), || {
        std::os::unix::net::UnixStream::connect(state.join("keeper.sock")).is_ok()
    });
    Ok(keeper)
}

fn write_configuration(kind: Kind, dir: &Path, state: &Path, socket: &Path) -> Result<()> {
    let text = match kind {
        Kind::Berth => format!(
            "[keeper]\nstart = false\n[registry]\nconfig_path = {:?}\n[network]\nconf_dir = {:?}\n",
            dir.join("certs.d").display().to_string(),
            dir.join("net.d").display().to_string()
        ),
        Kind::ContainerdRunc => peers::containerd_configuration("runc", dir, state, socket)?,
        Kind::ContainerdCrun => peers::containerd_configuration("crun", dir, state, socket)?,
        Kind::CrioCrun => peers::crio_configuration(dir, state, socket)?,
    };
    std::fs::write(dir.join("config.toml"), text).context("write the engine's configuration")
}

fn start_daemon(kind: Kind, dir: &Path, state: &Path, socket: &Path) -> Result<Process> {
    let config = dir.join("config.toml");
    let command = match kind {
        Kind::Berth => {
            let mut command = Command::new(Lab::binary("berth")?);
            command.arg("daemon").arg("--config").arg(config);
            command
                .arg("--root")
                .arg(dir.join("root"))
                .arg("--state")
                .arg(state)
                .arg("--cri-socket")
                .arg(socket);
            command
        }
        Kind::ContainerdRunc => peers::containerd(&config, "runc")?,
        Kind::ContainerdCrun => peers::containerd(&config, "crun")?,
        Kind::CrioCrun => peers::crio(&config)?,
    };
    Process::spawn(command, &dir.join("daemon.log"))
}
