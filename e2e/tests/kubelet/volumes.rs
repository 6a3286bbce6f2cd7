//! Volumes: empty directories, paths of the host, the downward API, images, sub paths, propagation.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::run;
use serde_json::{Value, json};

use super::scene::*;

pub(crate) const GROUP: Group = Group {
    name: "volumes",
    pods,
    once: &[
        ("empty directories on disk and in memory", empty_dirs),
        ("downward API in files and environment", downward),
        ("image volumes", images),
        ("sub paths", sub_paths),
        ("a host path of another type is refused", wrong_host_path),
    ],
    steady: &[("host paths of every type", host_paths), ("mount propagation", propagation)],
    midway: &[Midway { name: "what volumes hold", begin: begin_data, finish: finish_data }],
};

/// A directory of the host that volumes show.
fn host(s: &Scene) -> PathBuf {
    s.lab.work().join("on-the-host")
}

fn mount(name: &str, path: &str, more: Value) -> Value {
    with(json!({"name": name, "mountPath": path}), more)
}

fn pods(s: &Scene) -> Vec<Value> {
    prepare(&host(s)).expect("prepare paths of the host");
    let mut all = vec![kinds(), host_path_pod(&host(s)), wrong_pod(&host(s))];
    all.extend(propagation_pods(&host(s)));
    all
}

/// Makes what host paths of all types point to. The socket stays when its listener is gone.
fn prepare(host: &Path) -> Result<()> {
    for dir in ["dir/below", "spread/host"] {
        std::fs::create_dir_all(host.join(dir))?;
    }
    std::fs::write(host.join("dir/file"), "of the host\n")?;
    std::fs::write(host.join("file"), "a file\n")?;
    std::os::unix::net::UnixListener::bind(host.join("socket"))?;
    // The first loop device: looked at, never opened.
    run(Command::new("mknod").arg(host.join("block")).args(["b", "7", "0"]))?;
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(host.join("dir/below")))?;
    Ok(())
}

fn kinds() -> Value {
    let field = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let resource = |what: &str| json!({"resourceFieldRef": {"containerName": "main", "resource": what}});
    let env =
        |name: &str, field: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}});
    pod(
        "volumes",
        json!({
            "containers": [with(shell("main", WAIT), json!({
                "resources": {"limits": {"memory": "32Mi", "cpu": "250m"}},
                "env": [
                    env("POD", "metadata.labels['pod']"), env("ADDRESS", "status.podIP"), env("NODE", "spec.nodeName"),
                    {"name": "LIMIT", "valueFrom": resource("limits.memory")},
                ],
                "volumeMounts": [
                    mount("memory", "/memory", json!({})),
                    mount("disk", "/disk", json!({})),
                    mount("disk", "/sub", json!({"subPath": "a/b"})),
                    mount("disk", "/named", json!({"subPathExpr": "of-$(POD)"})),
                    mount("info", "/info", json!({})),
                    mount("private", "/private", json!({"readOnly": true})),
                    mount("tools", "/tools", json!({})),
                    mount("tools", "/tools-bin", json!({"subPath": "bin"})),
                ],
            }))],
            "volumes": [
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
                {"name": "disk", "emptyDir": {}},
                {"name": "info", "downwardAPI": {"items": [field("name", "metadata.name"), field("labels", "metadata.labels")]}},
                {"name": "private", "downwardAPI": {"defaultMode": 256, "items": [
                    field("note", "metadata.annotations['note']"),
                    with(resource("limits.memory"), json!({"path": "limit"})),
                ]}},
                {"name": "tools", "image": {"reference": BUSYBOX, "pullPolicy": "IfNotPresent"}},
            ],
        }),
    )
}

/// Types of host paths with where they point to; each is mounted at `/` and its name.
const TYPES: [(&str, &str, &str); 8] = [
    ("any", "", "dir"),
    ("dir", "Directory", "dir"),
    ("new-dir", "DirectoryOrCreate", "made/dir"),
    ("file", "File", "file"),
    ("new-file", "FileOrCreate", "new-file"),
    ("socket", "Socket", "socket"),
    ("char", "CharDevice", "/dev/null"),
    ("block", "BlockDevice", "block"),
];

fn host_path_pod(host: &Path) -> Value {
    let mounts = TYPES.map(|(name, _, _)| {
        let more = if name == "dir" { json!({"readOnly": true}) } else { json!({}) };
        mount(name, &format!("/{name}"), more)
    });
    pod(
        "host-paths",
        json!({
            "containers": [with(shell("main", WAIT), json!({"volumeMounts": mounts}))],
            "volumes": TYPES.map(|(name, kind, path)| host_path(name, &host.join(path), kind)),
        }),
    )
}

fn wrong_pod(host: &Path) -> Value {
    pod(
        "wrong-host-path",
        json!({
            "containers": [mounted(shell("main", WAIT), &[("wrong", "/wrong")])],
            "volumes": [host_path("wrong", &host.join("dir"), "File")],
        }),
    )
}

fn propagation_pods(host: &Path) -> Vec<Value> {
    let of = |name: &str, mode: &str| {
        let mounts = json!({"volumeMounts": [mount("spread", "/spread", json!({"mountPropagation": mode}))]});
        with(shell(name, WAIT), mounts)
    };
    let privileged = json!({"securityContext": {"privileged": true}});
    vec![pod(
        "spread",
        json!({
            "containers": [
                of("alone", "None"), of("follows", "HostToContainer"), with(of("both", "Bidirectional"), privileged),
            ],
            "volumes": [host_path("spread", &host.join("spread"), "Directory")],
        }),
    )]
}

fn empty_dirs(s: &mut Scene) -> Result<()> {
    let pod = s.ready("volumes")?;
    let table = s.show(&pod, "main", "/proc/self/mounts")?;
    let line = |at: &str| table.lines().find(|line| line.contains(&format!(" {at} "))).unwrap_or_default();
    ensure!(line("/memory").starts_with("tmpfs"), "the memory volume: {:?}", line("/memory"));
    ensure!(line("/memory").contains("size=8192k"), "the memory volume: {:?}", line("/memory"));
    ensure!(!line("/disk").starts_with("tmpfs"), "the disk volume: {:?}", line("/disk"));
    let fill = ["dd", "if=/dev/zero", "of=/memory/much", "bs=1M", "count=9"];
    ensure!(s.exec(&pod, "main", &fill).is_err(), "more than its limit fits into memory");
    s.exec(&pod, "main", &["rm", "/memory/much"])?;
    s.exec(&pod, "main", &["sh", "-c", "echo text >/disk/file"])?;
    let mode = s.exec(&pod, "main", &["stat", "-c", "%a", "/disk"])?;
    ensure!(mode.trim() == "777", "the mode of a disk volume is {mode}");
    Ok(())
}

fn downward(s: &mut Scene) -> Result<()> {
    let pod = s.ready("volumes")?;
    ensure!(
        s.show(&pod, "main", "/info/name")? == full_name(&pod),
        "{}",
        s.show(&pod, "main", "/info/name")?
    );
    has(&s.show(&pod, "main", "/info/labels")?, &["pod=\"volumes\""])?;
    ensure!(s.show(&pod, "main", "/private/note")? == "volumes", "the annotation");
    ensure!(s.show(&pod, "main", "/private/limit")? == (32 << 20).to_string(), "the limit");
    let mode = s.exec(&pod, "main", &["stat", "-L", "-c", "%a", "/private/note"])?;
    ensure!(mode.trim() == "400", "the mode of a private file is {mode}");
    ensure!(s.exec(&pod, "main", &["touch", "/private/new"]).is_err(), "a downward volume can be written");
    let environment = s.exec(&pod, "main", &["env"])?;
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let limit = format!("LIMIT={}\n", 32 << 20);
    has(&environment, &["POD=volumes\n", &limit, &format!("ADDRESS={address}\n"), &format!("NODE={node}\n")])
}

fn images(s: &mut Scene) -> Result<()> {
    let pod = s.ready("volumes")?;
    s.exec(&pod, "main", &["/tools/bin/busybox", "true"])?;
    s.exec(&pod, "main", &["/tools-bin/busybox", "true"])?;
    for path in ["/tools/new", "/tools-bin/new"] {
        ensure!(s.exec(&pod, "main", &["touch", path]).is_err(), "{path} can be made in an image volume");
    }
    Ok(())
}

fn sub_paths(s: &mut Scene) -> Result<()> {
    let pod = s.ready("volumes")?;
    s.exec(&pod, "main", &["sh", "-c", "echo below >/sub/made; echo named >/named/made"])?;
    ensure!(s.show(&pod, "main", "/disk/a/b/made")? == "below", "the sub path is somewhere else");
    ensure!(s.show(&pod, "main", "/disk/of-volumes/made")? == "named", "the expression is somewhere else");
    Ok(())
}

fn wrong_host_path(s: &mut Scene) -> Result<()> {
    wait("kubelet to refuse the type", || {
        Ok(s.kubelet
            .log()?
            .lines()
            .any(|line| line.contains("wrong-host-path") && line.contains("is not a file")))
    })?;
    ensure!(s.sandboxes("wrong-host-path")?.is_empty(), "the pod was started");
    s.kubelet.take("wrong-host-path")
}

fn host_paths(s: &mut Scene) -> Result<()> {
    let pod = s.ready("host-paths")?;
    ensure!(s.show(&pod, "main", "/any/file")? == "of the host", "the directory of no type");
    ensure!(s.show(&pod, "main", "/file")? == "a file", "the file");
    for (test, path) in
        [("-d", "/new-dir"), ("-f", "/new-file"), ("-S", "/socket"), ("-c", "/char"), ("-b", "/block")]
    {
        s.exec(&pod, "main", &["test", test, path])?;
    }
    s.exec(
        &pod,
        "main",
        &["sh", "-c", "echo swallowed >/char; echo made >/new-dir/made; echo new >/new-file"],
    )?;
    ensure!(std::fs::read_to_string(host(s).join("made/dir/made"))? == "made\n", "not the host's directory");
    ensure!(std::fs::read_to_string(host(s).join("new-file"))? == "new\n", "not the host's file");
    let opened = s.exec(&pod, "main", &["dd", "if=/block", "of=/dev/null", "count=1"]);
    ensure!(opened.is_err(), "a block device of the host can be read");
    ensure!(s.exec(&pod, "main", &["touch", "/dir/new"]).is_err(), "a read-only volume can be written");
    s.exec(&pod, "main", &["touch", "/any/below/new"])?;
    Ok(())
}

fn propagation(s: &mut Scene) -> Result<()> {
    let pod = s.ready("spread")?;
    let spread = host(s).join("spread");
    let on_host = spread.join("host");
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&on_host))?;
    let seen = seen_from_host(s, &pod, &on_host);
    run(Command::new("umount").arg(&on_host))?;
    seen?;
    s.exec(
        &pod,
        "both",
        &["sh", "-c", "mkdir -p /spread/own && mount -t tmpfs own /spread/own && touch /spread/own/mark"],
    )?;
    let arrived = spread.join("own/mark").try_exists()?;
    let follows = s.exec(&pod, "follows", &["test", "-e", "/spread/own/mark"]);
    s.exec(&pod, "both", &["umount", "/spread/own"])?;
    ensure!(arrived, "a mount of a bidirectional container does not reach the host");
    follows?;
    let alone = s.exec(&pod, "follows", &["mount", "-t", "tmpfs", "own", "/spread/own"]);
    ensure!(alone.is_err(), "an unprivileged container mounts");
    Ok(())
}

fn seen_from_host(s: &Scene, pod: &Value, on_host: &Path) -> Result<()> {
    std::fs::write(on_host.join("mark"), "")?;
    for (container, sees) in [("follows", true), ("both", true), ("alone", false)] {
        let found = s.exec(pod, container, &["test", "-e", "/spread/host/mark"]).is_ok();
        ensure!(
            found == sees,
            "{container}: the host's new mount is {}",
            if found { "there" } else { "not there" }
        );
    }
    Ok(())
}

/// A container that has written, and restarts itself beside what it wrote.
fn begin_data(s: &mut Scene, who: Restart) -> Result<()> {
    let name = who.pod("data");
    let script =
        format!("echo run >>/memory/runs; echo run >>/disk/runs; {}", WAIT.replace("exit 0", "exit 1"));
    let container = mounted(shell("main", &script), &[("memory", "/memory"), ("disk", "/disk")]);
    s.kubelet.put(&pod(
        &name,
        json!({"containers": [container], "volumes": [
            {"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}},
        ]}),
    ))?;
    s.ready(&name)?;
    Ok(())
}

fn finish_data(s: &mut Scene, who: Restart) -> Result<()> {
    let name = who.pod("data");
    let pod = s.ready(&name)?;
    // Its first process ends, and with it this one; what comes after it finds the same volumes.
    s.node.client.exec_any(&container_id(&pod, "main")?, &["kill", "1"])?;
    s.container(&name, "main", "was restarted", |status| restarts(status) == 1)?;
    let pod = s.ready(&name)?;
    for path in ["/memory/runs", "/disk/runs"] {
        let runs = s.exec(&pod, "main", &["cat", path])?;
        ensure!(runs == "run\nrun\n", "{path} is {runs:?}");
    }
    s.end(&name)
}
