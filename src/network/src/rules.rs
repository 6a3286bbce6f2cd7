//! The nftables tables: what they hold is a function of the attachment records.
//!
//! ```text
//!   prerouting, output ── to an address of this host? ──► published: port maps ──► destination NAT
//!   forward            ── ingress policies of bridges
//!   postrouting        ── published traffic that would miss its way back, and traffic to elsewhere ──► masquerade
//! ```
//!
//! Rules never change. Per sandbox there are only elements of sets and maps. A published port is bound to its host address
//! and is translated only when that address is the host's own (`fib daddr type local`), so that traffic merely passing
//! through is never caught. `route_localnet` on a bridge would expose services on 127.0.0.1 to sandboxes; the first chain
//! takes that back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError, RwLock};

use sys::nft::{Batch, Connection, Element, Family};

use crate::error::Error;
use crate::record::{self, Record, Stage};

mod layout;

use layout::SETS;

/// Elements by set.
pub(crate) type Elements = BTreeMap<&'static str, BTreeSet<Element>>;

/// The tables of one daemon.
#[derive(Debug)]
pub(crate) struct Tables {
    name: String,
    /// Rebuilding excludes single changes, which may run side by side.
    gate: RwLock<()>,
    /// Elements that belong to links, not to a sandbox; they stay until the next start.
    of_links: Mutex<Elements>,
    /// Kept open, because closing a socket waits for deletions to be freed.
    connection: Mutex<Option<Connection>>,
}

impl Tables {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            gate: RwLock::new(()),
            of_links: Mutex::default(),
            connection: Mutex::default(),
        }
    }

    /// Adds what a record needs. If the table was flushed or holds something else, it is rebuilt.
    pub(crate) fn add(&self, record: &Record, all: impl Fn() -> Vec<Record>) -> Result<(), Error> {
        let elements = elements_of(record);
        if elements.is_empty() {
            return Ok(());
        }
        let failed = {
            let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            self.remember_links(&elements);
            let mut batch = Batch::new();
            for (set, elements) in &elements {
                let elements: Vec<_> = elements.iter().cloned().collect();
                batch.add_elements(layout::family_of(set), &self.name, set, &elements);
            }
            self.with(|connection| Ok(connection.commit(&batch).is_err()))?
        };
        if failed { self.rebuild(&all) } else { Ok(()) }
    }

    /// Removes what only this record needs.
    pub(crate) fn remove(&self, rules: &record::Rules, owner: &str) -> Result<(), Error> {
        let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let mut batch = Batch::new();
        for (set, elements) in &elements_for(rules, owner) {
            if !layout::belongs_to_links(set) {
                let elements: Vec<_> = elements.iter().cloned().collect();
                batch.delete_elements(layout::family_of(set), &self.name, set, &elements);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.with(|connection| connection.commit_deletions(batch).map_err(|e| self.failed(e)))
    }

    /// Removes what belongs to a link of the host that is gone, or is another network's from now on.
    pub(crate) fn remove_link(&self, link: &str) -> Result<(), Error> {
        let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let name = name_bytes(link);
        let mut batch = Batch::new();
        let mut kept = self.of_links.lock().unwrap_or_else(PoisonError::into_inner);
        for (set, elements) in kept.iter_mut() {
            let gone: Vec<_> = elements.iter().filter(|e| e.key.ends_with(&name)).cloned().collect();
            elements.retain(|e| !e.key.ends_with(&name));
            batch.delete_elements(layout::family_of(set), &self.name, set, &gone);
        }
        drop(kept);
        if batch.is_empty() {
            return Ok(());
        }
        self.with(|connection| connection.commit_deletions(batch).map_err(|e| self.failed(e)))
    }

    /// Makes the tables anew, in one transaction.
    pub(crate) fn rebuild(&self, all: &impl Fn() -> Vec<Record>) -> Result<(), Error> {
        let _exclusive = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let wanted = self.wanted(&all());
        self.with(|connection| self.write(connection, &wanted))
    }

    /// Rebuilds the tables if they are not as they should be; whether that was so.
    pub(crate) fn repair(&self, all: &impl Fn() -> Vec<Record>) -> Result<bool, Error> {
        let _exclusive = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let wanted = self.wanted(&all());
        self.with(|connection| {
            let intact = self.is_intact(connection, &wanted);
            if intact.map_err(Error::kernel("read nftables table", &*self.name))? {
                return Ok(false);
            }
            self.write(connection, &wanted)?;
            Ok(true)
        })
    }

    /// Elements of a record that are not in the tables.
    pub(crate) fn missing(&self, record: &Record) -> Result<usize, Error> {
        let mut missing = 0;
        for (set, wanted) in elements_of(record) {
            let found = self.with(|connection| {
                let found = connection.elements(layout::family_of(set), &self.name, set);
                found.map_err(Error::kernel("read nftables set", set))
            })?;
            let found = found.unwrap_or_default();
            missing +=
                wanted.iter().filter(|w| !found.iter().any(|f| f.key == w.key && f.data == w.data)).count();
        }
        Ok(missing)
    }

    /// Works with the connection, which is opened when it is first needed and after an error.
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, Error>) -> Result<T, Error> {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => {
                Connection::open().map_err(Error::kernel("open nftables socket for table", &*self.name))?
            }
        };
        let answer = work(&mut connection)?;
        *slot = Some(connection);
        Ok(answer)
    }

    fn failed(&self, error: sys::nft::Error) -> Error {
        Error::Kernel {
            operation: "change nftables table",
            object: format!("{}: {error}", self.name),
            source: error.source,
        }
    }

    fn remember_links(&self, elements: &Elements) {
        let mut kept = self.of_links.lock().unwrap_or_else(PoisonError::into_inner);
        for (set, elements) in elements.iter().filter(|(set, _)| layout::belongs_to_links(set)) {
            kept.entry(set).or_default().extend(elements.iter().cloned());
        }
    }

    fn wanted(&self, records: &[Record]) -> Elements {
        let mut wanted = self.of_links.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for record in records {
            for (set, elements) in elements_of(record) {
                wanted.entry(set).or_default().extend(elements);
            }
        }
        self.remember_links(&wanted);
        wanted
    }

    fn write(&self, connection: &mut Connection, wanted: &Elements) -> Result<(), Error> {
        let mut batch = Batch::new();
        layout::inet(&mut batch, &self.name);
        let needs_bridge = wanted.keys().any(|set| layout::family_of(set) == Family::Bridge);
        let has_bridge = connection.has_table(Family::Bridge, &self.name).unwrap_or(false);
        if needs_bridge {
            layout::bridge(&mut batch, &self.name);
        } else if has_bridge {
            batch.delete_table(Family::Bridge, &self.name);
        }
        for (set, elements) in wanted {
            let elements: Vec<_> = elements.iter().cloned().collect();
            batch.add_elements(layout::family_of(set), &self.name, set, &elements);
        }
        connection.commit(&batch).map_err(|e| self.failed(e))
    }

    fn is_intact(&self, connection: &mut Connection, wanted: &Elements) -> std::io::Result<bool> {
        if connection.rules(Family::Inet, &self.name)? != layout::expected_rules() {
            return Ok(false);
        }
        for set in SETS {
            let expected = wanted.get(set.name);
            if set.family == Family::Bridge && expected.is_none() {
                continue;
            }
            let Some(found) = connection.elements(set.family, &self.name, set.name)? else {
                return Ok(false);
            };
            let found: BTreeSet<_> = found.into_iter().map(|e| (e.key, e.data)).collect();
            let expected: BTreeSet<_> =
                expected.into_iter().flatten().map(|e| (e.key.clone(), e.data.clone())).collect();
            if found != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The elements that a record calls for.
pub(crate) fn elements_of(record: &Record) -> Elements {
    match record.stage {
        Stage::Intent | Stage::Attached => elements_for(&record.rules, &record.key().owner()),
        Stage::Detaching => Elements::new(),
    }
}

fn elements_for(rules: &record::Rules, owner: &str) -> Elements {
    let mut elements = Elements::new();
    let mut add = |set: &'static str, key: Vec<u8>, data: Option<Vec<u8>>, comment: &str| {
        elements.entry(set).or_default().insert(Element { key, data, comment: comment.to_owned() });
    };
    for ip in &rules.addresses {
        add(by_family(*ip, "pods4", "pods6"), address_bytes(*ip), None, owner);
        let masquerades = rules.user.as_ref().is_none_or(|user| user.masquerades(ip.is_ipv6()));
        if rules.masquerade && masquerades {
            add(by_family(*ip, "masquerade4", "masquerade6"), address_bytes(*ip), None, owner);
        }
    }
    for link in &rules.links {
        add("links", name_bytes(link), None, "");
        match rules.policy {
            record::IngressPolicy::Open => {}
            record::IngressPolicy::SameBridge => {
                add("same_bridge", name_bytes(link), None, "");
                add("same_pairs", [name_bytes(link), name_bytes(link)].concat(), None, "");
            }
            record::IngressPolicy::Isolated => add("isolated", name_bytes(link), None, ""),
        }
    }
    if let Some(user) = &rules.user {
        add_user_link(&mut add, rules, user, owner);
    }
    for published in &rules.published {
        let (mapping, target) = (&published.mapping, published.target);
        let protocol = vec![mapping.protocol.number(), 0, 0, 0];
        let data = [address_bytes(target), port_bytes(mapping.container_port)].concat();
        let host_port = port_bytes(mapping.host_port);
        match mapping.bound_to() {
            Some(ip) => {
                let key = [protocol.clone(), address_bytes(ip), host_port.clone()].concat();
                add(by_family(target, "publish4", "publish6"), key, Some(data.clone()), owner);
            }
            None => {
                let key = [protocol.clone(), host_port.clone()].concat();
                add(by_family(target, "publish_any4", "publish_any6"), key, Some(data.clone()), owner);
            }
        }
        if rules.hairpin {
            let key = [protocol, host_port, data].concat();
            add(by_family(target, "forwarded4", "forwarded6"), key, None, owner);
        }
    }
    if let Some((link, mac)) = &rules.bound_mac {
        add("checked_links", name_bytes(link), None, owner);
        let mac: Vec<u8> = mac.iter().copied().chain([0, 0]).collect();
        add("allowed_macs", [name_bytes(link), mac].concat(), None, owner);
    }
    elements
}

/// What holds on the bridges of user networks.
fn add_user_link(
    add: &mut impl FnMut(&'static str, Vec<u8>, Option<Vec<u8>>, &str),
    rules: &record::Rules,
    user: &record::UserLink,
    owner: &str,
) {
    for link in &rules.links {
        add("checked_sources", name_bytes(link), None, "");
        if user.internal {
            add("internal", name_bytes(link), None, "");
        }
        for (is_ipv6, guarded, routed) in [(false, "guarded4", "routed4"), (true, "guarded6", "routed6")] {
            match user.gate(is_ipv6) {
                record::Gate::NatUnprotected => {}
                record::Gate::Routed => {
                    add(guarded, name_bytes(link), None, "");
                    add(routed, name_bytes(link), None, "");
                }
                record::Gate::Nat | record::Gate::Isolated => add(guarded, name_bytes(link), None, ""),
            }
        }
        for trusted in &user.trusted {
            add("trusted_pairs", [name_bytes(trusted), name_bytes(link)].concat(), None, "");
        }
    }
    for ip in rules.addresses.iter().filter(|ip| user.gate(ip.is_ipv6()) == record::Gate::Routed) {
        for (protocol, port) in &rules.open {
            let protocol = vec![protocol.number(), 0, 0, 0];
            let key = [protocol, address_bytes(*ip), port_bytes(*port)].concat();
            add(by_family(*ip, "open4", "open6"), key, None, owner);
        }
    }
}

fn by_family(ip: IpAddr, v4: &'static str, v6: &'static str) -> &'static str {
    if ip.is_ipv6() { v6 } else { v4 }
}

fn address_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn port_bytes(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![high, low, 0, 0]
}

fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
