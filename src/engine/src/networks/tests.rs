//! Sandboxes on user networks, with a keeper, on a host of their own: the test runs itself again in other namespaces.
//! Needs root.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use keeper::protocol::NamespaceKind;
use oci::SandboxId;

use super::NetworkProblem;
use crate::engine::Engine;
use crate::model::*;
use crate::testing::{in_world, wait_for};

fn config(dir: &Path) -> crate::Config {
    crate::testing::config(dir, "/berth-test-networks")
}

#[test]
fn sandboxes_join_and_leave_networks() {
    in_world("networks::tests::sandboxes_join_and_leave_networks", |dir| async move { story(&dir).await });
}

fn network(name: &str) -> UserNetworkConfig {
    UserNetworkConfig { name: name.into(), enable_ipv4: true, ..UserNetworkConfig::default() }
}

fn endpoint(network: &str, aliases: &[&str]) -> NetworkEndpointConfig {
    NetworkEndpointConfig {
        network: network.into(),
        aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
        ..NetworkEndpointConfig::default()
    }
}

fn sandbox(name: &str, endpoints: Vec<NetworkEndpointConfig>, host_port: Option<u16>) -> SandboxConfig {
    let ports = host_port.into_iter().map(|port| PublishRequest {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_ports: Some((port, port)),
    });
    let metadata = SandboxMetadata { name: name.into(), uid: name.into(), ..SandboxMetadata::default() };
    let networking = UserNetworking {
        container_id: format!("{name:0<64}"),
        container_name: name.into(),
        endpoints,
        ports: ports.collect(),
        ..UserNetworking::default()
    };
    let namespaces = Namespaces { pid: NamespaceMode::Container, ..Namespaces::default() };
    SandboxConfig {
        metadata,
        namespaces,
        user_networking: Some(Box::new(networking)),
        ..SandboxConfig::default()
    }
}

async fn run(engine: &Engine, config: SandboxConfig) -> SandboxId {
    engine.run_sandbox(config, None).await.unwrap_or_else(|e| panic!("{}", e.chain()))
}

fn netns(engine: &Engine, id: &SandboxId) -> OwnedFd {
    let live = engine.sandbox(id.as_str()).unwrap().live;
    live.namespaces()[&NamespaceKind::Net].try_clone().unwrap()
}

/// Serves the name of a sandbox on its port 80.
fn serve(engine: &Engine, id: &SandboxId, name: &'static str) {
    let netns = netns(engine, id);
    let listener = sys::ns::in_netns(netns.as_fd(), || TcpListener::bind("0.0.0.0:80")).unwrap().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            drop(stream.write_all(name.as_bytes()));
        }
    });
}

fn get(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn published(port: u16) -> Option<String> {
    get(([127, 0, 0, 1], port).into())
}

/// The addresses that a name has in a sandbox.
fn resolve(engine: &Engine, id: &SandboxId, name: &str) -> Vec<IpAddr> {
    try_resolve(engine, id, name).unwrap()
}

fn try_resolve(engine: &Engine, id: &SandboxId, name: &str) -> std::io::Result<Vec<IpAddr>> {
    use super::resolver::test_messages::{question, read_answer};
    let bytes = question(5, name, 1);
    let netns = netns(engine, id);
    let ask = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        socket.connect("127.0.0.11:53").unwrap();
        socket.send(&bytes)?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        Ok(read_answer(&buffer[..length]).1)
    };
    sys::ns::in_netns(netns.as_fd(), ask).unwrap()
}

fn has_link(name: &str) -> bool {
    sys::netlink::Route::open().unwrap().link(name).unwrap().is_some()
}

fn file(dir: &Path, id: &SandboxId, name: &str) -> String {
    std::fs::read_to_string(dir.join("state/sandboxes").join(id.as_str()).join(name)).unwrap()
}

fn ip_on(engine: &Engine, id: &SandboxId, network: &str) -> IpAddr {
    let status = engine.sandbox_status(id.as_str()).unwrap();
    let endpoint = status.endpoints.iter().find(|e| e.network_name == network).expect("attached");
    endpoint.ipv4.unwrap().addr()
}

async fn story(dir: &Path) {
    let engine = Engine::open(config(dir), &crate::metrics::Registry::new()).await.unwrap();
    let names: Vec<_> = engine.user_networks().iter().map(|n| n.config.name.clone()).collect();
    assert_eq!(names, ["bridge", "host", "none"]);
    assert!(!has_link("berth1"), "a node that nobody uses so has no bridge for it");
    let front = engine.create_user_network(network("front")).await.unwrap();
    engine.create_user_network(network("back")).await.unwrap();
    assert!(has_link(&format!("br-{}", &front.id[..12])));
    let twice = engine.create_user_network(network("front")).await.unwrap_err();
    assert!(matches!(twice.cause(), Some(NetworkProblem::NameTaken(_))));

    let begun = Instant::now();
    let web = run(&engine, sandbox("web", vec![endpoint("front", &["www"])], Some(8080))).await;
    let client =
        run(&engine, sandbox("client", vec![endpoint("front", &[]), endpoint("back", &[])], None)).await;
    println!("two sandboxes on three networks: {:?}", begun.elapsed());
    serve(&engine, &web, "web");
    check_first_look(&engine, dir, (&web, &client));
    let in_use = engine.remove_user_network("front").await.unwrap_err();
    assert!(matches!(in_use.cause(), Some(NetworkProblem::InUse { count: 2, .. })), "{}", in_use.chain());
    refusals(&engine).await;
    live_changes(&engine, dir, (&web, &client)).await;

    let spare = engine.create_user_network(network("spare")).await.unwrap();
    engine.shutdown().await;
    drop(engine);
    let spare_link = format!("br-{}", &spare.id[..12]);
    Command::new("ip").args(["link", "del", &spare_link]).status().unwrap();
    half_join(dir, &web, &front.id);
    let engine = Engine::open(config(dir), &crate::metrics::Registry::new()).await.unwrap();
    assert!(has_link(&spare_link), "what is gone of a network is made again");
    wait_for("the half joined network to be left", || {
        let status = engine.sandbox_status(web.as_str()).ok()?;
        let names: Vec<_> = status.endpoints.iter().map(|e| e.network_name.as_str()).collect();
        (names == ["back"] && engine.user_network("front").ok()?.members.len() == 1).then_some(())
    });
    assert_eq!(published(8080).as_deref(), Some("web"), "a restart changes nothing");
    assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "the port is held again");
    wait_for("the resolver", || {
        let live = engine.sandbox(client.as_str()).ok()?.live;
        (!live.namespaces().is_empty()).then_some(())
    });
    wait_for("names", || {
        let found = try_resolve(&engine, &client, "web").ok();
        found.filter(|found| *found == [ip_on(&engine, &web, "back")])
    });
    let members = engine.user_network("back").unwrap().members.len();
    assert_eq!(members, 2);

    default_bridge(&engine, dir).await;
    for id in [&web, &client] {
        engine.remove_sandbox(id.as_str()).await.unwrap();
    }
    drop(TcpListener::bind("0.0.0.0:8080").unwrap());
    let mut pruned = engine.prune_user_networks(NetworkPruneFilter::default()).await.unwrap();
    pruned.sort();
    assert_eq!(pruned, ["back", "front", "spare"]);
    assert!(!has_link(&format!("br-{}", &front.id[..12])));
    let predefined = engine.remove_user_network("bridge").await.unwrap_err();
    assert!(matches!(predefined.cause(), Some(NetworkProblem::Predefined(_))));
    let kept = std::fs::read_dir(dir.join("root/networks")).unwrap().count();
    assert_eq!(kept, 4, "three definitions and the prefix");
    let records = std::fs::read_dir(dir.join("state/network/attachments")).unwrap().count();
    assert_eq!(records, 0);
    engine.shutdown().await;
}

/// What the record of a sandbox says when a daemon is killed while it joins a network.
fn half_join(dir: &Path, id: &SandboxId, network: &str) {
    let path = dir.join("state/sandboxes").join(id.as_str()).join("record.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut planned = record["endpoints"][0].clone();
    for (key, value) in [
        ("network_id", network),
        ("network_name", "front"),
        ("ifname", "eth7"),
        ("mac", ""),
        ("endpoint_id", "e"),
    ] {
        planned[key] = value.into();
    }
    record["endpoints"].as_array_mut().unwrap().push(planned);
    std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
}

fn check_first_look(engine: &Engine, dir: &Path, (web, client): (&SandboxId, &SandboxId)) {
    let status = engine.sandbox_status(web.as_str()).unwrap();
    let [endpoint] = status.endpoints.as_slice() else { panic!("{:?}", status.endpoints) };
    assert_eq!(endpoint.ifname, "eth0");
    assert_eq!(endpoint.dns_names, ["web", "www", "web000000000", web.short()]);
    assert!(!endpoint.mac.is_empty() && endpoint.gateway4.is_some());
    let ports: Vec<_> = status.bound_ports.iter().map(|p| (p.host_ip.to_string(), p.host_port)).collect();
    assert_eq!(ports, [("0.0.0.0".to_owned(), 8080)]);
    assert_eq!(published(8080).as_deref(), Some("web"));
    let ip = ip_on(engine, web, "front");
    assert!(file(dir, web, "hosts").contains(&format!("{ip}\t{}", web.short())));
    let resolv = file(dir, web, "resolv.conf");
    assert!(resolv.contains("nameserver 127.0.0.11\n") && resolv.contains("ndots:0"), "{resolv}");
    for name in ["web", "www", "web.front", "WEB000000000"] {
        assert_eq!(resolve(engine, client, name), [ip], "{name}");
    }
    let both: Vec<_> = engine
        .sandbox_status(client.as_str())
        .unwrap()
        .endpoints
        .iter()
        .map(|e| (e.ifname.clone(), e.network_name.clone()))
        .collect();
    assert_eq!(both, [("eth0".into(), "back".into()), ("eth1".into(), "front".to_owned())]);
}

async fn refusals(engine: &Engine) {
    let mut inet6 = sandbox("inet6", vec![endpoint("front", &[])], Some(8090));
    if let Some(networking) = &mut inet6.user_networking {
        networking.ports[0].host_ip = Some("::1".parse().unwrap());
    }
    let error = engine.run_sandbox(inet6, None).await.unwrap_err();
    assert!(error.to_string().contains("has no addresses of that family"), "{}", error.chain());
    let before = engine.sandboxes().len();
    let second = engine.run_sandbox(sandbox("second", vec![endpoint("front", &[])], Some(8080)), None).await;
    let error = second.unwrap_err();
    let problem = error.cause();
    assert!(
        matches!(problem, Some(NetworkProblem::PortTaken { host_port: 8080, by_container: true, .. })),
        "{}",
        error.chain()
    );
    let nowhere = engine.run_sandbox(sandbox("lost", vec![endpoint("nowhere", &[])], None), None).await;
    assert!(matches!(nowhere.unwrap_err().cause(), Some(NetworkProblem::NotFound(_))));
    assert_eq!(engine.sandboxes().len(), before, "nothing is left of them");
    assert_eq!(engine.user_network("front").unwrap().members.len(), 2);
}

async fn live_changes(engine: &Engine, dir: &Path, (web, client): (&SandboxId, &SandboxId)) {
    engine.connect_sandbox(web, endpoint("back", &["store"])).await.unwrap();
    let again = engine.connect_sandbox(web, endpoint("back", &[])).await.unwrap_err();
    assert!(matches!(again.cause(), Some(NetworkProblem::AlreadyAttached { .. })));
    let ip = ip_on(engine, web, "back");
    assert_eq!(resolve(engine, client, "store"), [ip]);
    assert!(file(dir, web, "hosts").contains(&ip.to_string()));
    assert_eq!(published(8080).as_deref(), Some("web"), "back comes first by name, and has the ports now");
    let front = ip_on(engine, web, "front");
    engine.disconnect_sandbox(web, "front").await.unwrap();
    assert_eq!(published(8080).as_deref(), Some("web"));
    assert!(!file(dir, web, "hosts").contains(&front.to_string()));
    assert_eq!(resolve(engine, client, "web"), [ip]);
    let gone = engine.disconnect_sandbox(web, "front").await.unwrap_err();
    assert!(matches!(gone.cause(), Some(NetworkProblem::NotAttached { .. })));
    engine.rename_in_networks(web, "shop").await.unwrap();
    assert_eq!(resolve(engine, client, "shop"), [ip]);
    engine.rename_in_networks(web, "web").await.unwrap();
    let alone = run(engine, sandbox("alone", Vec::new(), None)).await;
    let names = sys::ns::in_netns(netns(engine, &alone).as_fd(), || {
        sys::netlink::Route::open().unwrap().links().unwrap().into_iter().map(|l| l.name).collect::<Vec<_>>()
    });
    assert_eq!(names.unwrap(), ["lo"]);
    engine.remove_sandbox(alone.as_str()).await.unwrap();
}

async fn default_bridge(engine: &Engine, dir: &Path) {
    let first = run(engine, sandbox("first", vec![endpoint("bridge", &[])], None)).await;
    assert!(has_link("berth1"));
    let mut linked = endpoint("bridge", &[]);
    linked.links = vec![("first".into(), "db".into())];
    let mut config = sandbox("second", vec![linked], None);
    if let Some(networking) = &mut config.user_networking {
        networking.extra_hosts = vec![("host.internal".into(), HostAddress::Gateway)];
    }
    let second = run(engine, config).await;
    let hosts = file(dir, &second, "hosts");
    let gateway = engine.user_network("bridge").unwrap().config.ipam[0].gateway.unwrap();
    assert!(hosts.contains(&format!("{gateway}\thost.internal\n")), "{hosts}");
    assert!(
        hosts.contains(&format!("{}\tdb first0000000 first\n", ip_on(engine, &first, "bridge"))),
        "{hosts}"
    );
    let aliases = engine.check_endpoint(&endpoint("bridge", &["x"])).unwrap_err();
    assert!(aliases.to_string().contains("network-scoped aliases"));
    for id in [first, second] {
        engine.remove_sandbox(id.as_str()).await.unwrap();
    }
}
