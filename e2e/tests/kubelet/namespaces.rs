//! What pods share with the host and their containers with each other, names, resolution and ports.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use e2e::kubelet::{CLUSTER_DNS, CLUSTER_DOMAIN, HOST_DNS};
use serde_json::{Value, json};

use super::scene::*;

pub(crate) const GROUP: Group = Group {
    name: "namespaces",
    pods,
    once: &[],
    steady: &[
        ("namespaces of the host", of_the_host),
        ("namespaces of a pod", of_the_pod),
        ("processes shared in the pod", shared_processes),
        ("names and aliases", names),
        ("DNS policies", resolution),
        ("ports of the host", host_ports),
    ],
    midway: &[],
};

fn pods(_: &Scene) -> Vec<Value> {
    let of_host = |more: Value| with(json!({"containers": [shell("main", WAIT)]}), more);
    let serve = |text: &str, port: u16| {
        format!("mkdir /www; echo {text} >/www/index.html; exec httpd -f -p {port} -h /www")
    };
    let ports = json!({"ports": [
        {"containerPort": 8080, "hostPort": 18080},
        {"containerPort": 8080, "hostPort": 18081, "hostIP": "127.0.0.1"},
        {"containerPort": 5353, "hostPort": 15353, "protocol": "UDP"},
    ]});
    let udp = "while true; do echo answer | nc -u -l -p 5353 -w 1; done";
    vec![
        pod("of-the-host", of_host(json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}))),
        pod("of-itself", json!({"containers": [shell("one", WAIT), shell("other", WAIT)]})),
        pod(
            "sharing",
            json!({"shareProcessNamespace": true, "containers": [
                shell("one", "exec sleep 4321"), shell("other", WAIT),
            ]}),
        ),
        pod(
            "named",
            json!({
                "hostname": "chosen", "subdomain": "below", "setHostnameAsFQDN": true,
                "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["alias.example", "other.example"]}],
                "dnsPolicy": "None",
                "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["example"], "options": [{"name": "ndots", "value": "2"}]},
                "containers": [shell("main", WAIT)],
            }),
        ),
        pod("dns-default", of_host(json!({"dnsPolicy": "Default"}))),
        pod(
            "dns-cluster",
            of_host(json!({"dnsPolicy": "ClusterFirst", "dnsConfig": {"searches": ["more.test"]}})),
        ),
        pod("dns-host-network", of_host(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}))),
        pod(
            "dns-cluster-on-host",
            of_host(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true})),
        ),
        pod(
            "ports",
            json!({"containers": [with(shell("web", &serve("port", 8080)), ports), shell("udp", udp)]}),
        ),
        // On the host's network a port is the host's by itself.
        pod(
            "host-port",
            json!({"hostNetwork": true, "containers": [with(
                shell("web", &serve("host", 18090)),
                json!({"ports": [{"containerPort": 18090}]}),
            )]}),
        ),
    ]
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

fn of_the_pod(s: &mut Scene) -> Result<()> {
    let pod = s.ready("of-itself")?;
    for (namespace, shared) in [("net", true), ("ipc", true), ("uts", true), ("pid", false), ("mnt", false)] {
        let path = format!("/proc/self/ns/{namespace}");
        let one = s.exec(&pod, "one", &["readlink", &path])?;
        let other = s.exec(&pod, "other", &["readlink", &path])?;
        ensure!((one == other) == shared, "the {namespace} namespaces are {one} and {other}");
        ensure!(one.trim() != std::fs::read_link(&path)?.display().to_string(), "{namespace} is the host's");
    }
    s.exec(&pod, "one", &["sh", "-c", "echo shared >/dev/shm/word"])?;
    ensure!(s.show(&pod, "other", "/dev/shm/word")? == "shared", "shared memory is not shared");
    Ok(())
}

fn shared_processes(s: &mut Scene) -> Result<()> {
    let pod = s.ready("sharing")?;
    let seen = s.exec(&pod, "other", &["ps"])?;
    ensure!(seen.contains("sleep 4321"), "the other container sees {seen}");
    let first = s.show(&pod, "other", "/proc/1/comm")?;
    ensure!(first != "sh" && first != "sleep", "process 1 is {first}");
    Ok(())
}

fn names(s: &mut Scene) -> Result<()> {
    let pod = s.ready("named")?;
    let full = format!("chosen.below.default.svc.{CLUSTER_DOMAIN}");
    let name = s.exec(&pod, "main", &["hostname"])?;
    ensure!(name.trim() == full, "the host name is {name}");
    let hosts = s.show(&pod, "main", "/etc/hosts")?;
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    has(&hosts, &["192.0.2.7\talias.example\tother.example", &format!("{address}\t{full}")])
}

fn resolution(s: &mut Scene) -> Result<()> {
    let cluster =
        format!("search default.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN} host.test");
    let (cluster_dns, host_dns) = (format!("nameserver {CLUSTER_DNS}"), format!("nameserver {HOST_DNS}"));
    let more = format!("{cluster} more.test");
    let wanted: [(&str, &[&str]); 5] = [
        ("named", &["nameserver 192.0.2.53", "search example", "options ndots:2"]),
        ("dns-default", &[&host_dns, "search host.test"]),
        ("dns-cluster", &[&cluster_dns, &more, "options ndots:5"]),
        ("dns-host-network", &[&host_dns, "search host.test"]),
        ("dns-cluster-on-host", &[&cluster_dns, &cluster, "options ndots:5"]),
    ];
    for (name, lines) in wanted {
        let pod = s.ready(name)?;
        let text = s.show(&pod, "main", "/etc/resolv.conf")?;
        let found: BTreeSet<&str> = text.lines().map(str::trim).collect();
        let wanted: BTreeSet<&str> = lines.iter().copied().collect();
        ensure!(found == wanted, "{name}: {found:?} and not {wanted:?}");
    }
    Ok(())
}

fn host_ports(s: &mut Scene) -> Result<()> {
    let pod = s.ready("ports")?;
    let get = |address: &str| -> Result<String> {
        Ok(e2e::http::get(&format!("http://{address}/"))?.text().trim().to_owned())
    };
    for port in [18080, 18081] {
        let answer = get(&format!("127.0.0.1:{port}"))?;
        ensure!(answer == "port", "port {port} answers {answer}");
    }
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    ensure!(get(&format!("{address}:8080"))? == "port", "the pod's own port");
    udp_answer()?;
    s.ready("host-port")?;
    ensure!(get("127.0.0.1:18090")? == "host", "the port of a pod of the host");
    Ok(())
}

fn udp_answer() -> Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(std::time::Duration::from_millis(500)))?;
    // Its server answers one client at a time, and is between two of them for a while.
    wait("an answer by UDP", || {
        socket.send_to(b"question\n", "127.0.0.1:15353")?;
        let mut answer = [0; 16];
        let read = socket.recv(&mut answer)?;
        Ok(answer.get(..read) == Some(b"answer\n"))
    })
}
