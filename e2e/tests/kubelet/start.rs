//! How pods start and start again: init containers, sidecars, restart policies and back-off.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::scene::*;

pub(crate) const GROUP: Group = Group {
    name: "starts",
    pods,
    once: &[
        ("init containers run once, in order, and sidecars beside them", initialised),
        ("a sidecar is waited for until it has started", waited_for),
        ("sidecars end after the others, last first", ends_in_order),
        ("a pod that is done takes its sidecars along", takes_sidecars),
        ("a failing init container fails its pod", failing_init),
        ("restart policies of pods", policies),
        ("restart rules of a container", rules),
        ("back-off between restarts", backs_off),
    ],
    steady: &[("pods with sidecars go on", goes_on)],
    midway: &[Midway { name: "init containers", begin: begin_init, finish: finish_init }],
};

/// An init container that stays.
fn sidecar(container: Value) -> Value {
    with(container, json!({"restartPolicy": "Always"}))
}

/// A script that notes its end in a shared file and takes a moment for it.
fn noting(name: &str, file: &str) -> String {
    format!("trap 'echo {name} >>/out/{file}; exit 0' TERM; while true; do sleep 1 & wait; done")
}

fn pods(_: &Scene) -> Vec<Value> {
    let shared = |container| mounted(container, &[("shared", "/shared")]);
    let slow_start = json!({"startupProbe": {"exec": {"command": ["test", "-e", "/shared/started"]}, "periodSeconds": 1,
        "failureThreshold": 30}});
    let mut all = vec![
        pod(
            "initialised",
            json!({
                "initContainers": [
                    shared(shell("first", "echo first >>/shared/order")),
                    sidecar(shared(shell("side", &format!("echo side >>/shared/order; {WAIT}")))),
                    shared(shell("second", "echo second >>/shared/order")),
                ],
                "containers": [shared(shell("main", &format!("echo main >>/shared/order; {WAIT}")))],
                "volumes": [{"name": "shared", "emptyDir": {}}],
            }),
        ),
        pod(
            "waited-for",
            json!({
                "initContainers": [
                    sidecar(with(
                        shared(shell("slow", &format!("sleep 2; date +%s%N >/shared/started; {WAIT}"))),
                        slow_start,
                    )),
                    shared(shell("after", "test -e /shared/started")),
                ],
                "containers": [shell("main", WAIT)],
                "volumes": [{"name": "shared", "emptyDir": {}}],
            }),
        ),
        pod(
            "in-order",
            json!({
                "terminationGracePeriodSeconds": 20,
                "initContainers": [
                    sidecar(with_out(shell("one", &noting("one", "in-order")))),
                    sidecar(with_out(shell("two", &noting("two", "in-order")))),
                ],
                "containers": [with_out(shell("main", &noting("main", "in-order")))],
                "volumes": [out_volume()],
            }),
        ),
        pod(
            "job",
            json!({
                "restartPolicy": "Never",
                "initContainers": [sidecar(shell("side", WAIT))],
                "containers": [shell("main", "exit 0")],
            }),
        ),
        pod(
            "failing-init",
            json!({
                "restartPolicy": "Never",
                "initContainers": [shell("bad", "exit 4")],
                "containers": [with_out(shell("main", "touch /out/must-not-run"))],
                "volumes": [out_volume()],
            }),
        ),
    ];
    all.extend(policy_pods());
    all
}

fn policy_pods() -> Vec<Value> {
    let kept = |container| mounted(container, &[("kept", "/kept")]);
    let retry = "test -e /kept/mark && exit 0; touch /kept/mark; exit 1";
    let volumes = json!([{"name": "kept", "emptyDir": {}}]);
    let rule = json!({
        "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
    });
    let by_rule = with(kept(shell("main", "test -e /kept/mark && exit 7; touch /kept/mark; exit 42")), rule);
    vec![
        pod("never", json!({"restartPolicy": "Never", "containers": [shell("main", "exit 3")]})),
        pod(
            "on-failure",
            json!({"restartPolicy": "OnFailure", "containers": [kept(shell("main", retry))], "volumes": volumes}),
        ),
        pod("always", json!({"containers": [shell("main", "exit 0")]})),
        pod("by-rule", json!({"restartPolicy": "Never", "containers": [by_rule], "volumes": volumes})),
    ]
}

fn initialised(s: &mut Scene) -> Result<()> {
    let pod = s.ready("initialised")?;
    let order = s.exec(&pod, "main", &["cat", "/shared/order"])?;
    let lines: Vec<&str> = order.lines().collect();
    ensure!(lines.len() == 4, "the order was {lines:?}");
    ensure!(lines.first() == Some(&"first") && lines.last() == Some(&"main"), "the order was {lines:?}");
    ensure!(lines.contains(&"side") && lines.contains(&"second"), "the order was {lines:?}");
    ensure!(!container_status(&pod, "side")?["state"]["running"].is_null(), "the sidecar does not run");
    let second = &container_status(&pod, "second")?["state"]["terminated"];
    ensure!(second["exitCode"] == 0 && second["reason"] == "Completed", "the second: {second}");
    Ok(())
}

fn waited_for(s: &mut Scene) -> Result<()> {
    let pod = s.ready("waited-for")?;
    let after = container_status(&pod, "after")?;
    ensure!(restarts(after) == 0, "the next container did not wait: {after}");
    ensure!(after["state"]["terminated"]["exitCode"] == 0, "{after}");
    Ok(())
}

fn ends_in_order(s: &mut Scene) -> Result<()> {
    s.ready("in-order")?;
    s.end("in-order")?;
    let order = read_out("in-order");
    ensure!(order == "main\ntwo\none\n", "the order was {order:?}");
    Ok(())
}

fn takes_sidecars(s: &mut Scene) -> Result<()> {
    let pod = s.ended("job")?;
    ensure!(pod["status"]["phase"] == "Succeeded", "{}", pod["status"]);
    s.container("job", "side", "ended", |status| !status["state"]["terminated"].is_null())?;
    s.gone("job")
}

fn failing_init(s: &mut Scene) -> Result<()> {
    let pod = s.ended("failing-init")?;
    ensure!(pod["status"]["phase"] == "Failed", "{}", pod["status"]);
    ensure!(container_status(&pod, "bad")?["state"]["terminated"]["exitCode"] == 4, "{}", pod["status"]);
    ensure!(!out("must-not-run").try_exists()?, "the main container ran");
    Ok(())
}

fn policies(s: &mut Scene) -> Result<()> {
    let never = s.ended("never")?;
    ensure!(never["status"]["phase"] == "Failed", "{}", never["status"]);
    let terminated = &container_status(&never, "main")?["state"]["terminated"];
    ensure!(terminated["exitCode"] == 3 && terminated["reason"] == "Error", "{terminated}");
    let retried = s.ended("on-failure")?;
    ensure!(retried["status"]["phase"] == "Succeeded", "{}", retried["status"]);
    ensure!(restarts(container_status(&retried, "main")?) == 1, "{}", retried["status"]);
    Ok(())
}

fn rules(s: &mut Scene) -> Result<()> {
    let pod = s.ended("by-rule")?;
    let main = container_status(&pod, "main")?;
    ensure!(restarts(main) == 1 && main["state"]["terminated"]["exitCode"] == 7, "{main}");
    Ok(())
}

/// The pod stays: restarts must not make kubelet forget how often it tried.
fn backs_off(s: &mut Scene) -> Result<()> {
    s.container("always", "main", "backs off", |status| {
        restarts(status) > 0 && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })?;
    Ok(())
}

fn goes_on(s: &mut Scene) -> Result<()> {
    initialised(s)?;
    let status = |s: &Scene| -> Result<u64> {
        let pod = s.container("always", "main", "was restarted", |status| restarts(status) > 0)?;
        Ok(restarts(container_status(&pod, "main")?))
    };
    let before = status(s)?;
    s.container("always", "main", "is restarted again", |status| restarts(status) > before)?;
    Ok(())
}

/// An init container that waits to be let on.
fn begin_init(s: &mut Scene, who: Restart) -> Result<()> {
    let name = who.pod("init");
    let step = format!("echo begun >>/out/{name}; while [ ! -e /out/{name}.go ]; do sleep 0.1; done");
    s.kubelet.put(&pod(
        &name,
        json!({
            "initContainers": [
                with_out(shell("before", &format!("echo before >>/out/{name}"))),
                with_out(shell("step", &step)),
            ],
            "containers": [with_out(shell("main", &format!("echo main >>/out/{name}; {WAIT}")))],
            "volumes": [out_volume()],
        }),
    ))?;
    wait_out(&name, "the second init container", |text| text == "before\nbegun\n")?;
    Ok(())
}

fn finish_init(s: &mut Scene, who: Restart) -> Result<()> {
    let name = who.pod("init");
    std::fs::write(out(&format!("{name}.go")), "")?;
    let pod = s.ready(&name)?;
    let order = read_out(&name);
    ensure!(order == "before\nbegun\nmain\n", "the order was {order:?}");
    ensure!(restarts(container_status(&pod, "step")?) == 0, "{}", pod["status"]);
    s.end(&name)
}
