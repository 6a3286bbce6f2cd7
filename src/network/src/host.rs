//! Settings of the host and of namespaces that are files under `/proc/sys/net`, and names of interfaces.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

use crate::attachment::{PortMapping, Protocol};
use crate::error::Error;

/// Names the kernel takes for an interface, minus those that mean something in a path or a pattern.
pub(crate) fn check_ifname(name: &str) -> Result<(), ()> {
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let usable = (1..=15).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(alphabet);
    usable.then_some(()).ok_or(())
}

/// Writes one setting of the network namespace of the calling thread. A kernel without it (no IPv6) is fine.
pub(crate) fn sysctl(key: &str, value: &str) -> Result<(), Error> {
    match std::fs::write(sysctl_path(key), value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::kernel("set sysctl", format!("net.{}", key.replace('/', ".")))),
    }
}

fn sysctl_path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

fn read_sysctl(key: &str) -> Option<String> {
    std::fs::read_to_string(sysctl_path(key)).ok().map(|v| v.trim().to_owned())
}

/// Turns forwarding on, as a gateway needs it.
pub(crate) fn enable_forwarding(is_ipv6: bool) -> Result<(), Error> {
    if !is_ipv6 {
        return if read_sysctl("ipv4/ip_forward").as_deref() == Some("1") {
            Ok(())
        } else {
            sysctl("ipv4/ip_forward", "1")
        };
    }
    if read_sysctl("ipv6/conf/all/forwarding").as_deref() == Some("1") {
        return Ok(());
    }
    // A router ignores router advertisements unless accept_ra is 2 (ip-sysctl.rst): hosts that live by them
    // would lose their default route.
    for entry in std::fs::read_dir(sysctl_path("ipv6/conf")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|n| !matches!(*n, "all" | "default" | "lo")) else { continue };
        let key = format!("ipv6/conf/{name}/accept_ra");
        if read_sysctl(&key).as_deref() == Some("1") {
            sysctl(&key, "2")?;
        }
    }
    sysctl("ipv6/conf/all/forwarding", "1")
}

/// Whether a process of the host listens on the port. This is a probe: it cannot hold the port.
pub(crate) fn is_port_bound(mapping: &PortMapping) -> bool {
    let addresses: Vec<IpAddr> = match mapping.host_ip {
        Some(ip) => vec![ip],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    let in_use = |ip: &IpAddr| {
        let address = SocketAddr::new(*ip, mapping.host_port);
        let answer = match mapping.protocol {
            Protocol::Tcp => TcpListener::bind(address).map(drop),
            Protocol::Udp => UdpSocket::bind(address).map(drop),
            Protocol::Sctp => Ok(()),
        };
        answer.is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
    };
    addresses.iter().any(in_use)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_checked() {
        for good in ["eth0", "a", "net1.5", "abcdefghijklmno"] {
            assert_eq!(check_ifname(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "eth0:1", "%d", "abcdefghijklmnop", "é"] {
            assert_eq!(check_ifname(bad), Err(()), "{bad}");
        }
    }
}
