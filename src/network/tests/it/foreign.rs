//! Debian's `containernetworking-plugins`, alone and mixed with the built-in ones.

use std::os::fd::AsFd;

use network::{Conflist, Network, Options, Protocol};

use crate::host::*;

fn assert_plugins() {
    let installed = std::fs::metadata("/usr/lib/cni/bridge").is_ok();
    assert!(installed, "the package containernetworking-plugins is needed for this test");
}

fn publish_and_ask(host: &Host, network: &Network, conflist: &Conflist) {
    let ports = [port(Protocol::Tcp, 8080, 80, None)];
    let pod = try_attach(network, "foreign", conflist, &ports).unwrap_or_else(|e| panic!("{}", chain(&e)));
    serve_tcp(pod.netns.as_fd(), 80);
    serve_tcp(host.outside.as_fd(), 81);
    assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_ok());
    assert!(ask_tcp("127.0.0.1".parse().unwrap(), 8080).is_ok());
    assert_eq!(pod.run(|| ask_tcp(OUTSIDE_IP.parse().unwrap(), 81)).unwrap(), HOST_IP);
    match network.check(&pod.id, "eth0", pod.netns.as_fd(), None) {
        Ok(()) => {}
        // CHECK of portmap 1.1.1 looks for IPv6 rules that its own ADD does not make for a sandbox without IPv6.
        Err(e) => assert!(e.to_string().contains("could not check ipv6 dnat"), "{}", chain(&e)),
    }
    let errors = network.detach(&pod.detachment());
    assert!(errors.is_ok(), "{errors:?}");
    assert!(ask_from(host.outside.as_fd(), HOST_IP, 8080).is_err());
}

#[test]
fn a_chain_of_programs_works() {
    assert_plugins();
    on_host(|host| {
        let network = Network::open(Options { exec_builtin: true, ..host.options() }).unwrap();
        let data = host.dir.path().join("leases");
        let conflist = Conflist::parse(&format!(
            r#"{{"cniVersion":"1.0.0","name":"programs","plugins":[
              {{"type":"bridge","bridge":"ext0","isDefaultGateway":true,"ipMasq":true,
                "ipam":{{"type":"host-local","subnet":"10.55.0.0/24","dataDir":{data:?}}}}},
              {{"type":"portmap","capabilities":{{"portMappings":true}},"snat":true}}]}}"#
        ))
        .unwrap();
        publish_and_ask(host, &network, &conflist);
    });
}

#[test]
fn a_foreign_link_can_have_built_in_ports() {
    assert_plugins();
    on_host(|host| {
        let network = host.network();
        let data = host.dir.path().join("leases");
        let conflist = Conflist::parse(&format!(
            r#"{{"cniVersion":"0.4.0","name":"mixed","plugins":[
              {{"type":"ptp","ipMasq":true,
                "ipam":{{"type":"host-local","subnet":"10.55.1.0/24","routes":[{{"dst":"0.0.0.0/0"}}],"dataDir":{data:?}}}}},
              {{"type":"portmap","capabilities":{{"portMappings":true}}}},
              {{"type":"tuning","sysctl":{{"net.core.somaxconn":"500"}}}}]}}"#
        ))
        .unwrap();
        publish_and_ask(host, &network, &conflist);
    });
}

#[test]
fn the_built_in_bridge_takes_foreign_addresses() {
    assert_plugins();
    on_host(|host| {
        let network = host.network();
        let conflist = Conflist::parse(
            r#"{"cniVersion":"1.0.0","name":"static","plugins":[
              {"type":"bridge","bridge":"ext1","isGateway":true,"ipMasq":true,
               "ipam":{"type":"static","addresses":[{"address":"10.55.2.9/24","gateway":"10.55.2.1"}],
                       "routes":[{"dst":"0.0.0.0/0"}]}},
              {"type":"portmap","capabilities":{"portMappings":true}}]}"#,
        )
        .unwrap();
        publish_and_ask(host, &network, &conflist);
    });
}
