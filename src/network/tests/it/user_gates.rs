//! User networks: who must not get in or out.

use std::net::IpAddr;
use std::os::fd::AsFd;

use network::{Gateway, NetworkSpec, SpecDriver};

use crate::host::*;
use crate::user::*;

fn with_gateways(mut spec: NetworkSpec, v4: Gateway, v6: Gateway) -> NetworkSpec {
    if let SpecDriver::Bridge { gateway4, gateway6, .. } = &mut spec.driver {
        (*gateway4, *gateway6) = (v4, v6);
    }
    spec
}

#[test]
fn what_is_not_published_is_not_reached_from_the_site() {
    on_host(|host| {
        let network = host.network();
        let web = serving(&network, &dual(1), "web", &[request(8080, 80, &everywhere())]);
        let stranger = plain(&network, &dual(2), "stranger");
        let pod = attach(&network, "pod", &[]);
        for port in [80, 81] {
            serve_tcp(web.netns.as_fd(), port);
        }
        host.route_from_outside("172.30.1.0/24");
        host.route_from_outside("fd30:0:0:1::/64");
        for is_v6 in [false, true] {
            let to = web.ip(is_v6);
            for port in [80, 81] {
                assert!(ask_from(host.outside.as_fd(), &to.to_string(), port).is_err(), "{to} {port}");
                assert!(stranger.run(|| ask_tcp(to, port)).is_err(), "from another network: {to} {port}");
                assert!(pod.run(|| ask_tcp(to, port)).is_err(), "from a pod: {to} {port}");
                assert!(ask_tcp(to, port).is_ok(), "the host itself may");
            }
        }
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 81).is_err());
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_ok());
    });
}

#[test]
fn loopback_ports_stay_on_the_host() {
    on_host(|host| {
        let network = host.network();
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let web = serving(&network, &bridge(1), "web", &[request(8081, 80, &[loopback])]);
        serve_tcp(web.netns.as_fd(), 80);
        assert!(ask_tcp(loopback, 8081).is_ok());
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8081).is_err());
        // A neighbour sends to 127.0.0.1 by way of the host, which was made to take such packets.
        for key in ["all", "uplink"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{key}/route_localnet"), "1").unwrap();
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{key}/rp_filter"), "0").unwrap();
        }
        let attack = || {
            command("sysctl", &["-qw", "net.ipv4.conf.eth0.route_localnet=1"]);
            command("ip", &["rule", "add", "pref", "1", "lookup", "local"]);
            command("ip", &["rule", "del", "pref", "0"]);
            command("ip", &["route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"]);
            command("ip", &["route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local"]);
            command("ip", &["route", "add", "127.0.0.1/32", "via", HOST_IP, "src", OUTSIDE_IP]);
            ask_tcp("127.0.0.1".parse().unwrap(), 8081)
        };
        assert!(sys::ns::in_netns(host.outside.as_fd(), attack).unwrap().is_err());
        let counted = command("nft", &["list", "chain", "inet", "berth", "martians"]);
        let line = counted.lines().find(|l| l.contains("a port of 127.0.0.0/8 from outside")).unwrap();
        assert!(!line.contains("packets 0 "), "the packet came and was dropped: {line}");
    });
}

#[test]
fn an_internal_network_leads_nowhere() {
    on_host(|host| {
        let network = host.network();
        let mut spec = dual(1);
        spec.internal = true;
        let (a, b) = (plain(&network, &spec, "a"), plain(&network, &spec, "b"));
        let other = plain(&network, &dual(2), "other");
        for pod in [&b, &other] {
            serve_tcp(pod.netns.as_fd(), 80);
        }
        serve_tcp(host.outside.as_fd(), 80);
        for (is_v6, gateway, outside) in
            [(false, "172.30.1.1", OUTSIDE_IP), (true, "fd30:0:0:1::1", "2001:db8::2")]
        {
            assert!(a.run(|| ask_tcp(b.ip(is_v6), 80)).is_ok(), "inside it is a network");
            let family = if is_v6 { "-6" } else { "-4" };
            a.run(|| command("ip", &[family, "route", "add", "default", "via", gateway]));
            assert!(a.run(|| ask_tcp(outside.parse().unwrap(), 80)).is_err(), "even with a route");
            assert!(a.run(|| ask_tcp(other.ip(is_v6), 80)).is_err());
            assert!(other.run(|| ask_tcp(b.ip(is_v6), 80)).is_err());
        }
        host.route_from_outside("172.30.1.0/24");
        assert!(ask_from(host.outside.as_fd(), &b.ip(false).to_string(), 80).is_err());
    });
}

#[test]
fn gateway_modes_open_what_they_say() {
    on_host(|host| {
        let network = host.network();
        let routed = with_gateways(dual(1), Gateway::Routed, Gateway::Routed);
        let open = with_gateways(dual(2), Gateway::NatUnprotected, Gateway::NatUnprotected);
        let ports = [request(8080, 80, &everywhere())];
        let web = serving(&network, &routed, "web", &ports);
        let bare = plain(&network, &open, "bare");
        for pod in [&web, &bare] {
            for port in [80, 81] {
                serve_tcp(pod.netns.as_fd(), port);
            }
        }
        serve_tcp(host.outside.as_fd(), 80);
        for net in ["172.30.1.0/24", "172.30.2.0/24", "fd30:0:0:1::/64", "fd30:0:0:2::/64"] {
            host.route_from_outside(net);
        }
        for is_v6 in [false, true] {
            let from_outside =
                |pod: &Pod, port| ask_from(host.outside.as_fd(), &pod.ip(is_v6).to_string(), port).is_ok();
            assert!(from_outside(&web, 80), "routed: a published port");
            assert!(!from_outside(&web, 81), "routed: another one");
            assert!(from_outside(&bare, 81), "unprotected: every port");
            let outside: IpAddr = if is_v6 { "2001:db8::2" } else { OUTSIDE_IP }.parse().unwrap();
            assert_eq!(web.run(|| ask_tcp(outside, 80)).unwrap(), web.ip(is_v6).to_string(), "source kept");
        }
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_err(), "routed: nothing is translated");
        let mut isolated = with_gateways(bridge(3), Gateway::Isolated, Gateway::Isolated);
        isolated.internal = true;
        plain(&network, &isolated, "lonely");
        assert!(!command("ip", &["addr", "show", "br-user3"]).contains("172.30.3.1"));
    });
}

#[test]
fn forged_sources_are_dropped() {
    on_host(|host| {
        let network = host.network();
        let liar = plain(&network, &bridge(1), "liar");
        let received = sys::ns::in_netns(host.outside.as_fd(), || {
            let socket = std::net::UdpSocket::bind((OUTSIDE_IP, 5353)).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            socket
        })
        .unwrap();
        let send_from = |source: &str| {
            liar.run(|| {
                command("ip", &["addr", "add", &format!("{source}/32"), "dev", "lo"]);
                let socket = std::net::UdpSocket::bind((source, 0)).unwrap();
                socket.send_to(b"x", (OUTSIDE_IP, 5353)).unwrap();
            });
            received.recv_from(&mut [0; 8]).is_ok()
        };
        assert!(!send_from("192.0.2.77"), "an address of the site");
        assert!(!send_from("172.30.9.9"), "an address of nobody");
        let honest = liar.ip(false).to_string();
        let sent = liar.run(|| {
            let socket = std::net::UdpSocket::bind((honest.as_str(), 0)).unwrap();
            socket.send_to(b"x", (OUTSIDE_IP, 5353)).is_ok()
        });
        assert!(sent && received.recv_from(&mut [0; 8]).is_ok());
    });
}

#[test]
fn a_rule_of_the_administrator_that_drops_wins() {
    on_host(|host| {
        let network = host.network();
        let web = serving(&network, &bridge(1), "web", &[request(8080, 80, &everywhere())]);
        serve_tcp(web.netns.as_fd(), 80);
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_ok());
        let rules = "table inet site { chain forward { type filter hook forward priority 10; policy accept; \
                     meta l4proto tcp ct original proto-dst 8080 ip saddr 192.0.2.0/24 counter drop; }; }";
        command("nft", &[rules]);
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_err(), "ours accepted, theirs dropped");
        assert!(ask_tcp("127.0.0.1".parse().unwrap(), 8080).is_ok(), "it says nothing of the host itself");
        network.repair().unwrap();
        drop(network);
        let network = host.network();
        assert!(command("nft", &["list", "table", "inet", "site"]).contains("8080"), "and it is left alone");
        command("nft", &["delete", "table", "inet", "site"]);
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_ok());
        network.detach(&web.detachment()).unwrap();
    });
}
