//! Ports of the host that are held by sockets of ours, so that a conflict is found before anything is redirected, and no
//! program of the host can take what it would never get a packet of.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use oci::SandboxId;
use sys::port::Transport;

use crate::attachment::{PortMapping, Protocol};
use crate::error::Error;
use crate::network::Network;
use crate::record::Record;

/// How often a free port is looked for that several addresses have in common.
const ATTEMPTS: usize = 64;

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// Port in the sandbox.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Addresses of the host, which all get the same port.
    pub host_ips: Vec<IpAddr>,
    /// First and last port of the host to choose from; `None` takes one that is free.
    pub host_ports: Option<(u16, u16)>,
}

/// A port of the host and the socket that holds it; SCTP has none where the kernel lacks it.
#[derive(Debug)]
struct Held {
    mapping: PortMapping,
    _socket: Option<OwnedFd>,
}

/// The ports that sandboxes hold.
#[derive(Debug, Default)]
pub(crate) struct HeldPorts {
    by_sandbox: HashMap<SandboxId, Vec<Held>>,
}

impl HeldPorts {
    pub(crate) fn holds(&self, sandbox: &SandboxId, mapping: &PortMapping) -> bool {
        self.by_sandbox.get(sandbox).is_some_and(|held| held.iter().any(|h| h.mapping == *mapping))
    }

    fn owner_of(&self, mapping: &PortMapping) -> Option<&SandboxId> {
        let meets = |held: &&Held| held.mapping.conflicts_with(mapping);
        self.by_sandbox.iter().find(|(_, held)| held.iter().find(meets).is_some()).map(|(id, _)| id)
    }
}

impl Network {
    /// Takes ports of the host for a sandbox: all of them, or none. They are free again after [`Network::free_ports`].
    pub fn hold_ports(
        &self,
        sandbox: &SandboxId,
        requests: &[PortRequest],
    ) -> Result<Vec<PortMapping>, Error> {
        let mut taken: Vec<Held> = Vec::new();
        for request in requests {
            let held = self.hold_one(&taken, request)?;
            taken.extend(held);
        }
        let mappings = taken.iter().map(|held| held.mapping.clone()).collect();
        self.held().by_sandbox.entry(sandbox.clone()).or_default().extend(taken);
        Ok(mappings)
    }

    /// Gives all ports of a sandbox back.
    pub fn free_ports(&self, sandbox: &SandboxId) {
        self.held().by_sandbox.remove(sandbox);
    }

    /// Publishes the ports that a sandbox holds on one of its attachments and on no other; on none with `None`.
    pub fn publish_on(&self, sandbox: &SandboxId, ifname: Option<&str>) -> Result<(), Error> {
        let ports: Vec<PortMapping> = {
            let held = self.held();
            held.by_sandbox.get(sandbox).into_iter().flatten().map(|h| h.mapping.clone()).collect()
        };
        let mut records: Vec<Record> = self.records().into_iter().filter(|r| r.sandbox == *sandbox).collect();
        // Those that lose them first: a port leads to one place.
        records.sort_by_key(|record| Some(record.ifname.as_str()) == ifname);
        for mut record in records {
            let wanted = if Some(record.ifname.as_str()) == ifname { ports.clone() } else { Vec::new() };
            if record.ports == wanted {
                continue;
            }
            self.tables.remove(&record.rules, &record.key().owner())?;
            record.holds_ports = !wanted.is_empty();
            record.ports = wanted;
            crate::attach::publish(&mut record);
            self.store.save(&record)?;
            self.state().records.insert(record.key(), record.clone());
            self.tables.add(&record, || self.records())?;
            crate::attach::allow_loopback(&record)?;
            crate::plugins::portmap::forget_flows_before(&record.rules)?;
        }
        Ok(())
    }

    /// After a restart: takes the ports again that records say are published. One that somebody took in the meantime
    /// stays published, and is reported.
    pub(crate) fn hold_again(&self) {
        for record in self.records().into_iter().filter(|r| r.holds_ports) {
            for mapping in &record.ports {
                let socket = hold(mapping).unwrap_or_else(|error| {
                    tracing::warn!(sandbox = %record.sandbox, port = mapping.host_port, %error, "a published port cannot be held");
                    None
                });
                let held = Held { mapping: mapping.clone(), _socket: socket };
                self.held().by_sandbox.entry(record.sandbox.clone()).or_default().push(held);
            }
        }
    }

    /// An attachment with ports of the host must hold them.
    pub(crate) fn check_held(&self, record: &Record) -> Result<(), Error> {
        let held = self.held();
        match record.ports.iter().find(|mapping| !held.holds(&record.sandbox, mapping)) {
            None => Ok(()),
            Some(mapping) => {
                Err(Error::Request { what: "port mapping, which is not held:", text: format!("{mapping:?}") })
            }
        }
    }

    fn hold_one(&self, taken: &[Held], request: &PortRequest) -> Result<Vec<Held>, Error> {
        let Some((first, last)) = request.host_ports else {
            return self.hold_free(taken, request);
        };
        let mut refused = None;
        for port in first..=last {
            match self.hold_at(taken, request, port) {
                Ok(held) => return Ok(held),
                Err(error @ Error::HostPortTaken { .. }) if first < last => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(|| Error::Request { what: "port range", text: format!("{first}-{last}") }))
    }

    /// A free port that all the addresses have: the kernel chooses for the first one.
    fn hold_free(&self, taken: &[Held], request: &PortRequest) -> Result<Vec<Held>, Error> {
        let mut refused = None;
        for _ in 0..ATTEMPTS {
            let port = free_port(request)?;
            match self.hold_at(taken, request, port) {
                Ok(held) => return Ok(held),
                Err(error @ Error::HostPortTaken { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(|| Error::Request { what: "port", text: "0".to_owned() }))
    }

    fn hold_at(&self, taken: &[Held], request: &PortRequest, port: u16) -> Result<Vec<Held>, Error> {
        let mut held = Vec::with_capacity(request.host_ips.len());
        for ip in &request.host_ips {
            let mapping = PortMapping {
                host_port: port,
                container_port: request.container_port,
                protocol: request.protocol,
                host_ip: Some(*ip),
            };
            let owned = |owner: String| Error::HostPortTaken { mapping: mapping.clone(), owner };
            if taken.iter().any(|t| t.mapping.conflicts_with(&mapping)) {
                return Err(owned("another mapping of the same request".to_owned()));
            }
            if let Some(owner) = self.port_owner(&mapping) {
                return Err(owned(owner));
            }
            let socket = match hold(&mapping) {
                Ok(socket) => socket,
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    return Err(owned(crate::error::HOST_PROCESS.to_owned()));
                }
                Err(error) => {
                    let object = SocketAddr::new(*ip, port).to_string();
                    return Err(Error::kernel("take port", object)(error));
                }
            };
            held.push(Held { mapping, _socket: socket });
        }
        Ok(held)
    }

    /// The sandbox that a port is published for.
    fn port_owner(&self, mapping: &PortMapping) -> Option<String> {
        if let Some(sandbox) = self.held().owner_of(mapping) {
            return Some(format!("sandbox {sandbox}"));
        }
        let state = self.state();
        let holds = |record: &&Record| record.ports.iter().any(|p| p.conflicts_with(mapping));
        state.records.values().find(holds).map(|record| format!("sandbox {}", record.sandbox))
    }
}

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}

fn hold(mapping: &PortMapping) -> std::io::Result<Option<OwnedFd>> {
    let ip = mapping.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    match sys::port::hold(SocketAddr::new(ip, mapping.host_port), transport(mapping.protocol)) {
        // A host without IPv6 has nobody to keep from the port.
        Err(error) if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && is_unavailable(&error) => Ok(None),
        other => other,
    }
}

fn is_unavailable(error: &std::io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == std::io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// A port that is free at the first address at this moment.
fn free_port(request: &PortRequest) -> Result<u16, Error> {
    // Without SCTP in the kernel a number that TCP has free is as good as any.
    let kinds = [transport(request.protocol), Transport::Tcp];
    let ip = request.host_ips.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let failed = |error| Error::kernel("take a free port of", ip.to_string())(error);
    for kind in kinds {
        if let Some(socket) = sys::port::hold(SocketAddr::new(ip, 0), kind).map_err(failed)? {
            return sys::port::held_port(&socket)
                .map_err(|error| Error::kernel("read the port of", ip.to_string())(error));
        }
    }
    Err(Error::Request { what: "address to publish on", text: ip.to_string() })
}
