//! The pods' network, seen from pods and from the host: built in, and by plugins of others.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::baseline::{Snapshot, assert_back_to};
use e2e::catalog::{BUSYBOX, NGINX};
use e2e::{Lab, Node, NodeOptions, container, http, pod, run, summarize, wait_for};

const PATIENCE: Duration = Duration::from_secs(10);

fn start(lab: &Lab, config: &str) -> (e2e::Registry, Node) {
    let registry = lab.registry().expect("start the registry");
    let options = NodeOptions { config: config.to_owned(), ..NodeOptions::default() };
    let node = Node::start(lab, "node", Some(&registry), options).expect("start the node");
    for image in [BUSYBOX, NGINX] {
        node.client.pull(image).expect("pull");
    }
    (registry, node)
}

/// A pod that serves HTTP on port 80, and its addresses.
fn web(node: &Node, ports: &[(i32, &str)]) -> Result<(String, Vec<String>)> {
    let mut config = pod("web", node.logs());
    config.port_mappings = ports
        .iter()
        .map(|&(host_port, host_ip)| cri::PortMapping {
            protocol: cri::Protocol::Tcp.into(),
            container_port: 80,
            host_port,
            host_ip: host_ip.to_owned(),
        })
        .collect();
    let id = node.client.run_pod(&config)?;
    node.client.run(&id, &config, &container("web", NGINX, &[]))?;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let network = node.client.pod_sandbox_status(request)?.status.and_then(|status| status.network);
    let network = network.context("no network")?;
    let mut addresses = vec![network.ip];
    addresses.extend(network.additional_ips.into_iter().map(|address| address.ip));
    Ok((id, addresses))
}

fn serves(url: &str) -> Option<()> {
    http::get(url).ok().filter(|answer| answer.status == 200).map(drop)
}

/// Whether something connects at all, soon.
fn connects(address: &str) -> bool {
    let Ok(address) = address.parse() else { return false };
    std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

#[test]
fn built_in() {
    let lab = Lab::enter("network");
    let subnets = "[network]\ndefault_subnets = [\"10.88.0.0/16\", \"fd00:88::/64\"]\n";
    let (_registry, node) = start(&lab, subnets);
    // The bridge and the table stay; what pods add must go.
    let warm = web(&node, &[]).and_then(|(id, _)| node.client.remove_pod(&id));
    warm.unwrap_or_else(|error| panic!("{error:#}\n{}", node.last_words()));
    let before = Snapshot::take(&node).expect("look around");
    if let Err(error) = exercise(&node) {
        panic!("{error:#}\n{}", node.last_words());
    }
    assert_back_to(&before, &node, PATIENCE);
    summarize("built-in network: 1 passed, 0 failed, 0 skipped");
}

fn exercise(node: &Node) -> Result<()> {
    let (server, addresses) = web(node, &[(18080, ""), (18081, "127.0.0.1")])?;
    ensure!(addresses.len() == 2, "not dual stack: {addresses:?}");
    ensure!(addresses[0].starts_with("10.88.") && addresses[1].starts_with("fd00:88:"), "{addresses:?}");
    for address in &addresses {
        let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        wait_for("the pod to serve", PATIENCE, || serves(&format!("http://{host}:80/")));
    }

    // From another pod, to the pod and to its port on the host.
    let (other, _) = web(node, &[])?;
    loopback_is_up(node, &other)?;
    let config = pod("client", node.logs());
    let client = node.client.run_pod(&config)?;
    let shell = node.client.run(&client, &config, &container("shell", BUSYBOX, &["sleep", "1000"]))?;
    let fetch = |url: &str| node.client.exec_ok(&shell, &["wget", "-T", "3", "-q", "-O", "-", url]);
    ensure!(fetch(&format!("http://{}/", addresses[0]))?.contains("works"), "no answer from the pod");
    ensure!(fetch("http://10.88.0.1:18080/")?.contains("works"), "no answer from the port of the host");
    let routes = node.client.exec_ok(&shell, &["ip", "route"])?;
    ensure!(routes.contains("default via 10.88.0.1"), "{routes}");

    // From the host: a port for every address, and one for loopback alone.
    wait_for("the port on the bridge", PATIENCE, || serves("http://10.88.0.1:18080/"));
    wait_for("the port on loopback", PATIENCE, || serves("http://127.0.0.1:18081/"));
    ensure!(!connects("10.88.0.1:18081"), "a port of loopback answers elsewhere");

    // Somebody flushes all rules: ours are back within a second.
    run(Command::new("nft").args(["flush", "ruleset"]))?;
    let start = Instant::now();
    wait_for("the rules to come back", PATIENCE, || serves("http://10.88.0.1:18080/"));
    println!("rules were back after {:?}", start.elapsed());
    ensure!(start.elapsed() < Duration::from_secs(2), "that took {:?}", start.elapsed());

    for id in [server, other, client] {
        node.client.remove_pod(&id)?;
    }
    ensure!(!connects("10.88.0.1:18080"), "the port outlives its pod");
    Ok(())
}

/// Whoever makes the network: a pod always has its loopback.
fn loopback_is_up(node: &Node, pod_id: &str) -> Result<()> {
    let config = pod("look", node.logs());
    let shell = node.client.run(pod_id, &config, &container("look", BUSYBOX, &["sleep", "1000"]))?;
    let links = node.client.exec_ok(&shell, &["ip", "address", "show", "lo"])?;
    ensure!(links.contains("LOOPBACK,UP") && links.contains("127.0.0.1/8"), "{links}");
    Ok(())
}

/// A conflist that names plugins we do not have ourselves: Debian's programs are run.
#[test]
fn by_plugins() {
    let lab = Lab::enter("network-plugins");
    std::fs::create_dir_all("/etc/cni/net.d").expect("make the directory");
    let conflist = r#"{"cniVersion": "1.0.0", "name": "e2e-ptp", "plugins": [
        {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "/run/berth/ipam",
         "ranges": [[{"subnet": "10.99.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}]}"#;
    std::fs::write("/etc/cni/net.d/10-ptp.conflist", conflist).expect("write the conflist");
    let (_registry, node) = start(&lab, "");
    let outcome = plugin_network(&node);
    std::fs::remove_file("/etc/cni/net.d/10-ptp.conflist").expect("remove the conflist");
    if let Err(error) = outcome {
        panic!("{error:#}\n{}", node.last_words());
    }
    summarize("network by plugins: 1 passed, 0 failed, 0 skipped");
}

fn plugin_network(node: &Node) -> Result<()> {
    let (id, addresses) = web(node, &[])?;
    ensure!(addresses[0].starts_with("10.99.0."), "{addresses:?}");
    wait_for("the pod to serve", PATIENCE, || serves(&format!("http://{}:80/", addresses[0])));
    loopback_is_up(node, &id)?;
    let leases = || -> Result<usize> {
        let dir = std::path::Path::new("/run/berth/ipam/e2e-ptp");
        let names = std::fs::read_dir(dir)?.flatten().map(|entry| entry.file_name());
        Ok(names.filter(|name| name.to_string_lossy().starts_with("10.99.")).count())
    };
    ensure!(leases()? == 1, "{} leases", leases()?);
    node.client.remove_pod(&id)?;
    ensure!(leases()? == 0, "the lease outlives the pod");
    // A plugin that fails: the pod is not there, and the message tells why.
    std::fs::write(
        "/etc/cni/net.d/05-broken.conflist",
        r#"{"cniVersion": "1.0.0", "name": "broken", "plugins": [{"type": "no-such-plugin"}]}"#,
    )?;
    let broken = wait_for("the new conflist to be in force", PATIENCE, || {
        match node.client.run_pod(&pod("broken", node.logs())) {
            Ok(id) => node.client.remove_pod(&id).err(),
            Err(error) => Some(error),
        }
    });
    std::fs::remove_file("/etc/cni/net.d/05-broken.conflist")?;
    ensure!(format!("{broken:#}").contains("no-such-plugin"), "{broken:#}");
    let left = node.client.list_pod_sandbox(cri::ListPodSandboxRequest::default())?.items;
    for pod in left {
        node.client.remove_pod(&pod.id)?;
    }
    Ok(())
}
