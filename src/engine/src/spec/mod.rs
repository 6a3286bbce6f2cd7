//! From what was asked for to an OCI runtime configuration.
//!
//! Pure: every host fact, every resolved path and every device is in [`Input`]; no file is opened here. So a
//! configuration is a value that tests compare.

mod capabilities;
mod devices;
mod mounts;
mod process;
mod resources;
mod sysctl;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use keeper::protocol::NamespaceKind;
use oci::runtime::{
    Linux, LinuxBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxSeccomp, RootBuilder, Spec, SpecBuilder,
};

pub(crate) use capabilities::effective as effective_capabilities;
pub(crate) use devices::HostDevice;
pub(crate) use mounts::{BindMount, SandboxFiles};
pub(crate) use process::{Environment, exec_process};
pub(crate) use resources::{fit, limits, update as resource_update};
pub(crate) use sysctl::check as check_sysctls;

use crate::config::ContainerDefaults;
use crate::error::{Error, Result};
use crate::model::{AppArmor, ContainerConfig, ResolvedUser, SandboxConfig};

/// Version of the OCI runtime specification that is written.
const OCI_VERSION: &str = "1.2.1";

/// Everything a configuration is made of.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) config: &'a ContainerConfig,
    pub(crate) sandbox: &'a SandboxConfig,
    pub(crate) image: &'a oci::image::ImageConfiguration,
    pub(crate) user: &'a ResolvedUser,
    /// Home directory of the user in the image's files.
    pub(crate) home: &'a str,
    pub(crate) hostname: &'a str,
    pub(crate) host: &'a HostFacts,
    pub(crate) defaults: &'a ContainerDefaults,
    pub(crate) files: &'a SandboxFiles,
    /// Mounts asked for, with sources resolved.
    pub(crate) binds: &'a [BindMount],
    pub(crate) devices: &'a [HostDevice],
    /// The filter to load.
    pub(crate) seccomp: Option<LinuxSeccomp>,
    /// Path of the cgroup as the runtime specification writes it.
    pub(crate) cgroups_path: &'a str,
    /// Where the root file system is, for runtimes that need a path.
    pub(crate) rootfs: &'a Path,
    /// Namespaces to join, with a path for runtimes that need one.
    pub(crate) join: &'a BTreeMap<NamespaceKind, PathBuf>,
    /// Annotations the handler lets through.
    pub(crate) annotations: HashMap<String, String>,
}

/// What the host can do; found once.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostFacts {
    /// Capabilities the daemon holds, as `CAP_…`.
    pub(crate) capabilities: Vec<String>,
    pub(crate) apparmor: crate::apparmor::Support,
    pub(crate) selinux: bool,
    pub(crate) kernel: (u32, u32),
    /// Whether resource controllers are on cgroup v2.
    pub(crate) cgroup_v2: bool,
    /// Hard limit of open files.
    pub(crate) nofile_hard: u64,
}

/// Writes a configuration.
pub(crate) fn build(input: &Input<'_>) -> Result<Spec> {
    check(input)?;
    let mut root = RootBuilder::default();
    root = root.path(input.rootfs).readonly(input.config.security.readonly_rootfs);
    let builder = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root.build().map_err(bug)?)
        .mounts(mounts::all(input)?)
        .process(process::build(input)?)
        .annotations(input.annotations.clone())
        .linux(linux(input)?);
    let mut spec = builder.build().map_err(bug)?;
    // The builder's default host name would be set in namespaces that are not the container's own.
    spec.set_hostname(None);
    spec.set_hooks(None);
    Ok(spec)
}

/// A builder that misses a field is a bug of ours.
pub(crate) fn bug(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("write the OCI configuration: {error}"))
}

fn check(input: &Input<'_>) -> Result<()> {
    let security = &input.config.security;
    if security.privileged && !input.sandbox.privileged {
        return Err(Error::invalid("a privileged container needs a privileged sandbox"));
    }
    if security.selinux.as_ref().is_some_and(|l| *l != crate::model::SelinuxLabel::default())
        && !input.host.selinux
    {
        return Err(Error::unsupported(
            "an SELinux label was asked for, but SELinux is not enabled on this host or in Berth's configuration",
        ));
    }
    if let Some(bind) = input.binds.iter().find(|bind| bind.asked.selinux_relabel && input.host.selinux) {
        return Err(Error::unsupported(format!(
            "mount {} asks for its source to be relabelled, which this release does not do; label it beforehand",
            bind.asked.destination.display()
        )));
    }
    match &security.apparmor {
        AppArmor::RuntimeDefault | AppArmor::Profile(_) if !input.host.apparmor.enabled => {
            Err(Error::unsupported(
                "an AppArmor profile was asked for, but AppArmor is not enabled in this kernel",
            ))
        }
        AppArmor::RuntimeDefault if !input.host.apparmor.default_loaded => Err(Error::unsupported(
            "the default AppArmor profile was asked for, but could not be loaded; see `berth check`",
        )),
        AppArmor::Default | AppArmor::Unconfined | AppArmor::RuntimeDefault | AppArmor::Profile(_) => Ok(()),
    }
}

fn linux(input: &Input<'_>) -> Result<Linux> {
    let security = &input.config.security;
    let mut builder = LinuxBuilder::default()
        .namespaces(namespaces(input)?)
        .resources(resources::linux(input)?)
        .cgroups_path(input.cgroups_path)
        .devices(devices::nodes(input)?)
        .rootfs_propagation(mounts::rootfs_propagation(input.binds));
    let (masked, readonly) = if security.privileged {
        (Vec::new(), Vec::new())
    } else {
        (security.masked_paths.clone(), security.readonly_paths.clone())
    };
    builder = builder.masked_paths(masked).readonly_paths(readonly);
    if let Some(seccomp) = &input.seccomp {
        builder = builder.seccomp(seccomp.clone());
    }
    if let Some(user) = &input.sandbox.namespaces.user {
        builder =
            builder.uid_mappings(id_mappings(&user.maps.uids)?).gid_mappings(id_mappings(&user.maps.gids)?);
    }
    builder.build().map_err(bug)
}

pub(crate) fn id_mappings(maps: &[keeper::protocol::IdMap]) -> Result<Vec<LinuxIdMapping>> {
    maps.iter()
        .map(|map| {
            LinuxIdMappingBuilder::default()
                .container_id(map.container_id)
                .host_id(map.host_id)
                .size(map.size)
                .build()
                .map_err(bug)
        })
        .collect()
}

/// A namespace of the host is left out; one that is joined has its path; the others are made new.
fn namespaces(input: &Input<'_>) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType as T;
    let mut list = vec![(T::Mount, None)];
    let mut shared = |kind: NamespaceKind, type_: T| {
        if let Some(path) = input.join.get(&kind) {
            list.push((type_, Some(path.clone())));
        }
    };
    shared(NamespaceKind::User, T::User);
    shared(NamespaceKind::Net, T::Network);
    shared(NamespaceKind::Ipc, T::Ipc);
    shared(NamespaceKind::Uts, T::Uts);
    shared(NamespaceKind::Pid, T::Pid);
    let pid = input.config.security.pid.as_ref().unwrap_or(&input.sandbox.namespaces.pid);
    if *pid == crate::model::NamespaceMode::Container {
        list.push((T::Pid, None));
    }
    if mounts::own_cgroup_namespace(input) {
        list.push((T::Cgroup, None));
    }
    list.into_iter()
        .map(|(type_, path)| {
            let mut builder = LinuxNamespaceBuilder::default().typ(type_);
            if let Some(path) = path {
                builder = builder.path(path);
            }
            builder.build().map_err(bug)
        })
        .collect()
}

/// Puts the paths a runtime shall open in place of the ones [`build`] wrote.
pub(crate) fn replace_namespace_paths(spec: &mut Spec, path_of: &dyn Fn(NamespaceKind) -> Option<PathBuf>) {
    let Some(mut linux) = spec.linux().clone() else { return };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    for namespace in &mut namespaces {
        let kind = match namespace.typ() {
            LinuxNamespaceType::User => NamespaceKind::User,
            LinuxNamespaceType::Network => NamespaceKind::Net,
            LinuxNamespaceType::Ipc => NamespaceKind::Ipc,
            LinuxNamespaceType::Uts => NamespaceKind::Uts,
            LinuxNamespaceType::Pid => NamespaceKind::Pid,
            LinuxNamespaceType::Mount | LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time => continue,
        };
        if namespace.path().is_some() {
            namespace.set_path(path_of(kind));
        }
    }
    linux.set_namespaces(Some(namespaces));
    spec.set_linux(Some(linux));
}
