//! `host-local`: which addresses a network may hand out.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::attachment::IpRange;
use crate::ipam::RangeSet;
use crate::result::{Dns, Route};

/// Configuration of `host-local`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conf {
    #[serde(default)]
    subnet: Option<IpNet>,
    #[serde(default)]
    range_start: Option<IpAddr>,
    #[serde(default)]
    range_end: Option<IpAddr>,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    ranges: Vec<Vec<IpRange>>,
    #[serde(default)]
    pub(crate) routes: Vec<Route>,
    #[serde(default)]
    resolv_conf: Option<std::path::PathBuf>,
    /// Set for user networks: addresses that are never handed out; all others may be asked for.
    #[serde(default, rename = "berthReserved")]
    reserved: Option<Vec<IpAddr>>,
}

impl Conf {
    /// The checked range sets, those of the caller first.
    pub(crate) fn range_sets(&self, of_caller: &[Vec<IpRange>]) -> Result<Vec<RangeSet>, String> {
        let configured = self.configured();
        let make = |ranges: &Vec<IpRange>| {
            let set = RangeSet::new(ranges)?;
            Ok(match &self.reserved {
                Some(reserved) => set.for_user_network(reserved),
                None => set,
            })
        };
        let sets = of_caller.iter().chain(&configured).map(make).collect::<Result<Vec<_>, String>>()?;
        for (i, set) in sets.iter().enumerate() {
            if let Some(other) = sets[..i].iter().find(|other| set.overlaps(other)) {
                return Err(format!("range sets {} and {} overlap", other.describe(), set.describe()));
            }
        }
        Ok(sets)
    }

    /// DNS settings from the file that the configuration names; none if it cannot be read.
    pub(crate) fn dns(&self) -> Dns {
        let text = self.resolv_conf.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        parse_resolv_conf(&text.unwrap_or_default())
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        self.range_sets(&[]).map(|_| ())
    }

    /// The range sets as written, the old single-range fields first.
    fn configured(&self) -> Vec<Vec<IpRange>> {
        let single = self.subnet.map(|subnet| {
            let (range_start, range_end, gateway) = (self.range_start, self.range_end, self.gateway);
            vec![IpRange { subnet, range_start, range_end, gateway }]
        });
        single.into_iter().chain(self.ranges.iter().cloned()).collect()
    }
}

/// Reads the format of resolv.conf(5); of repeated `search` and `domain` lines the last one counts.
fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next();
        let values = words.map(str::to_owned);
        match keyword {
            Some("nameserver") => dns.nameservers.extend(values.take(1)),
            Some("search") => dns.search = values.collect(),
            Some("domain") => dns.domain = values.take(1).next(),
            Some("options") => dns.options.extend(values),
            Some(_) | None => {}
        }
    }
    dns
}
