//! Fields of the interface that the conformance suite does not try, as a client sets them.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::catalog::BUSYBOX;

use e2e::{Lab, Node, NodeOptions, authority, container, pod, run, summarize, wait_until};

struct Scene {
    lab: Lab,
    node: Node,
    passed: u32,
    failed: Vec<String>,
}

impl Scene {
    fn check(&mut self, name: &str, work: impl FnOnce(&Node, &Lab) -> Result<()>) {
        match work(&self.node, &self.lab) {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("FAILED {name}: {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }
}

#[test]
fn fields() {
    let lab = Lab::enter("fields");
    let registry = lab.registry().expect("start the registry");
    let tls = authority(lab.work()).expect("make a certificate");
    let config = format!(
        "[streaming]\ntls_certificate = {:?}\ntls_key = {:?}\n",
        tls.join("server.pem").display().to_string(),
        tls.join("server.key").display().to_string()
    );
    let options = NodeOptions { config, ..NodeOptions::default() };
    let node = Node::start(&lab, "node", Some(&registry), options).expect("start the node");
    node.client.pull(BUSYBOX).expect("pull");
    let mut scene = Scene { lab, node, passed: 0, failed: Vec::new() };
    scene.check("mount options", mount_options);
    scene.check("unknown mount option", unknown_mount_option);
    scene.check("environment of bytes", byte_environment);
    scene.check("process ids of another container", target_pid);
    scene.check("process ids of nobody", missing_target);
    scene.check("memory with swap", swap_limit);
    scene.check("huge pages", huge_pages);
    scene.check("files of cgroup v2", unified);
    scene.check("ambient capabilities", ambient_capabilities);
    scene.check("port of SCTP", sctp_port);
    scene.check("annotations", annotations);
    let encrypted = tls.clone();
    scene.check("exec over TLS, SPDY", |node, _| exec_over_tls(node, &encrypted, "spdy"));
    scene.check("exec over TLS, WebSocket", |node, _| exec_over_tls(node, &encrypted, "websocket"));
    scene.check("exec over TLS, unknown authority", foreign_authority);
    summarize(&format!(
        "fields set by a client: {} passed, {} failed, 0 skipped",
        scene.passed,
        scene.failed.len()
    ));
    assert!(scene.failed.is_empty(), "{:?}\n{}", scene.failed, scene.node.last_words());
}

/// Runs a pod with one container that sleeps; `change` alters both configurations first.
fn with_container(
    node: &Node,
    change: impl FnOnce(&mut cri::PodSandboxConfig, &mut cri::ContainerConfig),
    work: impl FnOnce(&str, &str) -> Result<()>,
) -> Result<()> {
    let mut config = pod("fields", node.logs());
    let mut main = container("main", BUSYBOX, &["sleep", "1000"]);
    change(&mut config, &mut main);
    let pod = node.client.run_pod(&config)?;
    let outcome = node.client.run(&pod, &config, &main).and_then(|id| work(&pod, &id));
    node.client.remove_pod(&pod)?;
    outcome
}

/// The error of a container that must not start; it is removed with its pod.
fn refusal(node: &Node, change: impl FnOnce(&mut cri::ContainerConfig)) -> Result<String> {
    let mut accepted = false;
    let outcome = with_container(
        node,
        |_, main| change(main),
        |_, _| {
            accepted = true;
            Ok(())
        },
    );
    match outcome {
        Err(error) if !accepted => Ok(format!("{error:#}")),
        _ => anyhow::bail!("it was accepted"),
    }
}

fn resources(main: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    main.linux.get_or_insert_default().resources.get_or_insert_default()
}

fn security(main: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    main.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn mount(host: &Path, at: &str, options: &[&str]) -> cri::Mount {
    cri::Mount {
        host_path: host.display().to_string(),
        container_path: at.to_owned(),
        mount_options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Default::default()
    }
}

fn mount_options(node: &Node, lab: &Lab) -> Result<()> {
    let shared = lab.work().join("shared");
    std::fs::create_dir_all(&shared)?;
    let script = shared.join("script");
    std::fs::write(&script, "#!/bin/sh\necho ran\n")?;
    run(Command::new("chmod").arg("0755").arg(&script))?;
    let mounts =
        vec![mount(&shared, "/plain", &[]), mount(&shared, "/bound", &["noexec", "nodev", "nosuid"])];
    with_container(
        node,
        |_, main| main.mounts = mounts,
        |_, id| {
            ensure!(node.client.exec_ok(id, &["/plain/script"])?.trim() == "ran", "the plain mount");
            let answer = node.client.exec_any(id, &["/bin/sh", "-c", "/bound/script"])?;
            ensure!(answer.exit_code == 126, "noexec: it ended with {}", answer.exit_code);
            let table = node.client.exec_ok(id, &["cat", "/proc/self/mounts"])?;
            let line =
                table.lines().find(|line| line.contains(" /bound ")).context("the mount is missing")?;
            for option in ["noexec", "nodev", "nosuid"] {
                ensure!(line.contains(option), "no {option} in {line}");
            }
            let told = node.client.state(id)?.mounts;
            let told = told.iter().find(|mount| mount.container_path == "/bound").context("not in status")?;
            ensure!(told.mount_options.len() == 3, "status has {:?}", told.mount_options);
            Ok(())
        },
    )
}

fn unknown_mount_option(node: &Node, lab: &Lab) -> Result<()> {
    let work = lab.work().to_owned();
    let error = refusal(node, |main| main.mounts = vec![mount(&work, "/bound", &["exec"])])?;
    ensure!(error.contains("exec") && error.contains("/bound"), "{error}");
    Ok(())
}

fn byte_environment(node: &Node, _: &Lab) -> Result<()> {
    let value = b"\xff\xfe raw \x01".to_vec();
    let envs = vec![cri::KeyValue { key: "RAW".to_owned(), value: value.clone() }];
    with_container(
        node,
        |_, main| main.envs = envs,
        |_, id| {
            let answer = node.client.exec_any(id, &["sh", "-c", "tr '\\0' '\\n' </proc/1/environ"])?;
            let mut wanted = b"RAW=".to_vec();
            wanted.extend_from_slice(&value);
            let found = answer.stdout.split(|&byte| byte == b'\n').any(|line| line == wanted);
            ensure!(found, "the environment is {:?}", String::from_utf8_lossy(&answer.stdout));
            Ok(())
        },
    )
}

/// What an ephemeral debug container of a kubelet asks for.
fn target_pid(node: &Node, _: &Lab) -> Result<()> {
    let config = pod("target", node.logs());
    let pod = node.client.run_pod(&config)?;
    let outcome = (|| {
        let app = node.client.run(&pod, &config, &container("app", BUSYBOX, &["sleep", "4321"]))?;
        let mut debug = container("debug", BUSYBOX, &["sleep", "1000"]);
        let options = security(&mut debug).namespace_options.get_or_insert_default();
        options.pid = cri::NamespaceMode::Target.into();
        options.target_id = app.clone();
        let debugger = node.client.run(&pod, &config, &debug)?;
        let seen = node.client.exec_ok(&debugger, &["ps"])?;
        ensure!(seen.contains("sleep 4321"), "the debugger sees {seen}");
        let first = node.client.exec_ok(&debugger, &["cat", "/proc/1/cmdline"])?;
        ensure!(first.contains("4321"), "process 1 is {first:?}");
        // The application ends with all that shares its process ids, and both exits are told.
        node.client.stop_container(cri::StopContainerRequest { container_id: app.clone(), timeout: 0 })?;
        wait_until("the debugger to end", std::time::Duration::from_secs(10), || {
            node.client
                .state(&debugger)
                .is_ok_and(|state| state.state() == cri::ContainerState::ContainerExited)
        });
        Ok(())
    })();
    node.client.remove_pod(&pod)?;
    outcome
}

fn missing_target(node: &Node, _: &Lab) -> Result<()> {
    let error = refusal(node, |main| {
        let options = security(main).namespace_options.get_or_insert_default();
        options.pid = cri::NamespaceMode::Target.into();
        options.target_id = "f".repeat(64);
    })?;
    ensure!(error.contains("ffffffff"), "{error}");
    Ok(())
}

fn cgroup_file(node: &Node, id: &str, controller: &str, file: &str) -> Result<Option<String>> {
    let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let info = node.client.container_status(request)?.info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("no info")?)?;
    let path = info["cgroupPath"].as_str().context("no cgroupPath")?.trim_start_matches('/').to_owned();
    let file = Path::new("/sys/fs/cgroup").join(controller).join(path).join(file);
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

fn swap_limit(node: &Node, _: &Lab) -> Result<()> {
    with_container(
        node,
        |_, main| {
            resources(main).memory_limit_in_bytes = 32 << 20;
            resources(main).memory_swap_limit_in_bytes = 48 << 20;
        },
        |_, id| {
            let told = node.client.state(id)?.resources.and_then(|all| all.linux).context("no resources")?;
            ensure!(told.memory_swap_limit_in_bytes == 48 << 20, "status has {told:?}");
            let v1 = cgroup_file(node, id, "memory", "memory.memsw.limit_in_bytes")?;
            let v2 = cgroup_file(node, id, "", "memory.swap.max")?;
            ensure!(
                v1.as_deref() == Some("50331648") || v2.as_deref() == Some("16777216"),
                "the cgroup has {v1:?} or {v2:?}"
            );
            Ok(())
        },
    )
}

/// Where the kernel has no such controller, asking for a limit is an error that says so, not silence.
fn huge_pages(node: &Node, _: &Lab) -> Result<()> {
    let limit = cri::HugepageLimit { page_size: "2MB".to_owned(), limit: 4 << 20 };
    let change = |main: &mut cri::ContainerConfig| resources(main).hugepage_limits = vec![limit];
    let v1 = Path::new("/sys/fs/cgroup/hugetlb").try_exists()?;
    let v2 = ["", "unified"].map(|dir| Path::new("/sys/fs/cgroup").join(dir).join("cgroup.controllers"));
    let v2 = v2.iter().find_map(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    if !v1 && !v2.contains("hugetlb") {
        let error = refusal(node, change)?;
        ensure!(error.contains("huge"), "{error}");
        return Ok(());
    }
    with_container(
        node,
        |_, main| change(main),
        |_, id| {
            let v1 = cgroup_file(node, id, "hugetlb", "hugetlb.2MB.limit_in_bytes")?;
            let v2 = cgroup_file(node, id, "", "hugetlb.2MB.max")?;
            let hybrid = cgroup_file(node, id, "unified", "hugetlb.2MB.max")?;
            ensure!(v1.or(v2).or(hybrid).as_deref() == Some("4194304"), "the cgroup has another limit");
            Ok(())
        },
    )
}

fn unified(node: &Node, _: &Lab) -> Result<()> {
    let unified = [("memory.high".to_owned(), "16777216".to_owned())];
    let change = |main: &mut cri::ContainerConfig| resources(main).unified = unified.into();
    let pure_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").try_exists()?;
    if !pure_v2 {
        let error = refusal(node, change)?;
        ensure!(error.contains("memory.high") || error.contains("unified"), "{error}");
        return Ok(());
    }
    with_container(
        node,
        |_, main| change(main),
        |_, id| {
            ensure!(cgroup_file(node, id, "", "memory.high")?.as_deref() == Some("16777216"), "not set");
            Ok(())
        },
    )
}

fn ambient_capabilities(node: &Node, _: &Lab) -> Result<()> {
    let added = vec!["NET_BIND_SERVICE".to_owned()];
    let change = |_: &mut cri::PodSandboxConfig, main: &mut cri::ContainerConfig| {
        let context = security(main);
        context.run_as_user = Some(cri::Int64Value { value: 1000 });
        context.capabilities =
            Some(cri::Capability { add_ambient_capabilities: added, ..Default::default() });
    };
    with_container(node, change, |_, id| {
        let status = node.client.exec_ok(id, &["cat", "/proc/1/status"])?;
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim();
        let ambient = u64::from_str_radix(line("CapAmb:"), 16)?;
        let effective = u64::from_str_radix(line("CapEff:"), 16)?;
        // Bit 10 is CAP_NET_BIND_SERVICE (capabilities(7)).
        ensure!(ambient == 1 << 10 && effective == 1 << 10, "ambient {ambient:x}, effective {effective:x}");
        Ok(())
    })
}

/// The kernel may have no SCTP sockets; the mapping is a rule all the same.
fn sctp_port(node: &Node, _: &Lab) -> Result<()> {
    let mapping = cri::PortMapping {
        protocol: cri::Protocol::Sctp.into(),
        container_port: 3868,
        host_port: 13868,
        ..Default::default()
    };
    with_container(
        node,
        |config, _| config.port_mappings = vec![mapping],
        |_, _| {
            let rules = run(Command::new("nft").args(["list", "ruleset"]))?;
            let line = rules.lines().find(|line| line.contains("13868")).context("no rule for the port")?;
            ensure!(line.contains("sctp") || line.contains("132"), "the rule is {line:?}");
            Ok(())
        },
    )?;
    let rules = run(Command::new("nft").args(["list", "ruleset"]))?;
    ensure!(!rules.contains("13868"), "the rule outlived its pod");
    Ok(())
}

fn annotations(node: &Node, _: &Lab) -> Result<()> {
    let pair = || [("example.com/note".to_owned(), "a \"quoted\" value\n".to_owned())].into();
    with_container(
        node,
        |config, main| {
            config.annotations = pair();
            main.annotations = pair();
        },
        |pod, id| {
            ensure!(node.client.state(id)?.annotations == pair(), "the container's changed");
            let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
            let status = node.client.pod_sandbox_status(request)?.status.context("no status")?;
            ensure!(status.annotations == pair(), "the pod's changed");
            Ok(())
        },
    )
}

fn crictl_exec(node: &Node, authority: &Path, transport: &str, id: &str) -> Result<Command> {
    let mut command = Command::new(Lab::tool("crictl")?);
    command.args(["--runtime-endpoint", &node.endpoint(), "exec", "--transport", transport]);
    // The client wants a certificate of its own, though the server asks for none.
    let own = authority.with_file_name("other");
    command.arg("--tls-ca").arg(authority).arg("--tls-cert").arg(own.with_extension("pem"));
    command.arg("--tls-key").arg(own.with_extension("key"));
    command.args([id, "sh", "-c", "echo out; echo err >&2"]);
    Ok(command)
}

fn exec_over_tls(node: &Node, tls: &Path, transport: &str) -> Result<()> {
    with_container(
        node,
        |_, _| {},
        |_, id| {
            let request = cri::ExecRequest {
                container_id: id.to_owned(),
                cmd: vec!["true".to_owned()],
                stdout: true,
                ..Default::default()
            };
            let url = node.client.exec(request)?.url;
            ensure!(url.starts_with("https://"), "the URL is {url}");
            let answer = crictl_exec(node, &tls.join("ca.pem"), transport, id)?.output()?;
            ensure!(answer.status.success(), "crictl: {answer:?}");
            ensure!(String::from_utf8_lossy(&answer.stdout).contains("out"), "no output came");
            ensure!(String::from_utf8_lossy(&answer.stderr).contains("err"), "no error output came");
            Ok(())
        },
    )
}

/// A client that trusts another authority gets nothing.
fn foreign_authority(node: &Node, lab: &Lab) -> Result<()> {
    with_container(
        node,
        |_, _| {},
        |_, id| {
            let other = lab.work().join("tls/other.pem");
            let answer = crictl_exec(node, &other, "spdy", id)?.output()?;
            ensure!(!answer.status.success(), "the connection was trusted");
            Ok(())
        },
    )
}
