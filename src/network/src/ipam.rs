//! Address pools. Pure: which address is next, given what is leased.
//!
//! Addresses are handed out round robin, so that one that was just given back is the last to be used again. A pool is
//! rebuilt from the attachment records; the only thing it remembers besides is where it stopped.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attachment::IpRange;

/// Addresses between two bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    subnet: IpNet,
    start: u128,
    end: u128,
    gateway: Option<IpAddr>,
    /// Bounds of the addresses that may be asked for.
    statics: (u128, u128),
    /// Addresses that are never handed out.
    reserved: Vec<IpAddr>,
}

/// Ranges that together give one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<Range>);

/// An address that was handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// The address, with the prefix length of its network.
    pub(crate) address: IpNet,
    /// The gateway of its range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// All are leased.
    Exhausted(String),
    /// The requested one is leased, or is the gateway.
    Taken(IpAddr, String),
    /// The requested one is in none of the ranges.
    Outside(IpAddr),
}

/// The leases of one network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool {
    leased: BTreeMap<IpAddr, String>,
    last: HashMap<usize, IpAddr>,
}

impl Range {
    /// Checks a configured range and fills in the defaults.
    pub(crate) fn new(conf: &IpRange) -> Result<Self, String> {
        let subnet = conf.subnet;
        if subnet.addr() != subnet.network() {
            return Err(format!("subnet {subnet} has host bits set; it should be {}", subnet.trunc()));
        }
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(format!("subnet {subnet} is too small to hand out addresses"));
        }
        let first = number(subnet.network()) + 1;
        let last = number(subnet.broadcast()) - u128::from(subnet.addr().is_ipv4());
        let within = |what: &str, ip: Option<IpAddr>, default: u128| match ip {
            None => Ok(default),
            Some(ip) if subnet.contains(&ip) && (first..=last).contains(&number(ip)) => Ok(number(ip)),
            Some(ip) => Err(format!("{what} {ip} is not a host address of subnet {subnet}")),
        };
        let start = within("rangeStart", conf.range_start, first)?;
        let end = within("rangeEnd", conf.range_end, last)?;
        if start > end {
            return Err(format!("rangeStart is after rangeEnd in subnet {subnet}"));
        }
        let gateway = conf.gateway.unwrap_or_else(|| address(first, subnet.addr().is_ipv4()));
        if gateway.is_ipv4() != subnet.addr().is_ipv4() {
            return Err(format!("gateway {gateway} is of another family than subnet {subnet}"));
        }
        let statics = (start, end);
        Ok(Self { subnet, start, end, gateway: Some(gateway), statics, reserved: Vec::new() })
    }

    fn is_ipv4(&self) -> bool {
        self.subnet.addr().is_ipv4()
    }

    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4() && (self.statics.0..=self.statics.1).contains(&number(ip))
    }

    fn lease(&self, ip: IpAddr) -> Option<Lease> {
        let address = IpNet::new(ip, self.subnet.prefix_len()).ok()?;
        Some(Lease { address, gateway: self.gateway })
    }
}

impl RangeSet {
    /// Checks the ranges of a set: one family, no overlaps.
    pub(crate) fn new(conf: &[IpRange]) -> Result<Self, String> {
        let ranges = conf.iter().map(Range::new).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = ranges.first() else { return Err("an empty range set".to_owned()) };
        if ranges.iter().any(|r| r.is_ipv4() != first.is_ipv4()) {
            return Err("a range set mixes IPv4 and IPv6; write one set for each".to_owned());
        }
        for (i, a) in ranges.iter().enumerate() {
            if let Some(b) = ranges[..i].iter().find(|b| a.start <= b.end && b.start <= a.end) {
                return Err(format!("ranges in {} and {} overlap", b.subnet, a.subnet));
            }
        }
        Ok(Self(ranges))
    }

    /// Lets every host address of its networks be asked for, whatever is handed out without being asked for, and
    /// keeps some addresses back from both.
    #[must_use]
    pub(crate) fn for_user_network(mut self, reserved: &[IpAddr]) -> Self {
        for range in &mut self.0 {
            let subnet = range.subnet;
            let last = number(subnet.broadcast()) - u128::from(range.is_ipv4());
            range.statics = (number(subnet.network()) + 1, last);
            range.reserved = reserved.to_vec();
        }
        self
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|r| r.contains(ip))
    }

    /// Whether both hold a common address.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let meets = |a: &Range, b: &Range| a.is_ipv4() == b.is_ipv4() && a.start <= b.end && b.start <= a.end;
        self.0.iter().any(|a| other.0.iter().any(|b| meets(a, b)))
    }

    /// Networks of the set, for people.
    pub(crate) fn describe(&self) -> String {
        let part = |r: &Range| {
            let (v4, subnet) = (r.is_ipv4(), r.subnet);
            format!("{}-{} of {subnet}", address(r.start, v4), address(r.end, v4))
        };
        self.0.iter().map(part).collect::<Vec<_>>().join(", ")
    }

    fn is_gateway(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|r| r.gateway == Some(ip) || r.reserved.contains(&ip))
    }
}

impl Pool {
    /// Takes over a lease that is on record. The first owner keeps it.
    pub(crate) fn adopt(&mut self, ip: IpAddr, owner: &str) {
        self.leased.entry(ip).or_insert_with(|| owner.to_owned());
    }

    /// Says where allocation from a range set stopped in an earlier life.
    pub(crate) fn resume_after(&mut self, set: usize, ip: IpAddr) {
        self.last.insert(set, ip);
    }

    /// Where allocation from each range set stopped.
    pub(crate) fn cursors(&self) -> impl Iterator<Item = (usize, IpAddr)> + '_ {
        self.last.iter().map(|(set, ip)| (*set, *ip))
    }

    /// One address of every set: the requested one where a request falls into the set. All or nothing.
    pub(crate) fn allocate(
        &mut self,
        sets: &[RangeSet],
        requested: &[IpAddr],
        owner: &str,
    ) -> Result<Vec<Lease>, Refused> {
        if let Some(ip) = requested.iter().find(|ip| !sets.iter().any(|s| s.contains(**ip))) {
            return Err(Refused::Outside(*ip));
        }
        let mut leases = Vec::with_capacity(sets.len());
        let mut cursors = Vec::new();
        for (index, set) in sets.iter().enumerate() {
            let lease = match requested.iter().find(|ip| set.contains(**ip)) {
                Some(ip) => self.take(set, *ip)?,
                None => {
                    let lease = self.next(index, set).ok_or_else(|| Refused::Exhausted(set.describe()))?;
                    cursors.push((index, lease.address.addr()));
                    lease
                }
            };
            leases.push(lease);
        }
        for lease in &leases {
            self.leased.insert(lease.address.addr(), owner.to_owned());
        }
        self.last.extend(cursors);
        Ok(leases)
    }

    /// Gives an address back, if it is this owner's.
    pub(crate) fn release(&mut self, ip: IpAddr, owner: &str) {
        if self.leased.get(&ip).is_some_and(|o| o == owner) {
            self.leased.remove(&ip);
        }
    }

    fn take(&self, set: &RangeSet, ip: IpAddr) -> Result<Lease, Refused> {
        if let Some(owner) = self.leased.get(&ip) {
            return Err(Refused::Taken(ip, owner.clone()));
        }
        if set.is_gateway(ip) {
            let is_reserved = set.0.iter().any(|r| r.reserved.contains(&ip));
            let owner = if is_reserved { "a host outside" } else { "the gateway" };
            return Err(Refused::Taken(ip, owner.to_owned()));
        }
        let lease = set.0.iter().find(|r| r.contains(ip)).and_then(|r| r.lease(ip));
        lease.ok_or(Refused::Outside(ip))
    }

    /// The first free address after the last one handed out, once around.
    fn next(&self, index: usize, set: &RangeSet) -> Option<Lease> {
        let last = self.last.get(&index).copied();
        let begin = last.and_then(|ip| set.0.iter().position(|r| r.contains(ip)).map(|at| (at, number(ip))));
        let (first, after) = begin.map_or((0, None), |(at, n)| (at, Some(n)));
        let rotated = set.0[first..].iter().chain(&set.0[..first]);
        for (turn, range) in rotated.enumerate() {
            let start = if turn == 0 { after.map_or(range.start, |n| n + 1) } else { range.start };
            if let Some(lease) = self.free_between(set, range, start, range.end) {
                return Some(lease);
            }
        }
        // The beginning of the range in which the search began.
        let range = set.0.get(first)?;
        self.free_between(set, range, range.start, after?)
    }

    fn free_between(&self, set: &RangeSet, range: &Range, start: u128, end: u128) -> Option<Lease> {
        let mut candidate = start;
        while candidate <= end {
            let ip = address(candidate, range.is_ipv4());
            if !set.is_gateway(ip) && !self.leased.contains_key(&ip) {
                return range.lease(ip);
            }
            candidate += 1;
        }
        None
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(number: u128, is_ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(n) if is_ipv4 => Ipv4Addr::from(n).into(),
        Ok(_) | Err(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests;
