//! User networks: links, addresses, ports, several networks at once, live changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::AsFd;

use ipnet::IpNet;
use network::{
    AddressPool, Attachment, Capabilities, Change, Detachment, Error, Gateway, Network, NetworkSpec, Outlet,
    PortMapping, PortRequest, Protocol, SpecDriver,
};

use crate::host::*;

/// A bridged user network `172.30.N.0/24`.
pub(crate) fn bridge(n: u8) -> NetworkSpec {
    NetworkSpec {
        id: format!("{n:064x}"),
        driver: SpecDriver::Bridge {
            link: format!("br-user{n}"),
            icc: true,
            gateway4: Gateway::Nat,
            gateway6: Gateway::Nat,
            masquerade: true,
            inhibit_ipv4: false,
            trusted: Vec::new(),
        },
        pools: vec![pool(&format!("172.30.{n}.0/24"))],
        internal: false,
        mtu: 0,
    }
}

/// The same with IPv6.
pub(crate) fn dual(n: u8) -> NetworkSpec {
    let mut spec = bridge(n);
    spec.pools.push(pool(&format!("fd30:0:0:{n:x}::/64")));
    spec
}

pub(crate) fn pool(subnet: &str) -> AddressPool {
    let subnet: IpNet = subnet.parse().unwrap();
    let gateway = subnet.hosts().next().unwrap();
    // The first address of an IPv6 network is the network's own.
    let gateway = match gateway {
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) | 1).into(),
        IpAddr::V4(_) => gateway,
    };
    AddressPool { subnet, range: None, gateway, reserved: Vec::new() }
}

/// Attaches a new sandbox to a user network, as `eth0` and with its default routes.
pub(crate) fn join(
    network: &Network,
    spec: &NetworkSpec,
    id: &str,
    ports: &[PortMapping],
    capabilities: &Capabilities,
) -> Result<Pod, Error> {
    network.ensure_user_network(spec)?;
    let pod = try_attach_with(network, id, &spec.conflist()?, ports, &[], capabilities)?;
    let outlet = |is_v6: bool| {
        let found = spec.pools.iter().find(|p| p.gateway.is_ipv6() == is_v6 && !spec.internal)?;
        Some(Outlet { ifname: "eth0".into(), gateway: found.gateway })
    };
    Network::set_outlets(pod.netns.as_fd(), outlet(false).as_ref(), outlet(true).as_ref())?;
    Ok(pod)
}

pub(crate) fn plain(network: &Network, spec: &NetworkSpec, id: &str) -> Pod {
    join(network, spec, id, &[], &Capabilities::default()).unwrap_or_else(|e| panic!("{}", chain(&e)))
}

/// Attaches a sandbox with published ports.
pub(crate) fn serving(network: &Network, spec: &NetworkSpec, id: &str, requests: &[PortRequest]) -> Pod {
    let ports = network.hold_ports(&id.parse().unwrap(), requests).unwrap();
    join(network, spec, id, &ports, &Capabilities::default()).unwrap_or_else(|e| panic!("{}", chain(&e)))
}

pub(crate) fn everywhere() -> Vec<IpAddr> {
    vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
}

pub(crate) fn request(host_port: u16, container_port: u16, host_ips: &[IpAddr]) -> PortRequest {
    PortRequest {
        container_port,
        protocol: Protocol::Tcp,
        host_ips: host_ips.to_vec(),
        host_ports: (host_port != 0).then_some((host_port, host_port)),
    }
}

#[test]
fn containers_reach_each_other_and_outside() {
    on_host(|host| {
        let network = host.network();
        let spec = dual(1);
        let (a, b) = (plain(&network, &spec, "a"), plain(&network, &spec, "b"));
        serve_tcp(b.netns.as_fd(), 80);
        serve_tcp(host.outside.as_fd(), 80);
        for is_v6 in [false, true] {
            assert_eq!(a.run(|| ask_tcp(b.ip(is_v6), 80)).unwrap(), a.ip(is_v6).to_string());
            let outside = if is_v6 { "2001:db8::2" } else { OUTSIDE_IP };
            let seen = a.run(|| ask_tcp(outside.parse().unwrap(), 80)).unwrap();
            assert_eq!(seen, if is_v6 { HOST_IP6 } else { HOST_IP }, "masqueraded");
        }
        assert!(!network.ensure_user_network(&spec).unwrap(), "the bridge is there");
        for pod in [&a, &b] {
            network.detach(&pod.detachment()).unwrap();
        }
        network.remove_user_network(&spec, true).unwrap();
        assert!(!links().contains(&"br-user1".to_owned()));
        assert!(!command("nft", &["list", "table", "inet", "berth"]).contains("br-user1"));
        assert!(network.ensure_user_network(&spec).unwrap(), "it can be made again");
    });
}

#[test]
fn addresses_are_chosen_asked_for_and_kept_back() {
    on_host(|host| {
        let network = host.network();
        let mut spec = bridge(1);
        spec.pools[0].range = Some("172.30.1.128/30".parse().unwrap());
        spec.pools[0].reserved = vec!["172.30.1.129".parse().unwrap()];
        let first = plain(&network, &spec, "first");
        assert_eq!(first.ip(false).to_string(), "172.30.1.128", "of the range, without the reserved one");
        let asked = |id: &str, ip: &str, mac: Option<&str>| {
            let capabilities =
                Capabilities { ips: vec![ip.into()], mac: mac.map(str::to_owned), ..Capabilities::default() };
            join(&network, &spec, id, &[], &capabilities)
        };
        let own = asked("own", "172.30.1.9", Some("02:42:ac:11:00:09")).unwrap();
        assert_eq!(own.ip(false).to_string(), "172.30.1.9", "outside of the range, but of the network");
        assert_eq!(own.attached.interfaces[2].mac, "02:42:ac:11:00:09");
        for (id, ip) in [("gw", "172.30.1.1"), ("aux", "172.30.1.129"), ("twice", "172.30.1.9")] {
            assert!(matches!(asked(id, ip, None), Err(Error::AddressTaken { .. })), "{ip}");
        }
        assert!(matches!(asked("far", "172.31.0.9", None), Err(Error::AddressOutside { .. })));
        plain(&network, &spec, "third");
        plain(&network, &spec, "fourth");
        let full = join(&network, &spec, "fifth", &[], &Capabilities::default());
        assert!(matches!(full, Err(Error::Exhausted { .. })), "four addresses less one");
    });
}

#[test]
fn published_ports_are_reached_without_a_proxy() {
    on_host(|host| {
        let network = host.network();
        let spec = dual(1);
        let web = serving(&network, &spec, "web", &[request(8080, 80, &everywhere())]);
        let client = plain(&network, &spec, "client");
        let stranger = plain(&network, &bridge(2), "stranger");
        serve_tcp(web.netns.as_fd(), 80);
        assert_eq!(ask_from(host.outside.as_fd(), HOST_IP, 8080).unwrap(), OUTSIDE_IP, "source is kept");
        assert_eq!(ask_from(host.outside.as_fd(), HOST_IP6, 8080).unwrap(), "2001:db8::2");
        assert!(ask_tcp("127.0.0.1".parse().unwrap(), 8080).is_ok(), "loopback");
        assert!(ask_tcp(HOST_IP.parse().unwrap(), 8080).is_ok(), "the host itself");
        let through = |pod: &Pod, to: &str| pod.run(|| ask_tcp(to.parse().unwrap(), 8080));
        assert!(through(&client, HOST_IP).is_ok(), "neighbour");
        assert!(through(&client, "172.30.1.1").is_ok(), "neighbour by the gateway");
        assert!(through(&web, HOST_IP).is_ok(), "hairpin");
        assert!(through(&stranger, HOST_IP).is_ok(), "another network by the host's address");
    });
}

#[test]
fn a_published_port_is_held() {
    on_host(|host| {
        let network = host.network();
        let spec = bridge(1);
        let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let web = serving(&network, &spec, "web", &[request(8080, 80, &everywhere())]);
        let bound = TcpListener::bind("0.0.0.0:8080").unwrap_err();
        assert_eq!(bound.kind(), std::io::ErrorKind::AddrInUse, "a program of the host cannot take it");
        let other = "other".parse().unwrap();
        let taken = network.hold_ports(&other, &[request(8080, 80, &[any])]).unwrap_err();
        assert!(matches!(&taken, Error::HostPortTaken { owner, .. } if owner == "sandbox web"), "{taken}");
        let _listener = TcpListener::bind("127.0.0.1:9090").unwrap();
        let taken = network.hold_ports(&other, &[request(9090, 80, &[any])]).unwrap_err();
        assert!(taken.is_port_of_host(), "{taken}");
        // All or nothing: the first one is free again.
        let both = [request(7070, 80, &[any]), request(9090, 80, &[any])];
        assert!(network.hold_ports(&other, &both).is_err());
        drop(TcpListener::bind("0.0.0.0:7070").unwrap());
        let range = PortRequest { host_ports: Some((8080, 8082)), ..request(0, 80, &[any]) };
        let got = network.hold_ports(&other, &[range]).unwrap();
        assert_eq!(got[0].host_port, 8081, "the first free one of a range");
        let free = network.hold_ports(&other, &[request(0, 80, &everywhere())]).unwrap();
        assert!(free[0].host_port > 1024 && free[0].host_port == free[1].host_port);
        network.free_ports(&other);
        drop(network);
        // What a daemon that starts again finds, it holds again.
        let network = host.network();
        assert!(TcpListener::bind("0.0.0.0:8080").is_err());
        network.detach(&web.detachment()).unwrap();
        drop(TcpListener::bind("0.0.0.0:8080").unwrap());
    });
}

#[test]
fn a_sandbox_on_two_networks_has_one_way_out_that_can_change() {
    on_host(|host| {
        let network = host.network();
        let (front, back) = (bridge(1), bridge(2));
        let pod = plain(&network, &front, "both");
        network.ensure_user_network(&back).unwrap();
        let list = back.conflist().unwrap();
        let attachment = Attachment {
            sandbox: &pod.id,
            netns: pod.netns.as_fd(),
            netns_path: None,
            conflist: &list,
            ifname: "eth1",
            ports: &[],
            cni_args: &[],
            capabilities: &Capabilities::default(),
        };
        network.attach(&attachment).unwrap();
        let (left, right) = (plain(&network, &front, "left"), plain(&network, &back, "right"));
        for other in [&left, &right] {
            serve_tcp(other.netns.as_fd(), 80);
            assert!(pod.run(|| ask_tcp(other.ip(false), 80)).is_ok());
        }
        assert!(left.run(|| ask_tcp(right.ip(false), 80)).is_err(), "networks are apart");
        serve_tcp(host.outside.as_fd(), 80);
        let leads_out = || pod.run(|| ask_tcp(OUTSIDE_IP.parse().unwrap(), 80)).is_ok();
        assert!(leads_out());
        let outlet = Outlet { ifname: "eth1".into(), gateway: back.pools[0].gateway };
        Network::set_outlets(pod.netns.as_fd(), Some(&outlet), None).unwrap();
        assert!(pod.run(|| command("ip", &["route"])).contains("default via 172.30.2.1 dev eth1"));
        assert!(leads_out());
        network.detach(&Detachment { netns_survives: true, ..pod.detachment() }).unwrap();
        let names = pod.run(links);
        assert_eq!(names, ["lo", "eth1"], "a live disconnect takes the interface away");
        assert!(pod.run(|| ask_tcp(right.ip(false), 80)).is_ok(), "and leaves the other alone");
        Network::set_outlets(pod.netns.as_fd(), None, None).unwrap();
        Network::set_outlets(pod.netns.as_fd(), None, None).unwrap();
        assert!(!pod.run(|| command("ip", &["route"])).contains("default"));
    });
}

#[test]
fn containers_without_icc_reach_the_host_but_not_each_other() {
    on_host(|host| {
        let network = host.network();
        let mut spec = bridge(1);
        if let SpecDriver::Bridge { icc, .. } = &mut spec.driver {
            *icc = false;
        }
        let (a, b) = (plain(&network, &spec, "a"), plain(&network, &spec, "b"));
        serve_tcp(b.netns.as_fd(), 80);
        serve_tcp(host.outside.as_fd(), 80);
        assert!(a.run(|| ask_tcp(b.ip(false), 80)).is_err());
        assert!(ask_tcp(b.ip(false), 80).is_ok(), "the host reaches it");
        assert!(a.run(|| ask_tcp(OUTSIDE_IP.parse().unwrap(), 80)).is_ok());
    });
}

#[test]
fn macvlan_interfaces_are_on_the_parent() {
    on_host(|host| {
        let network = host.network();
        let spec = NetworkSpec {
            driver: SpecDriver::Macvlan { parent: "uplink".into(), mode: "bridge".into(), is_dummy: false },
            pools: vec![AddressPool {
                reserved: vec![HOST_IP.parse().unwrap(), OUTSIDE_IP.parse().unwrap()],
                ..pool("192.0.2.0/24")
            }],
            ..bridge(1)
        };
        let (a, b) = (plain(&network, &spec, "a"), plain(&network, &spec, "b"));
        serve_tcp(b.netns.as_fd(), 80);
        assert_eq!(a.run(|| ask_tcp(b.ip(false), 80)).unwrap(), a.ip(false).to_string());
        let seen = sys::ns::in_netns(host.outside.as_fd(), || ask_tcp(b.ip(false), 80)).unwrap();
        assert_eq!(seen.unwrap(), OUTSIDE_IP, "the site's network reaches it directly");
        network.detach(&Detachment { netns_survives: true, ..a.detachment() }).unwrap();
        assert_eq!(a.run(links), ["lo"]);
        let vlan = NetworkSpec {
            driver: SpecDriver::Macvlan { parent: "uplink.7".into(), mode: "vepa".into(), is_dummy: false },
            ..bridge(2)
        };
        match network.ensure_user_network(&vlan) {
            Ok(made) => assert!(made && links().contains(&"uplink.7".to_owned())),
            // Kernels without VLANs say so.
            Err(error) => assert!(error.to_string().contains("Unknown device type"), "{error}"),
        }
        let missing = NetworkSpec {
            driver: SpecDriver::Macvlan { parent: "none0".into(), mode: "bridge".into(), is_dummy: false },
            ..bridge(3)
        };
        let error = network.ensure_user_network(&missing).unwrap_err();
        assert_eq!(error.to_string(), "invalid parent, which is no link of this host, \"none0\"");
    });
}

#[test]
fn flushed_rules_of_user_networks_come_back() {
    on_host(|host| {
        let network = host.network();
        let web = serving(&network, &bridge(1), "web", &[request(8080, 80, &everywhere())]);
        serve_tcp(web.netns.as_fd(), 80);
        let mut watcher = network.watch().unwrap();
        command("nft", &["flush", "ruleset"]);
        let seen = watcher.wait(Some(std::time::Duration::from_secs(5))).unwrap();
        assert_eq!(seen, Some(Change::Rules));
        assert!(network.repair().unwrap());
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_ok());
        host.route_from_outside("172.30.1.0/24");
        assert!(ask_from(host.outside.as_fd(), &web.ip(false).to_string(), 80).is_err(), "still guarded");
    });
}

#[test]
fn the_networks_of_the_host_are_known() {
    on_host(|host| {
        let network = host.network();
        command("ip", &["route", "add", "10.9.0.0/16", "via", OUTSIDE_IP]);
        let networks = network.host_networks().unwrap();
        for expected in ["192.0.2.0/24", "10.9.0.0/16", "2001:db8::/64", "127.0.0.0/8"] {
            assert!(networks.contains(&expected.parse().unwrap()), "{expected}: {networks:?}");
        }
    });
}
