//! Requests, limits and classes of service: the cgroup tree as kubelet wants it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::kubelet::{CGROUP_ROOT, PIDS_LIMIT};
use serde_json::{Value, json};

use super::scene::*;

pub(crate) const GROUP: Group = Group {
    name: "resources",
    pods,
    once: &[],
    steady: &[
        ("a guaranteed pod", guaranteed),
        ("a burstable pod", burstable),
        ("a best-effort pod", best_effort),
        ("resources of a whole pod", whole_pod),
    ],
    midway: &[],
};

fn pods(_: &Scene) -> Vec<Value> {
    let amounts = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    let resources = |value: Value| json!({ "resources": value });
    let main = |value: Value| with(shell("main", WAIT), resources(value));
    vec![
        pod(
            "guaranteed",
            json!({"containers": [main(json!({"limits": amounts("100m", "32Mi"), "requests": amounts("100m", "32Mi")}))]}),
        ),
        pod(
            "burstable",
            json!({"containers": [
                main(json!({"requests": amounts("50m", "16Mi"), "limits": amounts("200m", "64Mi")})),
                with(shell("side", WAIT), resources(json!({"requests": amounts("20m", "8Mi"), "limits": amounts("100m", "32Mi")}))),
            ]}),
        ),
        pod("best-effort", json!({"containers": [shell("main", WAIT)]})),
        pod(
            "whole-pod",
            json!({
                "resources": {"requests": amounts("100m", "40Mi"), "limits": amounts("100m", "40Mi")},
                "containers": [shell("one", WAIT), shell("two", WAIT)],
            }),
        ),
    ]
}

/// Names of controllers' files on cgroup v1.
struct Cgroup {
    path: String,
}

impl Cgroup {
    fn of(s: &Scene, pod: &Value, container: &str) -> Result<Cgroup> {
        let request =
            cri::ContainerStatusRequest { container_id: container_id(pod, container)?, verbose: true };
        let info = s.node.client.container_status(request)?.info;
        let info: Value = serde_json::from_str(info.get("info").context("no info")?)?;
        let path = info["cgroupPath"].as_str().context("no cgroup path")?.to_owned();
        Ok(Cgroup { path })
    }

    /// The cgroup around it.
    fn parent(&self) -> Cgroup {
        let parent = Path::new(&self.path).parent().unwrap_or(Path::new("/"));
        Cgroup { path: parent.display().to_string() }
    }

    fn read(&self, controller: &str, file: &str) -> Result<String> {
        let path: PathBuf =
            ["/sys/fs/cgroup", controller, self.path.trim_start_matches('/'), file].iter().collect();
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Fails unless files have these values.
    fn expect(&self, values: &[(&str, &str, &str)]) -> Result<()> {
        for &(controller, file, wanted) in values {
            let found = self.read(controller, file)?;
            ensure!(found == wanted, "{file} of {} is {found}, not {wanted}", self.path);
        }
        Ok(())
    }
}

/// What every container of a pod is below, and what kubelet calls the pod's class.
fn placed(pod: &Value, cgroup: &Cgroup, class: &str, below: &str) -> Result<()> {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let prefix = format!("{CGROUP_ROOT}/kubepods{below}/pod{uid}/");
    ensure!(cgroup.path.starts_with(&prefix), "the cgroup is {}, not below {prefix}", cgroup.path);
    ensure!(pod["status"]["qosClass"] == class, "{}", pod["status"]);
    Ok(())
}

fn oom_score(s: &Scene, pod: &Value, container: &str) -> Result<i32> {
    Ok(s.show(pod, container, "/proc/1/oom_score_adj")?.parse()?)
}

fn mebibytes(amount: u64) -> String {
    (amount << 20).to_string()
}

fn guaranteed(s: &mut Scene) -> Result<()> {
    let pod = s.ready("guaranteed")?;
    let cgroup = Cgroup::of(s, &pod, "main")?;
    placed(&pod, &cgroup, "Guaranteed", "")?;
    for level in [&cgroup, &cgroup.parent()] {
        level.expect(&[
            ("memory", "memory.limit_in_bytes", &mebibytes(32)),
            ("cpu", "cpu.cfs_quota_us", "10000"),
            ("cpu", "cpu.cfs_period_us", "100000"),
            ("cpu", "cpu.shares", "102"),
        ])?;
    }
    cgroup.parent().expect(&[("pids", "pids.max", &PIDS_LIMIT.to_string())])?;
    // What kubelet wants is below what this process may give; without the privilege it is clamped.
    let (score, ours) = (oom_score(s, &pod, "main")?, own_score()?);
    ensure!(score == (-997).max(ours), "the OOM score is {score}, and {ours} is the least that can be");
    let status = container_status(&pod, "main")?;
    ensure!(status["resources"]["limits"]["memory"] == "32Mi", "kubelet reads back {status}");
    Ok(())
}

fn own_score() -> Result<i32> {
    Ok(std::fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse()?)
}

fn burstable(s: &mut Scene) -> Result<()> {
    let pod = s.ready("burstable")?;
    let cgroup = Cgroup::of(s, &pod, "main")?;
    placed(&pod, &cgroup, "Burstable", "/burstable")?;
    cgroup.expect(&[
        ("memory", "memory.limit_in_bytes", &mebibytes(64)),
        ("cpu", "cpu.cfs_quota_us", "20000"),
        ("cpu", "cpu.shares", "51"),
    ])?;
    // Sums of both containers.
    cgroup.parent().expect(&[
        ("memory", "memory.limit_in_bytes", &mebibytes(96)),
        ("cpu", "cpu.cfs_quota_us", "30000"),
        ("cpu", "cpu.shares", "71"),
    ])?;
    let score = oom_score(s, &pod, "main")?;
    ensure!((900..1000).contains(&score), "the OOM score is {score}");
    Ok(())
}

fn best_effort(s: &mut Scene) -> Result<()> {
    let pod = s.ready("best-effort")?;
    let cgroup = Cgroup::of(s, &pod, "main")?;
    placed(&pod, &cgroup, "BestEffort", "/besteffort")?;
    cgroup.expect(&[("cpu", "cpu.cfs_quota_us", "-1"), ("cpu", "cpu.shares", "2")])?;
    cgroup.parent().parent().expect(&[("cpu", "cpu.shares", "2")])?;
    let score = oom_score(s, &pod, "main")?;
    ensure!(score == 1000, "the OOM score is {score}");
    Ok(())
}

/// Containers without limits of their own live within those of their pod.
fn whole_pod(s: &mut Scene) -> Result<()> {
    let pod = s.ready("whole-pod")?;
    let cgroup = Cgroup::of(s, &pod, "one")?;
    placed(&pod, &cgroup, "Guaranteed", "")?;
    cgroup.parent().expect(&[
        ("memory", "memory.limit_in_bytes", &mebibytes(40)),
        ("cpu", "cpu.cfs_quota_us", "10000"),
        ("cpu", "cpu.shares", "102"),
    ])?;
    Ok(())
}
