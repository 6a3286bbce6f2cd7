//! Published ports: who reaches them, who must not, and what happens to the rules.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

use network::{Change, Error, Protocol};

use crate::host::*;

#[test]
fn a_published_port_is_reached_from_everywhere() {
    on_host(|host| {
        let network = host.network();
        let ports = [port(Protocol::Tcp, 8080, 80, None), port(Protocol::Udp, 8053, 53, None)];
        let (web, client) = (attach(&network, "web", &ports), attach(&network, "client", &[]));
        serve_tcp(web.netns.as_fd(), 80);
        serve_udp(web.netns.as_fd(), "0.0.0.0:53");
        serve_udp(web.netns.as_fd(), &format!("[{}]:53", web.ip(true)));
        assert_eq!(ask_from(host.outside.as_fd(), HOST_IP, 8080).unwrap(), OUTSIDE_IP, "source is kept");
        assert_eq!(ask_from(host.outside.as_fd(), HOST_IP6, 8080).unwrap(), "2001:db8::2");
        assert_eq!(
            ask_tcp("127.0.0.1".parse().unwrap(), 8080).unwrap(),
            "10.88.0.1",
            "loopback is masqueraded"
        );
        assert!(ask_tcp(HOST_IP.parse().unwrap(), 8080).is_ok());
        let through = |pod: &Pod, to: &str| pod.run(|| ask_tcp(to.parse().unwrap(), 8080));
        assert!(through(&client, HOST_IP).is_ok(), "neighbour by the host's address");
        assert!(through(&client, "10.88.0.1").is_ok(), "neighbour by the gateway");
        assert!(through(&client, HOST_IP6).is_ok());
        assert!(through(&web, HOST_IP).is_ok(), "hairpin to itself");
        assert!(through(&web, HOST_IP6).is_ok());
        let outside = |to: &str| {
            let to = to.parse().unwrap();
            sys::ns::in_netns(host.outside.as_fd(), || ask_udp(to, 8053)).unwrap()
        };
        assert_eq!(outside(HOST_IP).unwrap(), OUTSIDE_IP);
        assert_eq!(outside(HOST_IP6).unwrap(), "2001:db8::2");
        assert!(ask_udp("127.0.0.1".parse().unwrap(), 8053).is_ok());
        network.detach(&web.detachment()).unwrap();
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_err(), "gone after detach");
    });
}

#[test]
fn a_bind_address_is_exact() {
    on_host(|host| {
        let network = host.network();
        let ports =
            [port(Protocol::Tcp, 8081, 80, Some("127.0.0.1")), port(Protocol::Tcp, 8082, 80, Some(HOST_IP))];
        let pod = attach(&network, "bound", &ports);
        serve_tcp(pod.netns.as_fd(), 80);
        assert!(ask_tcp("127.0.0.1".parse().unwrap(), 8081).is_ok());
        assert!(
            ask_from(host.outside.as_fd(), HOST_IP, 8081).is_err(),
            "a loopback port is not reached from outside"
        );
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8082).is_ok());
        assert!(ask_tcp("127.0.0.1".parse().unwrap(), 8082).is_err());
        assert!(ask_from(host.outside.as_fd(), HOST_IP6, 8082).is_err());
    });
}

#[test]
fn route_localnet_does_not_expose_services_of_the_host() {
    on_host(|host| {
        let network = host.network();
        let pod = attach(&network, "curious", &[port(Protocol::Tcp, 8080, 80, None)]);
        let service = TcpListener::bind("127.0.0.1:7777").unwrap();
        service.set_nonblocking(true).unwrap();
        // The sandbox sends packets for 127.0.0.1 to the gateway instead of its own loopback.
        pod.run(|| {
            command("sysctl", &["-qw", "net.ipv4.conf.eth0.route_localnet=1"]);
            command("ip", &["rule", "add", "pref", "1", "lookup", "local"]);
            command("ip", &["rule", "del", "pref", "0"]);
            command("ip", &["route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"]);
            command("ip", &["route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local"]);
            command("ip", &["route", "add", "127.0.0.1/32", "via", "10.88.0.1", "src", "10.88.0.2"]);
        });
        assert!(pod.run(|| ask_tcp("127.0.0.1".parse().unwrap(), 7777)).is_err());
        assert!(service.accept().is_err(), "nobody got through");
        let counted = command("nft", &["list", "chain", "inet", "berth", "martians"]);
        assert!(
            !counted.contains("packets 0 bytes 0 drop comment \"to 127.0.0.0/8"),
            "the packet came and was dropped: {counted}"
        );
    });
}

#[test]
fn traffic_passing_through_is_not_caught() {
    on_host(|host| {
        let network = host.network();
        let pod = attach(&network, "web", &[port(Protocol::Tcp, 8080, 80, None)]);
        serve_tcp(pod.netns.as_fd(), 80);
        let other = attach(&network, "other", &[]);
        serve_tcp(other.netns.as_fd(), 8080);
        host.route_from_outside("10.88.0.0/16");
        let answer = ask_from(host.outside.as_fd(), &other.ip(false).to_string(), 8080).unwrap();
        assert_eq!(answer, OUTSIDE_IP, "port 8080 of another sandbox is its own");
    });
}

#[test]
fn of_two_claims_to_a_port_one_wins() {
    on_host(|host| {
        let network = host.network();
        let conflist = network.default_conflist().unwrap();
        let claim = [port(Protocol::Tcp, 8080, 80, None)];
        let here = sys::ns::open_self(sys::ns::Kind::Net).unwrap();
        let results: Vec<_> = std::thread::scope(|scope| {
            let attempt = |id| {
                let (network, conflist, claim, here) = (&network, &conflist, &claim, &here);
                scope.spawn(move || {
                    sys::ns::in_netns(here.as_fd(), || try_attach(network, id, conflist, claim)).unwrap()
                })
            };
            let threads = [attempt("left"), attempt("right")];
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
        let error = results.iter().find_map(|r| r.as_ref().err()).unwrap();
        assert!(matches!(error, Error::HostPortTaken { .. }), "{error}");
        let overlapping =
            try_attach(&network, "third", &conflist, &[port(Protocol::Tcp, 8080, 1, Some(HOST_IP))]);
        assert!(matches!(overlapping.err(), Some(Error::HostPortTaken { .. })));
        let udp = try_attach(&network, "udp", &conflist, &[port(Protocol::Udp, 8080, 1, None)]);
        assert!(udp.is_ok(), "another protocol is another port");
        let _listener = TcpListener::bind("0.0.0.0:9090").unwrap();
        let bound = try_attach(&network, "bound", &conflist, &[port(Protocol::Tcp, 9090, 80, None)]);
        let text = bound.err().unwrap().to_string();
        assert_eq!(text, "host port 9090/tcp is taken by a process of the host");
    });
}

#[test]
fn flushed_rules_are_noticed_and_restored() {
    on_host(|host| {
        let network = host.network();
        let pod = attach(&network, "web", &[port(Protocol::Tcp, 8080, 80, None)]);
        serve_tcp(pod.netns.as_fd(), 80);
        assert!(!network.repair().unwrap(), "nothing to repair");
        let mut watcher = network.watch().unwrap();
        let other = attach(&network, "other", &[]);
        assert_eq!(watcher.wait(Some(Duration::from_millis(50))).unwrap(), None, "own changes are no news");
        for damage in [
            "flush ruleset",
            "delete element inet berth publish_any4 { tcp . 8080 }",
            "flush chain inet berth postrouting",
            "add element inet berth masquerade4 { 10.1.2.3 }",
            "delete table inet berth",
        ] {
            command("nft", &damage.split(' ').collect::<Vec<_>>());
            assert_eq!(watcher.wait(Some(Duration::from_secs(5))).unwrap(), Some(Change::Rules), "{damage}");
            assert!(network.repair().unwrap(), "{damage}");
            assert!(!network.repair().unwrap(), "{damage}");
            assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_ok(), "{damage}");
        }
        command("nft", &["flush", "ruleset"]);
        let late = attach(&network, "late", &[port(Protocol::Tcp, 8081, 80, None)]);
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_ok(), "the next attachment restores all");
        for pod in [&pod, &other, &late] {
            network.detach(&pod.detachment()).unwrap();
        }
        let listing = command("nft", &["list", "table", "inet", "berth"]);
        let elements: Vec<_> = listing.lines().filter(|l| l.contains("elements")).collect();
        assert_eq!(elements.len(), 1, "only the bridge is left: {listing}");
    });
}

#[test]
fn a_udp_flow_follows_the_port_to_its_next_owner() {
    on_host(|host| {
        let network = host.network();
        let ports = [port(Protocol::Udp, 8053, 53, None)];
        let open = || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
            socket.connect((HOST_IP, 8053)).unwrap();
            socket
        };
        let client = sys::ns::in_netns(host.outside.as_fd(), open).unwrap();
        let ask = || {
            // The first try only collects an error that was pending.
            let _ = client.send(b"hello");
            client.send(b"hello")?;
            client.recv(&mut [0; 64])
        };
        assert!(ask().is_err(), "nobody serves yet");
        for id in ["first", "second"] {
            let pod = attach(&network, id, &ports);
            serve_udp(pod.netns.as_fd(), "0.0.0.0:53");
            assert!(ask().is_ok(), "{id}");
            network.detach(&pod.detachment()).unwrap();
        }
    });
}
