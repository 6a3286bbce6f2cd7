//! A real kubelet, stand-alone: pods come from a directory of manifests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::http;
use crate::lab::{Lab, checkout};
use crate::node::Node;
use crate::process::{Process, run};
use crate::websocket::WebSocket;

/// Parent of all pods' cgroups, made in every hierarchy and removed with the kubelet.
pub const CGROUP_ROOT: &str = "/berth-e2e-kubelet";

/// Where kubelet answers without certificates.
const READ_ONLY: &str = "http://127.0.0.1:10255";
/// Where it answers to everything, over TLS.
const FULL: &str = "127.0.0.1:10250";

/// Domain of the cluster that it believes to be in.
pub const CLUSTER_DOMAIN: &str = "cluster.test";
/// Name server of that cluster.
pub const CLUSTER_DNS: &str = "192.0.2.10";
/// Name server of the machine, as kubelet reads it.
pub const HOST_DNS: &str = "192.0.2.20";
/// Most processes of a pod.
pub const PIDS_LIMIT: u32 = 500;
/// Size at which it rotates a log.
pub const LOG_LIMIT: u64 = 20 << 10;
/// Files that it keeps of a log.
pub const LOG_FILES: usize = 3;

/// A running kubelet; dropping it ends it. Its pods end with the node.
#[derive(Debug)]
pub struct Kubelet {
    dir: PathBuf,
    config: Value,
    flags: Vec<String>,
    process: Process,
}

impl Kubelet {
    /// Starts one on a node, and waits until it answers.
    pub fn start(lab: &Lab, node: &Node) -> Result<Kubelet> {
        Self::start_with(lab, node, Value::Null)
    }

    /// As [`Kubelet::start`], with more members in its configuration.
    pub fn start_with(lab: &Lab, node: &Node, more: Value) -> Result<Kubelet> {
        let dir = lab.work().join("kubelet");
        for below in ["manifests", "root", "logs"] {
            std::fs::create_dir_all(dir.join(below)).with_context(|| format!("create {}", dir.display()))?;
        }
        // Its links to logs are made in memory.
        let links = "/var/log/containers";
        std::fs::create_dir_all(links).with_context(|| format!("create {links}"))?;
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", links]))?;
        std::fs::write(dir.join("resolv.conf"), format!("nameserver {HOST_DNS}\nsearch host.test\n"))?;
        make_cgroups()?;
        let mut config = configuration(&dir, &node.endpoint());
        if let (Some(members), Value::Object(more)) = (config.as_object_mut(), more) {
            members.extend(more);
        }
        let process = spawn(&dir, &config, &[])?;
        let mut kubelet = Kubelet { dir, config, flags: Vec::new(), process };
        kubelet.wait_ready()?;
        Ok(kubelet)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !http::get(&format!("{READ_ONLY}/healthz")).is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = self.process.exited() {
                bail!("kubelet ended with {status}\n{}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("kubelet does not answer\n{}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        self.process.kill9();
    }

    /// Starts it again after [`Kubelet::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        self.process = spawn(&self.dir, &self.config, &self.flags)?;
        self.wait_ready()
    }

    /// From its next start on it waits for the runtime's events instead of asking again and again.
    pub fn use_events(&mut self) {
        self.config["featureGates"]["EventedPLEG"] = true.into();
    }

    /// Ends it and starts it with other members of its configuration, and with flags.
    pub fn reconfigure(&mut self, members: Value, flags: &[&str]) -> Result<()> {
        self.kill();
        if let (Some(config), Value::Object(members)) = (self.config.as_object_mut(), members) {
            config.extend(members);
        }
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        self.start_again()
    }

    /// Makes it run a pod.
    pub fn put(&self, pod: &Value) -> Result<()> {
        let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
        let path = self.manifest(name);
        // Renamed into place, for kubelet watches the directory.
        let hidden = self.dir.join(format!(".{name}"));
        std::fs::write(&hidden, serde_json::to_vec_pretty(pod)?)?;
        std::fs::rename(&hidden, &path).with_context(|| format!("write {}", path.display()))
    }

    /// Makes it end a pod.
    pub fn take(&self, name: &str) -> Result<()> {
        let path = self.manifest(name);
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.dir.join("manifests").join(format!("{name}.json"))
    }

    /// What it says of a pod.
    pub fn pod(&self, name: &str) -> Result<Option<Value>> {
        let answer = http::get(&format!("{READ_ONLY}/pods"))?;
        let list: Value = serde_json::from_slice(&answer.body).context("read kubelet's pods")?;
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        // By its label: the node's name is appended to the name of a static pod.
        let is_it = |item: &&Value| item["metadata"]["labels"]["pod"] == name;
        Ok(items.iter().find(is_it).cloned())
    }

    /// Waits until what it says of a pod satisfies `condition`, and returns that.
    pub fn wait_for(
        &self,
        name: &str,
        what: &str,
        patience: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            let pod = self.pod(name)?;
            if let Some(pod) = pod.as_ref().filter(|pod| condition(pod)) {
                return Ok(pod.clone());
            }
            if Instant::now() > deadline {
                let status = pod.map(|pod| pod["status"].to_string()).unwrap_or_default();
                bail!("pod {name}: not {what} after {patience:?}: {status}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A document of its read-only port.
    pub fn read(&self, path: &str) -> Result<String> {
        let answer = http::get(&format!("{READ_ONLY}{path}"))?;
        anyhow::ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        Ok(answer.text())
    }

    /// A document of its full API, as the API server asks for it.
    pub fn ask(&self, method: &str, path: &str) -> Result<String> {
        run(Command::new("curl").args(["-sSkf", "-X", method]).arg(format!("https://{FULL}{path}")))
    }

    /// Streams of its full API.
    pub fn stream(&self, path: &str, protocol: &str) -> Result<WebSocket> {
        WebSocket::connect(FULL, path, protocol)
    }

    /// The value of a metric of its own, all series added.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = self.ask("GET", "/metrics")?;
        let of_name = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        };
        let mut sum = 0.0;
        for line in text.lines().filter(of_name) {
            let value = line.rsplit(' ').next().unwrap_or_default();
            sum += value.parse::<f64>().with_context(|| format!("read {line}"))?;
        }
        Ok(sum)
    }

    /// Its root directory.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// All that it has logged.
    pub fn log(&self) -> Result<String> {
        let path = self.dir.join("kubelet.log");
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Where it wants the logs of pods.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The last lines it logged.
    pub fn last_words(&self) -> String {
        self.process.tail(40)
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- kubelet\n{}", self.last_words());
        }
        self.process.terminate(Duration::from_secs(10));
    }
}

fn spawn(dir: &Path, config: &Value, flags: &[String]) -> Result<Process> {
    let file = dir.join("config.json");
    std::fs::write(&file, config.to_string()).with_context(|| format!("write {}", file.display()))?;
    let mut command = Command::new(checkout().join("hack/shield"));
    command.arg(dir.join("sysctl")).arg(Lab::tool("kubelet")?);
    command.arg("--config").arg(file).arg("--root-dir").arg(dir.join("root"));
    command.args(["--v", "2", "--node-ip", "127.0.0.1"]).args(flags);
    // Credentials of registries are files below the root only.
    command.env("HOME", dir.join("home"));
    Process::spawn(command, &dir.join("kubelet.log"))
}

fn configuration(dir: &Path, endpoint: &str) -> Value {
    serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": endpoint,
        "staticPodPath": dir.join("manifests"),
        "podLogsDir": dir.join("logs"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": CGROUP_ROOT,
        "enforceNodeAllocatable": [],
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "readOnlyPort": 10255,
        "fileCheckFrequency": "1s",
        "syncFrequency": "2s",
        "clusterDomain": CLUSTER_DOMAIN,
        "clusterDNS": [CLUSTER_DNS],
        "resolvConf": dir.join("resolv.conf"),
        "podPidsLimit": PIDS_LIMIT,
        "registryPullQPS": 0,
        // Off: how full the machine's disk is must not decide which images and records of pulls there are.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "containerLogMaxSize": LOG_LIMIT.to_string(),
        "containerLogMaxFiles": LOG_FILES,
        "containerLogMonitorInterval": "3s",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "3s"},
        "volumePluginDir": dir.join("plugins"),
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi"},
        "featureGates": {"PodAndContainerStatsFromCRI": true, "ContainerStopSignals": true},
    })
}

/// Hierarchies that a cgroup can be made in.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.procs").try_exists()? {
        return Ok(vec![top.to_owned()]);
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(top).context("read /sys/fs/cgroup")? {
        let path = entry?.path();
        // Combined controllers also have a link for each.
        if path.join("cgroup.procs").try_exists()? && !path.is_symlink() {
            all.push(path);
        }
    }
    Ok(all)
}

fn make_cgroups() -> Result<()> {
    for hierarchy in hierarchies()? {
        let dir = hierarchy.join(CGROUP_ROOT.trim_start_matches('/'));
        match std::fs::create_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error).with_context(|| format!("create {}", dir.display())),
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(text) = std::fs::read(hierarchy.join(file)) {
                std::fs::write(dir.join(file), text).with_context(|| format!("set {file}"))?;
            }
        }
    }
    Ok(())
}

/// Removes the cgroups of all pods and says which could not be: call it when node and kubelet have ended.
pub fn remove_cgroups() -> Result<String> {
    let mut left = String::new();
    for hierarchy in hierarchies()? {
        let mut pending = vec![hierarchy.join(CGROUP_ROOT.trim_start_matches('/'))];
        let mut found = Vec::new();
        while let Some(dir) = pending.pop() {
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            pending.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
            found.push(dir);
        }
        for dir in found.iter().rev() {
            if let Err(error) = std::fs::remove_dir(dir) {
                // Writing to a string does not fail.
                let _ = writeln!(left, "{}: {error}", dir.display());
            }
        }
    }
    Ok(left)
}
