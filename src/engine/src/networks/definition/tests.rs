use super::*;

fn config(name: &str) -> UserNetworkConfig {
    UserNetworkConfig { name: name.into(), enable_ipv4: true, ..UserNetworkConfig::default() }
}

fn pool(subnet: &str) -> IpamPool {
    IpamPool { subnet: Some(subnet.parse().unwrap()), ..IpamPool::default() }
}

fn done(config: UserNetworkConfig, around: &Surroundings) -> Result<UserNetworkConfig> {
    complete(config, &AddressPools::standard([1; 5]), around)
}

#[test]
fn networks_and_gateways_are_filled_in() {
    let around = Surroundings {
        networks: vec![("other".into(), "172.18.0.0/16".parse().unwrap())],
        host: vec!["172.17.0.0/24".parse().unwrap()],
    };
    let got = done(UserNetworkConfig { enable_ipv6: true, ..config("n") }, &around).unwrap();
    let shown: Vec<_> =
        got.ipam.iter().map(|p| format!("{} {}", p.subnet.unwrap(), p.gateway.unwrap())).collect();
    assert_eq!(shown, ["172.19.0.0/16 172.19.0.1", "fd01:101:101::/64 fd01:101:101::1"]);
    let aux = [("printer".to_owned(), "10.1.0.1".parse().unwrap())].into();
    let asked = IpamPool { aux, ip_range: Some("10.1.0.128/25".parse().unwrap()), ..pool("10.1.0.0/24") };
    let got = done(UserNetworkConfig { ipam: vec![asked], ..config("n") }, &around).unwrap();
    assert_eq!(got.ipam[0].gateway.unwrap().to_string(), "10.1.0.2", "the first address is the printer's");
}

#[test]
fn what_cannot_be_is_refused() {
    let around =
        Surroundings { networks: vec![("other".into(), "172.18.0.0/16".parse().unwrap())], host: Vec::new() };
    let with = |ipam: Vec<IpamPool>| done(UserNetworkConfig { ipam, ..config("n") }, &around);
    let overlap = with(vec![pool("172.18.5.0/24")]).unwrap_err();
    assert!(matches!(overlap.cause(), Some(NetworkProblem::Overlap { of, .. }) if of == "other"));
    for bad in [pool("10.0.0.1/24"), pool("10.0.0.0/31")] {
        assert!(with(vec![bad]).is_err());
    }
    assert!(with(vec![pool("10.1.0.0/24"), pool("10.2.0.0/24")]).is_err());
    let outside = IpamPool { gateway: Some("10.2.0.1".parse().unwrap()), ..pool("10.1.0.0/24") };
    assert!(with(vec![outside]).is_err());
    assert!(done(config("a b"), &around).is_err());
    assert!(done(UserNetworkConfig { enable_ipv4: false, ..config("n") }, &around).is_err());
}

#[test]
fn options_are_honoured_or_refused() {
    let spec = |options: &[(&str, &str)], internal: bool| {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let config = UserNetworkConfig { options, internal, ipam: vec![pool("10.1.0.0/24")], ..config("n") };
        let config = done(config, &Surroundings::default()).unwrap();
        Definition::new("ab".repeat(32), config, false).spec().map(Option::unwrap)
    };
    let plain = spec(&[], false).unwrap();
    assert_eq!(plain.link(), "br-abababababab");
    let own = spec(&[(BRIDGE_NAME, "mine0"), (MTU, "1400")], false).unwrap();
    assert_eq!((own.link(), own.mtu), ("mine0", 1400));
    for bad in [
        ("com.docker.network.host_ipv4", "1.2.3.4"),
        ("com.docker.network.bridge.enable_icc", "maybe"),
        ("com.docker.network.bridge.gateway_mode_ipv4", "isolated"),
        (BRIDGE_NAME, "a name that is too long"),
        (MTU, "big"),
    ] {
        assert!(spec(&[bad], false).is_err(), "{bad:?}");
    }
    assert!(spec(&[("com.docker.network.bridge.gateway_mode_ipv4", "isolated")], true).is_ok());
    assert!(spec(&[("org.example", "is the owner's")], false).is_ok());
}

/// Written by the first release that has networks; every later one must read it.
const V1: &str = r#"{"version":1,"id":"ab","created_at_ns":5,"owns_link":true,"config":{"name":"n",
    "driver":"bridge","ipam":[{"subnet":"10.1.0.0/24","gateway":"10.1.0.1"}],"options":{"a":"b"}}}"#;

#[test]
fn definitions_survive() {
    let dir = tempfile::tempdir().unwrap();
    let path = Definition::path(dir.path(), "ab");
    std::fs::write(&path, V1).unwrap();
    let found = Definition::load(&path).unwrap();
    assert!(found.config.enable_ipv4 && found.owns_link && !found.predefined);
    found.save(dir.path()).unwrap();
    let again = Definition::load(&path).unwrap();
    assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&found).unwrap());
    std::fs::write(&path, V1.replace("\"version\":1", "\"version\":2")).unwrap();
    assert!(Definition::load(&path).unwrap_err().to_string().contains("version 2"));
}
