//! A real kubelet, stand-alone: pods come from a directory of manifests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::http;
use crate::lab::Lab;
use crate::node::Node;
use crate::process::{Process, run};

/// Parent of all pods' cgroups, made in every hierarchy and removed with the kubelet.
pub const CGROUP_ROOT: &str = "/berth-e2e-kubelet";

/// Where kubelet answers without certificates.
const READ_ONLY: &str = "http://127.0.0.1:10255";
/// Where it answers to everything, over TLS.
const FULL: &str = "https://127.0.0.1:10250";

/// A running kubelet; dropping it ends it. Its pods end with the node.
#[derive(Debug)]
pub struct Kubelet {
    dir: PathBuf,
    process: Process,
}

impl Kubelet {
    /// Starts one on a node, and waits until it answers.
    pub fn start(lab: &Lab, node: &Node) -> Result<Kubelet> {
        let dir = lab.work().join("kubelet");
        for below in ["manifests", "root", "logs"] {
            std::fs::create_dir_all(dir.join(below)).with_context(|| format!("create {}", dir.display()))?;
        }
        shield(&dir)?;
        make_cgroups()?;
        std::fs::write(dir.join("config.json"), configuration(&dir, &node.endpoint()).to_string())?;
        let process = spawn(&dir)?;
        let mut kubelet = Kubelet { dir, process };
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
        self.process = spawn(&self.dir)?;
        self.wait_ready()
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
        run(Command::new("curl").args(["-sSkf", "-X", method]).arg(format!("{FULL}{path}")))
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

/// Kernel parameters that kubelet sets for the whole machine, and the values it wants.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Hides from kubelet what it would change of the machine: it finds its values in files that nobody else reads,
/// and its links to logs are made in memory. Both go with the suite's mount namespace.
///
/// Where something lies over `/proc` the kernel refuses another one to pods with user namespaces.
fn shield(dir: &Path) -> Result<()> {
    for (name, value) in SYSCTLS {
        let file = dir.join(name.replace('/', "."));
        std::fs::write(&file, format!("{value}\n")).with_context(|| format!("write {}", file.display()))?;
        run(Command::new("mount").arg("--bind").arg(&file).arg(Path::new("/proc/sys").join(name)))?;
    }
    let links = "/var/log/containers";
    std::fs::create_dir_all(links).with_context(|| format!("create {links}"))?;
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", links]))?;
    Ok(())
}

fn spawn(dir: &Path) -> Result<Process> {
    let mut command = Command::new(Lab::tool("kubelet")?);
    command.arg("--config").arg(dir.join("config.json")).arg("--root-dir").arg(dir.join("root"));
    command.args(["--v", "2", "--node-ip", "127.0.0.1"]);
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
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi"},
        "featureGates": {"PodAndContainerStatsFromCRI": true, "EventedPLEG": true},
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
