//! Attach, detach, crash, collect.

use std::os::fd::AsFd;

use network::{Capabilities, Change, Conflist, Error, ErrorKind, NotReady, Protocol, ValidAttachment};

use crate::host::*;

const SMALL: &str = r#"{"cniVersion":"1.0.0","name":"small","plugins":[
  {"type":"bridge","bridge":"small0","isGateway":true,"ipMasq":true,"capabilities":{"ips":true,"mac":true},
   "ipam":{"type":"host-local","ranges":[[{"subnet":"10.77.0.0/29"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
  {"type":"portmap","capabilities":{"portMappings":true}}]}"#;

#[test]
fn a_result_says_what_was_made() {
    on_host(|host| {
        let network = host.network();
        let pod = attach(&network, "web", &[]);
        let names: Vec<_> = pod.attached.interfaces.iter().map(|i| i.name.as_str()).collect();
        assert_eq!((names[0], names[2]), ("berth0", "eth0"));
        assert!(pod.attached.interfaces.iter().all(|i| i.mac.len() == 17));
        let ips: Vec<_> = pod.attached.ips.iter().map(|i| i.address.to_string()).collect();
        assert_eq!(ips, ["10.88.0.2/16", "fd88::2/64"]);
        assert_eq!(pod.attached.routes.len(), 2);
        assert_eq!(network.attached(&pod.id, "eth0").as_ref(), Some(&pod.attached));
        network.check(&pod.id, "eth0", pod.netns.as_fd(), None).unwrap();
        let again = network.attach(&network::Attachment {
            sandbox: &pod.id,
            netns: pod.netns.as_fd(),
            netns_path: None,
            conflist: &network.default_conflist().unwrap(),
            ifname: "eth0",
            ports: &[],
            cni_args: &[],
            capabilities: &Capabilities::default(),
        });
        assert!(matches!(again, Err(Error::AlreadyAttached { .. })));
    });
}

#[test]
fn detach_is_idempotent_and_needs_no_namespace() {
    on_host(|host| {
        let network = host.network();
        let before = links();
        for round in 0..3 {
            let pod = attach(&network, "again", &[port(Protocol::Tcp, 8080, 80, None)]);
            let mut detachment = pod.detachment();
            if round == 1 {
                detachment.netns = None;
            }
            network.detach(&detachment).unwrap();
            network.detach(&detachment).unwrap();
            drop(pod);
        }
        wait_for("host links to go with their namespaces", || links().len() == before.len() + 1);
        let kept = std::fs::read_dir(host.dir.path().join("state/attachments")).unwrap().count();
        assert_eq!(kept, 0, "no record is left");
    });
}

#[test]
fn a_surviving_namespace_loses_its_interface() {
    on_host(|host| {
        let network = host.network();
        let pod = attach(&network, "live", &[]);
        network.detach(&network::Detachment { netns_survives: true, ..pod.detachment() }).unwrap();
        assert_eq!(pod.run(links), ["lo"]);
    });
}

#[test]
fn a_small_network_runs_out_and_recovers() {
    on_host(|host| {
        let network = host.network();
        let conflist = Conflist::parse(SMALL).unwrap();
        let mut pods: Vec<_> =
            (0..5).map(|n| try_attach(&network, &format!("p{n}"), &conflist, &[]).unwrap()).collect();
        let error = try_attach(&network, "p5", &conflist, &[]).err().unwrap();
        assert_eq!(
            error.to_string(),
            "network small has no free address in 10.77.0.1-10.77.0.6 of 10.77.0.0/29"
        );
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        let victim = pods.remove(2);
        network.detach(&victim.detachment()).unwrap();
        let next = try_attach(&network, "p6", &conflist, &[]).unwrap();
        assert_eq!(next.ip(false), victim.ip(false));
    });
}

#[test]
fn addresses_and_hardware_addresses_can_be_asked_for() {
    on_host(|host| {
        let network = host.network();
        let conflist = Conflist::parse(SMALL).unwrap();
        let wanted = Capabilities {
            ips: vec!["10.77.0.5/29".to_owned()],
            mac: Some("02:00:00:00:12:34".to_owned()),
            ..Capabilities::default()
        };
        let pod = try_attach_with(&network, "asks", &conflist, &[], &[], &wanted).unwrap();
        assert_eq!(pod.ip(false).to_string(), "10.77.0.5");
        assert_eq!(pod.attached.interfaces[2].mac, "02:00:00:00:12:34");
        let by_argument = [("IP".to_owned(), "10.77.0.5".to_owned())];
        let refused =
            try_attach_with(&network, "late", &conflist, &[], &by_argument, &Capabilities::default());
        assert!(matches!(refused.err(), Some(Error::AddressTaken { .. })));
    });
}

#[test]
fn leases_survive_a_restart_and_garbage_is_collected() {
    on_host(|host| {
        let (kept, lost) = {
            let network = host.network();
            let ports = [port(Protocol::Tcp, 8080, 80, None)];
            (attach(&network, "kept", &ports), attach(&network, "lost", &[]))
        };
        command("ip", &["link", "add", "name", "stray", "type", "bridge"]);
        let network = host.network();
        assert!(!network.repair().unwrap(), "opening brings the table in line");
        let third = attach(&network, "third", &[]);
        assert_ne!(third.ip(false), kept.ip(false));
        assert_ne!(third.ip(false), lost.ip(false));
        let valid = |pod: &Pod| ValidAttachment { sandbox: pod.id.clone(), ifname: "eth0".to_owned() };
        let report = network.gc(&[valid(&kept), valid(&third)]);
        assert_eq!((report.attachments, report.links, report.errors.len()), (1, 0, 0), "{report:?}");
        assert!(links().contains(&"stray".to_owned()), "other people's links stay");
        assert!(!lost.run(links).contains(&"eth0".to_owned()));
        serve_tcp(kept.netns.as_fd(), 80);
        assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_ok());
        std::fs::remove_file(host.dir.path().join("state/attachments/kept@eth0.json")).unwrap();
        drop(network);
        let report = host.network().gc(&[valid(&third)]);
        assert_eq!((report.attachments, report.links), (0, 1), "a link without a record goes: {report:?}");
    });
}

#[test]
fn an_unfinished_attachment_is_undone_by_the_next() {
    on_host(|host| {
        let pod = attach(&host.network(), "half", &[port(Protocol::Tcp, 8080, 80, None)]);
        let path = host.dir.path().join("state/attachments/half@eth0.json");
        let text =
            std::fs::read_to_string(&path).unwrap().replace("\"stage\":\"attached\"", "\"stage\":\"intent\"");
        std::fs::write(&path, text).unwrap();
        let network = host.network();
        let retried = network.attach(&network::Attachment {
            sandbox: &pod.id,
            netns: pod.netns.as_fd(),
            netns_path: None,
            conflist: &network.default_conflist().unwrap(),
            ifname: "eth0",
            ports: &[port(Protocol::Tcp, 8080, 80, None)],
            cni_args: &[],
            capabilities: &Capabilities::default(),
        });
        assert_eq!(retried.unwrap().ips[0].address.to_string(), "10.88.0.3/16");
    });
}

#[test]
fn checks_notice_what_is_gone() {
    on_host(|host| {
        let network = host.network();
        let pod = attach(&network, "checked", &[port(Protocol::Tcp, 8080, 80, None)]);
        let check = || network.check(&pod.id, "eth0", pod.netns.as_fd(), None).map_err(|e| e.to_string());
        check().unwrap();
        command("nft", &["flush", "map", "inet", "berth", "publish_any4"]);
        assert_eq!(
            check().unwrap_err(),
            "attachment eth0 of sandbox checked: 1 nftables elements are missing"
        );
        network.repair().unwrap();
        check().unwrap();
        pod.run(|| command("ip", &["addr", "del", "10.88.0.2/16", "dev", "eth0"]));
        assert_eq!(
            check().unwrap_err(),
            "attachment eth0 of sandbox checked: address 10.88.0.2/16 is missing"
        );
        command("ip", &["link", "del", "berth0"]);
        let next = attach(&network, "next", &[]);
        assert!(
            next.run(|| ask_tcp("10.88.0.1".parse().unwrap(), 9)).unwrap_err().kind()
                == std::io::ErrorKind::ConnectionRefused
        );
    });
}

#[test]
fn the_configuration_directory_is_followed() {
    on_host(|host| {
        let network = host.network();
        assert_eq!(network.default_conflist().unwrap().name(), "berth");
        let mut watcher = network.watch().unwrap();
        host.conflist("20-second.conflist", SMALL);
        assert_eq!(watcher.wait(Some(std::time::Duration::from_secs(5))).unwrap(), Some(Change::Conflists));
        network.reload().unwrap();
        assert_eq!(network.default_conflist().unwrap().name(), "small");
        host.conflist("10-first.conflist", &SMALL.replace("\"small\"", "\"first\""));
        network.reload().unwrap();
        assert_eq!(network.default_conflist().unwrap().name(), "first");
        host.conflist("10-first.conflist", "{\n\"name\": ");
        let problems = network.reload().unwrap();
        assert!(problems[0].to_string().contains("10-first.conflist:2: "), "{}", problems[0]);
        assert_eq!(network.default_conflist().unwrap().name(), "first", "the old network stays");
        let only_broken = host.network();
        assert_eq!(only_broken.default_conflist().unwrap().name(), "small");
        std::fs::remove_file(host.dir.path().join("net.d/20-second.conflist")).unwrap();
        let error = host.network().default_conflist().err().unwrap();
        assert!(matches!(error, NotReady::Configuration { .. }), "{error}");
    });
}
