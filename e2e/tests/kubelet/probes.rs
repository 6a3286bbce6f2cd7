//! Probes: startup, readiness and liveness, each by exec, http, tcp and gRPC.

use anyhow::{Result, ensure};
use e2e::Lab;
use serde_json::{Value, json};

use super::scene::*;

pub(crate) const GROUP: Group = Group {
    name: "probes",
    pods,
    once: &[
        ("failing liveness probes restart", liveness_fails),
        ("failing startup probes restart", startup_fails),
        ("failing readiness probes leave a container alone", readiness_fails),
        ("a probe that hangs has failed", probe_hangs),
    ],
    steady: &[("all kinds of probes succeed", succeed)],
    midway: &[Midway { name: "a startup probe", begin: begin_startup, finish: finish_startup }],
};

/// The four ways to probe.
const WAYS: [&str; 4] = ["exec", "http", "tcp", "grpc"];

const WEB: &str = "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 8080 -h /www";

/// A container that can be probed in one way, or that fails the probe.
fn probed(way: &str, succeeds: bool, kinds: &[&str]) -> Value {
    let container = match way {
        "http" => shell(way, WEB),
        "grpc" => mounted(
            shell(way, "exec /agnhost grpc-health-checking --port 5000 --http-port 5001 --service known"),
            &[("agnhost", "/agnhost")],
        ),
        _ => shell(way, WAIT),
    };
    let handler = match (way, succeeds) {
        ("exec", true) => json!({"exec": {"command": ["true"]}}),
        ("exec", false) => json!({"exec": {"command": ["false"]}}),
        ("http", true) => json!({"httpGet": {"path": "/index.html", "port": 8080}}),
        ("http", false) => json!({"httpGet": {"path": "/missing", "port": 8080}}),
        // The web server is in the same pod.
        ("tcp", true) => json!({"tcpSocket": {"port": 8080}}),
        ("tcp", false) => json!({"tcpSocket": {"port": 9}}),
        (_, true) => json!({"grpc": {"port": 5000, "service": "known"}}),
        (_, false) => json!({"grpc": {"port": 5000, "service": "unknown"}}),
    };
    let probe = with(handler, json!({"periodSeconds": 1, "failureThreshold": if succeeds { 30 } else { 3 }}));
    let probes = kinds.iter().map(|kind| (format!("{kind}Probe"), probe.clone())).collect();
    with(container, Value::Object(probes))
}

fn pod_of_ways(name: &str, succeeds: bool, kinds: &[&str]) -> Value {
    let agnhost = Lab::tool("agnhost").expect("find agnhost");
    pod(
        name,
        json!({
            "terminationGracePeriodSeconds": 1,
            "containers": WAYS.map(|way| probed(way, succeeds, kinds)),
            "volumes": [host_path("agnhost", &agnhost, "File")],
        }),
    )
}

fn pods(_: &Scene) -> Vec<Value> {
    let hanging = json!({
        "livenessProbe": {"exec": {"command": ["sleep", "60"]}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1},
    });
    vec![
        pod_of_ways("probed", true, &["startup", "readiness", "liveness"]),
        pod_of_ways("unhealthy", false, &["liveness"]),
        pod_of_ways("unstarted", false, &["startup"]),
        pod_of_ways("unready", false, &["readiness"]),
        pod(
            "hanging",
            json!({"terminationGracePeriodSeconds": 1, "containers": [with(shell("main", WAIT), hanging)]}),
        ),
    ]
}

fn succeed(s: &mut Scene) -> Result<()> {
    let pod = s.ready("probed")?;
    for way in WAYS {
        let status = container_status(&pod, way)?;
        ensure!(restarts(status) == 0, "{way} was restarted: {status}");
        ensure!(status["started"] == true && status["ready"] == true, "{way}: {status}");
    }
    Ok(())
}

/// Waits until a probe has ended each container of a pod.
fn all_restarted(s: &Scene, name: &str) -> Result<Value> {
    let all = |pod: &Value| {
        WAYS.iter().all(|way| container_status(pod, way).is_ok_and(|status| restarts(status) > 0))
    };
    s.kubelet.wait_for(name, "restarted by its probes", PATIENCE, all)
}

fn liveness_fails(s: &mut Scene) -> Result<()> {
    all_restarted(s, "unhealthy")?;
    s.end("unhealthy")
}

fn startup_fails(s: &mut Scene) -> Result<()> {
    let pod = all_restarted(s, "unstarted")?;
    for way in WAYS {
        ensure!(container_status(&pod, way)?["ready"] == false, "{way} is ready: {}", pod["status"]);
    }
    s.end("unstarted")
}

/// By now the probes of the other pods have failed, and these with them.
fn readiness_fails(s: &mut Scene) -> Result<()> {
    let running = |pod: &Value| {
        WAYS.iter()
            .all(|way| container_status(pod, way).is_ok_and(|status| !status["state"]["running"].is_null()))
    };
    let pod = s.kubelet.wait_for("unready", "running", PATIENCE, running)?;
    for way in WAYS {
        let status = container_status(&pod, way)?;
        ensure!(restarts(status) == 0, "{way} was restarted: {status}");
        ensure!(status["started"] == true && status["ready"] == false, "{way}: {status}");
    }
    s.end("unready")
}

fn probe_hangs(s: &mut Scene) -> Result<()> {
    s.container("hanging", "main", "was restarted", |status| restarts(status) > 0)?;
    s.end("hanging")
}

/// A container that has not started when the restart comes, and starts after it.
fn begin_startup(s: &mut Scene, who: Restart) -> Result<()> {
    let name = who.pod("starting");
    let probe = json!({
        "startupProbe": {"exec": {"command": ["test", "-e", format!("/out/{name}.go")]}, "periodSeconds": 1, "failureThreshold": 60},
    });
    s.kubelet.put(&pod(
        &name,
        json!({"containers": [with(with_out(shell("main", WAIT)), probe)], "volumes": [out_volume()]}),
    ))?;
    s.container(&name, "main", "runs, not started", |status| {
        !status["state"]["running"].is_null() && status["started"] == false
    })?;
    Ok(())
}

fn finish_startup(s: &mut Scene, who: Restart) -> Result<()> {
    let name = who.pod("starting");
    // A kubelet that has just started takes it for started until it has asked its probe.
    s.container(&name, "main", "runs, not started", |status| status["started"] == false)?;
    std::fs::write(out(&format!("{name}.go")), "")?;
    let pod = s.ready(&name)?;
    ensure!(restarts(container_status(&pod, "main")?) == 0, "it was restarted: {}", pod["status"]);
    s.end(&name)
}
