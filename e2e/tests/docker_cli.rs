//! The docker command line against the daemon, as a person would type it.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Lab, Node, NodeOptions, Process, run, summarize, wait_until};
use serde_json::Value;

#[path = "docker_cli/containers.rs"]
mod containers;
#[path = "docker_cli/files.rs"]
mod files;
#[path = "docker_cli/sessions.rs"]
mod sessions;

/// Runs the docker command line and keeps the books.
struct Script {
    program: PathBuf,
    socket: PathBuf,
    dir: PathBuf,
    passed: u32,
    failed: Vec<String>,
}

impl Script {
    fn new(lab: &Lab, node: &Node) -> Script {
        Script {
            // Another version of it can be tried with the same steps.
            program: std::env::var_os("E2E_DOCKER")
                .map_or_else(|| Lab::tool("docker").expect("find the docker command line"), PathBuf::from),
            socket: node.state().join("docker.sock"),
            dir: lab.work().to_owned(),
            passed: 0,
            failed: Vec::new(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        // Nothing of the person who runs the suite.
        command.env("DOCKER_CONFIG", self.dir.join("docker-config")).env_remove("DOCKER_CONTEXT");
        command.args(arguments);
        command
    }

    /// Runs docker; its output without the final newline.
    fn docker(&self, arguments: &[&str]) -> Result<String> {
        Ok(run(&mut self.command(arguments))?.trim_end().to_owned())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.docker(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("docker {arguments:?} printed {text}"))
    }

    /// Runs docker, which must fail with a message.
    fn fails(&self, arguments: &[&str], message: &str) -> Result<()> {
        let output = self.command(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "docker {arguments:?} succeeded");
        ensure!(text.contains(message), "docker {arguments:?} said {text:?}, not {message:?}");
        Ok(())
    }

    fn step<T>(&mut self, name: &str, work: impl FnOnce(&Script) -> Result<T>) -> Option<T> {
        match work(self) {
            Ok(value) => {
                println!("ok   {name}");
                self.passed += 1;
                Some(value)
            }
            Err(error) => {
                println!("FAIL {name}: {error:#}");
                self.failed.push(format!("{name}: {error:#}"));
                None
            }
        }
    }

    /// Sends a request as it stands and reads the answer to its end.
    fn raw(&self, request: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn get(&self, path: &str) -> Result<String> {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }
}

#[test]
fn docker_command_line() {
    let lab = Lab::enter("docker_cli");
    let registry = lab.registry().expect("start the registry");
    let node = Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    let mut script = Script::new(&lab, &node);
    protocol(&mut script);
    system(&mut script);
    images(&mut script);
    networks(&mut script);
    containers::steps(&mut script);
    sessions::steps(&mut script);
    files::steps(&mut script);
    summarize(&format!("docker_cli: {} passed, {} failed, 0 skipped", script.passed, script.failed.len()));
    assert!(script.failed.is_empty(), "failed: {:?}\n{}", script.failed, node.last_words());
}

/// What clients rely on below the command line.
fn protocol(script: &mut Script) {
    script.step("ping", |script| {
        let answer = script.get("/_ping")?;
        for part in
            ["HTTP/1.1 200 OK", "api-version: 1.51", "ostype: linux", "server: Docker/", "swarm: inactive"]
        {
            ensure!(answer.contains(part), "no {part:?} in {answer}");
        }
        ensure!(answer.ends_with("\r\n\r\nOK"), "{answer}");
        let head = script.raw("HEAD /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        ensure!(head.ends_with("\r\n\r\n") && head.contains("content-length: 0"), "{head}");
        Ok(())
    });
    script.step("versions", |script| {
        ensure!(script.get("/v1.24/version")?.starts_with("HTTP/1.1 200"));
        let old = script.get("/v1.12/version")?;
        ensure!(old.contains("400 Bad Request") && old.contains("client version 1.12 is too old"), "{old}");
        let new = script.get("/v1.99/version")?;
        ensure!(
            new.contains(
                "{\"message\":\"client version 1.99 is too new. Maximum supported API version is 1.51\"}"
            ),
            "{new}"
        );
        Ok(())
    });
    script.step("errors", |script| {
        let answer = script.get("/nothing/here")?;
        ensure!(answer.contains("404 Not Found") && answer.contains("{\"message\":\"page not found\"}"), "{answer}");
        ensure!(answer.contains("api-version: 1.51"), "{answer}");
        let body = "POST /networks/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
        let answer = script.raw(body)?;
        ensure!(answer.contains("unsupported Content-Type header (text/plain): must be 'application/json'"), "{answer}");
        let filters = script.get("/networks?filters=%7B%22x%22%3A%5B%22y%22%5D%7D")?;
        ensure!(filters.contains("invalid filter 'x'"), "{filters}");
        Ok(())
    });
    script.step("what is not here says so", |script| {
        let services = script.get("/v1.51/services")?;
        ensure!(
            services.contains("503") && services.contains("This node is not a swarm manager"),
            "{services}"
        );
        let build = script
            .raw("POST /build HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
        ensure!(build.contains("501") && build.contains("does not build images"), "{build}");
        Ok(())
    });
}

fn system(script: &mut Script) {
    script.step("version", |script| {
        let version = script.json(&["version", "--format", "{{json .}}"])?;
        ensure!(version["Server"]["ApiVersion"] == "1.51", "{version}");
        ensure!(version["Server"]["Os"] == "linux" && version["Server"]["Arch"] == "amd64", "{version}");
        Ok(())
    });
    script.step("info", |script| {
        let info = script.json(&["info", "--format", "{{json .}}"])?;
        ensure!(info["NCPU"].as_u64() > Some(0) && info["MemTotal"].as_u64() > Some(0), "{info}");
        ensure!(info["OSType"] == "linux" && info["Swarm"]["LocalNodeState"] == "inactive", "{info}");
        script.docker(&["info"])
    });
    script.step("system df", |script| {
        let text = script.docker(&["system", "df"])?;
        ensure!(text.contains("Images") && text.contains("Local Volumes"), "{text}");
        script.docker(&["system", "df", "-v"])
    });
    script.step("plugin ls", |script| script.docker(&["plugin", "ls"]));
}

fn images(script: &mut Script) {
    script.step("pull", |script| {
        let text = script.docker(&["pull", BUSYBOX])?;
        for part in [
            "Pulling from e2e-test-images/busybox",
            "Pull complete",
            "Digest: sha256:",
            "Status: Downloaded newer image for",
        ] {
            ensure!(text.contains(part), "no {part:?} in {text}");
        }
        let again = script.docker(&["pull", BUSYBOX])?;
        ensure!(again.contains("Status: Image is up to date for"), "{again}");
        Ok(())
    });
    script.step("pull of nothing", |script| {
        script.fails(&["pull", "registry.k8s.io/no/such:image"], "no/such")?;
        script.fails(&["pull", "Upper/Case"], "invalid reference format")
    });
    script.step("images", |script| {
        let table = script.docker(&["images"])?;
        ensure!(
            table.contains("registry.k8s.io/e2e-test-images/busybox") && table.contains("1.29-2"),
            "{table}"
        );
        let id = script.docker(&[
            "images",
            "-q",
            "--no-trunc",
            "--filter",
            "reference=registry.k8s.io/*/busybox",
        ])?;
        ensure!(id.starts_with("sha256:") && id.lines().count() == 1, "{id}");
        ensure!(script.docker(&["images", "-q", "--filter", "reference=nothing"])?.is_empty());
        Ok(())
    });
    script.step("image inspect", |script| {
        let image = script.json(&["image", "inspect", BUSYBOX])?;
        ensure!(image[0]["RepoTags"][0] == BUSYBOX && image[0]["Os"] == "linux", "{image}");
        ensure!(image[0]["RootFS"]["Layers"].as_array().is_some_and(|layers| !layers.is_empty()), "{image}");
        script.fails(&["image", "inspect", "no-such"], "No such image: no-such")
    });
    script.step("history", |script| {
        let text = script.docker(&["history", BUSYBOX])?;
        ensure!(text.lines().count() > 1, "{text}");
        Ok(())
    });
    script.step("tag and rmi", |script| {
        script.docker(&["tag", BUSYBOX, "my/box:1"])?;
        ensure!(script.docker(&["images", "my/box"])?.contains("my/box"));
        let id = script.docker(&["images", "-q", "my/box"])?;
        script.fails(&["rmi", &id], "image is referenced in multiple repositories")?;
        let gone = script.docker(&["rmi", "my/box:1"])?;
        ensure!(gone == "Untagged: my/box:1", "{gone}");
        script.fails(&["rmi", "my/box:1"], "No such image: my/box:1")?;
        let gone = script.docker(&["rmi", BUSYBOX])?;
        ensure!(gone.contains("Untagged: ") && gone.contains("Deleted: sha256:"), "{gone}");
        script.docker(&["pull", "-q", BUSYBOX])
    });
}

fn networks(script: &mut Script) {
    script.step("network ls", |script| {
        let table = script.docker(&["network", "ls"])?;
        for name in ["bridge", "host", "none"] {
            ensure!(table.contains(name), "no {name} in {table}");
        }
        Ok(())
    });
    let made = script.step("network create", |script| {
        let create = [
            "network",
            "create",
            "--subnet",
            "10.77.0.0/24",
            "--label",
            "a=b",
            "--opt",
            "com.docker.network.driver.mtu=1400",
            "web",
        ];
        let id = script.docker(&create)?;
        ensure!(id.len() == 64, "{id}");
        script.fails(&["network", "create", "web"], "network with name web already exists")?;
        Ok(id)
    });
    let Some(id) = made else { return };
    script.step("network inspect", |script| {
        let network = script.json(&["network", "inspect", &id[..12]])?;
        ensure!(network[0]["Id"] == id.as_str() && network[0]["Labels"]["a"] == "b", "{network}");
        ensure!(network[0]["IPAM"]["Config"][0]["Gateway"] == "10.77.0.1", "{network}");
        let found = script.docker(&["network", "ls", "-q", "--no-trunc", "--filter", "label=a=b"])?;
        ensure!(found == id, "{found}");
        script.fails(&["network", "inspect", "nothing"], "network nothing not found")
    });
    script.step("network rm", |script| {
        script.fails(&["network", "rm", "host"], "host is a pre-defined network and cannot be removed")?;
        script.docker(&["network", "rm", "web"])?;
        script.docker(&["network", "create", "unused"])?;
        let pruned = script.docker(&["network", "prune", "-f"])?;
        ensure!(pruned.contains("unused"), "{pruned}");
        Ok(())
    });
    script.step("events", |script| {
        let log = script.dir.join("events.json");
        let until = script.command(&["events", "--until", "1s", "--format", "json"]);
        let mut events = Process::spawn(until, &log)?;
        wait_until("the events to end", Duration::from_secs(10), || events.exited().is_some());
        match events.exited() {
            Some(status) if status.success() => Ok(()),
            other => bail!("docker events ended with {other:?}: {}", events.tail(5)),
        }
    });
}
