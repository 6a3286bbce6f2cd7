//! Detaching, checking and garbage collection: from the record alone, whatever else is left.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::path::Path;

use oci::SandboxId;
use serde_json::{Value, json};
use sys::netlink::{Batch, LinkRef};

use crate::attach::{path_of, release};
use crate::attachment::{Detachment, ValidAttachment};
use crate::calls;
use crate::conflist::{Conflist, Plugin, PluginType, Version};
use crate::error::Error;
use crate::exec::{Call, Verb};
use crate::network::{GcReport, Network};
use crate::plugins::bridge::{Ipam, Plan, open_route};
use crate::plugins::{Builtin, portmap};
use crate::record::{Key, Record, Stage};
use crate::result::Attached;

/// A plugin, or the address management of one, to be called about an attachment that exists.
struct Later<'a> {
    record: &'a Record,
    conflist: &'a Conflist,
    netns: &'a str,
    verb: Verb,
}

impl Network {
    /// Undoes an attachment. Idempotent; goes on after errors and returns all of them. The record stays until there
    /// was none, so that a retry or [`Network::gc`] can finish.
    pub fn detach(&self, detachment: &Detachment<'_>) -> Result<(), Vec<Error>> {
        let key = Key(detachment.sandbox.clone(), detachment.ifname.to_owned());
        let record = match self.state().records.get_mut(&key) {
            None => return Ok(()),
            Some(record) => {
                record.stage = Stage::Detaching;
                record.clone()
            }
        };
        let mut errors = Vec::new();
        if let Err(error) = self.tables.remove(&record.rules, &key.owner()) {
            errors.push(error);
        }
        if let Err(error) = portmap::forget_flows_after(&record.rules) {
            errors.push(error);
        }
        self.undo_plugins(&record, detachment, &mut errors);
        if detachment.netns_survives
            && let Err(error) = delete_link(record.host_link.as_deref())
        {
            errors.push(error);
        }
        if let (true, Some(netns)) = (detachment.netns_survives, detachment.netns)
            && let Err(error) = delete_inner_link(&record, netns)
        {
            errors.push(error);
        }
        self.finish(&record, errors)
    }

    /// Drops the record, or keeps it for a retry.
    fn finish(&self, record: &Record, mut errors: Vec<Error>) -> Result<(), Vec<Error>> {
        let key = record.key();
        let mut state = self.state();
        let written = if errors.is_empty() { self.store.remove(&key) } else { self.store.save(record) };
        if let Err(error) = written {
            errors.push(error);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        release(&mut state, record);
        state.records.remove(&key);
        drop(state);
        if record.holds_ports {
            self.free_ports(&record.sandbox);
        }
        Ok(())
    }

    fn undo_plugins(&self, record: &Record, detachment: &Detachment<'_>, errors: &mut Vec<Error>) {
        let conflist = match Conflist::parse(&record.conflist) {
            Ok(conflist) => conflist,
            Err(error) => return errors.push(error.into()),
        };
        let netns = netns_for_plugins(record, detachment.netns, detachment.netns_path);
        let later = Later { record, conflist: &conflist, netns: &netns, verb: Verb::Del };
        for plugin in conflist.plugins().iter().rev() {
            match self.call_later(&later, plugin) {
                Ok(()) => {}
                // The attachment failed for want of this program, so there is nothing of it to undo.
                Err(error) if record.result.is_none() && error.is_missing_program() => {}
                Err(error) => errors.push(error),
            }
        }
    }

    /// DEL or CHECK of the programs behind a plugin; what is built in has no program.
    fn call_later(&self, later: &Later<'_>, plugin: &Plugin) -> Result<(), Error> {
        let foreign_ipam;
        let program = match self.builtin(plugin) {
            None => plugin.kind(),
            Some(Builtin::Bridge(conf)) => match &conf.ipam {
                Some(Ipam::Foreign(kind)) => {
                    foreign_ipam =
                        PluginType::parse(kind).map_err(|text| Error::Request { what: "ipam", text })?;
                    &foreign_ipam
                }
                Some(Ipam::HostLocal(_) | Ipam::None) | None => return Ok(()),
            },
            Some(Builtin::Macvlan(_) | Builtin::Portmap(_) | Builtin::Firewall(_) | Builtin::Loopback) => {
                return Ok(());
            }
        };
        let with_previous = later.conflist.version() >= Version::V0_4_0;
        let previous = later.record.result.as_ref().filter(|_| with_previous);
        let config = calls::config(later.conflist, plugin, later.record, previous);
        let environment = calls::environment(later.record, later.netns);
        let call = Call {
            plugin: program,
            verb: later.verb,
            network: later.conflist.name(),
            config: &config,
            environment: &environment,
        };
        self.executor.run(&call)?;
        Ok(())
    }

    /// Checks that an attachment is still as it was set up (CNI CHECK).
    pub fn check(
        &self,
        sandbox: &SandboxId,
        ifname: &str,
        netns: BorrowedFd<'_>,
        netns_path: Option<&Path>,
    ) -> Result<(), Error> {
        let problem =
            |problem: String| Error::Check { sandbox: sandbox.clone(), ifname: ifname.to_owned(), problem };
        let key = Key(sandbox.clone(), ifname.to_owned());
        let record = self.state().records.get(&key).cloned();
        let record = record
            .filter(|r| r.stage == Stage::Attached)
            .ok_or_else(|| problem("there is no such attachment".to_owned()))?;
        let conflist = Conflist::parse(&record.conflist)?;
        let attached = record.result.as_ref().and_then(|r| Attached::from_value(r).ok()).unwrap_or_default();
        if record.host_link.is_some() {
            sys::ns::in_netns(netns, || Plan::check_inside(ifname, &attached.ips))
                .and_then(|inner| inner)
                .map_err(Error::kernel("check link", ifname))?
                .map_err(problem)?;
            self.check_host_link(&record).and_then(|found| found.map_err(problem))?;
        }
        let missing = self.tables.missing(&record)?;
        if missing > 0 {
            return Err(problem(format!("{missing} nftables elements are missing")));
        }
        if !conflist.can_check() {
            return Ok(());
        }
        let netns = netns_for_plugins(&record, Some(netns), netns_path);
        let later = Later { record: &record, conflist: &conflist, netns: &netns, verb: Verb::Check };
        conflist.plugins().iter().try_for_each(|plugin| self.call_later(&later, plugin))
    }

    fn check_host_link(&self, record: &Record) -> Result<Result<(), String>, Error> {
        let mut route = open_route()?;
        let name = record.host_link.as_deref().unwrap_or_default();
        let link = route.link(name).map_err(Error::kernel("read link", name))?;
        let Some(link) = link else { return Ok(Err(format!("no host link {name}"))) };
        let bridge = record.rules.links.first().map(String::as_str).unwrap_or_default();
        let master = route.link(bridge).map_err(Error::kernel("read link", bridge))?;
        if link.master.is_none() || link.master != master.map(|m| m.index) {
            return Ok(Err(format!("host link {name} is not a port of {bridge}")));
        }
        Ok(Ok(()))
    }

    /// Removes everything of attachments that are not in `valid`: addresses, ports, links, records; then asks the
    /// plugins to do the same (CNI GC). `valid` must name those that are being attached at this moment, too.
    pub fn gc(&self, valid: &[ValidAttachment]) -> GcReport {
        let valid: HashSet<Key> = valid.iter().map(|v| Key(v.sandbox.clone(), v.ifname.clone())).collect();
        let mut report = GcReport::default();
        let stale: Vec<Key> = self.state().records.keys().filter(|k| !valid.contains(k)).cloned().collect();
        for key in stale {
            let detachment = Detachment {
                sandbox: &key.0,
                ifname: &key.1,
                netns: None,
                netns_path: None,
                netns_survives: true,
            };
            match self.detach(&detachment) {
                Ok(()) => report.attachments += 1,
                Err(errors) => report.errors.extend(errors),
            }
        }
        match self.remove_stray_links() {
            Ok(links) => report.links = links,
            Err(error) => report.errors.push(error),
        }
        match self.repair() {
            Ok(repaired) => report.rules_repaired = repaired,
            Err(error) => report.errors.push(error),
        }
        for conflist in self.conflists() {
            self.collect_in_plugins(&conflist, &mut report.errors);
        }
        report
    }

    /// Deletes host links of ours that no record names.
    fn remove_stray_links(&self) -> Result<usize, Error> {
        let mut route = open_route()?;
        let links = route.links().map_err(Error::kernel("list links of", &*self.link_prefix))?;
        let known: HashSet<String> = self.records().into_iter().filter_map(|r| r.host_link).collect();
        let is_stray = |name: &&String| {
            name.len() == self.link_prefix.len() + 8
                && name.starts_with(&self.link_prefix)
                && !known.contains(*name)
        };
        let mut batch = Batch::new();
        let mut count = 0;
        for name in links.iter().map(|l| &l.name).filter(is_stray) {
            batch.delete(LinkRef::Name(name));
            count += 1;
        }
        route.apply(batch)?;
        Ok(count)
    }

    fn collect_in_plugins(&self, conflist: &Conflist, errors: &mut Vec<Error>) {
        if !conflist.can_gc() {
            return;
        }
        let records = self.records();
        let of_network = records.iter().filter(|r| r.network == conflist.name());
        let valid: Vec<Value> =
            of_network.map(|r| json!({ "containerID": r.sandbox, "ifname": r.ifname })).collect();
        for plugin in conflist.plugins().iter().filter(|p| self.builtin(p).is_none()) {
            let mut config = calls::bare_config(conflist, plugin);
            config["cni.dev/valid-attachments"] = Value::Array(valid.clone());
            let call = Call {
                plugin: plugin.kind(),
                verb: Verb::Gc,
                network: conflist.name(),
                config: &config,
                environment: &[],
            };
            if let Err(error) = self.executor.run(&call) {
                errors.push(error.into());
            }
        }
    }
}

/// The interfaces of a network without a link on the host for each are deleted where they are.
fn delete_inner_link(record: &Record, netns: BorrowedFd<'_>) -> Result<(), Error> {
    let Ok(conflist) = Conflist::parse(&record.conflist) else { return Ok(()) };
    if !conflist.plugins().iter().any(|p| matches!(p.builtin, Some(Builtin::Macvlan(_)))) {
        return Ok(());
    }
    let name = record.ifname.as_str();
    sys::ns::in_netns(netns, || delete_link(Some(name)))
        .map_err(Error::kernel("enter network namespace for", name))?
}

fn delete_link(name: Option<&str>) -> Result<(), Error> {
    let Some(name) = name else { return Ok(()) };
    let mut batch = Batch::new();
    batch.delete(LinkRef::Name(name));
    Ok(open_route()?.apply(batch)?)
}

/// What programs get as `CNI_NETNS`: nothing when the namespace is gone.
fn netns_for_plugins(record: &Record, netns: Option<BorrowedFd<'_>>, path: Option<&Path>) -> String {
    let path = path.or(record.netns_path.as_deref());
    let exists = |p: &&Path| p.try_exists().unwrap_or(false);
    match (path.filter(exists), netns) {
        (Some(path), _) => path.to_string_lossy().into_owned(),
        (None, Some(netns)) => path_of(netns),
        (None, None) => String::new(),
    }
}
