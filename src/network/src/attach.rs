//! Attaching: check the request, write the intent, run the plugins in order, write the result; undo all on failure.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use serde::Deserialize;
use serde_json::Value;
use sys::netlink::Mac;

use crate::attachment::{Attachment, Detachment, PortMapping};
use crate::calls;
use crate::conflist::{Plugin, PluginType};
use crate::error::{ConfigError, Error};
use crate::exec::{Call, Verb};
use crate::host;
use crate::ipam::{Lease, RangeSet, Refused};
use crate::network::{Network, State};
use crate::plugins::bridge::{Conf, Ipam, Plan};
use crate::plugins::{Builtin, host_local, macvlan, portmap};
use crate::record::{Gate, Key, Published, Record, Stage};
use crate::result::{Attached, Dns, Interface, Ip};

/// A checked request: nothing in it can fail for being malformed any more.
struct Request<'a> {
    ports: Vec<PortMapping>,
    mac: Option<Mac>,
    addresses: Vec<IpAddr>,
    /// Range sets of the in-process allocator, if the network uses it.
    ranges: Option<Vec<RangeSet>>,
    attachment: &'a Attachment<'a>,
}

/// The running of the plugins of one attachment.
struct Chain<'a> {
    network: &'a Network,
    attachment: &'a Attachment<'a>,
    mac: Option<Mac>,
    netns_name: String,
    previous: Option<Value>,
}

impl Network {
    /// Attaches a namespace. On failure everything that was done is undone.
    pub fn attach(&self, attachment: &Attachment<'_>) -> Result<Attached, Error> {
        let request = self.validate(attachment)?;
        let key = Key(attachment.sandbox.clone(), attachment.ifname.to_owned());
        self.undo_unfinished(&key, attachment)?;
        let mut record = self.intend(&request)?;
        let mut chain = Chain {
            network: self,
            attachment,
            mac: request.mac,
            netns_name: netns_name(attachment),
            previous: None,
        };
        let outcome = chain.run(&mut record).and_then(|attached| self.complete(&record, attached));
        outcome.inspect_err(|_| self.roll_back(&record, attachment))
    }

    fn validate<'a>(&self, attachment: &'a Attachment<'a>) -> Result<Request<'a>, Error> {
        let name = attachment.ifname;
        if host::check_ifname(name).is_err() || name == "lo" {
            return Err(Error::InterfaceName { name: name.to_owned() });
        }
        for (key, value) in attachment.cni_args {
            if key.is_empty() || key.contains(['=', ';', '\0']) || value.contains([';', '\0']) {
                return Err(Error::Request { what: "CNI argument", text: format!("{key}={value}") });
            }
        }
        let mut request =
            Request { ports: Vec::new(), mac: None, addresses: Vec::new(), ranges: None, attachment };
        for mapping in attachment.ports.iter().filter(|m| m.host_port != 0) {
            let invalid = mapping.container_port == 0
                || mapping.host_ip.is_some_and(crate::attachment::is_unusable_target);
            if invalid {
                return Err(Error::Request { what: "port mapping", text: format!("{mapping:?}") });
            }
            if !request.ports.contains(mapping) {
                request.ports.push(mapping.clone());
            }
        }
        for plugin in attachment.conflist.plugins() {
            match self.builtin(plugin) {
                Some(Builtin::Bridge(conf)) => request.read_addressing(plugin, conf.ipam.as_ref())?,
                Some(Builtin::Macvlan(conf)) => request.read_addressing(plugin, conf.ipam.as_ref())?,
                Some(Builtin::Portmap(_) | Builtin::Firewall(_) | Builtin::Loopback) | None => {}
            }
        }
        Ok(request)
    }

    /// An earlier attempt that a crash or a failing plugin left behind is undone first.
    fn undo_unfinished(&self, key: &Key, attachment: &Attachment<'_>) -> Result<(), Error> {
        let stage = self.state().records.get(key).map(|r| r.stage);
        match stage {
            None => Ok(()),
            Some(Stage::Attached) => {
                Err(Error::AlreadyAttached { sandbox: key.0.clone(), ifname: key.1.clone() })
            }
            Some(Stage::Intent | Stage::Detaching) => self
                .detach(&Detachment {
                    sandbox: attachment.sandbox,
                    ifname: attachment.ifname,
                    netns: Some(attachment.netns),
                    netns_path: attachment.netns_path,
                    netns_survives: true,
                })
                .map_err(|mut errors| errors.swap_remove(0)),
        }
    }

    /// Takes addresses and ports and writes the intent: from here on a crash leaves a trace to clean up by.
    fn intend(&self, request: &Request<'_>) -> Result<Record, Error> {
        let attachment = request.attachment;
        let conflist = attachment.conflist;
        let mut record =
            Record::intent(attachment.sandbox, attachment.ifname, conflist.name(), conflist.text());
        record.netns_path = attachment.netns_path.map(std::path::Path::to_path_buf);
        record.ports = request.ports.clone();
        record.cni_args = attachment.cni_args.to_vec();
        record.capabilities = attachment.capabilities.clone();
        let is_ours = |p: &Plugin| {
            matches!(self.builtin(p), Some(Builtin::Portmap(_))) && p.has_capability("portMappings")
        };
        let publishes = conflist.plugins().iter().any(is_ours);
        record.holds_ports = conflist.plugins().iter().any(is_of_user_network) && !record.ports.is_empty();
        if record.holds_ports {
            self.check_held(&record)?;
        } else if publishes && let Some(mapping) = record.ports.iter().find(|m| host::is_port_bound(m)) {
            let owner = crate::error::HOST_PROCESS.to_owned();
            return Err(Error::HostPortTaken { mapping: mapping.clone(), owner });
        }
        if conflist.plugins().iter().any(|p| matches!(self.builtin(p), Some(Builtin::Bridge(_)))) {
            record.host_link = Some(self.new_link_name()?);
        }
        let mut state = self.state();
        let key = record.key();
        if state.records.contains_key(&key) {
            return Err(Error::AlreadyAttached { sandbox: key.0, ifname: key.1 });
        }
        if publishes {
            check_ports(&state, &record)?;
        }
        if let Some(ranges) = &request.ranges {
            record.leases = self.lease(&mut state, &record, ranges, &request.addresses)?;
        }
        if let Err(error) = self.store.save(&record) {
            release(&mut state, &record);
            return Err(error);
        }
        state.records.insert(key, record.clone());
        Ok(record)
    }

    fn lease(
        &self,
        state: &mut State,
        record: &Record,
        ranges: &[RangeSet],
        requested: &[IpAddr],
    ) -> Result<Vec<Lease>, Error> {
        let network = &record.network;
        let pool = state.pool(&self.store, network);
        let leases = pool.allocate(ranges, requested, &record.key().owner()).map_err(|refused| {
            let network = network.clone();
            match refused {
                Refused::Exhausted(pool) => Error::Exhausted { network, pool },
                Refused::Taken(address, owner) => Error::AddressTaken { network, address, owner },
                Refused::Outside(address) => Error::AddressOutside { network, address },
            }
        })?;
        let cursors: Vec<_> = pool.cursors().collect();
        if let Err(error) = self.store.save_cursors(network, &cursors) {
            // Only the order of reuse after a restart depends on it.
            tracing::warn!(network, %error, "cannot save where address allocation stopped");
        }
        Ok(leases)
    }

    fn new_link_name(&self) -> Result<String, Error> {
        let random = sys::fs::random_bytes::<4>().map_err(Error::kernel("make name of", "veth"))?;
        Ok(format!("{}{:08x}", self.link_prefix, u32::from_ne_bytes(random)))
    }

    /// Puts the rules in place and writes the result.
    fn complete(&self, record: &Record, attached: Attached) -> Result<Attached, Error> {
        self.state().records.insert(record.key(), record.clone());
        self.tables.add(record, || self.records())?;
        allow_loopback(record)?;
        portmap::forget_flows_before(&record.rules)?;
        let mut done = record.clone();
        done.stage = Stage::Attached;
        self.store.save(&done)?;
        self.state().records.insert(done.key(), done);
        Ok(attached)
    }

    fn roll_back(&self, record: &Record, attachment: &Attachment<'_>) {
        self.state().records.insert(record.key(), record.clone());
        let undone = self.detach(&Detachment {
            sandbox: attachment.sandbox,
            ifname: attachment.ifname,
            netns: Some(attachment.netns),
            netns_path: attachment.netns_path,
            netns_survives: true,
        });
        for error in undone.err().into_iter().flatten() {
            tracing::warn!(sandbox = %attachment.sandbox, error = &error as &dyn std::error::Error, "cannot undo attachment");
        }
    }
}

fn is_of_user_network(plugin: &Plugin) -> bool {
    match &plugin.builtin {
        Some(Builtin::Bridge(conf)) => conf.user.is_some(),
        Some(Builtin::Macvlan(_)) => true,
        Some(Builtin::Portmap(_) | Builtin::Firewall(_) | Builtin::Loopback) | None => false,
    }
}

/// Gives back the leases of a record.
pub(crate) fn release(state: &mut State, record: &Record) {
    if let Some(pool) = state.pools.get_mut(&record.network) {
        let owner = record.key().owner();
        record.leases.iter().for_each(|lease| pool.release(lease.address.addr(), &owner));
    }
}

fn check_ports(state: &State, record: &Record) -> Result<(), Error> {
    for (index, mapping) in record.ports.iter().enumerate() {
        let taken = |owner: String| Err(Error::HostPortTaken { mapping: mapping.clone(), owner });
        if record.ports[..index].iter().any(|other| other.conflicts_with(mapping)) {
            return taken("another mapping of the same request".to_owned());
        }
        let holds = |other: &&Record| other.ports.iter().any(|p| p.conflicts_with(mapping));
        if let Some(other) = state.records.values().find(holds) {
            return taken(format!("sandbox {}", other.sandbox));
        }
    }
    Ok(())
}

/// How the namespace is called in results: a path that stays, or one that holds while plugins run.
fn netns_name(attachment: &Attachment<'_>) -> String {
    let path = attachment.netns_path.map(|p| p.to_string_lossy().into_owned());
    path.unwrap_or_else(|| path_of(attachment.netns))
}

pub(crate) fn path_of(netns: BorrowedFd<'_>) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd())
}

impl Request<'_> {
    fn read_addressing(&mut self, plugin: &Plugin, ipam: Option<&Ipam>) -> Result<(), Error> {
        let given = self.attachment.capabilities;
        let from_conf = plugin.conf().get("args").and_then(|a| a.get("cni"));
        let mac_arg = from_conf.and_then(|a| a.get("mac")).and_then(Value::as_str);
        let mac = given
            .mac
            .as_deref()
            .filter(|_| plugin.has_capability("mac"))
            .or(self.argument("MAC"))
            .or(mac_arg);
        if let Some(text) = mac.filter(|m| !m.is_empty()) {
            let invalid = |()| Error::Request { what: "hardware address", text: text.to_owned() };
            self.mac = Some(text.parse().map_err(invalid)?);
        }
        let Some(Ipam::HostLocal(ipam)) = ipam else { return Ok(()) };
        let mut addresses: Vec<String> = Vec::new();
        if plugin.has_capability("ips") {
            addresses.extend(given.ips.iter().cloned());
        }
        addresses.extend(self.argument("IP").map(str::to_owned));
        let listed = from_conf.and_then(|a| a.get("ips")).and_then(Value::as_array);
        addresses.extend(listed.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
        for text in addresses {
            let plain = text.split('/').next().unwrap_or_default();
            let ip = plain.parse().map_err(|_| Error::Request { what: "address", text: text.clone() })?;
            self.addresses.push(ip);
        }
        let ranges: &[_] = if plugin.has_capability("ipRanges") { &given.ip_ranges } else { &[] };
        let invalid = |problem| Error::Request { what: "address ranges", text: problem };
        self.ranges = Some(ipam.range_sets(ranges).map_err(invalid)?);
        Ok(())
    }

    fn argument(&self, name: &str) -> Option<&str> {
        self.attachment.cni_args.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Chain<'_> {
    fn run(&mut self, record: &mut Record) -> Result<Attached, Error> {
        let mut ours = false;
        // The bridge of ours sets loopback up in the message that sets up the rest; with the programs of
        // others nobody else does.
        let plugins = self.attachment.conflist.plugins();
        if !plugins.iter().any(|plugin| matches!(self.network.builtin(plugin), Some(Builtin::Bridge(_)))) {
            Network::loopback_up(self.attachment.netns)?;
        }
        for plugin in plugins {
            match self.network.builtin(plugin) {
                Some(Builtin::Bridge(conf)) => {
                    ours = true;
                    self.bridge(record, plugin, conf)?;
                }
                Some(Builtin::Portmap(conf)) => {
                    ours = true;
                    self.portmap(record, plugin, conf)?;
                }
                Some(Builtin::Macvlan(conf)) => self.macvlan(record, plugin, conf)?,
                Some(Builtin::Firewall(conf)) => record.rules.policy = conf.ingress_policy,
                Some(Builtin::Loopback) => Network::loopback_up(self.attachment.netns)?,
                None => {
                    let answer = self.execute(record, plugin, plugin.kind())?;
                    self.previous = answer.or(self.previous.take());
                }
            }
        }
        let attached = self.typed()?;
        if ours {
            record.rules.addresses = attached.ips.iter().map(|ip| ip.address.addr()).collect();
        }
        let version = self.attachment.conflist.version();
        let previous = self.previous.take();
        record.result = Some(previous.unwrap_or_else(|| Attached::default().to_value(version)));
        Ok(attached)
    }

    fn typed(&self) -> Result<Attached, Error> {
        let Some(previous) = &self.previous else { return Ok(Attached::default()) };
        Attached::from_value(previous).map_err(|e| {
            let problem = format!("unreadable result of a plugin: {e}");
            Error::Config(ConfigError { path: None, line: None, problem })
        })
    }

    fn execute(
        &self,
        record: &Record,
        plugin: &Plugin,
        program: &PluginType,
    ) -> Result<Option<Value>, Error> {
        let conflist = self.attachment.conflist;
        let config = calls::config(conflist, plugin, record, self.previous.as_ref());
        let environment = calls::environment(record, &self.netns_name);
        let call = Call {
            plugin: program,
            verb: Verb::Add,
            network: conflist.name(),
            config: &config,
            environment: &environment,
        };
        Ok(self.network.executor.run(&call)?)
    }

    fn bridge(&mut self, record: &mut Record, plugin: &Plugin, conf: &Conf) -> Result<(), Error> {
        let addressing = self.addressing(record, plugin, conf.ipam.as_ref())?;
        let host_link = record.host_link.clone().unwrap_or_default();
        let mut plan = Plan {
            conf,
            host_link: &host_link,
            ifname: self.attachment.ifname,
            mac: self.mac,
            ips: addressing.ips,
            routes: addressing.routes,
            netns_name: self.netns_name.clone(),
        };
        plan.complete();
        let mut attached = plan.apply(&self.network.bridges, self.attachment.netns)?;
        attached.dns = addressing.dns;
        record.rules.masquerade = conf.ip_masq;
        record.rules.user.clone_from(&conf.user);
        record.rules.links = vec![conf.bridge.clone()];
        if conf.macspoofchk {
            let mac = attached.interfaces.last().and_then(|i| i.mac.parse::<Mac>().ok());
            record.rules.bound_mac = mac.map(|mac| (host_link, mac.0));
        }
        self.previous = Some(attached.to_value(self.attachment.conflist.version()));
        Ok(())
    }

    fn macvlan(&mut self, record: &Record, plugin: &Plugin, conf: &macvlan::Conf) -> Result<(), Error> {
        let addressing = self.addressing(record, plugin, conf.ipam.as_ref())?;
        let plan = macvlan::Plan {
            conf,
            ifname: self.attachment.ifname,
            mac: self.mac,
            ips: addressing.ips,
            netns_name: self.netns_name.clone(),
        };
        let attached = plan.apply(self.attachment.netns)?;
        self.previous = Some(attached.to_value(self.attachment.conflist.version()));
        Ok(())
    }

    /// Addresses, routes and DNS from the network's address management.
    fn addressing(&self, record: &Record, plugin: &Plugin, ipam: Option<&Ipam>) -> Result<Attached, Error> {
        let mut attached = match ipam {
            None | Some(Ipam::None) => Attached::default(),
            Some(Ipam::HostLocal(ipam)) => local_addressing(record, ipam),
            Some(Ipam::Foreign(kind)) => {
                let program =
                    PluginType::parse(kind).map_err(|text| Error::Request { what: "ipam", text })?;
                let answer = self.execute(record, plugin, &program)?.unwrap_or_default();
                Attached::from_value(&answer)
                    .map_err(|e| Error::Request { what: "result of ipam plugin", text: e.to_string() })?
            }
        };
        if attached.dns.is_empty() {
            let configured = plugin.conf().get("dns").and_then(|d| Dns::deserialize(d).ok());
            attached.dns = configured.unwrap_or_default();
        }
        Ok(attached)
    }

    fn portmap(&mut self, record: &mut Record, plugin: &Plugin, conf: &portmap::Conf) -> Result<(), Error> {
        if record.ports.is_empty() || !plugin.has_capability("portMappings") {
            return Ok(());
        }
        let attached = self.typed()?;
        publish_at(record, &attached);
        record.rules.hairpin = conf.snat;
        if record.rules.links.is_empty() {
            let on_host = |i: &&Interface| i.sandbox.as_deref().unwrap_or_default().is_empty();
            let names = attached.interfaces.iter().filter(on_host).map(|i| i.name.clone());
            record.rules.links = names.filter(|n| host::check_ifname(n).is_ok()).collect();
        }
        Ok(())
    }
}

/// Lets the host reach published ports at its loopback addresses. The rules must be in place: they drop what this would
/// otherwise let through.
pub(crate) fn allow_loopback(record: &Record) -> Result<(), Error> {
    if record.rules.published.iter().any(|p| p.target.is_ipv4()) {
        for link in &record.rules.links {
            host::sysctl(&format!("ipv4/conf/{link}/route_localnet"), "1")?;
        }
    }
    Ok(())
}

/// Publishes the ports of the record of an attachment to a user network anew.
pub(crate) fn publish(record: &mut Record) {
    let attached = record.result.as_ref().and_then(|r| Attached::from_value(r).ok()).unwrap_or_default();
    publish_at(record, &attached);
    record.rules.hairpin = true;
}

fn publish_at(record: &mut Record, attached: &Attached) {
    record.rules.published = published(&record.ports, attached);
    if let Some(user) = &record.rules.user {
        let is_translated = |p: &Published| user.gate(p.target.is_ipv6()) != Gate::Routed;
        record.rules.published.retain(is_translated);
        record.rules.open = record.ports.iter().map(|p| (p.protocol, p.container_port)).collect();
        record.rules.open.dedup();
    }
}

/// Every port with the first address of each family that it serves.
fn published(ports: &[PortMapping], attached: &Attached) -> Vec<Published> {
    let mut all = Vec::new();
    for is_v6 in [false, true] {
        let target = attached.ips.iter().map(|ip| ip.address.addr()).find(|ip| ip.is_ipv6() == is_v6);
        let served = ports.iter().filter(|p| p.serves(is_v6));
        all.extend(target.into_iter().flat_map(|target| {
            served.clone().map(move |mapping| Published { mapping: mapping.clone(), target })
        }));
    }
    all
}

fn local_addressing(record: &Record, ipam: &host_local::Conf) -> Attached {
    let ip = |lease: &Lease| Ip { address: lease.address, gateway: lease.gateway, interface: None };
    Attached {
        ips: record.leases.iter().map(ip).collect(),
        routes: ipam.routes.clone(),
        dns: ipam.dns(),
        ..Attached::default()
    }
}
