//! Random histories against a model: an address has at most one owner, and is not used again at once.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn set(subnets: &[&str]) -> RangeSet {
    let range =
        |s: &&str| IpRange { subnet: s.parse().unwrap(), range_start: None, range_end: None, gateway: None };
    RangeSet::new(&subnets.iter().map(range).collect::<Vec<_>>()).unwrap()
}

#[test]
fn a_small_network_is_used_up_round_robin() {
    let sets = [set(&["10.0.0.0/29"])];
    let mut pool = Pool::default();
    let next = |pool: &mut Pool| pool.allocate(&sets, &[], "a").map(|l| l[0].address.to_string());
    let all: Vec<_> = std::iter::from_fn(|| next(&mut pool).ok()).collect();
    assert_eq!(all, ["10.0.0.2/29", "10.0.0.3/29", "10.0.0.4/29", "10.0.0.5/29", "10.0.0.6/29"]);
    assert_eq!(next(&mut pool), Err(Refused::Exhausted("10.0.0.1-10.0.0.6 of 10.0.0.0/29".to_owned())));
    pool.release("10.0.0.3".parse().unwrap(), "b");
    assert!(next(&mut pool).is_err(), "only the owner gives back");
    pool.release("10.0.0.3".parse().unwrap(), "a");
    pool.release("10.0.0.6".parse().unwrap(), "a");
    assert_eq!(next(&mut pool).as_deref(), Ok("10.0.0.3/29"), "the one given back last is used last");
}

#[test]
fn requests_are_honoured_or_refused() {
    let sets = [set(&["10.0.0.0/24"]), set(&["fd00::/64"])];
    let mut pool = Pool::default();
    let ip = |t: &str| t.parse::<IpAddr>().unwrap();
    let leases = pool.allocate(&sets, &[ip("10.0.0.77")], "a").unwrap();
    assert_eq!(leases[0].address.to_string(), "10.0.0.77/24");
    assert_eq!(leases[1].address.to_string(), "fd00::2/64");
    assert_eq!(leases[1].gateway, Some(ip("fd00::1")));
    assert_eq!(
        pool.allocate(&sets, &[ip("10.0.0.77")], "b"),
        Err(Refused::Taken(ip("10.0.0.77"), "a".into()))
    );
    assert_eq!(
        pool.allocate(&sets, &[ip("10.0.0.1")], "b"),
        Err(Refused::Taken(ip("10.0.0.1"), "the gateway".into()))
    );
    assert_eq!(pool.allocate(&sets, &[ip("10.9.0.1")], "b"), Err(Refused::Outside(ip("10.9.0.1"))));
}

#[test]
fn wrong_ranges_are_refused_with_a_reason() {
    let check = |subnet: &str, start: Option<&str>, end: Option<&str>, expected: &str| {
        let ip = |t: Option<&str>| t.map(|t| t.parse().unwrap());
        let conf = IpRange {
            subnet: subnet.parse().unwrap(),
            range_start: ip(start),
            range_end: ip(end),
            gateway: None,
        };
        let error = Range::new(&conf).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check("10.0.0.1/24", None, None, "host bits");
    check("10.0.0.0/31", None, None, "too small");
    check("10.0.0.0/24", Some("10.0.1.1"), None, "rangeStart 10.0.1.1");
    check("10.0.0.0/24", None, Some("10.0.0.255"), "rangeEnd 10.0.0.255");
    check("10.0.0.0/24", Some("10.0.0.9"), Some("10.0.0.8"), "after rangeEnd");
}

#[derive(Debug, Clone)]
enum Step {
    Allocate,
    Request(u8),
    Release(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Allocate),
        1 => (0u8..34).prop_map(Step::Request),
        3 => (0usize..40).prop_map(Step::Release),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn no_address_has_two_owners(steps in proptest::collection::vec(step(), 1..200)) {
        let sets = [set(&["10.0.0.0/28", "10.0.0.16/28"]), set(&["fd00::/123"])];
        let mut pool = Pool::default();
        let mut owners: HashMap<String, Vec<IpAddr>> = HashMap::new();
        let mut just_released: Vec<IpAddr> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            let owner = format!("sandbox-{n}");
            match step {
                Step::Allocate | Step::Request(_) => {
                    let wanted: Vec<IpAddr> = match step {
                        Step::Request(last) => vec![Ipv4Addr::new(10, 0, 0, last).into()],
                        _ => Vec::new(),
                    };
                    if let Ok(leases) = pool.allocate(&sets, &wanted, &owner) {
                        let ips: Vec<_> = leases.iter().map(|l| l.address.addr()).collect();
                        let taken: Vec<_> = owners.values().flatten().collect();
                        prop_assert!(ips.iter().all(|ip| !taken.contains(&ip)), "{ips:?} twice");
                        prop_assert_eq!(leases.len(), 2);
                        if wanted.is_empty() && taken.len() < 20 {
                            prop_assert!(!ips.iter().any(|ip| just_released.last() == Some(ip)));
                        }
                        owners.insert(owner, ips);
                    }
                }
                Step::Release(which) => {
                    let mut names: Vec<_> = owners.keys().cloned().collect();
                    names.sort();
                    if let Some(name) = names.get(which) {
                        just_released.clear();
                        for ip in owners.remove(name).unwrap_or_default() {
                            pool.release(ip, name);
                            just_released.push(ip);
                        }
                    }
                }
                Step::Restart => {
                    let mut again = Pool::default();
                    for (name, ips) in &owners {
                        ips.iter().for_each(|ip| again.adopt(*ip, name));
                    }
                    pool.cursors().for_each(|(set, ip)| again.resume_after(set, ip));
                    pool = again;
                }
            }
        }
    }
}
