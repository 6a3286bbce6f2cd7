//! Files that a sandbox' containers see: `resolv.conf`, `hostname`, `hosts`, `/dev/shm`.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use crate::model::Dns;
use crate::spec::SandboxFiles;

/// `resolv.conf` of a sandbox that asks for name servers of its own.
pub(crate) fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

/// Nothing a client sends may add a line to a file of ours.
pub(crate) fn has_line_break(dns: &Dns) -> bool {
    dns.servers.iter().chain(&dns.searches).chain(&dns.options).any(|s| s.contains(['\n', '\r', '\0']))
}

/// `hosts` of a sandbox with a network of its own.
pub(crate) fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for address in addresses {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    text
}

/// Where the files of a sandbox are, below its state directory.
pub(crate) fn paths(dir: &Path, host_ipc: bool) -> SandboxFiles {
    SandboxFiles {
        resolv_conf: dir.join("resolv.conf"),
        hostname: dir.join("hostname"),
        hosts: dir.join("hosts"),
        shm: if host_ipc { "/dev/shm".into() } else { dir.join("shm") },
    }
}

/// Puts the files of another sandbox in place of a sandbox' own: what is written to one is seen in both. Blocks.
pub(crate) fn share(of: &Path, dir: &Path) -> io::Result<()> {
    for name in ["resolv.conf", "hosts", "hostname"] {
        let shared = dir.join(format!(".{name}"));
        std::fs::hard_link(of.join(name), &shared)?;
        std::fs::rename(&shared, dir.join(name))?;
    }
    Ok(())
}

/// What to write.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    pub(crate) dns: Option<&'a Dns>,
    /// Texts of `resolv.conf` and `hosts`, for sandboxes on user networks.
    pub(crate) texts: Option<(&'a str, &'a str)>,
    pub(crate) hostname: &'a str,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) host_network: bool,
    /// Size of `/dev/shm`; `None` when it is the host's.
    pub(crate) shm_size_bytes: Option<u64>,
    /// Owner of what is written, for user namespaces.
    pub(crate) owner: (u32, u32),
}

/// Writes the files and mounts `/dev/shm`. Blocks.
pub(crate) fn write(dir: &Path, content: &Content<'_>) -> io::Result<()> {
    let files = paths(dir, content.shm_size_bytes.is_none());
    let resolv = match content.dns {
        Some(dns) if !dns.servers.is_empty() || !dns.searches.is_empty() || !dns.options.is_empty() => {
            resolv_conf(dns).into_bytes()
        }
        _ => read_or_empty(Path::new("/etc/resolv.conf"))?,
    };
    let resolv = content.texts.map_or(resolv, |(text, _)| text.as_bytes().to_vec());
    let hosts = if let Some((_, text)) = content.texts {
        text.as_bytes().to_vec()
    } else if content.host_network {
        read_or_empty(Path::new("/etc/hosts"))?
    } else {
        hosts(content.hostname, content.addresses).into_bytes()
    };
    let hostname = format!("{}\n", content.hostname).into_bytes();
    for (path, bytes) in [(&files.resolv_conf, resolv), (&files.hosts, hosts), (&files.hostname, hostname)] {
        sys::fs::write_volatile(path, &bytes, 0o644)?;
        if content.owner != (0, 0) {
            std::os::unix::fs::chown(path, Some(content.owner.0), Some(content.owner.1))?;
        }
    }
    if let Some(size) = content.shm_size_bytes {
        std::fs::create_dir_all(&files.shm)?;
        mount_shm(&files.shm, size, content.owner)?;
    }
    Ok(())
}

fn mount_shm(path: &Path, size: u64, owner: (u32, u32)) -> io::Result<()> {
    use sys::mount::{Attributes, Value};
    let (size, uid, gid) = (size.to_string(), owner.0.to_string(), owner.1.to_string());
    let options = [
        ("mode", Value::Text("1777")),
        ("size", Value::Text(&size)),
        ("uid", Value::Text(&uid)),
        ("gid", Value::Text(&gid)),
    ];
    let flags = Attributes::NOSUID.with(Attributes::NODEV).with(Attributes::NOEXEC);
    let shm = sys::mount::new_mount("tmpfs", &options, flags)?;
    sys::mount::attach_at(shm.as_fd(), path)
}

/// Unmounts `/dev/shm`; the files stay until [`remove`]. Blocks; what is gone already is fine.
pub(crate) fn take_down(dir: &Path) -> io::Result<()> {
    const ENOENT: i32 = 2;
    const EINVAL: i32 = 22;
    match sys::mount::umount_detach(&dir.join("shm")) {
        Err(error) if !matches!(error.raw_os_error(), Some(ENOENT | EINVAL)) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a sandbox' directory. Blocks.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    take_down(dir)?;
    sys::fs::remove_tree(dir)
}

fn read_or_empty(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_search_servers_options() {
        let dns = Dns {
            servers: vec!["10.10.10.10".into()],
            searches: vec!["a.b".into(), "b".into()],
            options: vec!["ndots:8".into()],
        };
        assert_eq!(resolv_conf(&dns), "search a.b b\nnameserver 10.10.10.10\noptions ndots:8\n");
        assert!(!has_line_break(&dns));
        let bad = Dns { servers: vec!["1.1.1.1\nnameserver 6.6.6.6".into()], ..Dns::default() };
        assert!(has_line_break(&bad));
    }
}
