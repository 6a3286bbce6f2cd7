//! Facts of the node that front ends tell their clients, and documents of images as they were pushed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::Digest;

use crate::CgroupDriver;
use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};

/// The node. Facts that cannot be read are empty or zero.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// Stays the same for the life of the installation.
    pub id: String,
    /// Host name.
    pub hostname: String,
    /// The kernel's release.
    pub kernel: String,
    /// Hardware name, as `x86_64`.
    pub machine: String,
    /// Name and version of the distribution, as it calls itself.
    pub operating_system: String,
    /// Version of the distribution.
    pub os_version: String,
    /// Processors that are online.
    pub cpus: u32,
    /// Usable memory in bytes.
    pub memory_bytes: u64,
    /// The daemon's directory.
    pub root: PathBuf,
    /// `1` or `2`.
    pub cgroup_version: u8,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Limits that this host's cgroups can set.
    pub controllers: Vec<String>,
    /// Whether swap can be limited.
    pub swap_limit: bool,
    /// Whether AppArmor profiles can be used.
    pub apparmor: bool,
    /// Whether SELinux labels are used.
    pub selinux: bool,
    /// Names of runtime handlers.
    pub handlers: Vec<String>,
    /// The default one among them.
    pub default_handler: String,
    /// Whether packets are forwarded between interfaces.
    pub ip_forwarding: bool,
}

/// Processor time of the whole host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostCpu {
    /// All of it since the boot, also the idle part, over all processors; nanoseconds.
    pub total_ns: u64,
    /// Processors that are online.
    pub online: u32,
}

impl Engine {
    /// Processor time of the whole host, to compare that of containers with.
    pub async fn host_cpu(&self) -> Result<HostCpu> {
        let read = || {
            let text =
                std::fs::read_to_string("/proc/stat").map_err(|error| Error::io("read /proc/stat", error))?;
            Ok(host_cpu(&text))
        };
        self.shared().blocking.run(Purpose::Reading, read).await?
    }

    /// What is known of the node.
    pub async fn node_info(&self) -> Result<NodeInfo> {
        let shared = Arc::clone(self.shared());
        let read = move || {
            let (name, version) = os_release(Path::new("/etc/os-release"));
            let proc = Path::new("/proc");
            let controllers = shared.cgroups.controllers();
            let host = &shared.host;
            NodeInfo {
                id: read_line(Path::new("/etc/machine-id")),
                hostname: sys::host::hostname(),
                kernel: sys::host::kernel_release(),
                machine: sys::host::machine(),
                operating_system: name,
                os_version: version,
                cpus: sys::proc::online_cpus(proc).unwrap_or_default(),
                memory_bytes: sys::proc::memory_info(proc).map_or(0, |memory| memory.total_bytes),
                root: shared.config.root.clone(),
                cgroup_version: if host.cgroup_v2 { 2 } else { 1 },
                cgroup_driver: shared.config.cgroups.driver,
                controllers: controllers.iter().map(|one| one.name().to_owned()).collect(),
                swap_limit: shared.cgroups.has_swap_accounting(),
                apparmor: host.apparmor.enabled,
                selinux: host.selinux,
                handlers: shared.config.handlers.keys().cloned().collect(),
                default_handler: shared.config.default_handler.clone(),
                ip_forwarding: read_line(Path::new("/proc/sys/net/ipv4/ip_forward")) == "1",
            }
        };
        self.shared().blocking.run(Purpose::Reading, read).await
    }

    /// Bytes of each layer of an image, unpacked, with its diff id; lowest first.
    pub fn image_layers(&self, id: &Digest) -> Vec<(Digest, u64)> {
        let store = &self.shared().storage;
        let layers = store.image(id).map(|image| image.layers).unwrap_or_default();
        let size = |diff_id: &Digest| store.layer(diff_id).map_or(0, |layer| layer.bytes);
        layers.into_iter().map(|layer| (layer.diff_id.clone(), size(&layer.diff_id))).collect()
    }

    /// An image's configuration as its builder wrote it, with every key that others added to it.
    pub async fn image_document(&self, id: &Digest) -> Result<serde_json::Value> {
        let (shared, id) = (Arc::clone(self.shared()), id.clone());
        let read = move || {
            let what = || format!("read the configuration of image {id}");
            let bytes = shared
                .storage
                .content()
                .read_small(&id, image::CONFIG_LIMIT)
                .map_err(|error| Error::caused_by(ErrorKind::Internal, what(), error))?;
            serde_json::from_slice(&bytes)
                .map_err(|error| Error::caused_by(ErrorKind::FailedPrecondition, what(), error))
        };
        self.shared().blocking.run(Purpose::Images, read).await?
    }
}

/// The first line of `/proc/stat`, and how many follow for single processors. Time of guests is in that of users.
fn host_cpu(text: &str) -> HostCpu {
    let all = text.lines().next().unwrap_or_default();
    let ticks = all.split_whitespace().skip(1).take(8).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    let single = text.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
    HostCpu { total_ns: sys::proc::ticks_to_ns(ticks), online: u32::try_from(single).unwrap_or(u32::MAX) }
}

/// The first line of a small file; empty if there is none.
fn read_line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// `PRETTY_NAME` and `VERSION_ID` of os-release(5).
fn os_release(path: &Path) -> (String, String) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let value = |key: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
    };
    let name = value("PRETTY_NAME");
    (if name.is_empty() { "Linux".to_owned() } else { name }, value("VERSION_ID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_time_is_all_but_that_of_guests() {
        let stat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2\ncpu1 1 2\nintr 5\n";
        let expected = HostCpu { total_ns: sys::proc::ticks_to_ns(36), online: 2 };
        assert_eq!(host_cpu(stat), expected);
    }

    #[test]
    fn distributions_say_who_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("os-release");
        std::fs::write(&path, "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID='12'\n").unwrap();
        assert_eq!(os_release(&path), ("Debian GNU/Linux 12".to_owned(), "12".to_owned()));
        assert_eq!(os_release(&dir.path().join("none")), ("Linux".to_owned(), String::new()));
    }
}
