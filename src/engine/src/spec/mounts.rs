//! Mounts: what every container has, and what was asked for.

use std::path::{Path, PathBuf};

use oci::runtime::{Mount, MountBuilder};

use super::{Input, bug, id_mappings};
use crate::error::{Error, Result};
use crate::model::{ContainerMount, MountSource, NamespaceMode, Propagation};

/// Files of a sandbox that its containers see.
#[derive(Debug, Clone, Default)]
pub(crate) struct SandboxFiles {
    pub(crate) resolv_conf: PathBuf,
    pub(crate) hostname: PathBuf,
    pub(crate) hosts: PathBuf,
    /// The directory behind `/dev/shm`.
    pub(crate) shm: PathBuf,
}

/// A mount whose source is resolved.
#[derive(Debug, Clone)]
pub(crate) struct BindMount {
    /// Path on the host; `None` when the content comes as a detached mount beside the configuration.
    pub(crate) source: Option<PathBuf>,
    pub(crate) asked: ContainerMount,
}

/// All mounts, parents before what is mounted in them.
pub(super) fn all(input: &Input<'_>) -> Result<Vec<Mount>> {
    let privileged = input.config.security.privileged;
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        sysfs(input)?,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", if privileged { "rw" } else { "ro" }],
        )?,
    ];
    mounts.retain(|m| !is_replaced(input, m.destination()));
    for (destination, source) in sandbox_files(input) {
        if !is_replaced(input, Path::new(destination)) {
            mounts.push(sandbox_file(input, destination, source)?);
        }
    }
    let mut asked: Vec<&BindMount> = input.binds.iter().collect();
    asked.sort_by_key(|bind| bind.asked.destination.components().count());
    for bind in asked {
        match (&bind.source, &bind.asked.source) {
            (Some(source), _) => mounts.push(bind_mount(source, &bind.asked)?),
            (None, MountSource::Tmpfs { options }) => mounts.push(tmpfs(&bind.asked, options)?),
            (None, _) => {}
        }
    }
    Ok(mounts)
}

fn is_replaced(input: &Input<'_>, destination: &Path) -> bool {
    input.binds.iter().any(|bind| bind.asked.destination == destination)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(bug)
}

/// A new sysfs shows the network namespace it is mounted in, so it can only be made by that namespace's
/// owner: with a user namespace and the host's network the host's is bound instead.
fn sysfs(input: &Input<'_>) -> Result<Mount> {
    let foreign =
        input.sandbox.namespaces.user.is_some() && input.sandbox.namespaces.network == NamespaceMode::Host;
    if foreign {
        return mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro", "rprivate"]);
    }
    let mode = if input.config.security.privileged { "rw" } else { "ro" };
    mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", mode])
}

fn sandbox_files<'a>(input: &'a Input<'_>) -> [(&'static str, &'a Path); 4] {
    let files = input.files;
    [
        ("/etc/hosts", &files.hosts),
        ("/etc/hostname", &files.hostname),
        ("/etc/resolv.conf", &files.resolv_conf),
        ("/dev/shm", &files.shm),
    ]
}

fn sandbox_file(input: &Input<'_>, destination: &str, source: &Path) -> Result<Mount> {
    let shm = destination == "/dev/shm";
    let mut options = vec!["rbind".to_owned(), "rprivate".to_owned()];
    let readonly = input.config.security.readonly_rootfs && !shm;
    options.push(if readonly { "ro" } else { "rw" }.to_owned());
    if shm {
        options.extend(["nosuid", "nodev", "noexec"].map(str::to_owned));
    }
    MountBuilder::default()
        .destination(destination)
        .typ("bind")
        .source(source)
        .options(options)
        .build()
        .map_err(bug)
}

/// Memory: what is not asked for is as for the container's other file systems of this kind.
fn tmpfs(asked: &ContainerMount, options: &[String]) -> Result<Mount> {
    let mut all = vec!["nosuid", "nodev", "noexec"];
    all.extend(options.iter().map(String::as_str));
    all.push(if asked.readonly { "ro" } else { "rw" });
    let destination = asked
        .destination
        .to_str()
        .ok_or_else(|| Error::invalid(format!("mount {} is not UTF-8", asked.destination.display())))?;
    mount(destination, "tmpfs", "tmpfs", &all)
}

/// Options of a bind mount in mount(8)'s words.
pub(crate) fn bind_options(asked: &ContainerMount) -> Vec<String> {
    let propagation = match asked.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (asked.readonly, asked.recursive_readonly) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let bind = if asked.non_recursive { "bind" } else { "rbind" };
    let mut options = vec![bind.to_owned(), propagation.to_owned(), access.to_owned()];
    options.extend(asked.options.iter().cloned());
    options
}

fn bind_mount(source: &Path, asked: &ContainerMount) -> Result<Mount> {
    let mut builder = MountBuilder::default()
        .destination(asked.destination.clone())
        .typ("bind")
        .source(source)
        .options(bind_options(asked));
    if let Some(maps) = &asked.id_maps {
        builder = builder.uid_mappings(id_mappings(&maps.uids)?).gid_mappings(id_mappings(&maps.gids)?);
    }
    builder.build().map_err(bug)
}

/// The root must let through what the widest mount wants to.
pub(super) fn rootfs_propagation(binds: &[BindMount]) -> String {
    let widest = |wanted| binds.iter().any(|b| b.asked.propagation == wanted);
    if widest(Propagation::Bidirectional) {
        "rshared".to_owned()
    } else if widest(Propagation::HostToContainer) {
        "rslave".to_owned()
    } else {
        "rprivate".to_owned()
    }
}

/// Containers have a cgroup namespace of their own on v2; privileged ones see the host's.
pub(super) fn own_cgroup_namespace(input: &Input<'_>) -> bool {
    input.host.cgroup_v2 && !input.config.security.privileged
}
