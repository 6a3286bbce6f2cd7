//! Every subcommand of crictl, as a person would type it.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::catalog::{BUSYBOX, NGINX};
use e2e::{Lab, Node, NodeOptions, Process, free_port, http, run, summarize, wait_for, wait_until};
use serde_json::{Value, json};

/// crictl's subcommands; the script must have run each.
const SUBCOMMANDS: [&str; 33] = [
    "attach",
    "checkpoint",
    "completion",
    "config",
    "create",
    "events",
    "exec",
    "imagefsinfo",
    "images",
    "info",
    "inspect",
    "inspecti",
    "inspectp",
    "logs",
    "metricdescs",
    "metricsp",
    "pods",
    "port-forward",
    "ps",
    "pull",
    "rm",
    "rmi",
    "rmp",
    "run",
    "runp",
    "runtime-config",
    "start",
    "stats",
    "statsp",
    "stop",
    "stopp",
    "update",
    "version",
];

/// Runs crictl and keeps the books.
struct Script {
    program: PathBuf,
    endpoint: String,
    config: PathBuf,
    dir: PathBuf,
    used: std::cell::RefCell<Vec<String>>,
    passed: u32,
    failed: Vec<String>,
}

impl Script {
    fn new(lab: &Lab, node: &Node) -> Script {
        let config = lab.work().join("crictl.yaml");
        std::fs::write(&config, "timeout: 20\n").expect("write crictl's configuration");
        Script {
            program: Lab::tool("crictl").expect("find crictl"),
            endpoint: node.endpoint(),
            config,
            dir: lab.work().to_owned(),
            used: std::cell::RefCell::default(),
            passed: 0,
            failed: Vec::new(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        if let Some(subcommand) = arguments.first() {
            self.used.borrow_mut().push((*subcommand).to_owned());
        }
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&self.config).arg("-r").arg(&self.endpoint).args(arguments);
        command
    }

    /// Runs crictl; its output without the final newline.
    fn crictl(&self, arguments: &[&str]) -> Result<String> {
        Ok(run(&mut self.command(arguments))?.trim_end().to_owned())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.crictl(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?} printed no JSON: {text}"))
    }

    /// Runs crictl with something on its standard input.
    fn with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {}: {error}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn write(&self, name: &str, value: &Value) -> Result<String> {
        let path = self.dir.join(name);
        std::fs::write(&path, value.to_string()).with_context(|| format!("write {}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// One step: the script goes on after a failed one.
    fn step<T>(&mut self, name: &str, work: impl FnOnce(&Script) -> Result<T>) -> Option<T> {
        match work(self) {
            Ok(value) => {
                self.passed += 1;
                Some(value)
            }
            Err(error) => {
                println!("FAILED {name}: {error:#}");
                self.failed.push(name.to_owned());
                None
            }
        }
    }
}

fn pod_config(name: &str, logs: &Path) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("{name}-uid"), "attempt": 1},
        "hostname": name,
        "log_directory": logs,
        "labels": {"app": name},
        "linux": {},
    })
}

fn container_config(name: &str, image: &str, command: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "attempt": 1},
        "image": {"image": image},
        "command": command,
        "log_path": format!("{name}.log"),
        "labels": {"role": name},
        "linux": {"resources": {"memory_limit_in_bytes": 64 << 20}},
    })
}

#[test]
fn every_subcommand() {
    let lab = Lab::enter("crictl");
    let registry = lab.registry().expect("start the registry");
    let node = Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    let mut script = Script::new(&lab, &node);
    node_commands(&mut script);
    image_commands(&mut script);
    let events_log = lab.work().join("events.json");
    let mut events = Process::spawn(script.command(&["events"]), &events_log).expect("run crictl events");
    let pod = script.step("runp", |script| {
        let config = script.write("pod.json", &pod_config("main", &node.logs()))?;
        script.crictl(&["runp", &config])
    });
    if let Some(pod) = pod {
        pod_commands(&mut script, &pod);
        events.terminate(Duration::from_secs(2));
        script.step("events", |_| {
            let text = std::fs::read_to_string(&events_log)?;
            for kind in ["CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT"] {
                ensure!(text.contains(kind), "no {kind} in {text}");
            }
            Ok(())
        });
    }
    port_forwarding(&mut script, &node);
    run_command(&mut script, &node);
    script.step("rmi --prune", |script| {
        script.crictl(&["rmi", "--prune"])?;
        ensure!(script.json(&["images", "-o", "json"])?["images"].as_array().is_none_or(Vec::is_empty));
        Ok(())
    });
    finish(&script, &node);
}

fn finish(script: &Script, node: &Node) {
    let used = script.used.borrow();
    let missed: Vec<_> = SUBCOMMANDS.iter().filter(|name| !used.iter().any(|used| used == *name)).collect();
    summarize(&format!("crictl: {} passed, {} failed, 0 skipped", script.passed, script.failed.len()));
    assert!(script.failed.is_empty(), "failed: {:?}\n{}", script.failed, node.last_words());
    assert!(missed.is_empty(), "subcommands that the script did not reach: {missed:?}");
}

fn node_commands(script: &mut Script) {
    script.step("version", |script| {
        let text = script.crictl(&["version"])?;
        ensure!(text.contains("RuntimeName:  berth") && text.contains("RuntimeApiVersion:  v1"), "{text}");
        Ok(())
    });
    script.step("info", |script| {
        let info = script.json(&["info"])?;
        let conditions = info["status"]["conditions"].as_array().context("no conditions")?;
        ensure!(conditions.iter().filter(|one| one["status"] == true).count() >= 2, "{info}");
        Ok(())
    });
    script.step("runtime-config", |script| {
        let text = script.crictl(&["runtime-config"])?;
        ensure!(text.contains("CGROUPFS") || text.contains("SYSTEMD"), "{text}");
        Ok(())
    });
    script.step("update-runtime-config", |script| {
        script.crictl(&["update-runtime-config", "--pod-cidr", "10.88.0.0/16"])
    });
    script.step("config", |script| {
        script.crictl(&["config", "--set", "timeout=20"])?;
        let timeout = script.crictl(&["config", "--get", "timeout"])?;
        ensure!(timeout.contains("20"), "{timeout}");
        script.crictl(&["config", "--list"])
    });
    script.step("completion", |script| {
        for shell in ["bash", "zsh", "fish"] {
            script.crictl(&["completion", shell])?;
        }
        Ok(())
    });
    script.step("metricdescs", |script| {
        let list = script.json(&["metricdescs"])?;
        let count = list["descriptors"].as_array().map_or(0, Vec::len);
        ensure!(count >= 56, "{count} descriptors");
        Ok(())
    });
}

fn image_commands(script: &mut Script) {
    script.step("pull", |script| {
        for image in [BUSYBOX, NGINX] {
            let text = script.crictl(&["pull", image])?;
            ensure!(text.contains("Image is up to date for"), "{text}");
        }
        Ok(())
    });
    script.step("images", |script| {
        let table = script.crictl(&["images"])?;
        ensure!(table.contains("e2e-test-images/busybox") && table.contains("1.29-2"), "{table}");
        Ok(())
    });
    script.step("inspecti", |script| {
        let status = script.json(&["inspecti", BUSYBOX])?;
        ensure!(status["status"]["repoTags"][0] == BUSYBOX, "{status}");
        Ok(())
    });
    script.step("imagefsinfo", |script| {
        let info = script.json(&["imagefsinfo", "-o", "json"])?;
        let used =
            info["status"]["imageFilesystems"][0]["usedBytes"]["value"].as_str().unwrap_or("0").to_owned();
        ensure!(used.parse::<u64>()? > 0, "{info}");
        Ok(())
    });
    script.step("pull of an unknown image", |script| {
        let result = script.crictl(&["pull", "registry.k8s.io/no/such:image"]);
        let Err(error) = result else { bail!("it was pulled") };
        ensure!(format!("{error:#}").contains("manifest unknown"), "{error:#}");
        Ok(())
    });
}

fn pod_commands(script: &mut Script, pod: &str) {
    script.step("pods", |script| {
        let table = script.crictl(&["pods", "--label", "app=main"])?;
        ensure!(table.contains("Ready") && table.contains("main"), "{table}");
        Ok(())
    });
    script.step("inspectp", |script| {
        let status = script.json(&["inspectp", pod])?;
        ensure!(status["status"]["state"] == "SANDBOX_READY", "{status}");
        ensure!(
            status["status"]["network"]["ip"].as_str().is_some_and(|ip| !ip.is_empty()),
            "no address: {status}"
        );
        Ok(())
    });
    let loop_ = "echo out; echo err >&2; while read line; do echo \"got $line\"; done; sleep 1000";
    let container = script.step("create", |script| {
        let mut config = container_config("shell", BUSYBOX, &["sh", "-c", loop_]);
        config["stdin"] = json!(true);
        let container = script.write("container.json", &config)?;
        let pod_file = script.dir.join("pod.json").display().to_string();
        script.crictl(&["create", pod, &container, &pod_file])
    });
    let Some(container) = container else { return };
    let container = container.as_str();
    script.step("start", |script| {
        let text = script.crictl(&["start", container])?;
        ensure!(text == container, "{text}");
        Ok(())
    });
    script.step("ps", |script| {
        let table = script.crictl(&["ps"])?;
        ensure!(table.contains("Running") && table.contains("shell"), "{table}");
        Ok(())
    });
    script.step("inspect", |script| {
        let status = script.json(&["inspect", container])?;
        ensure!(status["status"]["state"] == "CONTAINER_RUNNING", "{status}");
        Ok(())
    });
    exec_commands(script, container);
    script.step("attach", |script| {
        let mut command = script.command(&["attach", "-i", container]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut input = child.stdin.take().context("no input")?;
        input.write_all(b"one\n")?;
        let mut output = child.stdout.take().context("no output")?;
        let mut answer = [0_u8; 8];
        output.read_exact(&mut answer)?;
        child.kill()?;
        child.wait()?;
        ensure!(&answer == b"got one\n", "{}", String::from_utf8_lossy(&answer));
        Ok(())
    });
    log_commands(script, container);
    statistics(script, pod, container);
    end_commands(script, pod, container);
}

fn exec_commands(script: &mut Script, container: &str) {
    script.step("exec --sync", |script| {
        let text = script.crictl(&["exec", "--sync", container, "echo", "-n", "hello"])?;
        ensure!(text == "hello", "{text}");
        let failed = script.crictl(&["exec", "--sync", container, "sh", "-c", "exit 3"]);
        ensure!(failed.is_err_and(|error| format!("{error:#}").contains('3')), "exit code 3 is not reported");
        Ok(())
    });
    for transport in ["spdy", "websocket"] {
        script.step(&format!("exec by {transport}"), |script| {
            let text = script.crictl(&["exec", "--transport", transport, container, "echo", "hello"])?;
            ensure!(text == "hello", "{text}");
            let text = script
                .with_input(&["exec", "-i", "--transport", transport, container, "cat"], "through\n")?;
            ensure!(text == "through\n", "{text:?}");
            let failed = script.crictl(&["exec", "--transport", transport, container, "sh", "-c", "exit 7"]);
            ensure!(
                failed.is_err_and(|error| format!("{error:#}").contains('7')),
                "exit code 7 is not reported"
            );
            Ok(())
        });
    }
    script.step("exec of many", |script| {
        let text = script.crictl(&["exec", "--parallel", "--label", "role=shell", "hostname"])?;
        ensure!(text.contains("main"), "{text}");
        Ok(())
    });
}

fn log_commands(script: &mut Script, container: &str) {
    script.step("logs", |script| {
        let text = script.crictl(&["logs", container])?;
        ensure!(text.contains("out"), "{text}");
        let tail = script.crictl(&["logs", "--tail", "1", container])?;
        ensure!(tail == "got one", "{tail}");
        let errors = script.crictl(&["logs", "--stream", "stderr", container])?;
        ensure!(!errors.contains("out"), "{errors}");
        ensure!(script.crictl(&["logs", "--timestamps", container])?.contains('T'));
        Ok(())
    });
    script.step("logs --reopen", |script| {
        let path = script.json(&["inspect", container])?["status"]["logPath"]
            .as_str()
            .context("no path")?
            .to_owned();
        std::fs::rename(&path, format!("{path}.1"))?;
        script.crictl(&["logs", "--reopen", container])?;
        ensure!(Path::new(&path).try_exists()?, "no new log at {path}");
        Ok(())
    });
}

fn statistics(script: &mut Script, pod: &str, container: &str) {
    script.step("stats", |script| {
        let stats = script.json(&["stats", "-o", "json", "--id", container])?;
        let memory =
            stats["stats"][0]["memory"]["workingSetBytes"]["value"].as_str().unwrap_or("0").to_owned();
        ensure!(memory.parse::<u64>()? > 0, "{stats}");
        script.crictl(&["stats", container])
    });
    script.step("statsp", |script| {
        let stats = script.json(&["statsp", "-o", "json", "--id", pod])?;
        ensure!(stats["stats"][0]["linux"]["network"].is_object(), "{stats}");
        Ok(())
    });
    script.step("metricsp", |script| {
        let metrics = script.json(&["metricsp", "-o", "json"])?;
        ensure!(metrics["podMetrics"].as_array().is_some_and(|list| !list.is_empty()), "{metrics}");
        Ok(())
    });
    script.step("update", |script| {
        script.crictl(&["update", "--memory", "134217728", "--cpu-share", "512", container])?;
        let status = script.json(&["inspect", container])?;
        let linux = &status["status"]["resources"]["linux"];
        ensure!(linux["memoryLimitInBytes"] == "134217728" && linux["cpuShares"] == "512", "{linux}");
        Ok(())
    });
    script.step("checkpoint", |script| {
        // Not served yet: what counts is that it says so.
        let archive = script.dir.join("checkpoint.tar").display().to_string();
        match script.crictl(&["checkpoint", "--export", &archive, container]) {
            Ok(_) => Ok(()),
            Err(error) if format!("{error:#}").contains("Unimplemented") => Ok(()),
            Err(error) => Err(error),
        }
    });
}

fn end_commands(script: &mut Script, pod: &str, container: &str) {
    script.step("stop", |script| {
        script.crictl(&["stop", "--timeout", "1", container])?;
        script.crictl(&["stop", container])?;
        ensure!(script.json(&["inspect", container])?["status"]["state"] == "CONTAINER_EXITED");
        Ok(())
    });
    script.step("rm", |script| {
        script.crictl(&["rm", container])?;
        ensure!(!script.crictl(&["ps", "-a", "-q"])?.contains(container));
        Ok(())
    });
    script.step("stopp", |script| {
        script.crictl(&["stopp", pod])?;
        ensure!(script.json(&["inspectp", pod])?["status"]["state"] == "SANDBOX_NOTREADY");
        Ok(())
    });
    script.step("rmp", |script| {
        script.crictl(&["rmp", pod])?;
        ensure!(!script.crictl(&["pods", "-q"])?.contains(pod));
        Ok(())
    });
    script.step("rmi", |script| {
        script.crictl(&["rmi", BUSYBOX])?;
        ensure!(!script.crictl(&["images"])?.contains("busybox"));
        Ok(())
    });
}

/// `port-forward` to a web server, by both transports.
fn port_forwarding(script: &mut Script, node: &Node) {
    let pod = script.step("a pod with a web server", |script| {
        let pod_file = script.write("web-pod.json", &pod_config("web", &node.logs()))?;
        let container_file = script.write("web.json", &container_config("web", NGINX, &[]))?;
        let pod = script.crictl(&["runp", &pod_file])?;
        let container = script.crictl(&["create", &pod, &container_file, &pod_file])?;
        script.crictl(&["start", &container])?;
        Ok(pod)
    });
    let Some(pod) = pod else { return };
    for transport in ["spdy", "websocket"] {
        script.step(&format!("port-forward by {transport}"), |script| {
            let port = free_port()?;
            let ports = format!("{port}:80");
            let command = script.command(&["port-forward", "--transport", transport, &pod, &ports]);
            let log = script.dir.join(format!("port-forward-{transport}.log"));
            let forward = Process::spawn(command, &log)?;
            let url = format!("http://127.0.0.1:{port}/");
            let patience = Duration::from_secs(10);
            let answer = wait_for("an answer through the port", patience, || http::get(&url).ok());
            ensure!(answer.status == 200, "{}\n{}", answer.status, forward.tail(20));
            Ok(())
        });
    }
    script.step("rmp --force", |script| script.crictl(&["rmp", "--force", &pod]));
}

/// `run`: pod and container at once, the image pulled as needed.
fn run_command(script: &mut Script, node: &Node) {
    script.step("run", |script| {
        let pod_file = script.write("run-pod.json", &pod_config("run", &node.logs()))?;
        let config = container_config("run", BUSYBOX, &["sh", "-c", "echo ran"]);
        let container_file = script.write("run.json", &config)?;
        let id = script.crictl(&["run", "--with-pull", &container_file, &pod_file])?;
        let id = id.lines().last().context("no id")?.to_owned();
        wait_until("the container to end", Duration::from_secs(10), || {
            script.json(&["inspect", &id]).is_ok_and(|status| status["status"]["state"] == "CONTAINER_EXITED")
        });
        ensure!(script.crictl(&["logs", &id])? == "ran");
        script.crictl(&["rm", "--all", "--force"])?;
        script.crictl(&["rmp", "--all", "--force"])
    });
}
