//! A real Prometheus reads the daemon, a kubelet and containers: every metric of the list is there, values are right,
//! rules load, and the chart's dashboard has an answer to every question.

#[path = "prometheus/dashboard.rs"]
mod dashboard;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::catalog::BUSYBOX;
use e2e::kubelet::{Kubelet, remove_cgroups};
use e2e::prometheus::Prometheus;
use e2e::{
    Lab, Node, NodeOptions, Registry, authority, checkout, container, free_port, http, pod, run, summarize,
    wait_until,
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn a_node_is_watched() {
    let lab = Lab::enter("prometheus");
    let registry = lab.registry().expect("start the registry");
    let mut checks = 0;
    for (name, check) in [
        ("metrics", metrics as fn(&Lab, &Registry) -> Result<()>),
        ("TLS and a token", guarded),
        ("rules", rules),
        ("a kubelet", kubelet),
    ] {
        if let Err(error) = check(&lab, &registry) {
            panic!("{name}: {error:#}");
        }
        checks += 1;
    }
    summarize(&format!("a real Prometheus: {checks} passed, 0 failed, 0 skipped"));
}

fn rules_file() -> std::path::PathBuf {
    checkout().join("charts/berth/files/prometheus-rules.yaml")
}

/// Runs a node that serves metrics at a port of its own.
fn node(lab: &Lab, registry: &Registry, name: &str, more: &str) -> Result<(Node, u16)> {
    let port = free_port()?;
    let config = format!("[metrics]\naddress = \"127.0.0.1:{port}\"\ncontainers = true\n{more}");
    let options = NodeOptions { config, ..NodeOptions::default() };
    Ok((Node::start(lab, name, Some(registry), options)?, port))
}

fn metrics(lab: &Lab, registry: &Registry) -> Result<()> {
    let (node, port) = node(lab, registry, "open", "")?;
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    ensure!(http::get(&url("/healthz"))?.status == 200, "not healthy");
    ensure!(http::get(&url("/readyz"))?.status == 200, "not ready");
    ensure!(http::get(&url("/else"))?.status == 404, "anything is served");
    ensure!(http::request("POST", &url("/metrics"), &[], b"")?.status == 405, "POST is served");
    check_format(&http::get(&url("/metrics"))?.text())?;

    let scrape = format!(
        "- job_name: berth\n  static_configs:\n  - targets: [\"127.0.0.1:{port}\"]\n    labels: {{node: one}}\n"
    );
    let prometheus = Prometheus::start(&lab.work().join("open-prometheus"), &scrape, &[&rules_file()])?;
    wait_until("the target to be up", PATIENCE, || prometheus.sum("up").is_ok_and(|up| up == 1.0));
    let starts = || prometheus.sum("berth_container_starts_total{outcome=\"ok\"}");
    ensure!(starts()? == 0.0, "starts are counted before there were any");
    node.client.pull(BUSYBOX)?;
    exercise(&node)?;
    wait_until("three starts to be counted", PATIENCE, || starts().is_ok_and(|count| count == 3.0));
    let wanted = [
        ("berth_sandbox_starts_total{outcome=\"ok\"}", 3.0),
        ("berth_network_attaches_total{outcome=\"ok\"}", 3.0),
        ("berth_network_detaches_total{outcome=\"ok\"}", 2.0),
        ("berth_container_exits_total{reason=\"error\"}", 2.0),
        ("berth_container_stops_total{outcome=\"killed\"}", 2.0),
        ("berth_container_starts_total{outcome=\"invalid\"}", 1.0),
        ("berth_exec_sessions_total{kind=\"sync\",outcome=\"ok\"}", 3.0),
        ("berth_cri_requests_total{method=\"ExecSync\",code=\"ok\"}", 3.0),
        ("berth_cri_requests_total{method=\"StartContainer\",code=\"invalid_argument\"}", 1.0),
        ("berth_cri_request_seconds_count{method=\"RunPodSandbox\"}", 3.0),
        ("berth_image_pulls_total{outcome=\"ok\"}", 1.0),
        ("berth_layer_unpacks_total{outcome=\"ok\"}", 1.0),
        ("berth_sandboxes{state=\"ready\"}", 1.0),
        ("berth_containers{state=\"running\"}", 1.0),
        ("berth_images", 1.0),
        ("berth_keeper_up", 1.0),
        ("berth_exec_sessions", 0.0),
        ("berth_streaming_sessions", 0.0),
        ("berth_trace_spans_total", 0.0),
        ("berth_recovery_leftovers_total", 0.0),
    ];
    wait_until("the last pod's numbers", PATIENCE, || {
        prometheus.sum("berth_sandbox_stops_total{outcome=\"ok\"}").is_ok_and(|count| count == 2.0)
    });
    for (expression, value) in wanted {
        let series = prometheus.query(expression)?;
        ensure!(!series.is_empty(), "{expression} is not there");
        let sum: f64 = series.iter().map(|series| series.value).sum();
        ensure!((sum - value).abs() < 1e-9, "{expression} is {sum}, not {value}");
    }
    for (expression, least) in [
        ("berth_image_pull_bytes_total", 100_000.0),
        ("berth_layer_unpack_bytes_total", 1_000_000.0),
        ("berth_store_bytes{kind=\"images\"}", 1_000_000.0),
        ("berth_container_start_seconds_sum", 0.0001),
        ("process_resident_memory_bytes", 1_000_000.0),
    ] {
        let sum = prometheus.sum(expression)?;
        ensure!(sum >= least, "{expression} is {sum}, less than {least}");
    }
    every_metric_is_there(&prometheus)?;
    usage_of_containers(&node, &prometheus)?;
    dashboard::check(&node, &prometheus).map(drop)
}

/// Three pods: one stays, two are removed; each runs a command, and one container cannot be started.
fn exercise(node: &Node) -> Result<()> {
    for number in 0..3 {
        let config = pod("watched", node.logs());
        let pod = node.client.run_pod(&config)?;
        let id = node.client.run(&pod, &config, &container("main", BUSYBOX, &["sleep", "1000"]))?;
        node.client.exec_ok(&id, &["true"])?;
        if number == 0 {
            let id = node.client.create(&pod, &config, &container("broken", BUSYBOX, &["/no/such"]))?;
            let request = cri::StartContainerRequest { container_id: id };
            ensure!(node.client.start_container(request).is_err(), "a missing program was started");
        } else {
            node.client.remove_pod(&pod)?;
        }
    }
    Ok(())
}

/// What promtool says of the text; it exits with 3 for advice on names, which are cAdvisor's.
fn check_format(text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run promtool")?;
    promtool.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.starts_with("berth_")).collect();
    ensure!(matches!(output.status.code(), Some(0 | 3)), "promtool: {said}");
    ensure!(ours.is_empty(), "promtool advises: {ours:?}");
    Ok(())
}

fn every_metric_is_there(prometheus: &Prometheus) -> Result<()> {
    let list = std::fs::read_to_string(checkout().join("config/metrics.txt"))?;
    let mut missing = Vec::new();
    for line in list.lines() {
        let (kind, rest) = line.split_once(' ').context("a line without a kind")?;
        let name = rest.split(['{', ':']).next().unwrap_or(rest);
        let series = if kind == "histogram" { format!("{name}_bucket") } else { name.to_owned() };
        if prometheus.query(&series)?.is_empty() {
            missing.push(name.to_owned());
        }
    }
    ensure!(missing.is_empty(), "not there: {missing:?}");
    Ok(())
}

/// What dashboards made for cAdvisor ask for.
fn usage_of_containers(node: &Node, prometheus: &Prometheus) -> Result<()> {
    let list = node.client.list_containers(cri::ListContainersRequest::default())?.containers;
    let running = |found: &&cri::Container| found.state() == cri::ContainerState::ContainerRunning;
    let running = list.iter().find(running).context("no container runs")?;
    let selector = "namespace=\"e2e\",container=\"main\",pod=~\"watched-.*\"";
    for name in [
        "container_memory_working_set_bytes",
        "container_memory_rss",
        "container_cpu_usage_seconds_total",
        "container_spec_memory_limit_bytes",
        "container_fs_usage_bytes",
        "container_start_time_seconds",
    ] {
        let series = prometheus.query(&format!("{name}{{{selector}}}"))?;
        ensure!(series.len() == 1, "{name}: {} series", series.len());
        ensure!(series[0].labels["name"] == running.id, "{name}: {:?}", series[0].labels);
        let id = series[0].labels["id"].as_str().unwrap_or_default();
        ensure!(id.starts_with('/') && id.ends_with(&running.id), "{name}: id is {id}");
    }
    let received = "container_network_receive_bytes_total{namespace=\"e2e\",interface=\"eth0\"}";
    ensure!(prometheus.query(received)?.len() == 1, "no network of the pod");
    Ok(())
}

/// Prometheus reads daemon and kubelet, as it does in a cluster; both know the containers.
fn kubelet(lab: &Lab, registry: &Registry) -> Result<()> {
    let (node, port) = node(lab, registry, "watched-kubelet", "")?;
    node.client.pull(BUSYBOX)?;
    let checked = with_kubelet(lab, &node, port);
    drop(node);
    let left = remove_cgroups()?;
    checked?;
    ensure!(left.is_empty(), "cgroups are left: {left}");
    Ok(())
}

fn with_kubelet(lab: &Lab, node: &Node, port: u16) -> Result<()> {
    let kubelet = Kubelet::start(lab, node)?;
    kubelet.put(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "watched", "namespace": "default", "labels": {"pod": "watched"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"]},
        ]},
    }))?;
    let mut scrape = format!("- job_name: berth\n  static_configs:\n  - targets: [\"127.0.0.1:{port}\"]\n");
    for (job, path) in
        [("kubelet", "/metrics"), ("cadvisor", "/metrics/cadvisor"), ("resource", "/metrics/resource")]
    {
        scrape += &format!(
            "- job_name: {job}\n  metrics_path: {path}\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  \
             static_configs:\n  - targets: [\"127.0.0.1:10255\"]\n"
        );
    }
    let prometheus = Prometheus::start(&lab.work().join("kubelet-prometheus"), &scrape, &[&rules_file()])?;
    let patience = Duration::from_secs(60);
    let memory = |job: &str| {
        format!(
            "container_memory_working_set_bytes{{job=\"{job}\",namespace=\"default\",pod=~\"watched.*\",container=\"main\"}}"
        )
    };
    for job in ["berth", "cadvisor"] {
        wait_until(&format!("the container in {job}'s metrics"), patience, || {
            prometheus.query(&memory(job)).is_ok_and(|series| series.len() == 1)
        });
    }
    wait_until("four targets to be up", patience, || prometheus.sum("up").is_ok_and(|up| up == 4.0));
    for (expression, least) in [
        ("kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"}", 1.0),
        ("kubelet_running_pods", 1.0),
        ("kubelet_running_containers{container_state=\"running\"}", 1.0),
        ("pod_memory_working_set_bytes{job=\"resource\",namespace=\"default\"}", 1.0),
        ("berth_cri_requests_total{method=\"RunPodSandbox\",code=\"ok\"}", 1.0),
    ] {
        wait_until(expression, patience, || prometheus.sum(expression).is_ok_and(|sum| sum >= least));
    }
    // The dashboard counts a container once, whoever tells of it.
    let once = "sum by (namespace, pod) (max by (namespace, pod, container) \
                (container_memory_working_set_bytes{container=\"main\",pod=~\"watched.*\"}))";
    let both: Vec<f64> = [memory("berth"), memory("cadvisor")]
        .iter()
        .map(|expression| prometheus.sum(expression))
        .collect::<Result<_>>()?;
    let counted = prometheus.sum(once)?;
    ensure!(counted < both.iter().sum::<f64>() * 0.9, "{counted} of {both:?}");
    Ok(())
}

fn guarded(lab: &Lab, registry: &Registry) -> Result<()> {
    let tls = authority(lab.work())?;
    let token = lab.work().join("token");
    std::fs::write(&token, "s3cret\n")?;
    let path = |name: &str| tls.join(name).display().to_string();
    let more = format!(
        "tls_certificate = {:?}\ntls_key = {:?}\nbearer_token_file = {:?}\n",
        path("server.pem"),
        path("server.key"),
        token.display().to_string()
    );
    let (_node, port) = node(lab, registry, "guarded", &more)?;
    ensure!(http::get(&format!("http://127.0.0.1:{port}/metrics")).is_err(), "it is served in the clear");
    let wrong = lab.work().join("wrong-token");
    std::fs::write(&wrong, "guess")?;
    let job = |name: &str, authority: &str, token: &Path| {
        format!(
            "- job_name: {name}\n  scheme: https\n  tls_config: {{ca_file: {}}}\n  authorization: \
             {{credentials_file: {}}}\n  static_configs:\n  - targets: [\"127.0.0.1:{port}\"]\n",
            path(authority),
            token.display()
        )
    };
    let scrape = job("right", "ca.pem", &token)
        + &job("stranger", "ca.pem", &wrong)
        + &job("impostor", "other.pem", &token);
    let prometheus = Prometheus::start(&lab.work().join("guarded-prometheus"), &scrape, &[])?;
    wait_until("three targets to be tried", PATIENCE, || {
        prometheus.query("up").is_ok_and(|series| series.len() == 3)
            && prometheus.sum("up{job=\"right\"}").is_ok_and(|up| up == 1.0)
    });
    ensure!(prometheus.sum("up{job!=\"right\"}")? == 0.0, "somebody without the token or the trust reads");
    ensure!(prometheus.sum("berth_keeper_up{job=\"right\"}")? == 1.0, "nothing was read");
    let targets = prometheus.ask("targets?state=active")?.to_string();
    ensure!(targets.contains("401"), "a wrong token is refused with another answer: {targets}");
    Ok(())
}

fn rules(_: &Lab, _: &Registry) -> Result<()> {
    run(Command::new("promtool").args(["check", "rules"]).arg(rules_file()))?;
    run(Command::new("promtool")
        .args(["test", "rules"])
        .arg(checkout().join("charts/berth/files/prometheus-rules.test.yaml")))?;
    Ok(())
}
