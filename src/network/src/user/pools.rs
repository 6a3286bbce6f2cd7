//! Default address pools: which network a user network gets that asks for none.
//!
//! The first pools are those of Docker in its order, so that a first network looks as people expect. Many more follow,
//! because running out of networks is a nuisance. A network that meets one that exists, a route of the host, one of its
//! addresses or name servers is never chosen. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

/// Networks of one size each to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPools {
    /// A range, and the prefix length of the networks that it is cut into.
    pools: Vec<(IpNet, u8)>,
    /// The range that IPv6 networks of this host are cut from.
    local6: Ipv6Net,
}

/// Docker's pools, then the rest of the private ranges. 10.0.0.0/8 is what most sites use: it comes last, and starts
/// where few are.
const DEFAULT: &[(&str, u8)] = &[
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
    ("172.16.0.0/16", 24),
    ("10.192.0.0/10", 24),
    ("10.128.0.0/10", 24),
];

impl AddressPools {
    /// The default pools. IPv6 networks are cut from a unique local prefix (RFC 4193) made of `seed`, which is the
    /// same for a host for good.
    pub fn standard(seed: [u8; 5]) -> Self {
        let pools = DEFAULT.iter().filter_map(|(net, size)| Some((net.parse().ok()?, *size))).collect();
        Self { pools, local6: local_prefix(seed) }
    }

    /// Other pools than the default ones, for the families that they have; what is wrong with them.
    pub fn new(pools: Vec<(IpNet, u8)>, seed: [u8; 5]) -> Result<Self, String> {
        for (net, size) in &pools {
            if *size < net.prefix_len() || *size > net.max_prefix_len() - 2 {
                return Err(format!("networks of /{size} cannot be cut from the address pool {net}"));
            }
        }
        let mut all = Self::standard(seed);
        if pools.iter().any(|(net, _)| net.addr().is_ipv4()) {
            all.pools.clear();
        }
        all.pools.extend(pools);
        Ok(all)
    }

    /// The first network of a family that meets none of those that are taken.
    pub fn choose(&self, is_ipv6: bool, taken: &[IpNet]) -> Option<IpNet> {
        let of_family = self.pools.iter().filter(|(net, _)| net.addr().is_ipv6() == is_ipv6);
        let found = of_family.map(|(net, size)| first_free(*net, *size, taken)).find_map(|free| free);
        match found {
            None if is_ipv6 => first_free(self.local6.into(), 64, taken),
            other => other,
        }
    }
}

fn local_prefix(seed: [u8; 5]) -> Ipv6Net {
    let [a, b, c, d, e] = seed;
    let bytes = [0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Ipv6Net::new_assert(Ipv6Addr::from(bytes), 48)
}

/// The first network of a size in a pool that meets no taken one.
fn first_free(pool: IpNet, size: u8, taken: &[IpNet]) -> Option<IpNet> {
    let bounds = |net: &IpNet| (number(net.network()), number(net.broadcast()));
    let mut obstacles: Vec<_> = taken.iter().filter(|t| meets(t, &pool)).map(bounds).collect();
    obstacles.sort_unstable();
    let (mut at, last) = bounds(&pool);
    let is_ipv6 = pool.addr().is_ipv6();
    for (first, end) in obstacles {
        let candidate = net(at, size, is_ipv6)?;
        if number(candidate.broadcast()) < first {
            return Some(candidate);
        }
        if end >= at {
            at = number(net(end, size, is_ipv6)?.broadcast()).checked_add(1)?;
        }
        if at > last {
            return None;
        }
    }
    net(at, size, is_ipv6)
}

/// Whether two networks have an address in common.
pub(crate) fn meets(a: &IpNet, b: &IpNet) -> bool {
    a.addr().is_ipv6() == b.addr().is_ipv6() && (a.contains(&b.network()) || b.contains(&a.network()))
}

fn net(number: u128, size: u8, is_ipv6: bool) -> Option<IpNet> {
    let ip: IpAddr = if is_ipv6 {
        Ipv6Addr::from(number).into()
    } else {
        Ipv4Addr::from(u32::try_from(number).ok()?).into()
    };
    IpNet::new(ip, size).ok().map(|n| n.trunc())
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    /// Whether a network is of a range that no one has in the internet: RFC 1918, 6598 or 4193.
    fn is_private(net: &IpNet) -> bool {
        let of = |text: &str| text.parse::<IpNet>().is_ok_and(|range| range.contains(net));
        match net {
            IpNet::V4(v4) => {
                let shared = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
                v4.addr().is_private() && (of("10.0.0.0/8") || of("172.16.0.0/12") || of("192.168.0.0/16"))
                    || shared.contains(v4)
            }
            IpNet::V6(_) => of("fc00::/7"),
        }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_networks_are_the_usual_ones_and_obstacles_are_jumped_over() {
        let pools = AddressPools::standard([1, 2, 3, 4, 5]);
        let check = |taken: &[&str], expected: &str| {
            let found = pools.choose(false, &nets(taken)).unwrap().to_string();
            assert_eq!(found, expected, "{taken:?}");
        };
        check(&[], "172.17.0.0/16");
        check(&["172.17.3.4/32"], "172.18.0.0/16");
        check(&["172.16.0.0/12"], "192.168.0.0/20");
        check(&["172.16.0.0/12", "192.168.1.0/24"], "192.168.16.0/20");
        check(&["172.16.0.0/12", "192.168.0.0/16"], "10.192.0.0/24");
        check(&["172.17.0.0/16", "172.18.0.0/15", "172.20.0.0/16"], "172.21.0.0/16");
        assert_eq!(pools.choose(false, &nets(&["0.0.0.0/0"])), None);
        assert_eq!(pools.choose(true, &[]).unwrap().to_string(), "fd01:203:405::/64");
        assert_eq!(
            pools.choose(true, &nets(&["fd01:203:405::/64"])).unwrap().to_string(),
            "fd01:203:405:1::/64"
        );
    }

    #[test]
    fn there_are_thousands_of_networks() {
        let pools = AddressPools::standard([0; 5]);
        let mut taken = Vec::new();
        for _ in 0..2000 {
            let next = pools.choose(false, &taken).unwrap();
            assert!(taken.iter().all(|t| !meets(t, &next)));
            taken.push(next);
        }
    }

    #[test]
    fn pools_of_ones_own_replace_those_of_their_family() {
        let own = AddressPools::new(vec![("10.5.0.0/16".parse().unwrap(), 24)], [9; 5]).unwrap();
        assert_eq!(own.choose(false, &[]).unwrap().to_string(), "10.5.0.0/24");
        assert_eq!(own.choose(false, &nets(&["10.5.0.0/16"])), None);
        assert!(own.choose(true, &[]).is_some());
        assert!(AddressPools::new(vec![("10.5.0.0/16".parse().unwrap(), 8)], [9; 5]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_chosen_meets_nothing(taken in prop::collection::vec((any::<u32>(), 4u8..=32), 0..40)) {
            let taken: Vec<IpNet> = taken
                .into_iter()
                .map(|(ip, len)| IpNet::new(Ipv4Addr::from(ip | 0x0a00_0000).into(), len).unwrap().trunc())
                .collect();
            if let Some(found) = AddressPools::standard([0; 5]).choose(false, &taken) {
                prop_assert!(taken.iter().all(|t| !meets(t, &found)));
                prop_assert!(is_private(&found));
            }
        }
    }
}
