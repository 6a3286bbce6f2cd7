//! Packets really go where they should.

use std::os::fd::AsFd;

use network::Conflist;

use crate::host::*;

#[test]
fn sandboxes_reach_each_other_the_gateway_and_outside() {
    on_host(|host| {
        let network = host.network();
        let (a, b) = (attach(&network, "a", &[]), attach(&network, "b", &[]));
        for is_v6 in [false, true] {
            serve_tcp(b.netns.as_fd(), if is_v6 { 86 } else { 84 });
            let port = if is_v6 { 86 } else { 84 };
            let answer = a.run(|| ask_tcp(b.ip(is_v6), port)).unwrap();
            assert_eq!(answer, a.ip(is_v6).to_string(), "no translation between neighbours");
            let from_host = ask_tcp(b.ip(is_v6), port).unwrap();
            assert_eq!(from_host, if is_v6 { "fd88::1" } else { "10.88.0.1" });
        }
        serve_tcp(host.outside.as_fd(), 80);
        let masqueraded = |to: &str| a.run(|| ask_tcp(to.parse().unwrap(), 80)).unwrap();
        assert_eq!(masqueraded(OUTSIDE_IP), HOST_IP);
        assert_eq!(masqueraded("2001:db8::2"), HOST_IP6);
        assert_eq!(
            a.run(|| ask_tcp("127.0.0.1".parse().unwrap(), 9).unwrap_err().kind()),
            std::io::ErrorKind::ConnectionRefused,
            "loopback is up"
        );
    });
}

#[test]
fn a_sandbox_without_ipv6_has_none() {
    on_host(|host| {
        let network = network::Network::open(network::Options { subnet6: None, ..host.options() }).unwrap();
        let pod = attach(&network, "four", &[]);
        let read = |key: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{key}")).unwrap();
        let seen = pod.run(|| {
            [
                read("eth0/disable_ipv6"),
                read("default/disable_ipv6"),
                read("eth0/accept_ra"),
                read("lo/disable_ipv6"),
            ]
        });
        assert_eq!(seen.map(|s| s.trim().to_owned()), ["1", "1", "0", "0"]);
        let addresses = pod.run(|| sys::netlink::Route::open().unwrap().addresses().unwrap());
        assert!(addresses.iter().all(|a| !a.address.is_ipv6() || a.address.is_loopback()), "{addresses:?}");
    });
}

#[test]
fn bridges_can_be_isolated_from_each_other() {
    on_host(|host| {
        let network = host.network();
        let list = |name: &str, third: u8, policy: &str| {
            Conflist::parse(&format!(
                r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[
                {{"type":"bridge","bridge":"{name}","isDefaultGateway":true,
                  "ipam":{{"type":"host-local","subnet":"10.99.{third}.0/24"}}}},
                {{"type":"firewall","ingressPolicy":"{policy}"}}]}}"#
            ))
            .unwrap()
        };
        let (open, closed) = (list("open0", 1, "open"), list("closed0", 2, "same-bridge"));
        let stranger = try_attach(&network, "stranger", &open, &[]).unwrap();
        let inside = try_attach(&network, "inside", &closed, &[]).unwrap();
        let neighbour = try_attach(&network, "neighbour", &closed, &[]).unwrap();
        serve_tcp(inside.netns.as_fd(), 80);
        serve_tcp(stranger.netns.as_fd(), 80);
        assert!(neighbour.run(|| ask_tcp(inside.ip(false), 80)).is_ok());
        assert!(inside.run(|| ask_tcp(stranger.ip(false), 80)).is_ok(), "answers come back");
        assert!(stranger.run(|| ask_tcp(inside.ip(false), 80)).is_err());
    });
}

#[test]
fn forged_hardware_addresses_are_dropped() {
    on_host(|host| {
        let network = host.network();
        let list = Conflist::parse(
            r#"{"cniVersion":"1.0.0","name":"n","type":"bridge","bridge":"spoof0","macspoofchk":true,
                "isGateway":true,"ipam":{"type":"host-local","subnet":"10.99.3.0/24"}}"#,
        )
        .unwrap();
        let pod = try_attach(&network, "pod", &list, &[]).unwrap();
        serve_tcp(pod.netns.as_fd(), 80);
        assert!(ask_tcp(pod.ip(false), 80).is_ok());
        pod.run(|| command("ip", &["link", "set", "eth0", "address", "02:00:00:00:00:99"]));
        command("ip", &["neigh", "flush", "all"]);
        assert!(ask_tcp(pod.ip(false), 80).is_err());
        network.detach(&pod.detachment()).unwrap();
        assert!(!command("nft", &["list", "table", "bridge", "berth"]).contains(pod.id.as_str()));
    });
}

#[test]
fn counters_of_a_sandbox_can_be_read() {
    on_host(|host| {
        let network = host.network();
        let pod = attach(&network, "counted", &[]);
        let reader = sys::netlink::CounterReader::open(pod.netns.as_fd()).unwrap();
        let before = reader.read().unwrap();
        serve_tcp(pod.netns.as_fd(), 80);
        ask_tcp(pod.ip(false), 80).unwrap();
        let after = reader.read().unwrap();
        assert_eq!(after.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["eth0"]);
        assert!(after[0].stats.rx_packets > before[0].stats.rx_packets);
        assert!(after[0].stats.tx_bytes > before[0].stats.tx_bytes);
    });
}
