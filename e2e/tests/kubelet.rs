//! A real kubelet, stand-alone, drives the node: pods come from manifests, and what kubelet says of them is
//! compared with what they ask for. Kubelet, the daemon and both are killed in the middle of it.
//!
//! What pods of manifests cannot have is named in [`NEEDS_SERVER`], what cgroup v1 cannot do in [`NEEDS_V2`].
#![allow(clippy::print_stdout, reason = "what is not tested here is told")]

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::kubelet::{Kubelet, remove_cgroups};
use e2e::{Lab, Node, NodeOptions, summarize};

mod kubelet {
    pub(crate) mod credentials;
    pub(crate) mod ends;
    pub(crate) mod identity;
    pub(crate) mod namespaces;
    pub(crate) mod probes;
    pub(crate) mod resources;
    pub(crate) mod scene;
    pub(crate) mod start;
    pub(crate) mod streams;
    pub(crate) mod upkeep;
    pub(crate) mod volumes;
}

use kubelet::scene::{Group, Restart, Scene, container_status};
use kubelet::{credentials, ends, identity, namespaces, probes, resources, start, streams, upkeep, volumes};

const GROUPS: [Group; 8] = [
    start::GROUP,
    probes::GROUP,
    ends::GROUP,
    volumes::GROUP,
    identity::GROUP,
    namespaces::GROUP,
    resources::GROUP,
    streams::GROUP,
];

/// What kubelet does on cgroup v2 only.
const NEEDS_V2: [&str; 5] = [
    "swap for containers (swapBehavior LimitedSwap)",
    "memory quality of service (MemoryQoS: memory.min, memory.low, memory.high)",
    "one process instead of all when memory ends (singleProcessOOMKill false)",
    "resources that only the unified hierarchy has (unified)",
    "pressure of processor, memory and disk (PSI) in statistics",
];

/// What a kubelet does only for pods of an API server.
const NEEDS_SERVER: [&str; 6] = [
    "projected volumes, secrets, config maps and tokens of service accounts",
    "ephemeral containers",
    "resize of running pods",
    "eviction of pods: those of manifests are never evicted",
    "pull secrets of pods",
    "mounts that are read-only with all below them: stand-alone it does not ask the runtime for them",
];

#[test]
fn pods_of_a_kubelet() {
    let lab = Lab::enter("kubelet");
    let registry = lab.registry().expect("start the registry");
    let node = Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    let kubelet = Kubelet::start(&lab, &node).expect("start kubelet");
    let mut scene = Scene { lab, registry, node, kubelet, passed: 0, failed: Vec::new() };
    let groups = || GROUPS.iter().chain([&upkeep::GROUP]);
    // All at once: most of the time goes into waiting for probes and back-offs.
    for pod in groups().flat_map(|group| (group.pods)(&scene)) {
        scene.kubelet.put(&pod).expect("write a manifest");
    }
    for group in groups() {
        for (name, work) in group.once.iter().chain(group.steady) {
            scene.check(&format!("{}: {name}", group.name), work);
        }
    }
    for who in Restart::ALL {
        restarted(&mut scene, who, groups().collect());
    }
    for (name, work) in upkeep::LAST.into_iter().chain(credentials::LAST) {
        scene.check(&format!("upkeep: {name}"), work);
    }
    scene.check("pods taken away leave nothing", taken);
    finish(scene);
}

fn finish(scene: Scene) {
    let Scene { node, kubelet, passed, failed, lab: _lab, registry: _registry } = scene;
    let words = format!("{}\n{}", kubelet.last_words(), node.last_words());
    drop(kubelet);
    drop(node);
    let left = remove_cgroups().expect("remove the cgroups");
    for name in NEEDS_V2 {
        println!("skipped {name}: needs cgroup v2");
    }
    for name in NEEDS_SERVER {
        println!("skipped {name}: needs an API server");
    }
    let skipped = NEEDS_V2.len() + NEEDS_SERVER.len();
    summarize(&format!("a real kubelet: {passed} passed, {} failed, {skipped} skipped", failed.len()));
    assert!(failed.is_empty(), "{failed:?}\n{words}");
    assert!(left.is_empty(), "cgroups are left:\n{left}");
}

/// Kills in the middle of what every group does, and looks at all of it again.
fn restarted(scene: &mut Scene, who: Restart, groups: Vec<&Group>) {
    let name = |group: &Group, what: &str| format!("{}: {what} ({} killed)", group.name, who.name());
    let mut begun = Vec::new();
    for group in &groups {
        for midway in group.midway {
            scene.check(&name(group, &format!("{}, begun", midway.name)), |s| {
                (midway.begin)(s, who)?;
                begun.push((*group, midway));
                Ok(())
            });
        }
    }
    let before = running(scene).expect("list containers");
    if who.kubelet() {
        scene.kubelet.use_events();
    }
    scene.restart(who).expect("start again");
    for (group, midway) in begun {
        scene.check(&name(group, midway.name), |s| (midway.finish)(s, who));
    }
    for group in groups {
        for (what, work) in group.steady {
            scene.check(&name(group, what), work);
        }
    }
    scene.check(&format!("containers are the same ones ({} killed)", who.name()), |s| same(s, &before));
}

/// Pods whose containers live through everything, with the ids of those.
fn running(scene: &Scene) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for name in
        ["initialised", "probed", "sharing", "streams", "users-one", "volumes", "guaranteed", "talker"]
    {
        for (container, id) in ids(scene, name)? {
            found.push((name, format!("{container}={id}")));
        }
    }
    Ok(found)
}

fn ids(scene: &Scene, name: &str) -> Result<Vec<(String, String)>> {
    let pod = scene.ready(name)?;
    let mut all = Vec::new();
    for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
        let container = status["name"].as_str().unwrap_or_default();
        let status = container_status(&pod, container)?;
        ensure!(status["restartCount"] == 0, "{name}/{container} was restarted");
        all.push((container.to_owned(), status["containerID"].as_str().context("no id")?.to_owned()));
    }
    Ok(all)
}

fn same(scene: &mut Scene, before: &[(&'static str, String)]) -> Result<()> {
    let after = running(scene)?;
    ensure!(after == before, "they were {before:?}, and are {after:?}");
    Ok(())
}

/// Without manifests nothing runs, and nothing of kubelet's volumes stays mounted.
fn taken(scene: &mut Scene) -> Result<()> {
    let dir = scene.lab.work().join("kubelet/manifests");
    for entry in std::fs::read_dir(&dir)? {
        std::fs::remove_file(entry?.path())?;
    }
    kubelet::scene::wait("all pods to end", || {
        let list = scene.node.client.list_pod_sandbox(cri::ListPodSandboxRequest::default())?.items;
        Ok(list.iter().all(|found| found.state() == cri::PodSandboxState::SandboxNotready))
    })?;
    let pods = scene.kubelet.root().join("pods");
    kubelet::scene::wait("all volumes to be unmounted", || {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        Ok(!mounts.contains(&format!(" {}", pods.display())))
    })
}
