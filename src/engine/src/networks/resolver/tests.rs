//! The resolver in a network namespace of its own. Needs root.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use super::message::tests::{question, read_answer};
use super::message::{A, AAAA, PTR};
use super::*;
use crate::config::UserNetworkDefaults;
use crate::model::{EndpointStatus, NetworkDriver, NetworkEndpointConfig, UserNetworkConfig};
use crate::networks::definition::Definition;
use crate::networks::registry::Member;

struct World {
    _dir: tempfile::TempDir,
    context: Context,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let networks =
            Networks::open(dir.path().join("n"), UserNetworkDefaults::default(), Vec::new()).unwrap();
        for (id, name, internal) in [("f", "front", false), ("b", "back", false), ("i", "inner", true)] {
            let config = UserNetworkConfig {
                name: name.into(),
                driver: NetworkDriver::Bridge,
                internal,
                ..UserNetworkConfig::default()
            };
            networks.keep(Definition::new(id.repeat(64), config, false)).unwrap();
        }
        let context = Context {
            networks: Arc::new(networks),
            blocking: Arc::new(Blocking::new(Arc::new(crate::metrics::Metrics::register(
                &crate::metrics::Registry::new(),
            )))),
            tracker: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        Self { _dir: dir, context }
    }

    fn join(&self, sandbox: &str, network: &str, names: &[&str], ips: &[&str]) {
        self.join_with(sandbox, network, names, ips, NetworkEndpointConfig::default());
    }

    fn join_with(
        &self,
        sandbox: &str,
        network: &str,
        names: &[&str],
        ips: &[&str],
        config: NetworkEndpointConfig,
    ) {
        let nets: Vec<ipnet::IpNet> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let of = |is_v6: bool| nets.iter().copied().find(|n| n.addr().is_ipv6() == is_v6);
        let endpoint = EndpointStatus {
            network_id: network.repeat(64),
            network_name: self.context.networks.get(&network.repeat(64)).unwrap().config.name.clone(),
            endpoint_id: format!("{sandbox}-{network}"),
            mac: String::new(),
            ipv4: of(false),
            ipv6: of(true),
            gateway4: None,
            gateway6: None,
            ifname: "eth0".into(),
            dns_names: names.iter().map(|n| (*n).to_owned()).collect(),
            config,
        };
        let member = Member {
            sandbox: sandbox.parse().unwrap(),
            container_id: format!("{sandbox}00000000000000"),
            container_name: names[0].to_owned(),
            endpoint: Arc::new(endpoint),
        };
        self.context.networks.enter(member).unwrap();
    }

    /// A namespace whose resolver serves a sandbox.
    fn serve(&self, sandbox: &str, upstreams: Upstreams) -> (OwnedFd, Resolver) {
        let netns = sys::ns::new_netns().expect("a network namespace can be made (root is needed)");
        network::Network::loopback_up(netns.as_fd()).unwrap();
        let sockets = Resolver::open(netns.as_fd()).unwrap();
        let live = Arc::new(Live::default());
        let id = sandbox.parse().unwrap();
        let resolver = Resolver::serve(self.context.clone(), &live, &id, sockets, upstreams).unwrap();
        (netns, resolver)
    }
}

/// Asks 127.0.0.11, port 53, from inside.
async fn ask(netns: &OwnedFd, name: &str, kind: u16) -> Vec<u8> {
    let netns = netns.try_clone().unwrap();
    let bytes = question(77, name, kind);
    let work = move || {
        sys::ns::in_netns(netns.as_fd(), || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket.connect("127.0.0.11:53").unwrap();
            socket.send(&bytes).unwrap();
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        })
        .unwrap()
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn ask_tcp(netns: &OwnedFd, name: &str, kind: u16) -> Vec<u8> {
    use std::io::{Read, Write};
    let netns = netns.try_clone().unwrap();
    let bytes = question(77, name, kind);
    let work = move || {
        sys::ns::in_netns(netns.as_fd(), || {
            let mut stream = std::net::TcpStream::connect("127.0.0.11:53").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &bytes].concat()).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).unwrap();
            answer
        })
        .unwrap()
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_containers_are_answered() {
    let world = World::new();
    let config = NetworkEndpointConfig {
        links: vec![("db".into(), "database".into())],
        ..NetworkEndpointConfig::default()
    };
    world.join_with("me", "f", &["me"], &["172.18.0.2/16"], config);
    world.join("me", "b", &["me"], &["172.19.0.2/16"]);
    world.join("db", "b", &["db", "store", "db0000000000"], &["172.19.0.3/16", "fd00::3/64"]);
    world.join("w1", "f", &["w1", "web"], &["172.18.0.4/16"]);
    world.join("w2", "f", &["w2", "web"], &["172.18.0.5/16"]);
    world.join("db", "f", &["db"], &["172.18.0.9/16"]);
    world.join("far", "i", &["far"], &["172.20.0.2/16"]);
    let (netns, _resolver) = world.serve("me", Upstreams::Own(Vec::new()));
    let mut seen = Vec::new();
    for (name, kind) in [
        ("Store", A),
        ("store", AAAA),
        ("w1", AAAA),
        ("w1", 15),
        ("db0000000000", A),
        ("db", A),
        ("db.front", A),
        ("database", A),
    ] {
        seen.push(read_answer(&ask(&netns, name, kind).await));
    }
    let expected = [
        (0, ips(&["172.19.0.3"])),
        (0, ips(&["fd00::3"])),
        (0, ips(&[])),
        (0, ips(&[])),
        (0, ips(&["172.19.0.3"])),
        (0, ips(&["172.19.0.3"])),
        (0, ips(&["172.18.0.9"])),
        (0, ips(&["172.18.0.9"])),
    ];
    assert_eq!(seen, expected);
    let (first, second) = (ask(&netns, "web", A).await, ask(&netns, "web", A).await);
    let (first, second) = (read_answer(&first).1, read_answer(&second).1);
    assert_eq!(first.len(), 2, "both have the name");
    assert_ne!(first[0], second[0], "and take turns");
    assert_eq!(read_answer(&ask_tcp(&netns, "store", A).await), (0, ips(&["172.19.0.3"])));
    let name = ask(&netns, "4.0.18.172.in-addr.arpa", PTR).await;
    let expected = b"\x02w1\x05front\0";
    assert!(name.windows(expected.len()).any(|w| w == expected), "{name:?}");
    assert_eq!(read_answer(&ask(&netns, "far", A).await).0, 2, "another network's name is nobody's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_names_are_handed_on() {
    let world = World::new();
    world.join("me", "f", &["me"], &["172.18.0.2/16"]);
    world.join("shut", "i", &["shut"], &["172.20.0.2/16"]);
    let answering = UdpSocket::bind("127.0.0.1:0").unwrap();
    let refusing = UdpSocket::bind("127.0.0.1:0").unwrap();
    let servers = vec![refusing.local_addr().unwrap(), answering.local_addr().unwrap()];
    let asked = Arc::new(AtomicUsize::new(0));
    for (socket, code) in [(refusing, Code::ServerFailure), (answering, Code::NoError)] {
        let asked = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                asked.fetch_add(1, Ordering::SeqCst);
                let query = message::parse(&buffer[..length]).unwrap();
                let data: &[Data] = match code {
                    Code::NoError => &[Data::Address("192.0.2.7".parse().unwrap())],
                    _ => &[],
                };
                let answer = query.answer(code, data, 512);
                // What is forged comes first: another id.
                let mut forged = answer.clone();
                forged[0] ^= 0xff;
                drop(socket.send_to(&forged, peer));
                drop(socket.send_to(&answer, peer));
            }
        });
    }
    let (netns, _resolver) = world.serve("me", Upstreams::Own(servers.clone()));
    let answer = ask(&netns, "example.org", A).await;
    assert_eq!(answer[..2], [0, 77], "the client's own id");
    assert_eq!(read_answer(&answer), (0, ips(&["192.0.2.7"])));
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the one that failed was passed over");
    let (inside, _other) = world.serve("shut", Upstreams::Own(servers));
    assert_eq!(read_answer(&ask(&inside, "example.org", A).await).0, 3);
    assert_eq!(asked.load(Ordering::SeqCst), 2, "nothing left the internal network");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_may_serve_port_53_itself() {
    let world = World::new();
    world.join("me", "f", &["me"], &["172.18.0.2/16"]);
    let (netns, resolver) = world.serve("me", Upstreams::Own(Vec::new()));
    let bind = || (UdpSocket::bind("0.0.0.0:53").is_ok(), std::net::TcpListener::bind("0.0.0.0:53").is_ok());
    assert_eq!(sys::ns::in_netns(netns.as_fd(), bind).unwrap(), (true, true));
    assert_eq!(read_answer(&ask(&netns, "me", A).await).0, 0);
    drop(resolver);
    // A daemon that starts again takes the place of the one before.
    let sockets = Resolver::open(netns.as_fd()).unwrap();
    let live = Arc::new(Live::default());
    let id = "me".parse().unwrap();
    let again =
        Resolver::serve(world.context.clone(), &live, &id, sockets, Upstreams::Own(Vec::new())).unwrap();
    assert_eq!(read_answer(&ask(&netns, "me", A).await), (0, ips(&["172.18.0.2"])));
    drop(again);
    world.context.tracker.close();
    tokio::time::timeout(Duration::from_secs(10), world.context.tracker.wait()).await.unwrap();
}
