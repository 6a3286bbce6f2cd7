//! `host-local`: which addresses a network may hand out.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::attachment::IpRange;
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
    pub(crate) resolv_conf: Option<std::path::PathBuf>,
    #[serde(default)]
    pub(crate) dns: Dns,
}

impl Conf {
    /// The range sets, the old single-range fields first.
    pub(crate) fn range_sets(&self) -> Vec<Vec<IpRange>> {
        let single = self.subnet.map(|subnet| {
            let (range_start, range_end, gateway) = (self.range_start, self.range_end, self.gateway);
            vec![IpRange { subnet, range_start, range_end, gateway }]
        });
        single.into_iter().chain(self.ranges.iter().cloned()).collect()
    }
}
