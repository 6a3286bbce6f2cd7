//! What a pod's author writes into a pod, and what runs in it, reaches no further than the pod.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::baseline::{Snapshot, assert_back_to};
use e2e::canary::Canary;
use e2e::catalog::{APPLIANCE, BUSYBOX};
use e2e::{Lab, Node, NodeOptions, container, pod, summarize};

struct Scene {
    node: Node,
    canary: Canary,
    passed: u32,
    failed: Vec<String>,
}

impl Scene {
    fn check(&mut self, name: &str, work: impl FnOnce(&Node) -> Result<()>) {
        match work(&self.node) {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("FAILED {name}: {error:#}");
                self.failed.push(name.to_owned());
            }
        }
        self.canary.assert_unharmed(name);
    }
}

#[test]
fn hostile_pods() {
    let lab = Lab::enter("attack-cri");
    let canary = Canary::plant().expect("plant the canary");
    let registry = lab.registry().expect("start the registry");
    let node = Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    for image in [BUSYBOX, APPLIANCE] {
        node.client.pull(image).expect("pull");
    }
    let mut scene = Scene { node, canary, passed: 0, failed: Vec::new() };
    scene.check("warm up", |node| {
        with_container(node, BUSYBOX, |_| {}, |node, id| node.client.exec_ok(id, &["true"]).map(drop))
    });
    let before = Snapshot::take(&scene.node).expect("look around");
    sysctls(&mut scene);
    paths(&mut scene);
    accounts(&mut scene);
    confinement(&mut scene);
    floods(&mut scene);
    surface(&mut scene);
    assert_back_to(&before, &scene.node, Duration::from_secs(20));
    summarize(&format!("attacks by pods: {} passed, {} failed, 0 skipped", scene.passed, scene.failed.len()));
    assert!(scene.failed.is_empty(), "{:?}\n{}", scene.failed, scene.node.last_words());
}

/// Runs a container that sleeps, lets `change` alter its configuration first, and removes all at the end.
fn with_container(
    node: &Node,
    image: &str,
    change: impl FnOnce(&mut cri::ContainerConfig),
    work: impl FnOnce(&Node, &str) -> Result<()>,
) -> Result<()> {
    let config = pod("attack", node.logs());
    let pod = node.client.run_pod(&config)?;
    let mut main = container("main", image, &["sleep", "1000"]);
    change(&mut main);
    let outcome = node.client.run(&pod, &config, &main).and_then(|id| work(node, &id));
    node.client.remove_pod(&pod)?;
    outcome
}

fn refused<T: std::fmt::Debug>(outcome: Result<T>) -> Result<()> {
    match outcome {
        Ok(value) => anyhow::bail!("it was accepted: {value:?}"),
        Err(_) => Ok(()),
    }
}

/// Runs a pod that should be refused; one that is not is removed.
fn pod_refused(node: &Node, config: &cri::PodSandboxConfig) -> Result<()> {
    let outcome = node.client.run_pod(config);
    if let Ok(id) = &outcome {
        node.client.remove_pod(id)?;
    }
    refused(outcome)
}

fn sysctls(scene: &mut Scene) {
    let core_pattern = || std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let before = core_pattern();
    let attacks = [
        ("value with a separator", "kernel.shm_rmid_forced", "1+kernel.core_pattern=|/canary/evil %p #"),
        ("value with a new line", "kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/canary/evil"),
        ("name of the host's", "kernel.core_pattern", "|/canary/evil"),
        ("name with dot-dot", "net/../kernel/core_pattern", "|/canary/evil"),
        ("name with dots", "net.ipv4...kernel.core_pattern", "|/canary/evil"),
        ("absolute name", "/proc/sys/kernel/core_pattern", "|/canary/evil"),
        ("virtual memory", "vm.overcommit_memory", "1"),
        ("empty name", "", "1"),
    ];
    for (name, key, value) in attacks {
        scene.check(&format!("sysctl: {name}"), |node| {
            let mut config = pod("sysctl", node.logs());
            config.linux.as_mut().context("linux")?.sysctls.insert(key.to_owned(), value.to_owned());
            let outcome = pod_refused(node, &config);
            ensure!(core_pattern() == before, "the host's core pattern is {}", core_pattern());
            outcome
        });
    }
    for (name, key, host_network) in
        [("network", "net.ipv4.ip_forward", true), ("System V IPC", "kernel.shm_rmid_forced", false)]
    {
        scene.check(&format!("sysctl of the host's {name}"), |node| {
            let mut config = pod("sysctl", node.logs());
            let linux = config.linux.as_mut().context("linux")?;
            linux.sysctls.insert(key.to_owned(), "1".to_owned());
            let security = linux.security_context.as_mut().context("security context")?;
            let options = security.namespace_options.as_mut().context("namespaces")?;
            if host_network {
                options.network = cri::NamespaceMode::Node.into();
            } else {
                options.ipc = cri::NamespaceMode::Node.into();
            }
            pod_refused(node, &config)
        });
    }
}

/// Log paths and mounts that lead elsewhere.
fn paths(scene: &mut Scene) {
    let long = "l".repeat(5000);
    for path in ["../../../canary/planted", "/canary/planted", "a\0b", long.as_str(), ".."] {
        scene.check(&format!("log path {:.40}", path.escape_debug().to_string()), |node| {
            // The kubelet may name directories below its own; nothing else is its business here.
            refused(with_container(node, BUSYBOX, |main| main.log_path = path.to_owned(), |_, _| Ok(())))
        });
    }
    scene.check("log path through a link", |node| {
        let link = node.logs().join("link.log");
        std::os::unix::fs::symlink("/canary/file", &link)?;
        let change = |main: &mut cri::ContainerConfig| main.log_path = "link.log".to_owned();
        let _ = with_container(node, BUSYBOX, change, |node, id| {
            let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
            let _ = node.client.reopen_container_log(request);
            Ok(())
        });
        std::fs::remove_file(&link).context("remove the link")
    });
    scene.check("mount target through a link of a volume", |node| {
        let volume = node.dir().join("volume");
        std::fs::create_dir_all(&volume)?;
        let _ = std::fs::remove_file(volume.join("out"));
        std::os::unix::fs::symlink("/canary", volume.join("out"))?;
        let mount = |container: &str, host: &Path| cri::Mount {
            container_path: container.to_owned(),
            host_path: host.display().to_string(),
            ..Default::default()
        };
        let change = |main: &mut cri::ContainerConfig| {
            main.mounts = vec![mount("/volume", &volume), mount("/volume/out/made", &volume)];
        };
        // Either it is refused or it stays inside; the canary tells.
        let _ = with_container(node, BUSYBOX, change, |_, _| Ok(()));
        Ok(())
    });
    scene.check("mount over proc", |node| {
        let change = |main: &mut cri::ContainerConfig| {
            main.mounts = vec![cri::Mount {
                container_path: "/proc/self".to_owned(),
                host_path: "/canary".to_owned(),
                ..Default::default()
            }];
        };
        refused(with_container(node, BUSYBOX, change, |_, _| Ok(())))
    });
}

/// Users, groups and environments.
fn accounts(scene: &mut Scene) {
    scene.check("new lines in the environment", |node| {
        let home = "/root\nevil:x:0:0::/:/bin/sh";
        let change = |main: &mut cri::ContainerConfig| {
            main.envs = vec![cri::KeyValue { key: "HOME".to_owned(), value: home.as_bytes().to_vec() }];
        };
        with_container(node, BUSYBOX, change, |node, id| {
            let passwd = node.client.exec_ok(id, &["cat", "/etc/passwd"])?;
            ensure!(!passwd.contains("evil"), "{passwd}");
            Ok(())
        })
    });
    scene.check("no inheritable capabilities", |node| {
        for user in [0, 1000] {
            let change = |main: &mut cri::ContainerConfig| {
                if let Some(security) = main.linux.as_mut().and_then(|linux| linux.security_context.as_mut())
                {
                    security.run_as_user = Some(cri::Int64Value { value: user });
                }
            };
            with_container(node, BUSYBOX, change, |node, id| {
                let status = node.client.exec_ok(id, &["cat", "/proc/self/status", "/proc/1/status"])?;
                let inherited: Vec<_> = status.lines().filter(|line| line.starts_with("CapInh")).collect();
                ensure!(inherited.iter().all(|line| line.ends_with("0000000000000000")), "{inherited:?}");
                Ok(())
            })?;
        }
        Ok(())
    });
    scene.check("the primary group is among the groups", |node| {
        let change = |main: &mut cri::ContainerConfig| {
            if let Some(security) = main.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
                security.run_as_user = Some(cri::Int64Value { value: 1000 });
                security.run_as_group = Some(cri::Int64Value { value: 3000 });
            }
        };
        with_container(node, BUSYBOX, change, |node, id| {
            let status = node.client.exec_ok(id, &["cat", "/proc/self/status"])?;
            let groups = status.lines().find(|line| line.starts_with("Groups:")).unwrap_or_default();
            ensure!(groups.split_whitespace().any(|group| group == "3000"), "{groups}");
            Ok(())
        })
    });
    for user in [-1_i64, 1 << 31, 1 << 32, 1 << 62] {
        scene.check(&format!("run as user {user}"), |node| {
            let change = |main: &mut cri::ContainerConfig| {
                if let Some(security) = main.linux.as_mut().and_then(|linux| linux.security_context.as_mut())
                {
                    security.run_as_user = Some(cri::Int64Value { value: user });
                }
            };
            refused(with_container(node, BUSYBOX, change, |_, _| Ok(())))
        });
    }
}

/// What a default container can reach of the host.
fn confinement(scene: &mut Scene) {
    scene.check("the default sandbox", |node| {
        with_container(
            node,
            APPLIANCE,
            |_| {},
            |node, id| {
                let answers = node.client.exec_ok(id, &["/usr/bin/probe"])?;
                for line in answers.lines() {
                    let (name, result) = line.split_once('=').context("NAME=RESULT")?;
                    ensure!((result == "ok") == (name == "af_inet" || name.starts_with("mknod")), "{line}");
                }
                Ok(())
            },
        )
    });
    scene.check("masked and read-only paths", |node| {
        with_container(node, BUSYBOX, |_| {}, |node, id| {
            let script = "cat /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /sys/firmware/* 2>/dev/null \
                          | head -c 1; for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/default_smp_affinity; \
                          do (echo x > $f) 2>/dev/null && echo wrote $f; done; true";
            let output = node.client.exec_ok(id, &["sh", "-c", script])?;
            ensure!(output.is_empty(), "{output:?}");
            Ok(())
        })
    });
    scene.check("no descriptor of the host's", |node| {
        with_container(
            node,
            BUSYBOX,
            |_| {},
            |node, id| {
                let list = node
                    .client
                    .exec_ok(id, &["sh", "-c", "ls -l /proc/1/fd /proc/self/fd; readlink /proc/1/cwd"])?;
                for line in list.lines().filter(|line| line.contains("->")) {
                    let target = line.rsplit("-> ").next().unwrap_or_default();
                    let inside = ["pipe:", "/dev/null", "/proc/", "socket:"];
                    ensure!(inside.iter().any(|start| target.starts_with(start)), "{line}");
                }
                Ok(())
            },
        )
    });
    scene.check("no abstract sockets of ours", |node| {
        let mut config = pod("hostnet", node.logs());
        let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        let options =
            security.and_then(|security| security.namespace_options.as_mut()).context("namespaces")?;
        options.network = cri::NamespaceMode::Node.into();
        let pod = node.client.run_pod(&config)?;
        let mut main = container("main", BUSYBOX, &["sleep", "1000"]);
        let security = main.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        let options =
            security.and_then(|security| security.namespace_options.as_mut()).context("namespaces")?;
        options.network = cri::NamespaceMode::Node.into();
        let id = node.client.run(&pod, &config, &main)?;
        let sockets = node.client.exec_ok(&id, &["cat", "/proc/net/unix"])?;
        node.client.remove_pod(&pod)?;
        ensure!(!sockets.contains('@'), "{sockets}");
        Ok(())
    });
    scene.check("annotations are inert", |node| {
        let noise = [
            ("io.kubernetes.cri-o.UnifiedCgroup.main", "memory.max=max"),
            ("org.systemd.property.ExecStartPre", "'/canary/evil'"),
            ("io.containerd.runc.v2.group", "x"),
            ("run.oci.handler", "krun"),
            ("cdi.k8s.io/evil", "vendor.com/class=all"),
        ];
        let change = |main: &mut cri::ContainerConfig| {
            main.annotations.extend(noise.map(|(key, value)| (key.to_owned(), value.to_owned())));
            if let Some(linux) = main.linux.as_mut() {
                linux.resources = Some(cri::LinuxContainerResources {
                    memory_limit_in_bytes: 32 << 20,
                    ..Default::default()
                });
            }
        };
        with_container(node, BUSYBOX, change, |node, id| {
            let script =
                "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
            let limit = node.client.exec_any(id, &["sh", "-c", script])?.stdout;
            ensure!(
                String::from_utf8_lossy(&limit).trim() == "33554432",
                "{}",
                String::from_utf8_lossy(&limit)
            );
            Ok(())
        })
    });
}

/// More output, more sessions, than anybody keeps.
fn floods(scene: &mut Scene) {
    scene.check("ExecSync of 1 GiB", |node| {
        with_container(
            node,
            APPLIANCE,
            |main| main.command = vec!["/usr/bin/pause".to_owned()],
            |node, id| {
                let before = memory(node.daemon_pid())? + memory(node.keeper_pid())?;
                let start = Instant::now();
                let answer = node.client.exec_any(id, &["/usr/bin/flood", "1073741824"]);
                let took = start.elapsed();
                let grown = (memory(node.daemon_pid())? + memory(node.keeper_pid())?).saturating_sub(before);
                // 16 MiB of output and its framing are more than a client of default limits takes; either way it
                // must come to an end, and cheaply.
                if let Ok(answer) = answer {
                    ensure!(answer.stdout.len() <= 16 << 20, "{} bytes", answer.stdout.len());
                    ensure!(answer.exit_code == 0, "it ended with {}", answer.exit_code);
                }
                ensure!(took < Duration::from_secs(30), "it took {took:?}");
                ensure!(grown < 96 << 20, "it cost {} MiB", grown >> 20);
                Ok(())
            },
        )
    });
    scene.check("500 sessions that nobody joins", |node| {
        with_container(
            node,
            BUSYBOX,
            |_| {},
            |node, id| {
                let descriptors =
                    || std::fs::read_dir(format!("/proc/{}/fd", node.daemon_pid())).map(Iterator::count);
                let (before, size) = (descriptors()?, memory(node.daemon_pid())?);
                for _ in 0..500 {
                    let request = cri::AttachRequest {
                        container_id: id.to_owned(),
                        stdout: true,
                        ..Default::default()
                    };
                    // A bound on waiting sessions is fine.
                    let _ = node.client.attach(request);
                }
                let after = descriptors()?;
                ensure!(after <= before + 4, "{before} descriptors became {after}");
                ensure!(memory(node.daemon_pid())?.saturating_sub(size) < 16 << 20, "memory grew");
                Ok(())
            },
        )
    });
    scene.check("streaming addresses are single-use and cannot be guessed", |node| {
        with_container(
            node,
            BUSYBOX,
            |_| {},
            |node, id| {
                let request = || cri::ExecRequest {
                    container_id: id.to_owned(),
                    cmd: vec!["true".to_owned()],
                    stdout: true,
                    ..Default::default()
                };
                let (one, two) = (node.client.exec(request())?.url, node.client.exec(request())?.url);
                ensure!(one != two, "one address for two sessions");
                let token = one.rsplit('/').next().unwrap_or_default();
                ensure!(token.len() >= 22, "{token} has fewer than 128 bits");
                ensure!(e2e::http::get(&one)?.status >= 400, "a plain GET ran the program");
                let guessed = format!("{}{}", &one[..one.len() - token.len()], "A".repeat(token.len()));
                let status = e2e::http::get(&guessed)?.status;
                ensure!((400..500).contains(&status), "a guess is answered with {status}");
                Ok(())
            },
        )
    });
}

/// Modes of what lies about on disk.
fn surface(scene: &mut Scene) {
    scene.check("modes of directories and sockets", |node| {
        let mode = |path: &Path| -> Result<u32> {
            let about =
                std::fs::symlink_metadata(path).with_context(|| format!("stat {}", path.display()))?;
            Ok(about.permissions().mode() & 0o7777)
        };
        ensure!(mode(&node.root())? == 0o700, "root is {:o}", mode(&node.root())?);
        let docker = node.state().join("docker.sock");
        // A group may be let in by configuration, others never.
        let for_clients = [node.socket(), &docker];
        for entry in std::fs::read_dir(node.state())?.flatten() {
            let path = entry.path();
            let shut = if for_clients.contains(&path.as_path()) { 0o007 } else { 0o066 };
            ensure!(mode(&path)? & shut == 0, "{} is {:o}", path.display(), mode(&path)?);
        }
        let keeper = node.state().join("keeper.sock");
        ensure!(mode(&keeper)? == 0o600, "the keeper's socket is {:o}", mode(&keeper)?);
        Ok(())
    });
}

/// Resident memory of a process, in bytes.
fn memory(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
