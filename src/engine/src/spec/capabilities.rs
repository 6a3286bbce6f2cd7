//! Capability sets.

use std::collections::{BTreeSet, HashSet};

use oci::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::{HostFacts, bug};
use crate::error::{Error, Result};
use crate::model::Security;

/// The set a container gets, as `CAP_…`: the default one, with what is added and without what is dropped;
/// everything the daemon holds when privileged. `ALL` is the daemon's set, too: nobody can give more.
pub(crate) fn effective(
    security: &Security,
    defaults: &[String],
    host: &HostFacts,
) -> Result<BTreeSet<String>> {
    if security.privileged {
        return Ok(host.capabilities.iter().cloned().collect());
    }
    let asked = &security.capabilities;
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set: BTreeSet<String> = defaults.iter().map(|name| full_name(name)).collect();
    if asked.add.iter().any(is_all) {
        set.extend(host.capabilities.iter().cloned());
    }
    if asked.drop.iter().any(is_all) {
        set.clear();
    }
    for name in asked.add.iter().chain(&asked.ambient).filter(|n| !is_all(n)) {
        let name = full_name(name);
        parse(&name)?;
        set.insert(name);
    }
    for name in asked.drop.iter().filter(|n| !is_all(n)) {
        set.remove(&full_name(name));
    }
    Ok(set)
}

/// Bounding, permitted and effective are the set. Inheritable stays empty but for ambient capabilities: a
/// non-empty one lets programs with file capabilities gain more than was meant.
pub(super) fn sets(security: &Security, defaults: &[String], host: &HostFacts) -> Result<LinuxCapabilities> {
    let set = typed(effective(security, defaults, host)?.iter())?;
    let mut ambient: HashSet<Capability> = HashSet::new();
    for name in &security.capabilities.ambient {
        if name.eq_ignore_ascii_case("ALL") {
            ambient.extend(set.iter().copied());
        } else {
            ambient.insert(parse(&full_name(name))?);
        }
    }
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .permitted(set.clone())
        .effective(set)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .map_err(bug)
}

fn typed<'a>(names: impl Iterator<Item = &'a String>) -> Result<HashSet<Capability>> {
    names.map(|name| parse(name)).collect()
}

fn full_name(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

fn parse(name: &str) -> Result<Capability> {
    let short = name.strip_prefix("CAP_").unwrap_or(name);
    short.parse().map_err(|_| Error::invalid(format!("unknown capability {name:?}")))
}
