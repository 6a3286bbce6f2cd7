//! What all groups share: the lab with a node and its kubelet, and how to ask them about pods.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cri_api::v1 as cri;
use e2e::catalog::BUSYBOX;
use e2e::kubelet::Kubelet;
use e2e::{Lab, Node, Registry};
use serde_json::{Value, json};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A script that sleeps until it is told to end, and then ends at once.
pub(crate) const WAIT: &str = "trap 'exit 0' TERM; while true; do sleep 1 & wait; done";

/// A directory that pods and suite share, on the node's tmpfs.
const OUT: &str = "/run/berth/out";

pub(crate) type Work = fn(&mut Scene) -> Result<()>;
type Check = (&'static str, Work);

/// Pods that are about one thing, and what must be true of them.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    /// What runs from the beginning.
    pub(crate) pods: fn(&Scene) -> Vec<Value>,
    /// What is true once.
    pub(crate) once: &'static [Check],
    /// What is true before and after every restart.
    pub(crate) steady: &'static [Check],
    /// Brings something to its middle before a restart, and sees it through after it.
    pub(crate) midway: &'static [Midway],
}

/// Something that a restart happens in the middle of.
pub(crate) struct Midway {
    pub(crate) name: &'static str,
    pub(crate) begin: fn(&mut Scene, Restart) -> Result<()>,
    pub(crate) finish: fn(&mut Scene, Restart) -> Result<()>,
}

/// Who is killed and started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    Kubelet,
    Berth,
    Both,
}

impl Restart {
    pub(crate) const ALL: [Restart; 3] = [Restart::Kubelet, Restart::Berth, Restart::Both];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Restart::Kubelet => "kubelet",
            Restart::Berth => "berth",
            Restart::Both => "both",
        }
    }

    /// Whether kubelet is among them.
    pub(crate) fn kubelet(self) -> bool {
        self != Restart::Berth
    }

    fn berth(self) -> bool {
        self != Restart::Kubelet
    }

    /// A pod's name that differs for each.
    pub(crate) fn pod(self, name: &str) -> String {
        format!("{name}-{}", self.name())
    }
}

pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) registry: Registry,
    pub(crate) node: Node,
    pub(crate) kubelet: Kubelet,
    pub(crate) passed: u32,
    pub(crate) failed: Vec<String>,
}

impl Scene {
    /// Does some work and counts it under its name.
    #[allow(clippy::print_stdout, reason = "what fails is told where it fails")]
    pub(crate) fn check(&mut self, name: &str, work: impl FnOnce(&mut Scene) -> Result<()>) {
        let start = Instant::now();
        match work(self) {
            Ok(()) => {
                println!("passed {name} ({:.1} s)", start.elapsed().as_secs_f64());
                self.passed += 1;
            }
            Err(error) => {
                println!("FAILED {name}: {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Kills and starts again, and waits until both answer.
    pub(crate) fn restart(&mut self, who: Restart) -> Result<()> {
        if who.berth() {
            self.node.kill9_daemon();
        }
        if who.kubelet() {
            self.kubelet.kill();
        }
        // Kubelet ends by itself when it finds no runtime, and its service manager tries again.
        if who.berth() {
            self.node.restart_daemon()?;
        }
        if who.kubelet() {
            self.kubelet.start_again()?;
        }
        Ok(())
    }

    pub(crate) fn ready(&self, name: &str) -> Result<Value> {
        self.kubelet.wait_for(name, "ready", PATIENCE, is_ready)
    }

    pub(crate) fn ended(&self, name: &str) -> Result<Value> {
        self.kubelet.wait_for(name, "at its end", PATIENCE, |pod| {
            matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        })
    }

    /// Waits until what kubelet says of a container satisfies `condition`, and returns that of the pod.
    pub(crate) fn container(
        &self,
        pod: &str,
        name: &str,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let what = format!("as wanted: {name} {what}");
        self.kubelet.wait_for(pod, &what, PATIENCE, |pod| container_status(pod, name).is_ok_and(&condition))
    }

    /// Waits until nothing of a pod is ready or runs: kubelet forgets a pod before it has ended it.
    pub(crate) fn gone(&self, name: &str) -> Result<()> {
        wait(&format!("pod {name} to end"), || {
            let sandboxes = self.sandboxes(name)?;
            Ok(sandboxes.iter().all(|found| found.state() == cri::PodSandboxState::SandboxNotready))
        })
    }

    /// Takes a pod's manifest away and waits for the pod's end.
    pub(crate) fn end(&self, name: &str) -> Result<()> {
        self.kubelet.take(name)?;
        self.gone(name)
    }

    /// What Berth has of a pod.
    pub(crate) fn sandboxes(&self, name: &str) -> Result<Vec<cri::PodSandbox>> {
        let label_selector = [("pod".to_owned(), name.to_owned())].into();
        let filter = cri::PodSandboxFilter { label_selector, ..Default::default() };
        Ok(self.node.client.list_pod_sandbox(cri::ListPodSandboxRequest { filter: Some(filter) })?.items)
    }

    /// Runs a command in a container of a pod.
    pub(crate) fn exec(&self, pod: &Value, container: &str, command: &[&str]) -> Result<String> {
        self.node.client.exec_ok(&container_id(pod, container)?, command)
    }

    /// The text of a file in a container, without the space around it.
    pub(crate) fn show(&self, pod: &Value, container: &str, path: &str) -> Result<String> {
        Ok(self.exec(pod, container, &["cat", path])?.trim().to_owned())
    }

    /// What a container logged, by kubelet's own API.
    pub(crate) fn log(&self, pod: &Value, container: &str, options: &str) -> Result<String> {
        let path = format!("/containerLogs/default/{}/{container}?{options}", full_name(pod));
        self.kubelet.ask("GET", &path)
    }
}

/// A path below the directory that pods and suite share.
pub(crate) fn out(name: &str) -> PathBuf {
    Path::new(OUT).join(name)
}

/// The text of a file that a pod writes; empty as long as there is none.
pub(crate) fn read_out(name: &str) -> String {
    std::fs::read_to_string(out(name)).unwrap_or_default()
}

/// Waits for something that may fail for a while, and says what it was at last.
pub(crate) fn wait(what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = probe();
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            answer.with_context(|| format!("waiting for {what}"))?;
            bail!("waited {PATIENCE:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether something comes true soon.
pub(crate) fn soon(mut probe: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if probe()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}

/// Waits until a file that a pod writes is as wanted.
pub(crate) fn wait_out(name: &str, what: &str, condition: impl Fn(&str) -> bool) -> Result<String> {
    let outcome = wait(what, || Ok(condition(&read_out(name))));
    outcome.with_context(|| format!("{name} is {:?}", read_out(name)))?;
    Ok(read_out(name))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// What the pod is called by kubelet: the node's name is appended.
pub(crate) fn full_name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap_or_default()
}

pub(crate) fn container_status<'a>(pod: &'a Value, name: &str) -> Result<&'a Value> {
    let lists = ["containerStatuses", "initContainerStatuses"].map(|list| pod["status"][list].as_array());
    let mut all = lists.into_iter().flatten().flatten();
    all.find(|status| status["name"] == name).with_context(|| format!("no status of container {name}"))
}

pub(crate) fn container_id(pod: &Value, name: &str) -> Result<String> {
    let id = container_status(pod, name)?["containerID"].as_str().context("no container id")?;
    Ok(id.strip_prefix("berth://").with_context(|| format!("{id} is not of berth"))?.to_owned())
}

pub(crate) fn restarts(status: &Value) -> u64 {
    status["restartCount"].as_u64().unwrap_or(0)
}

/// A pod with its name as a label, which is how it is found again. Many a first process here is deaf to signals,
/// and so the usual grace is a short one.
pub(crate) fn pod(name: &str, spec: Value) -> Value {
    let spec = with(json!({"terminationGracePeriodSeconds": 5}), spec);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"pod": name}, "annotations": {"note": name}},
        "spec": spec,
    })
}

pub(crate) fn shell(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": BUSYBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    })
}

/// A value with more members.
pub(crate) fn with(mut value: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (value.as_object_mut(), more) {
        object.extend(more);
    }
    value
}

/// A container with volumes mounted: pairs of name and path.
pub(crate) fn mounted(container: Value, volumes: &[(&str, &str)]) -> Value {
    let mounts: Vec<Value> =
        volumes.iter().map(|(name, path)| json!({"name": name, "mountPath": path})).collect();
    with(container, json!({"volumeMounts": mounts}))
}

/// A container with the shared directory at `/out`; its pod needs [`out_volume`].
pub(crate) fn with_out(container: Value) -> Value {
    mounted(container, &[("out", "/out")])
}

pub(crate) fn out_volume() -> Value {
    host_path("out", Path::new(OUT), "DirectoryOrCreate")
}

pub(crate) fn host_path(name: &str, path: &Path, kind: &str) -> Value {
    json!({"name": name, "hostPath": {"path": path, "type": kind}})
}

/// Fails with what `text` is unless it has all of `parts`.
pub(crate) fn has(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "no {part:?} in {text:?}");
    }
    Ok(())
}
