//! `hosts` and `resolv.conf` of a sandbox on user networks, and the host's name servers.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::model::Dns;

/// Where the resolver of user networks is found in every sandbox that has one.
pub(crate) const RESOLVER: &str = "127.0.0.11";
const STUB: &str = "127.0.0.53";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What systemd-resolved forwards to.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
const MAX_BYTES: u64 = 64 << 10;

/// Reads the format of resolv.conf(5).
pub(crate) fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next();
        match keyword {
            Some("nameserver") => dns.servers.extend(words.take(1).map(str::to_owned)),
            Some("search" | "domain") => dns.searches = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            Some(_) | None => {}
        }
    }
    dns
}

/// The host's name resolution; of a stub resolver, what is behind it. Blocks.
pub(crate) fn host_dns() -> Dns {
    let read = |path: &str| {
        let path = Path::new(path);
        let fits = std::fs::metadata(path).is_ok_and(|m| m.len() <= MAX_BYTES);
        fits.then(|| std::fs::read_to_string(path).ok()).flatten().map(|text| parse(&text))
    };
    let dns = read(RESOLV_CONF).unwrap_or_default();
    if dns.servers.iter().any(|s| s != STUB) || dns.servers.is_empty() {
        return dns;
    }
    read(BEHIND_STUB).filter(|behind| !behind.servers.is_empty()).unwrap_or(dns)
}

/// Addresses of the host's name servers. Blocks.
pub(crate) fn host_name_servers() -> Vec<IpAddr> {
    let servers = host_dns().servers;
    servers.iter().filter_map(|s| s.parse::<IpAddr>().ok()).filter(|ip| !ip.is_loopback()).collect()
}

/// What a sandbox is told of name resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolution {
    /// Text of its `resolv.conf`.
    pub(crate) text: String,
    /// Whether it uses the resolver of user networks.
    pub(crate) needs_resolver: bool,
}

/// What a sandbox gets: what was asked for, for the rest what the host has. Where names of containers are to be found,
/// or the host's servers are on its loopback, the resolver comes between. Pure.
pub(crate) fn resolution(asked: Option<&Dns>, host: &Dns, has_names: bool) -> Resolution {
    let empty = Dns::default();
    let asked = asked.unwrap_or(&empty);
    let pick =
        |asked: &[String], host: &[String]| if asked.is_empty() { host.to_vec() } else { asked.to_vec() };
    let mut dns = Dns {
        servers: pick(&asked.servers, &host.servers),
        searches: pick(&asked.searches, &host.searches),
        options: pick(&asked.options, &host.options),
    };
    // `--dns-search .` means none.
    dns.searches.retain(|s| s != ".");
    let is_loopback = |server: &String| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if asked.servers.is_empty() && !has_names {
        let all = dns.servers.len();
        dns.servers.retain(|s| !is_loopback(s));
        if !dns.servers.is_empty() || all == 0 {
            return Resolution { text: crate::files::resolv_conf(&dns), needs_resolver: false };
        }
    }
    if !has_names && !asked.servers.is_empty() {
        return Resolution { text: crate::files::resolv_conf(&dns), needs_resolver: false };
    }
    dns.servers = vec![RESOLVER.to_owned()];
    if !dns.options.iter().any(|o| o.starts_with("ndots:")) {
        dns.options.push("ndots:0".to_owned());
    }
    Resolution { text: crate::files::resolv_conf(&dns), needs_resolver: true }
}

/// Text of `hosts`.
pub(crate) fn hosts(names: &str, addresses: &[IpAddr], extra: &[(IpAddr, String)], has_ipv6: bool) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n");
    if has_ipv6 {
        text.push_str(
            "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n",
        );
        text.push_str("ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n");
    }
    for (ip, name) in extra {
        let _ = writeln!(text, "{ip}\t{name}");
    }
    for ip in addresses {
        let _ = writeln!(text, "{ip}\t{names}");
    }
    text
}

/// Adds lines to a `hosts` that a container has open, or removes the lines of addresses; what the container wrote
/// itself stays. The file keeps its inode, because it is mounted. Blocks.
pub(crate) fn edit_hosts(path: &Path, names: &str, add: &[IpAddr], remove: &[IpAddr]) -> io::Result<()> {
    use std::io::{Read, Seek, Write};
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut text = String::new();
    std::io::Read::by_ref(&mut file).take(1 << 20).read_to_string(&mut text)?;
    let is_gone = |line: &&str| {
        let first = line.split_ascii_whitespace().next().and_then(|w| w.parse::<IpAddr>().ok());
        !first.is_some_and(|ip| remove.contains(&ip))
    };
    let mut changed: String = text.lines().filter(is_gone).flat_map(|line| [line, "\n"]).collect();
    for ip in add {
        let _ = writeln!(changed, "{ip}\t{names}");
    }
    file.rewind()?;
    file.write_all(changed.as_bytes())?;
    file.set_len(changed.len() as u64)
}

/// Replaces the text of a file that is mounted somewhere. Blocks.
pub(crate) fn replace_in_place(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> Dns {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Dns { servers: own(servers), searches: own(searches), options: own(options) }
    }

    #[test]
    fn a_sandbox_is_told_who_to_ask() {
        let host = dns(&["127.0.0.53", "10.0.0.2"], &["site.example"], &["edns0", "trust-ad"]);
        let plain = resolution(None, &host, false);
        assert_eq!(plain.text, "search site.example\nnameserver 10.0.0.2\noptions edns0 trust-ad\n");
        assert!(!plain.needs_resolver);
        let named = resolution(None, &host, true);
        assert_eq!(
            named.text,
            "search site.example\nnameserver 127.0.0.11\noptions edns0 trust-ad ndots:0\n"
        );
        assert!(named.needs_resolver);
        let own = resolution(Some(&dns(&["9.9.9.9"], &["."], &[])), &host, false);
        assert_eq!(own.text, "nameserver 9.9.9.9\noptions edns0 trust-ad\n");
        let stub = dns(&["127.0.0.53"], &[], &[]);
        assert!(resolution(None, &stub, false).needs_resolver, "nobody else could be asked");
        assert_eq!(resolution(None, &Dns::default(), false).text, "");
        assert_eq!(
            resolution(Some(&dns(&[], &[], &["ndots:3"])), &host, true).text.lines().last(),
            Some("options ndots:3")
        );
    }

    #[test]
    fn hosts_can_be_edited_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let extra = [(ip("10.0.0.9"), "db".to_owned())];
        std::fs::write(&path, hosts("web.example web", &[ip("172.18.0.2")], &extra, false)).unwrap();
        edit_hosts(&path, "web", &[ip("172.19.0.2")], &[]).unwrap();
        edit_hosts(&path, "web", &[], &[ip("172.18.0.2")]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "127.0.0.1\tlocalhost\n10.0.0.9\tdb\n172.19.0.2\tweb\n");
    }
}
