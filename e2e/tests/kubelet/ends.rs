//! How containers end: hooks, stop signals, grace, deadlines and what they leave as a message.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::scene::*;

pub(crate) const GROUP: Group = Group {
    name: "ends",
    pods,
    once: &[
        ("hooks by exec, before and after", exec_hooks),
        ("hooks by http", http_hooks),
        ("hooks that sleep", sleep_hooks),
        ("a failing hook ends its container", failing_hook),
        ("stop signals", stop_signals),
        ("a container that does not end is killed", forced),
        ("active deadline", deadline),
        ("a container out of memory", out_of_memory),
    ],
    steady: &[("termination messages", messages)],
    midway: &[Midway { name: "a graceful end", begin: begin_end, finish: finish_end }],
};

fn pods(_: &Scene) -> Vec<Value> {
    let mut all = hook_pods();
    all.extend(signal_pods());
    all.extend(message_pods());
    all
}

/// A script that notes a signal and ends.
fn on(signal: &str, note: &str, file: &str) -> String {
    format!("trap 'echo {note} >>/out/{file}; exit 0' {signal}; while true; do sleep 1 & wait; done")
}

fn lifecycle(members: Value) -> Value {
    json!({ "lifecycle": members })
}

fn hook_pods() -> Vec<Value> {
    let note =
        |word: &str| json!({"exec": {"command": ["sh", "-c", format!("echo {word} >>/out/exec-hooks")]}});
    let get = |word: &str| json!({"httpGet": {"path": format!("/cgi-bin/mark?{word}"), "port": 8080}});
    let server = "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho $QUERY_STRING >>/out/http-hooks\\necho; echo ok\\n' \
                  >/www/cgi-bin/mark; chmod +x /www/cgi-bin/mark; exec httpd -f -p 8080 -h /www";
    let up =
        json!({"restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}});
    let sleeps = json!({"postStart": {"sleep": {"seconds": 1}}, "preStop": {"sleep": {"seconds": 3}}});
    vec![
        pod(
            "exec-hooks",
            json!({"containers": [with(
                with_out(shell("main", &on("TERM", "term", "exec-hooks"))),
                lifecycle(json!({"postStart": note("started"), "preStop": note("stopping")})),
            )], "volumes": [out_volume()]}),
        ),
        pod(
            "http-hooks",
            json!({
                // The server is the first process of its container, and does not listen to signals.
                "terminationGracePeriodSeconds": 5,
                "initContainers": [with(with_out(shell("server", server)), up)],
                "containers": [with(
                    with_out(shell("main", &on("TERM", "term", "http-hooks"))),
                    lifecycle(json!({"postStart": get("started"), "preStop": get("stopping")})),
                )],
                "volumes": [out_volume()],
            }),
        ),
        pod(
            "sleep-hooks",
            json!({"containers": [with(
                with_out(shell("main", &on("TERM", "term", "sleep-hooks"))),
                lifecycle(sleeps),
            )], "volumes": [out_volume()]}),
        ),
        pod(
            "failing-hook",
            json!({"terminationGracePeriodSeconds": 1, "containers": [with(
                shell("main", WAIT),
                lifecycle(json!({"postStart": {"exec": {"command": ["false"]}}})),
            )]}),
        ),
    ]
}

fn signal_pods() -> Vec<Value> {
    let stubborn = "trap '' TERM; touch /out/stubborn; while true; do sleep 1; done";
    vec![
        pod(
            "stop-signal",
            json!({"os": {"name": "linux"}, "containers": [with(
                with_out(shell("main", &on("USR1", "usr1", "stop-signal"))),
                lifecycle(json!({"stopSignal": "SIGUSR1"})),
            )], "volumes": [out_volume()]}),
        ),
        pod(
            "stubborn",
            json!({"terminationGracePeriodSeconds": 2, "containers": [with_out(shell("main", stubborn))],
                "volumes": [out_volume()]}),
        ),
        pod(
            "late",
            json!({"restartPolicy": "Never", "activeDeadlineSeconds": 3, "terminationGracePeriodSeconds": 1,
                "containers": [shell("main", "trap '' TERM; while true; do sleep 1; done")]}),
        ),
        pod(
            "hungry",
            json!({"restartPolicy": "Never", "containers": [with(
                shell("main", "tail /dev/zero"),
                json!({"resources": {"limits": {"memory": "16Mi"}}}),
            )]}),
        ),
    ]
}

fn message_pods() -> Vec<Value> {
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    vec![pod(
        "messages",
        json!({"restartPolicy": "Never", "containers": [
            shell("file", "echo from a file >/dev/termination-log; exit 1"),
            with(
                shell("path", "echo from a path >/tmp/said; exit 0"),
                json!({"terminationMessagePath": "/tmp/said"}),
            ),
            with(shell("log", "echo from the log; exit 1"), fallback.clone()),
            with(shell("prefers", "echo of the log; echo of the file >/dev/termination-log; exit 1"), fallback.clone()),
            with(shell("fine", "echo no error; exit 0"), fallback),
            shell("none", "echo only in the log; exit 1"),
        ]}),
    )]
}

fn exec_hooks(s: &mut Scene) -> Result<()> {
    s.ready("exec-hooks")?;
    s.end("exec-hooks")?;
    let log = read_out("exec-hooks");
    ensure!(log == "started\nstopping\nterm\n", "the order was {log:?}");
    Ok(())
}

fn http_hooks(s: &mut Scene) -> Result<()> {
    s.ready("http-hooks")?;
    s.end("http-hooks")?;
    let log = read_out("http-hooks");
    ensure!(log == "started\nstopping\nterm\n", "the order was {log:?}");
    Ok(())
}

fn sleep_hooks(s: &mut Scene) -> Result<()> {
    s.ready("sleep-hooks")?;
    let start = Instant::now();
    s.end("sleep-hooks")?;
    let took = start.elapsed();
    ensure!(took >= Duration::from_secs(3), "it ended after {took:?}");
    let log = read_out("sleep-hooks");
    ensure!(log == "term\n", "it ended with {log:?}");
    Ok(())
}

fn failing_hook(s: &mut Scene) -> Result<()> {
    s.container("failing-hook", "main", "was restarted", |status| restarts(status) > 0)?;
    s.end("failing-hook")
}

fn stop_signals(s: &mut Scene) -> Result<()> {
    let pod = s.ready("stop-signal")?;
    let status = container_status(&pod, "main")?;
    ensure!(status["stopSignal"] == "SIGUSR1", "the status says {status}");
    s.end("stop-signal")?;
    let log = read_out("stop-signal");
    ensure!(log == "usr1\n", "it ended with {log:?}");
    Ok(())
}

fn forced(s: &mut Scene) -> Result<()> {
    let pod = s.ready("stubborn")?;
    wait("the trap to be set", || Ok(out("stubborn").try_exists()?))?;
    let id = container_id(&pod, "main")?;
    let start = Instant::now();
    s.end("stubborn")?;
    let took = start.elapsed();
    ensure!(took >= Duration::from_secs(2), "its grace was {took:?}");
    ensure!(took < Duration::from_secs(20), "its grace was {took:?}");
    let state = s.node.client.state(&id)?;
    ensure!(state.exit_code == 137, "it ended with {state:?}");
    Ok(())
}

fn deadline(s: &mut Scene) -> Result<()> {
    let pod = s.ended("late")?;
    ensure!(pod["status"]["reason"] == "DeadlineExceeded", "{}", pod["status"]);
    let pod = s.container("late", "main", "ended", |status| !status["state"]["terminated"].is_null())?;
    let code = &container_status(&pod, "main")?["state"]["terminated"]["exitCode"];
    ensure!(*code == 137, "it ignored the signal and ended with {code}");
    Ok(())
}

fn out_of_memory(s: &mut Scene) -> Result<()> {
    let pod = s.ended("hungry")?;
    let terminated = &container_status(&pod, "main")?["state"]["terminated"];
    ensure!(terminated["reason"] == "OOMKilled" && terminated["exitCode"] == 137, "{terminated}");
    Ok(())
}

fn messages(s: &mut Scene) -> Result<()> {
    let pod = s.ended("messages")?;
    let wanted = [
        ("file", Some("from a file")),
        ("path", Some("from a path")),
        ("log", Some("from the log")),
        ("prefers", Some("of the file")),
        ("fine", None),
        ("none", None),
    ];
    for (name, wanted) in wanted {
        let message = &container_status(&pod, name)?["state"]["terminated"]["message"];
        ensure!(message.as_str().map(str::trim) == wanted, "{name}: {message}");
    }
    Ok(())
}

/// A container that has been told to end and takes its time.
fn begin_end(s: &mut Scene, who: Restart) -> Result<()> {
    let name = who.pod("ending");
    let script = format!(
        "trap 'echo term >>/out/{name}; while [ ! -e /out/{name}.go ]; do sleep 0.1; done; \
         echo done >>/out/{name}; exit 0' TERM; while true; do sleep 1 & wait; done"
    );
    s.kubelet.put(&pod(
        &name,
        json!({"terminationGracePeriodSeconds": 60, "containers": [with_out(shell("main", &script))],
            "volumes": [out_volume()]}),
    ))?;
    s.ready(&name)?;
    s.kubelet.take(&name)?;
    wait_out(&name, "asked to end", |text| text == "term\n")?;
    Ok(())
}

/// A kubelet that did not see the manifest grants an orphan one second only. Else grace goes on.
fn finish_end(s: &mut Scene, who: Restart) -> Result<()> {
    let name = who.pod("ending");
    if !who.kubelet() {
        ensure!(!read_out(&name).contains("done"), "it ended early: {:?}", read_out(&name));
        std::fs::write(out(&format!("{name}.go")), "")?;
        wait_out(&name, "ended by itself", |text| text.ends_with("done\n"))?;
    }
    s.gone(&name)
}
