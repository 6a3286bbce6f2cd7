//! A real kubelet, stand-alone, drives the node: pods come from manifests, and what kubelet says of them is
//! compared with what they ask for. Then kubelet, the daemon and both are killed under them.
//!
//! Without an API server kubelet has no projected volumes, secrets, config maps and service accounts, no
//! ephemeral containers and no resize; on cgroup v1 it has no swap and no user namespaces.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::catalog::BUSYBOX;
use e2e::kubelet::{CGROUP_ROOT, Kubelet, remove_cgroups};
use e2e::{Lab, Node, NodeOptions, summarize, wait_until};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(90);

struct Scene {
    lab: Lab,
    node: Node,
    kubelet: Kubelet,
    passed: u32,
    failed: Vec<String>,
}

impl Scene {
    fn check(&mut self, name: &str, work: impl FnOnce(&mut Scene) -> Result<()>) {
        match work(self) {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("FAILED {name}: {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    fn ready(&self, name: &str) -> Result<Value> {
        self.kubelet.wait_for(name, "ready", PATIENCE, is_ready)
    }

    fn ended(&self, name: &str) -> Result<Value> {
        self.kubelet.wait_for(name, "at its end", PATIENCE, |pod| {
            matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        })
    }

    /// Waits until nothing of a pod is ready or runs: kubelet forgets a pod before it has ended it.
    fn wait_gone(&self, name: &str) -> Result<()> {
        let label_selector = [("pod".to_owned(), name.to_owned())].into();
        let filter = cri::PodSandboxFilter { label_selector, ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        wait_until(&format!("pod {name} to end"), PATIENCE, || {
            self.node.client.list_pod_sandbox(request.clone()).is_ok_and(|list| {
                list.items.iter().all(|found| found.state() == cri::PodSandboxState::SandboxNotready)
            })
        });
        Ok(())
    }

    /// Runs a command in a container of a pod.
    fn exec(&self, pod: &Value, container: &str, command: &[&str]) -> Result<String> {
        self.node.client.exec_ok(&container_id(pod, container)?, command)
    }

    /// What a container logged, by kubelet's own API.
    fn log(&self, pod: &Value, container: &str) -> Result<String> {
        let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
        self.kubelet.ask("GET", &format!("/containerLogs/default/{name}/{container}"))
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn container_status<'a>(pod: &'a Value, name: &str) -> Result<&'a Value> {
    let lists = ["containerStatuses", "initContainerStatuses"].map(|list| pod["status"][list].as_array());
    let mut all = lists.into_iter().flatten().flatten();
    all.find(|status| status["name"] == name).with_context(|| format!("no status of container {name}"))
}

fn container_id(pod: &Value, name: &str) -> Result<String> {
    let id = container_status(pod, name)?["containerID"].as_str().context("no container id")?;
    Ok(id.strip_prefix("berth://").with_context(|| format!("{id} is not of berth"))?.to_owned())
}

/// A pod with its name as a label, which is how it is found again.
fn pod(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"pod": name}, "annotations": {"note": name}},
        "spec": spec,
    })
}

fn shell(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": BUSYBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    })
}

/// A value with more members.
fn with(mut value: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (value.as_object_mut(), more) {
        object.extend(more);
    }
    value
}

/// A script that sleeps until it is told to end, and then ends at once.
const WAIT: &str = "trap 'exit 0' TERM; while true; do sleep 1 & wait; done";

#[test]
fn pods_of_a_kubelet() {
    let lab = Lab::enter("kubelet");
    let registry = lab.registry().expect("start the registry");
    let node = Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    let kubelet = Kubelet::start(&lab, &node).expect("start kubelet");
    let mut scene = Scene { lab, node, kubelet, passed: 0, failed: Vec::new() };
    // All at once: most of the time goes into waiting for probes and back-offs.
    for pod in pods(scene.lab.work()) {
        scene.kubelet.put(&pod).expect("write a manifest");
    }
    scene.check("init containers and sidecars in order", initialised);
    scene.check("probes", probes);
    scene.check("restart policies", restarts);
    scene.check("quality of service and limits", quality);
    scene.check("volumes", volumes);
    scene.check("security contexts", security);
    scene.check("namespaces shared with the host", of_the_host);
    scene.check("process namespace shared in the pod", shared_processes);
    scene.check("names and resolution", names);
    scene.check("termination messages", messages);
    scene.check("hooks and graceful ends", hooks);
    scene.check("active deadline", deadline);
    scene.check("exec, logs and statistics by kubelet", serving);
    scene.check("kubelet killed", |s| survives(s, true, false));
    scene.check("daemon killed", |s| survives(s, false, true));
    scene.check("both killed", |s| survives(s, true, true));
    scene.check("pods taken away", taken);
    let Scene { node, kubelet, passed, failed, lab: _lab } = scene;
    let words = format!("{}\n{}", kubelet.last_words(), node.last_words());
    drop(kubelet);
    drop(node);
    let left = remove_cgroups().expect("remove the cgroups");
    summarize(&format!("a real kubelet: {passed} passed, {} failed, 0 skipped", failed.len()));
    assert!(failed.is_empty(), "{failed:?}\n{words}");
    assert!(left.is_empty(), "cgroups are left:\n{left}");
}

fn pods(work: &Path) -> Vec<Value> {
    let mut all = lifecycle_pods();
    all.extend(volume_pods(work));
    all.extend(identity_pods());
    all
}

fn lifecycle_pods() -> Vec<Value> {
    let http = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    vec![
        pod(
            "initialised",
            json!({
                "initContainers": [
                    with(shell("first", "echo first >/shared/order"), mounts("shared", "/shared")),
                    with(
                        shell("side", &format!("echo side >>/shared/order; {WAIT}")),
                        with(mounts("shared", "/shared"), json!({"restartPolicy": "Always"})),
                    ),
                    with(shell("second", "echo second >>/shared/order"), mounts("shared", "/shared")),
                ],
                "containers": [
                    with(shell("main", &format!("echo main >>/shared/order; {WAIT}")), mounts("shared", "/shared")),
                ],
                "volumes": [{"name": "shared", "emptyDir": {}}],
            }),
        ),
        pod(
            "probed",
            json!({"containers": [
                with(
                    shell("web", "mkdir /www; echo hello >/www/index.html; httpd -f -p 8080 -h /www"),
                    json!({
                        "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                        "readinessProbe": http,
                        "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
                    }),
                ),
            ]}),
        ),
        pod(
            "unhealthy",
            json!({"terminationGracePeriodSeconds": 1, "containers": [
                with(
                    shell("dying", WAIT),
                    json!({"livenessProbe": {
                        "exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1,
                    }}),
                ),
            ]}),
        ),
        pod("never", json!({"restartPolicy": "Never", "containers": [shell("main", "exit 3")]})),
        pod(
            "on-failure",
            json!({"restartPolicy": "OnFailure", "containers": [
                with(shell("main", "test -e /kept/mark && exit 0; touch /kept/mark; exit 1"), mounts("kept", "/kept")),
            ], "volumes": [{"name": "kept", "emptyDir": {}}]}),
        ),
        pod("always", json!({"containers": [shell("main", "exit 0")]})),
        pod(
            "late",
            json!({"restartPolicy": "Never", "activeDeadlineSeconds": 3, "terminationGracePeriodSeconds": 1,
                "containers": [shell("main", WAIT)]}),
        ),
        pod(
            "hooked",
            json!({"terminationGracePeriodSeconds": 10, "containers": [
                with(
                    shell("main", "trap 'echo term >>/out/log; exit 0' TERM; while true; do sleep 1 & wait; done"),
                    with(mounts("out", "/out"), json!({"lifecycle": {
                        "postStart": {"exec": {"command": ["sh", "-c", "echo started >>/out/log"]}},
                        "preStop": {"exec": {"command": ["sh", "-c", "echo stopping >>/out/log"]}},
                    }})),
                ),
            ], "volumes": [{"name": "out", "hostPath": {"path": "/run/berth/hooked", "type": "DirectoryOrCreate"}}]}),
        ),
        pod(
            "messages",
            json!({"restartPolicy": "Never", "containers": [
                shell("file", "echo from a file >/dev/termination-log; exit 1"),
                with(
                    shell("log", "echo from the log; exit 1"),
                    json!({"terminationMessagePolicy": "FallbackToLogsOnError"}),
                ),
            ]}),
        ),
    ]
}

fn volume_pods(work: &Path) -> Vec<Value> {
    let host = work.join("on-the-host");
    std::fs::create_dir_all(&host).expect("make a directory");
    std::fs::write(host.join("file"), "of the host\n").expect("write a file");
    let name = json!({"path": "name", "fieldRef": {"fieldPath": "metadata.name"}});
    vec![pod(
        "volumes",
        json!({
            "containers": [with(shell("main", WAIT), json!({
                "resources": {"limits": {"memory": "32Mi", "cpu": "250m"}},
                "env": [
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['pod']"}}},
                    {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                ],
                "volumeMounts": [
                    {"name": "memory", "mountPath": "/memory"},
                    {"name": "host", "mountPath": "/host", "readOnly": true, "recursiveReadOnly": "IfPossible"},
                    {"name": "one", "mountPath": "/one"},
                    {"name": "disk", "mountPath": "/sub", "subPath": "a/b"},
                    {"name": "info", "mountPath": "/info"},
                    {"name": "tools", "mountPath": "/tools"},
                ],
            }))],
            "volumes": [
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
                {"name": "disk", "emptyDir": {}},
                {"name": "host", "hostPath": {"path": host, "type": "Directory"}},
                {"name": "one", "hostPath": {"path": host.join("file"), "type": "File"}},
                {"name": "info", "downwardAPI": {"items": [name]}},
                {"name": "tools", "image": {"reference": BUSYBOX, "pullPolicy": "IfNotPresent"}},
            ],
        }),
    )]
}

fn identity_pods() -> Vec<Value> {
    let limits = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    vec![
        pod(
            "guaranteed",
            json!({"containers": [with(shell("main", WAIT), json!({
                "resources": {"limits": limits("100m", "32Mi"), "requests": limits("100m", "32Mi")},
            }))]}),
        ),
        pod(
            "burstable",
            json!({"containers": [with(shell("main", WAIT), json!({
                "resources": {"requests": limits("50m", "16Mi")},
            }))]}),
        ),
        pod(
            "secured",
            json!({
                "securityContext": {
                    "runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000],
                    "seccompProfile": {"type": "RuntimeDefault"},
                    "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}],
                },
                "containers": [with(shell("main", WAIT), with(mounts("data", "/data"), json!({
                    "securityContext": {
                        "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "runAsNonRoot": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                })))],
                "volumes": [{"name": "data", "emptyDir": {}}],
            }),
        ),
        pod(
            "of-the-host",
            json!({"hostNetwork": true, "hostPID": true, "hostIPC": true, "containers": [shell("main", WAIT)]}),
        ),
        pod(
            "sharing",
            json!({"shareProcessNamespace": true, "containers": [
                shell("one", "sleep 4321"), shell("other", WAIT),
            ]}),
        ),
        pod(
            "named",
            json!({
                "hostname": "chosen", "subdomain": "below",
                "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["alias.example"]}],
                "dnsPolicy": "None",
                "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["example"], "options": [{"name": "ndots", "value": "2"}]},
                "containers": [with(
                    shell("main", "mkdir /www; echo port >/www/index.html; httpd -f -p 8080 -h /www"),
                    json!({"ports": [{"containerPort": 8080, "hostPort": 18080}]}),
                )],
            }),
        ),
    ]
}

fn mounts(volume: &str, path: &str) -> Value {
    json!({"volumeMounts": [{"name": volume, "mountPath": path}]})
}

fn initialised(s: &mut Scene) -> Result<()> {
    let pod = s.ready("initialised")?;
    let order = s.exec(&pod, "main", &["cat", "/shared/order"])?;
    let lines: Vec<&str> = order.lines().collect();
    ensure!(lines.first() == Some(&"first") && lines.last() == Some(&"main"), "the order was {lines:?}");
    ensure!(lines.contains(&"side") && lines.contains(&"second"), "the order was {lines:?}");
    ensure!(!container_status(&pod, "side")?["state"]["running"].is_null(), "the sidecar does not run");
    let second = &container_status(&pod, "second")?["state"]["terminated"];
    ensure!(second["exitCode"] == 0 && second["reason"] == "Completed", "the second: {second}");
    Ok(())
}

fn probes(s: &mut Scene) -> Result<()> {
    let pod = s.ready("probed")?;
    ensure!(container_status(&pod, "web")?["restartCount"] == 0, "it was restarted: {}", pod["status"]);
    let restarted = |pod: &Value| {
        container_status(pod, "dying").is_ok_and(|status| status["restartCount"].as_u64() > Some(0))
    };
    s.kubelet.wait_for("unhealthy", "restarted by its probe", PATIENCE, restarted)?;
    s.kubelet.take("unhealthy")
}

fn restarts(s: &mut Scene) -> Result<()> {
    let never = s.ended("never")?;
    ensure!(never["status"]["phase"] == "Failed", "{}", never["status"]);
    let terminated = &container_status(&never, "main")?["state"]["terminated"];
    ensure!(terminated["exitCode"] == 3 && terminated["reason"] == "Error", "{terminated}");
    let retried = s.ended("on-failure")?;
    ensure!(retried["status"]["phase"] == "Succeeded", "{}", retried["status"]);
    ensure!(container_status(&retried, "main")?["restartCount"] == 1, "{}", retried["status"]);
    s.kubelet.wait_for("always", "in back-off", PATIENCE, |pod| {
        container_status(pod, "main").is_ok_and(|status| {
            status["restartCount"].as_u64() > Some(0)
                && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
    })?;
    s.kubelet.take("always")
}

/// Reads a file of the cgroup of a pod's container, in the hierarchy of a controller.
fn cgroup_file(s: &Scene, id: &str, controller: &str, file: &str) -> Result<(String, String)> {
    let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let info = s.node.client.container_status(request)?.info;
    let info: Value = serde_json::from_str(info.get("info").context("no info")?)?;
    let path = info["cgroupPath"].as_str().context("no cgroup path")?.to_owned();
    let file = Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')).join(file);
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok((path, text.trim().to_owned()))
}

fn quality(s: &mut Scene) -> Result<()> {
    let guaranteed = s.ready("guaranteed")?;
    ensure!(guaranteed["status"]["qosClass"] == "Guaranteed", "{}", guaranteed["status"]);
    let id = container_id(&guaranteed, "main")?;
    let (path, limit) = cgroup_file(s, &id, "memory", "memory.limit_in_bytes")?;
    let uid = guaranteed["metadata"]["uid"].as_str().unwrap_or_default();
    ensure!(path.starts_with(&format!("{CGROUP_ROOT}/kubepods/pod{uid}/")), "the cgroup is {path}");
    ensure!(limit == (32 << 20).to_string(), "the memory limit is {limit}");
    let (_, quota) = cgroup_file(s, &id, "cpu", "cpu.cfs_quota_us")?;
    ensure!(quota == "10000", "the quota is {quota}");
    let burstable = s.ready("burstable")?;
    ensure!(burstable["status"]["qosClass"] == "Burstable", "{}", burstable["status"]);
    let (path, shares) = cgroup_file(s, &container_id(&burstable, "main")?, "cpu", "cpu.shares")?;
    ensure!(path.starts_with(&format!("{CGROUP_ROOT}/kubepods/burstable/")), "the cgroup is {path}");
    ensure!(shares == "51", "the shares are {shares}");
    let score = s.exec(&burstable, "main", &["cat", "/proc/1/oom_score_adj"])?;
    ensure!(score.trim().parse::<i32>()? > 900, "the OOM score is {score}");
    Ok(())
}

fn volumes(s: &mut Scene) -> Result<()> {
    let pod = s.ready("volumes")?;
    let show = |path: &str| s.exec(&pod, "main", &["cat", path]).map(|text| text.trim().to_owned());
    let table = show("/proc/self/mounts")?;
    let line = |at: &str| table.lines().find(|line| line.contains(&format!(" {at} "))).unwrap_or_default();
    ensure!(line("/memory").starts_with("tmpfs"), "the memory volume: {:?}", line("/memory"));
    ensure!(line("/memory").contains("size=8192k"), "the memory volume: {:?}", line("/memory"));
    ensure!(line("/host").contains(" ro"), "the host's directory: {:?}", line("/host"));
    ensure!(show("/host/file")? == "of the host" && show("/one")? == "of the host", "host paths");
    s.exec(&pod, "main", &["touch", "/sub/made"])?;
    ensure!(show("/info/name")?.starts_with("volumes-"), "downward API: {}", show("/info/name")?);
    let environment = s.exec(&pod, "main", &["env"])?;
    ensure!(environment.contains("POD=volumes\n"), "{environment}");
    ensure!(environment.contains(&format!("LIMIT={}\n", 32 << 20)), "{environment}");
    s.exec(&pod, "main", &["/tools/bin/busybox", "true"])?;
    Ok(())
}

fn security(s: &mut Scene) -> Result<()> {
    let pod = s.ready("secured")?;
    let ids = s.exec(&pod, "main", &["id"])?;
    ensure!(ids.starts_with("uid=1000") && ids.contains("gid=2000"), "{ids}");
    ensure!(ids.contains("3000") && ids.contains("4000"), "{ids}");
    let status = s.exec(&pod, "main", &["cat", "/proc/1/status"])?;
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"] {
        ensure!(status.contains(line), "no {line:?} in {status}");
    }
    ensure!(s.exec(&pod, "main", &["touch", "/new"]).is_err(), "the root file system can be written");
    s.exec(&pod, "main", &["touch", "/data/new"])?;
    let owner = s.exec(&pod, "main", &["stat", "-c", "%u:%g", "/data/new"])?;
    ensure!(owner.trim() == "1000:3000", "a file of the volume is {owner}");
    let sysctl = s.exec(&pod, "main", &["cat", "/proc/sys/kernel/shm_rmid_forced"])?;
    ensure!(sysctl.trim() == "1", "the sysctl is {sysctl}");
    Ok(())
}

fn of_the_host(s: &mut Scene) -> Result<()> {
    let pod = s.ready("of-the-host")?;
    for namespace in ["net", "pid", "ipc"] {
        let path = format!("/proc/self/ns/{namespace}");
        let theirs = s.exec(&pod, "main", &["readlink", &path])?;
        let ours = std::fs::read_link(&path)?.display().to_string();
        ensure!(theirs.trim() == ours, "the {namespace} namespace is {theirs}, not {ours}");
    }
    ensure!(pod["status"]["podIP"] == pod["status"]["hostIP"], "{}", pod["status"]);
    Ok(())
}

fn shared_processes(s: &mut Scene) -> Result<()> {
    let pod = s.ready("sharing")?;
    let seen = s.exec(&pod, "other", &["ps"])?;
    ensure!(seen.contains("sleep 4321"), "the other container sees {seen}");
    let first = s.exec(&pod, "other", &["cat", "/proc/1/comm"])?;
    ensure!(first.trim() != "sh" && first.trim() != "sleep", "process 1 is {first}");
    Ok(())
}

fn names(s: &mut Scene) -> Result<()> {
    let pod = s.ready("named")?;
    ensure!(s.exec(&pod, "main", &["hostname"])?.trim() == "chosen", "the host name");
    let hosts = s.exec(&pod, "main", &["cat", "/etc/hosts"])?;
    ensure!(hosts.contains("192.0.2.7\talias.example"), "{hosts}");
    let resolv = s.exec(&pod, "main", &["cat", "/etc/resolv.conf"])?;
    for line in ["nameserver 192.0.2.53", "search example", "options ndots:2"] {
        ensure!(resolv.contains(line), "no {line:?} in {resolv}");
    }
    let answer = e2e::http::get("http://127.0.0.1:18080/")?;
    ensure!(answer.text().trim() == "port", "the host's port answers {}", answer.text());
    Ok(())
}

fn messages(s: &mut Scene) -> Result<()> {
    let pod = s.ended("messages")?;
    for (name, wanted) in [("file", "from a file"), ("log", "from the log")] {
        let message = &container_status(&pod, name)?["state"]["terminated"]["message"];
        ensure!(message.as_str().is_some_and(|text| text.trim() == wanted), "{name}: {message}");
    }
    Ok(())
}

fn hooks(s: &mut Scene) -> Result<()> {
    s.ready("hooked")?;
    s.kubelet.take("hooked")?;
    s.wait_gone("hooked")?;
    let log = std::fs::read_to_string("/run/berth/hooked/log")?;
    ensure!(log == "started\nstopping\nterm\n", "the order was {log:?}");
    Ok(())
}

fn deadline(s: &mut Scene) -> Result<()> {
    let pod = s.ended("late")?;
    ensure!(pod["status"]["reason"] == "DeadlineExceeded", "{}", pod["status"]);
    Ok(())
}

fn serving(s: &mut Scene) -> Result<()> {
    let pod = s.ready("probed")?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let ran = s.kubelet.ask("POST", &format!("/run/default/{name}/web?cmd=cat%20/www/index.html"))?;
    ensure!(ran.trim() == "hello", "run answered {ran:?}");
    let never = s.ended("messages")?;
    ensure!(s.log(&never, "log")?.contains("from the log"), "the log is {:?}", s.log(&never, "log")?);
    let summary: Value = serde_json::from_str(&s.kubelet.read("/stats/summary")?)?;
    let pods = summary["pods"].as_array().context("no pods in the summary")?;
    let found = pods.iter().find(|found| found["podRef"]["name"] == name).context("not in the summary")?;
    let web = &found["containers"][0];
    ensure!(web["memory"]["workingSetBytes"].as_u64() > Some(0), "memory: {web}");
    ensure!(web["cpu"]["usageCoreNanoSeconds"].as_u64() > Some(0), "processor: {web}");
    ensure!(found["network"]["rxBytes"].as_u64().is_some(), "network: {}", found["network"]);
    let metrics = s.kubelet.ask("GET", "/metrics/cadvisor")?;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("container_memory_working_set_bytes{") && line.contains(name))
        .context("no working set of the pod")?;
    ensure!(line.contains("namespace=\"default\""), "{line}");
    Ok(())
}

/// Kills kubelet, the daemon or both: containers go on as they were, and new pods start.
fn survives(s: &mut Scene, kubelet: bool, daemon: bool) -> Result<()> {
    let before = ["initialised", "probed", "sharing"].map(|name| s.ready(name));
    if daemon {
        s.node.kill9_daemon();
    }
    if kubelet {
        s.kubelet.kill();
    }
    // Kubelet ends by itself when it finds no runtime, and its service manager tries again.
    if daemon {
        s.node.restart_daemon()?;
    }
    if kubelet {
        s.kubelet.start_again()?;
    }
    let name = format!("after-{}-{}", u8::from(kubelet), u8::from(daemon));
    s.kubelet.put(&pod(&name, json!({"containers": [shell("main", WAIT)]})))?;
    s.ready(&name)?;
    for pod in before {
        let pod = pod?;
        let name = pod["metadata"]["labels"]["pod"].as_str().unwrap_or_default().to_owned();
        let after = s.ready(&name)?;
        for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let container = status["name"].as_str().unwrap_or_default();
            let now = container_status(&after, container)?;
            ensure!(now["containerID"] == status["containerID"], "{name}/{container} is another one");
            ensure!(now["restartCount"] == status["restartCount"], "{name}/{container} was restarted");
        }
    }
    s.kubelet.take(&name)
}

fn taken(s: &mut Scene) -> Result<()> {
    for name in ["probed", "sharing", "named", "volumes"] {
        s.kubelet.take(name)?;
    }
    for name in ["probed", "sharing", "named", "volumes"] {
        s.wait_gone(name)?;
    }
    let list = s.node.client.list_pod_sandbox(cri::ListPodSandboxRequest::default())?.items;
    let ready = list.iter().filter(|found| found.state() == cri::PodSandboxState::SandboxReady);
    let names: Vec<_> = ready.filter_map(|found| found.metadata.as_ref()).map(|m| m.name.clone()).collect();
    ensure!(!names.iter().any(|name| name.starts_with("probed")), "still there: {names:?}");
    Ok(())
}
