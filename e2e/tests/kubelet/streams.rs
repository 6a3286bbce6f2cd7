//! Kubelet's own API: exec, attach, port-forward, logs, statistics and events.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::scene::*;

pub(crate) const GROUP: Group = Group {
    name: "streams",
    pods,
    once: &[("logs: tail, follow, previous, times", logs)],
    steady: &[
        ("commands without streams", runs),
        ("exec", exec),
        ("attach", attach),
        ("port-forward", port_forward),
        ("statistics of pods and containers", summary),
        ("metrics of containers", metrics),
    ],
    midway: &[
        Midway { name: "a command with streams", begin: begin_exec, finish: finish_exec },
        Midway { name: "events instead of polling", begin: |_, _| Ok(()), finish: evented },
    ],
};

/// Kubelet translates these to SPDY for the runtime.
const TRANSLATED: &str = "v5.channel.k8s.io";
/// And passes these through.
const PASSED: &str = "v4.channel.k8s.io";

fn pods(_: &Scene) -> Vec<Value> {
    let reader = "while read line; do echo \"heard $line\"; done; echo deaf; sleep 100000";
    let web = "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 8080 -h /www";
    let counting = "i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); done; sleep 1; echo last; exit 1";
    vec![
        pod(
            "streams",
            json!({"containers": [with(shell("main", reader), json!({"stdin": true})), shell("web", web)]}),
        ),
        pod("counting", json!({"containers": [shell("main", counting)]})),
    ]
}

/// A word as a part of a query.
fn escaped(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    word.bytes().map(escape).collect()
}

fn exec_path(pod: &Value, container: &str, streams: &str, command: &[&str]) -> String {
    let words: String = command.iter().map(|word| format!("&command={}", escaped(word))).collect();
    format!("/exec/default/{}/{container}?{streams}{words}", full_name(pod))
}

fn runs(s: &mut Scene) -> Result<()> {
    let pod = s.ready("streams")?;
    let ran =
        s.kubelet.ask("POST", &format!("/run/default/{}/web?cmd=cat%20/www/index.html", full_name(&pod)))?;
    ensure!(ran == "hello\n", "it answered {ran:?}");
    Ok(())
}

fn exec(s: &mut Scene) -> Result<()> {
    let pod = s.ready("streams")?;
    let script = "echo out; echo err >&2; exit 3";
    for protocol in [TRANSLATED, PASSED] {
        let path = exec_path(&pod, "web", "output=1&error=1", &["sh", "-c", script]);
        let output = s.kubelet.stream(&path, protocol)?.output()?;
        ensure!(output.stdout == "out\n" && output.stderr == "err\n", "{protocol}: {output:?}");
        let status: Value =
            serde_json::from_str(&output.status).with_context(|| format!("read {output:?}"))?;
        ensure!(status["reason"] == "NonZeroExitCode", "{protocol}: {status}");
        ensure!(status["details"]["causes"][0]["message"] == "3", "{protocol}: {status}");
    }
    let path = exec_path(&pod, "web", "input=1&output=1&error=1", &["sh", "-c", "cat; echo end"]);
    let mut session = s.kubelet.stream(&path, TRANSLATED)?;
    let block = "x".repeat(100_000);
    session.send(0, block.as_bytes())?;
    session.end(0)?;
    let output = session.output()?;
    ensure!(output.stdout == format!("{block}end\n"), "{} bytes came back", output.stdout.len());
    has(&output.status, &["\"Success\""])?;
    let path = exec_path(&pod, "web", "input=1&output=1&tty=1", &["sh", "-c", "read line; stty size; tty"]);
    let mut session = s.kubelet.stream(&path, TRANSLATED)?;
    session.send(4, br#"{"Width":123,"Height":45}"#)?;
    session.send(0, b"go\n")?;
    let output = session.output()?;
    has(&output.stdout, &["45 123", "/dev/pts/"])
}

fn attach(s: &mut Scene) -> Result<()> {
    let pod = s.ready("streams")?;
    for (protocol, word) in [(TRANSLATED, "translated"), (PASSED, "passed")] {
        let path = format!("/attach/default/{}/main?input=1&output=1&error=1", full_name(&pod));
        let mut session = s.kubelet.stream(&path, protocol)?;
        session.send(0, format!("{word}\n").as_bytes())?;
        session.read_until(1, &format!("heard {word}\n")).context(protocol)?;
        // To leave is not to end the container's input.
    }
    let log = s.log(&pod, "main", "")?;
    ensure!(!log.contains("deaf"), "its input was ended: {log:?}");
    has(&log, &["heard translated", "heard passed"])
}

fn port_forward(s: &mut Scene) -> Result<()> {
    let pod = s.ready("streams")?;
    let path = format!("/portForward/default/{}?port=8080", full_name(&pod));
    let mut session = s.kubelet.stream(&path, PASSED)?;
    // Both channels of a port begin with its number.
    for channel in [0, 1] {
        let (from, number) = session.receive()?.context("no port number")?;
        ensure!(from == channel && number == 8080_u16.to_le_bytes(), "channel {from} begins with {number:?}");
    }
    session.send(0, b"GET /index.html HTTP/1.0\r\n\r\n")?;
    session.read_until(0, "hello\n")?;
    Ok(())
}

fn logs(s: &mut Scene) -> Result<()> {
    let pod = s.container("counting", "main", "was restarted", |status| {
        restarts(status) > 0 && !status["state"]["running"].is_null()
    })?;
    let previous = s.log(&pod, "main", "previous=true")?;
    ensure!(previous == "line 0\nline 1\nline 2\nline 3\nline 4\nlast\n", "the log before is {previous:?}");
    let tail = s.log(&pod, "main", "previous=true&tailLines=2")?;
    ensure!(tail == "line 4\nlast\n", "its tail is {tail:?}");
    let some = s.log(&pod, "main", "previous=true&limitBytes=8")?;
    ensure!(some == "line 0\nl", "eight bytes are {some:?}");
    let stamped = s.log(&pod, "main", "previous=true&timestamps=true&tailLines=1")?;
    ensure!(stamped.starts_with("20") && stamped.ends_with("Z last\n"), "with its time it is {stamped:?}");
    // It follows until the container ends.
    let followed = s.log(&pod, "main", "follow=true")?;
    ensure!(followed.ends_with("last\n"), "it followed up to {followed:?}");
    s.end("counting")
}

fn summary(s: &mut Scene) -> Result<()> {
    let pod = s.ready("streams")?;
    let found = pod_summary(s, full_name(&pod))?;
    let containers = found["containers"].as_array().context("no containers")?;
    ensure!(containers.len() == 2, "{} containers", containers.len());
    for container in containers {
        let positive = |part: &str, name: &str| -> Result<()> {
            let value = &container[part][name];
            ensure!(value.as_u64() > Some(0), "{}: {part}.{name} is {value}", container["name"]);
            Ok(())
        };
        for name in ["workingSetBytes", "usageBytes", "rssBytes"] {
            positive("memory", name)?;
        }
        positive("cpu", "usageCoreNanoSeconds")?;
        positive("rootfs", "capacityBytes")?;
        ensure!(container["rootfs"]["usedBytes"].as_u64().is_some(), "{}", container["rootfs"]);
        ensure!(container["logs"]["usedBytes"].as_u64().is_some(), "{}", container["logs"]);
    }
    ensure!(found["network"]["rxBytes"].as_u64().is_some(), "network: {}", found["network"]);
    ensure!(found["process_stats"]["process_count"].as_u64() >= Some(2), "{}", found["process_stats"]);
    ensure!(found["memory"]["workingSetBytes"].as_u64() > Some(0), "memory: {}", found["memory"]);
    Ok(())
}

/// Kubelet keeps statistics for some seconds: those of a restarted container may be missing at first.
fn pod_summary(s: &Scene, name: &str) -> Result<Value> {
    let mut found = Value::Null;
    wait("the pod's statistics", || {
        let summary: Value = serde_json::from_str(&s.kubelet.read("/stats/summary")?)?;
        let pods = summary["pods"].as_array().context("no pods in the summary")?;
        found = pods.iter().find(|pod| pod["podRef"]["name"] == name).context("not in the summary")?.clone();
        let node = &summary["node"];
        ensure!(node["runtime"]["imageFs"]["usedBytes"].as_u64() > Some(0), "images: {}", node["runtime"]);
        Ok(found["containers"].as_array().is_some_and(|all| all.len() == 2))
    })?;
    Ok(found)
}

fn metrics(s: &mut Scene) -> Result<()> {
    let pod = s.ready("streams")?;
    let name = format!("pod=\"{}\"", full_name(&pod));
    let all = s.kubelet.ask("GET", "/metrics/cadvisor")?;
    let wanted = [
        "container_memory_working_set_bytes",
        "container_cpu_usage_seconds_total",
        "container_fs_usage_bytes",
        "container_network_receive_bytes_total",
        "container_processes",
    ];
    for metric in wanted {
        let line = all.lines().find(|line| line.starts_with(&format!("{metric}{{")) && line.contains(&name));
        has(line.with_context(|| format!("no {metric} of the pod"))?, &["namespace=\"default\""])?;
    }
    let resource = s.kubelet.ask("GET", "/metrics/resource")?;
    let of_pod = |line: &&str| line.starts_with("pod_memory_working_set_bytes{") && line.contains(&name);
    resource.lines().find(of_pod).context("no pod_memory_working_set_bytes of the pod")?;
    Ok(())
}

/// A kubelet whose runtime was away asks again and again from then on: it tries five times at once.
fn evented(s: &mut Scene, who: Restart) -> Result<()> {
    if !who.kubelet() {
        return Ok(());
    }
    wait("kubelet to receive events", || {
        let connected = s.kubelet.metric("kubelet_evented_pleg_connection_success_count")?;
        let received = s.kubelet.metric("kubelet_evented_pleg_connection_latency_seconds_count")?;
        Ok(connected >= 1.0 && received >= 1.0)
    })
}

/// A command that runs when the restart comes; its session may end with a server, the command's container not.
fn begin_exec(s: &mut Scene, who: Restart) -> Result<()> {
    let pod = s.ready("streams")?;
    let name = who.pod("session");
    let script = format!("echo $$ >/tmp/{name}; exec cat");
    let path = exec_path(&pod, "web", "input=1&output=1&error=1", &["sh", "-c", &script]);
    let mut session = s.kubelet.stream(&path, TRANSLATED)?;
    session.send(0, b"before\n")?;
    session.read_until(1, "before\n")?;
    // The session ends here, with its client, or when its servers are killed: whichever is first.
    std::thread::spawn(move || session.output());
    Ok(())
}

fn finish_exec(s: &mut Scene, who: Restart) -> Result<()> {
    let pod = s.ready("streams")?;
    let name = who.pod("session");
    wait("the command to end with its session", || {
        Ok(s.exec(&pod, "web", &["sh", "-c", &format!("kill -0 $(cat /tmp/{name})")]).is_err())
    })?;
    let path = exec_path(&pod, "web", "output=1&error=1", &["echo", "after"]);
    let output = s.kubelet.stream(&path, TRANSLATED)?.output()?;
    ensure!(output.stdout == "after\n", "{output:?}");
    Ok(())
}
