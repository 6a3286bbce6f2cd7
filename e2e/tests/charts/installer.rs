//! The scripts that put Berth on a node and take it off again, on a node that is a directory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Lab, wait_until};

use crate::node::{FakeNode, KUBELET};

const BERTH: &str = "containerRuntimeEndpoint: unix:///run/berth/cri.sock\n";
const INSTALLED: [&str; 8] = [
    "berth-keeper.service.active",
    "berth-keeper.service.enabled",
    "berth.service.active",
    "berth.service.enabled",
    "containerd.service.there",
    "kubelet.service.active",
    "kubelet.service.enabled",
    "kubelet.service.there",
];

type Scenario = fn(&Lab) -> Result<()>;

/// Every scenario, by name.
pub(crate) const SCENARIOS: [(&str, Scenario); 13] = [
    ("there and back", there_and_back),
    ("files of others", files_of_others),
    ("again", again),
    ("upgrade", upgrade),
    ("an upgrade that fails", upgrade_fails),
    ("an installation that fails", installation_fails),
    ("refused", refused),
    ("a changed kubelet", changed_kubelet),
    ("a flag of kubelet", flag),
    ("one node at a time", turns),
    ("installed by hand", by_hand),
    ("a secret", secret),
    ("other places", other_places),
];

/// That Berth is what the node runs, and nothing is held back.
pub(crate) fn is_installed(node: &FakeNode, version: u32) -> Result<()> {
    ensure!(node.units()? == INSTALLED, "units: {:?}", node.units()?);
    ensure!(node.read("usr/bin/berth")?.contains(&format!("version {version}\n")), "another berth");
    ensure!(node.read("usr/bin/berth-keeper")? == format!("berth-keeper {version}\n"), "another keeper");
    ensure!(node.read("usr/bin/berth-runtime")? == format!("berth-runtime {version}\n"), "another runtime");
    ensure!(node.read("etc/berth/config.toml")?.contains("\"192.0.2.10:9095\""), "the node's address");
    let kubelet = node.read("var/lib/kubelet/config.yaml")?;
    ensure!(kubelet.contains(BERTH) && kubelet.contains("cgroupDriver: cgroupfs\n"), "kubelet: {kubelet}");
    let rest = |text: &str| -> Vec<String> {
        let ours = |line: &&str| {
            !line.starts_with("containerRuntimeEndpoint:") && !line.starts_with("cgroupDriver:")
        };
        text.lines().filter(ours).map(str::to_owned).collect()
    };
    ensure!(rest(&kubelet) == rest(KUBELET), "more than two lines are others: {kubelet}");
    ensure!(!node.has("etc/systemd/system/berth-switch.service"), "the switch is still there");
    let files = node.files()?;
    let temporary: Vec<_> =
        files.keys().filter(|name| name.ends_with(".berth") || name.ends_with(".tmp")).collect();
    ensure!(temporary.is_empty(), "temporary files: {temporary:?}");
    node.is_free()
}

/// That the node is as it was.
pub(crate) fn is_as_before(node: &FakeNode, before: &State) -> Result<()> {
    let now = State::of(node)?;
    ensure!(now.units == before.units, "units: {:?}, not {:?}", now.units, before.units);
    for (name, text) in &before.files {
        let found = now.files.get(name).with_context(|| format!("{name} is gone"))?;
        ensure!(found == text, "{name} was {text}, and is {found}");
    }
    let more: Vec<_> = now.files.keys().filter(|name| !before.files.contains_key(*name)).collect();
    ensure!(more.is_empty(), "left over: {more:?}");
    node.is_free()
}

/// Files and units of a node.
#[derive(Debug)]
pub(crate) struct State {
    files: std::collections::BTreeMap<String, String>,
    units: Vec<String>,
}

impl State {
    /// Those of now.
    pub(crate) fn of(node: &FakeNode) -> Result<State> {
        Ok(State { files: node.files()?, units: node.units()? })
    }
}

fn there_and_back(lab: &Lab) -> Result<()> {
    let node = FakeNode::new(lab, "plain")?;
    let before = State::of(&node)?;
    node.run("install")?;
    is_installed(&node, 1)?;
    let log = node.log();
    let order = [
        "kubectl create -f -",
        "kubectl cordon node-a",
        "kubectl drain node-a --ignore-daemonsets --delete-emptydir-data --timeout 10m --force",
        "systemctl start --no-block berth-switch.service",
        "systemctl stop kubelet.service",
        "crictl --timeout 60s --runtime-endpoint unix:///run/containerd/containerd.sock rmp -fa",
        "systemctl disable --now containerd.service",
        "systemctl start berth-keeper.service",
        "systemctl restart berth.service",
        "systemctl start kubelet.service",
        "kubectl uncordon node-a",
        "kubectl -n berth-system delete lease berth --wait=false",
    ];
    in_order(&log, &order)?;
    node.forget()?;
    node.run("uninstall")?;
    is_as_before(&node, &before)?;
    ensure!(!node.has("var/lib/berth-install"), "its memory is left");
    let order = [
        "kubectl drain node-a --ignore-daemonsets --delete-emptydir-data --timeout 10m --force",
        "systemctl stop kubelet.service",
        "crictl --timeout 60s --runtime-endpoint unix:///run/berth/cri.sock rmp -fa",
        "systemctl disable --now berth.service",
        "systemctl disable --now berth-keeper.service",
        "systemctl enable containerd.service",
        "systemctl start containerd.service",
        "systemctl start kubelet.service",
        "kubectl uncordon node-a",
    ];
    in_order(&node.log(), &order)?;
    node.run("uninstall")?;
    is_as_before(&node, &before)
}

fn in_order(log: &str, wanted: &[&str]) -> Result<()> {
    let mut lines = log.lines();
    for line in wanted {
        ensure!(lines.any(|found| found == *line), "{line:?} is not there in this order:\n{log}");
    }
    Ok(())
}

/// What lies where our files go comes back: contents, modes, links; and what others put beside them stays.
fn files_of_others(lab: &Lab) -> Result<()> {
    let node = FakeNode::new(lab, "others")?;
    node.host("usr/bin/berth-runtime", "an older one\n")?;
    node.host("etc/berth/config.toml", "version = 1\n")?;
    node.mark("units/containerd.service.enabled", false)?;
    let before = State::of(&node)?;
    node.run("install")?;
    is_installed(&node, 1)?;
    ensure!(!node.is("units/containerd.service.active"), "containerd runs");
    node.run("uninstall")?;
    is_as_before(&node, &before)?;
    node.run("install")?;
    node.host("etc/berth/certs.d/example/hosts.toml", "server = \"https://example\"\n")?;
    node.run("uninstall")?;
    ensure!(node.has("etc/berth/certs.d/example/hosts.toml"), "a file of others is gone");
    Ok(())
}

fn again(lab: &Lab) -> Result<()> {
    let node = FakeNode::new(lab, "again")?;
    node.run("install")?;
    let before = node.files()?;
    node.forget()?;
    let said = node.run("install")?;
    ensure!(said.contains("Berth serves on node node-a"), "{said}");
    ensure!(node.files()? == before, "files have changed");
    for never in ["systemctl", "mv ", "cp ", "rm "] {
        ensure!(!node.log().contains(never), "it did something: {}", node.log());
    }
    node.mark("units/berth.service.active", false)?;
    let said = node.fails("install")?;
    ensure!(said.contains("Berth is installed and does not serve"), "{said}");
    Ok(())
}

fn upgrade(lab: &Lab) -> Result<()> {
    let mut node = FakeNode::new(lab, "upgrade")?;
    let before = State::of(&node)?;
    node.run("install")?;
    node.version(2)?;
    node.forget()?;
    node.run("install")?;
    is_installed(&node, 2)?;
    let log = node.log();
    in_order(&log, &["systemctl reload berth-keeper.service", "systemctl restart berth.service"])?;
    for never in ["kubectl drain", "\ncrictl", "kubelet.service", "systemctl stop"] {
        ensure!(!log.contains(never), "an upgrade calls {never}: {log}");
    }
    node.environment.insert("CGROUP_DRIVER".into(), "systemd".into());
    let said = node.fails("install")?;
    ensure!(said.contains("the cgroup driver cannot be changed"), "{said}");
    node.run("uninstall")?;
    is_as_before(&node, &before)
}

fn upgrade_fails(lab: &Lab) -> Result<()> {
    let node = FakeNode::new(lab, "bad-upgrade")?;
    node.run("install")?;
    node.mark("broken-2", true)?;
    node.version(2)?;
    for _ in 0..2 {
        let said = node.fails("install")?;
        ensure!(said.contains("this version failed on node node-a at: restarting Berth"), "{said}");
        ensure!(node.read("usr/bin/berth")?.contains("version 1\n"), "the old program is not back");
        ensure!(node.is("cluster/lease"), "the next node is let through");
        node.forget()?;
    }
    node.version(3)?;
    node.run("install")?;
    is_installed(&node, 3)
}

fn installation_fails(lab: &Lab) -> Result<()> {
    let cases = [
        ("systemctl restart berth.service", "waiting for Berth to be ready"),
        ("systemctl disable --now containerd.service", "stopping containerd.service"),
        (
            "crictl --timeout 60s --runtime-endpoint unix:///run/containerd/containerd.sock rmp -fa",
            "ending the pods of containerd.service",
        ),
    ];
    for (command, step) in cases {
        let node = FakeNode::new(lab, "bad-installation")?;
        let before = State::of(&node)?;
        node.fail(command)?;
        let said = node.fails("install")?;
        ensure!(said.contains(step), "{command}: {said}");
        ensure!(node.is("cluster/lease"), "{command}: the next node is let through");
        node.mark("cluster/lease", false)?;
        is_as_before(&node, &before).context(command)?;
        node.forget()?;
        node.fails("install")?;
        ensure!(!node.log().contains("systemctl"), "{command}: it is tried again: {}", node.log());
        node.mark("fail", false)?;
        node.version(2)?;
        node.run("install")?;
        is_installed(&node, 2)?;
        node.run("uninstall")?;
        is_as_before(&node, &before)?;
    }
    Ok(())
}

/// What can be known before is known before anything has changed.
fn refused(lab: &Lab) -> Result<()> {
    let check = |node: &FakeNode, what: &str| -> Result<()> {
        let before = State::of(node)?;
        let said = node.fails("install")?;
        ensure!(said.contains(what), "{said}");
        if node.is("cluster/lease") {
            node.mark("cluster/lease", false)?;
        }
        is_as_before(node, &before).with_context(|| what.to_owned())?;
        node.run("uninstall")?;
        is_as_before(node, &before)
    };
    let node = FakeNode::new(lab, "refused")?;
    node.set_config("refused = true\n")?;
    check(&node, "the configuration is refused")?;
    let node = FakeNode::new(lab, "refused")?;
    node.fail("kubectl drain node-a --ignore-daemonsets --delete-emptydir-data --timeout 10m --force")?;
    check(&node, "node node-a could not be drained; nothing was changed")?;
    let node = FakeNode::new(lab, "refused")?;
    node.host("var/lib/kubelet/config.yaml", "{\"kind\": \"KubeletConfiguration\"}\n")?;
    check(&node, "is not a KubeletConfiguration in YAML")?;
    let node = FakeNode::new(lab, "refused")?;
    node.mark("units/kubelet.service.there", false)?;
    check(&node, "this node has no kubelet.service: set kubelet.unit")
}

fn changed_kubelet(lab: &Lab) -> Result<()> {
    let node = FakeNode::new(lab, "changed-kubelet")?;
    node.run("install")?;
    let text = node.read("var/lib/kubelet/config.yaml")? + "maxPods: 200\n";
    node.host("var/lib/kubelet/config.yaml", &text)?;
    node.run("uninstall")?;
    let now = node.read("var/lib/kubelet/config.yaml")?;
    let mut wanted: Vec<&str> = KUBELET.lines().collect();
    wanted.push("maxPods: 200");
    ensure!(now.lines().collect::<Vec<_>>() == wanted, "kubelet has {now}");
    Ok(())
}

fn flag(lab: &Lab) -> Result<()> {
    let node = FakeNode::new(lab, "flag")?;
    let path = "var/lib/kubelet/kubeadm-flags.env";
    let flags = "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock --v=2\"\n";
    node.host(path, flags)?;
    let before = State::of(&node)?;
    node.run("install")?;
    is_installed(&node, 1)?;
    let wanted = "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/berth/cri.sock --v=2\"\n";
    ensure!(node.read(path)? == wanted, "flags: {}", node.read(path)?);
    node.run("uninstall")?;
    is_as_before(&node, &before)?;
    node.run("install")?;
    node.host(path, &node.read(path)?.replace("--v=2", "--v=4"))?;
    node.run("uninstall")?;
    ensure!(node.read(path)? == flags.replace("--v=2", "--v=4"), "flags: {}", node.read(path)?);
    Ok(())
}

fn turns(lab: &Lab) -> Result<()> {
    let node = FakeNode::new(lab, "turns")?;
    node.mark("cluster/node-b.node", true)?;
    node.lease("node-b")?;
    let before = State::of(&node)?;
    let mut waiting = node.spawn("install")?;
    let tries = || node.log().matches("kubectl create -f -").count();
    wait_until("five tries for the lease", Duration::from_secs(20), || tries() >= 5);
    ensure!(waiting.try_wait()?.is_none(), "it does not wait");
    ensure!(State::of(&node)?.files == before.files, "it has begun");
    ensure!(!node.log().contains("cordon"), "the node is held back: {}", node.log());
    // The other node is done.
    node.mark("cluster/lease", false)?;
    ensure!(waiting.wait()?.success(), "it fails when its turn comes");
    is_installed(&node, 1)?;
    // The other node has left the cluster in the middle of its turn.
    node.lease("node-b")?;
    node.mark("cluster/node-b.node", false)?;
    node.version(2)?;
    node.run("install")?;
    is_installed(&node, 2)
}

/// A Berth that somebody installed is upgraded where it is, and comes back.
fn by_hand(lab: &Lab) -> Result<()> {
    let node = FakeNode::new(lab, "by-hand")?;
    node.host(
        "var/lib/kubelet/config.yaml",
        &format!("kind: KubeletConfiguration\n{BERTH}cgroupDriver: cgroupfs\n"),
    )?;
    for unit in ["berth", "berth-keeper"] {
        let text = format!("[Service]\nExecStart=/usr/bin/{unit} --by-hand\n");
        node.host(&format!("etc/systemd/system/{unit}.service"), &text)?;
        node.mark(&format!("units/{unit}.service.active"), true)?;
        node.mark(&format!("units/{unit}.service.enabled"), true)?;
    }
    for state in ["active", "enabled", "there"] {
        node.mark(&format!("units/containerd.service.{state}"), false)?;
    }
    let program = "#!/bin/sh\n[ -e \"$STUB/units/berth.service.active\" ]\n";
    node.host("usr/bin/berth", program)?;
    node.host("usr/bin/berth-keeper", program)?;
    for name in ["usr/bin/berth", "usr/bin/berth-keeper"] {
        node.make_program(name)?;
    }
    let before = State::of(&node)?;
    node.run("install")?;
    ensure!(node.read("usr/bin/berth")?.contains("version 1\n"), "not upgraded");
    ensure!(!node.log().contains("drain"), "pods were ended: {}", node.log());
    node.version(2)?;
    node.run("install")?;
    ensure!(node.read("usr/bin/berth")?.contains("version 2\n"), "not upgraded");
    node.run("uninstall")?;
    is_as_before(&node, &before)
}

fn secret(lab: &Lab) -> Result<()> {
    let node = FakeNode::new(lab, "secret")?;
    let before = State::of(&node)?;
    node.set_secret("token", Some("s3cret"))?;
    node.run("install")?;
    ensure!(node.read("etc/berth/metrics/token")? == "s3cret", "another token");
    let mode = &node.files()?["etc/berth/metrics/token"];
    ensure!(mode.starts_with("100600 0:0 "), "the token can be read: {mode}");
    node.set_secret("token", Some("an0ther"))?;
    node.run("install")?;
    ensure!(node.read("etc/berth/metrics/token")? == "an0ther", "the token is the old one");
    node.set_secret("token", None)?;
    node.run("install")?;
    ensure!(!node.has("etc/berth/metrics/token"), "the token is left");
    is_installed(&node, 1)?;
    node.run("uninstall")?;
    is_as_before(&node, &before)
}

fn other_places(lab: &Lab) -> Result<()> {
    let mut node = FakeNode::new(lab, "places")?;
    let before = State::of(&node)?;
    for (name, value) in [("BIN_DIR", "/opt/berth/bin"), ("NODE_ADDRESS", "2001:db8::7"), ("DRAIN", "false")]
    {
        node.environment.insert(name.into(), value.into());
    }
    node.run("install")?;
    ensure!(node.has("opt/berth/bin/berth") && !node.has("usr/bin/berth"), "the programs' place");
    let unit = node.read("etc/systemd/system/berth.service")?;
    ensure!(unit.contains("ExecStart=/opt/berth/bin/berth daemon\n"), "{unit}");
    let unit = node.read("etc/systemd/system/berth-keeper.service")?;
    ensure!(unit.contains("ExecStart=/opt/berth/bin/berth-keeper --socket"), "{unit}");
    ensure!(node.read("etc/berth/config.toml")?.contains("\"[2001:db8::7]:9095\""), "the address");
    ensure!(!node.log().contains("drain") && !node.log().contains("cordon"), "it drains: {}", node.log());
    node.environment.insert("REMOVE_IMAGES".into(), "true".into());
    node.host("var/lib/berth/content/index.json", "{}")?;
    node.run("uninstall")?;
    is_as_before(&node, &before)
}
