//! A node: one keeper and one daemon with directories of their own.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1 as cri;

use crate::client::Client;
use crate::lab::Lab;
use crate::process::Process;
use crate::registry::Registry;

/// How a node differs from the default one.
#[derive(Debug, Default)]
pub struct NodeOptions {
    /// Directory of `hosts.toml` files in place of the registry's.
    pub hosts: Option<PathBuf>,
    /// Text appended to the configuration file.
    pub config: String,
}

/// A running node; dropping it ends both processes and everything they started.
#[derive(Debug)]
pub struct Node {
    dir: PathBuf,
    state: PathBuf,
    socket: PathBuf,
    keeper: Process,
    daemon: Process,
    /// Connected to the daemon.
    pub client: Client,
}

impl Node {
    /// Starts a node that pulls from a registry, and waits until it is ready.
    pub fn start(lab: &Lab, name: &str, registry: Option<&Registry>, options: NodeOptions) -> Result<Node> {
        let dir = lab.work().join(name);
        // On a tmpfs, as in production; `hack/e2e` mounts a new one there.
        let state = Path::new("/run/berth").join(name);
        for made in [&dir, &state, &dir.join("logs")] {
            std::fs::create_dir_all(made).with_context(|| format!("create {}", made.display()))?;
        }
        // As the service manager makes it.
        std::fs::set_permissions(&state, PermissionsExt::from_mode(0o711)).context("set the state's mode")?;
        let hosts = options.hosts.clone().unwrap_or_else(|| dir.join("certs.d"));
        if let Some(registry) = registry {
            registry.write_hosts(&hosts)?;
        }
        let mut config = String::from("[keeper]\nstart = false\n");
        writeln!(config, "[registry]\nconfig_path = {:?}", hosts.display().to_string())?;
        config.push_str(&options.config);
        std::fs::write(dir.join("config.toml"), config).context("write the configuration")?;
        let socket = state.join("cri.sock");
        let keeper = start_keeper(&dir, &state)?;
        crate::wait::wait_until("the keeper to listen", Duration::from_secs(10), || {
            std::os::unix::net::UnixStream::connect(state.join("keeper.sock")).is_ok()
        });
        let daemon = start_daemon(&dir, &state, &socket)?;
        let client = Client::connect(&socket)?;
        let mut node = Node { dir, state, socket, keeper, daemon, client };
        node.wait_ready()?;
        Ok(node)
    }

    /// The CRI socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `unix://…` of the CRI socket.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// A directory for pods' logs.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Where images are.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where state that dies with the boot is.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The node's own directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// The keeper's process id.
    pub fn keeper_pid(&self) -> u32 {
        self.keeper.pid()
    }

    /// What the daemon and the keeper logged last, for failure messages.
    pub fn last_words(&self) -> String {
        format!("--- daemon\n{}\n--- keeper\n{}", self.daemon.tail(60), self.keeper.tail(20))
    }

    /// Kills the daemon without warning.
    pub fn kill9_daemon(&mut self) {
        self.daemon.kill9();
    }

    /// Kills the keeper without warning and starts another one.
    pub fn replace_keeper(&mut self) -> Result<()> {
        self.keeper.kill9();
        self.keeper = start_keeper(&self.dir, &self.state)?;
        Ok(())
    }

    /// Starts the daemon again after [`Node::kill9_daemon`], and returns how long it took to serve.
    pub fn restart_daemon(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.daemon = start_daemon(&self.dir, &self.state, &self.socket)?;
        self.wait_ready()?;
        Ok(start.elapsed())
    }

    /// Waits until the daemon answers and says that runtime and network are ready.
    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = self.client.status(cri::StatusRequest { verbose: false });
            let problem = match answer {
                Ok(answer) => {
                    let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
                    let required = ["RuntimeReady", "NetworkReady"];
                    let ready =
                        |name: &str| conditions.iter().any(|found| found.r#type == name && found.status);
                    if required.into_iter().all(ready) {
                        return Ok(());
                    }
                    format!("conditions: {conditions:?}")
                }
                Err(status) => status.to_string(),
            };
            if let Some(status) = self.daemon.exited() {
                bail!("the daemon ended with {status}\n{}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("the daemon is not ready: {problem}\n{}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        // Pods first, while somebody can still take them down in order.
        if let Ok(list) = self.client.list_pod_sandbox(cri::ListPodSandboxRequest::default()) {
            for pod in list.items {
                let _ = self.client.remove_pod(&pod.id);
            }
        }
        self.daemon.terminate(Duration::from_secs(10));
        self.keeper.terminate(Duration::from_secs(5));
    }
}

fn start_keeper(dir: &Path, state: &Path) -> Result<Process> {
    let mut command = Command::new(Lab::binary("berth-keeper")?);
    command.arg("--socket").arg(state.join("keeper.sock")).arg("--state").arg(state.join("keeper"));
    Process::spawn(command, &dir.join("keeper.log"))
}

fn start_daemon(dir: &Path, state: &Path, socket: &Path) -> Result<Process> {
    let mut command = Command::new(Lab::binary("berth")?);
    command.arg("daemon").arg("--config").arg(dir.join("config.toml"));
    command.arg("--root").arg(dir.join("root")).arg("--state").arg(state).arg("--cri-socket").arg(socket);
    let level = std::env::var("BERTH_LOG_LEVEL").unwrap_or_else(|_| "info".to_owned());
    command.arg("--log-level").arg(level);
    command.env("RUST_BACKTRACE", "1");
    Process::spawn(command, &dir.join("daemon.log"))
}
