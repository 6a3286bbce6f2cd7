//! What a specification may ask for and does not get: an error that names the member, before anything is made.
//!
//! The table of all members is [`crate::fields`]; here is what its refusals mean for a specification that has
//! been read.

use oci::runtime::{Hook, Linux, LinuxPersonality, LinuxSeccomp, Process, Spec};

use sys::ns::Kind;

use super::{Builder, PlanError, kind_of};
use crate::host::Host;
use crate::request::HookPlan;

fn unsupported<T>(what: &str) -> Result<T, PlanError> {
    Err(PlanError::Unsupported(what.to_owned()))
}

fn given(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

/// Refuses what no container gets, and what this caller does not do.
pub(super) fn container(spec: &Spec, linux: &Linux, hooks: &HookPlan<'_>) -> Result<(), PlanError> {
    for (present, what) in [
        (spec.uid_mappings().is_some(), "uidMappings outside of linux"),
        (spec.gid_mappings().is_some(), "gidMappings outside of linux"),
        (spec.solaris().is_some(), "solaris"),
        (spec.windows().is_some(), "windows"),
        (spec.vm().is_some(), "vm"),
        (spec.zos().is_some(), "zos"),
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (!hooks.pause && has_hooks(spec), "hooks: a container of the keeper"),
    ] {
        if present {
            return unsupported(what);
        }
    }
    if !hooks.pause && linux.net_devices().iter().flatten().next().is_some() {
        return unsupported("linux.netDevices: a container of the keeper");
    }
    Ok(())
}

#[allow(deprecated)] // prestart is still what many tools write
fn has_hooks(spec: &Spec) -> bool {
    let Some(hooks) = spec.hooks() else { return false };
    let lists: [&Option<Vec<Hook>>; 6] = [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    lists.into_iter().flatten().any(|list| !list.is_empty())
}

/// Refuses what no process gets, be it a container's first or one more.
pub(super) fn process(process: &Process, host: &Host) -> Result<(), PlanError> {
    if given(process.command_line().as_deref()) {
        return unsupported("process.commandLine: give process.args; it");
    }
    if given(process.user().username().as_deref()) {
        return unsupported("process.user.username: give process.user.uid; it");
    }
    let apparmor = process.apparmor_profile().as_deref().filter(|name| *name != "unconfined");
    if given(apparmor) && !host.apparmor {
        return unsupported("process.apparmorProfile: AppArmor is not enabled in this kernel; it");
    }
    if given(process.selinux_label().as_deref()) && !host.selinux {
        return unsupported("process.selinuxLabel: SELinux is not enabled in this kernel; it");
    }
    Ok(())
}

/// Refuses a label for mounts where no security module reads it.
pub(super) fn mount_label(linux: &Linux, host: &Host) -> Result<(), PlanError> {
    if given(linux.mount_label().as_deref()) && !host.selinux {
        return unsupported("linux.mountLabel: SELinux is not enabled in this kernel; it");
    }
    Ok(())
}

/// Refuses a personality beyond its domain: the specification names no flag.
pub(super) fn personality(personality: &LinuxPersonality) -> Result<(), PlanError> {
    match personality.flags().iter().flatten().next() {
        Some(flag) => unsupported(&format!("linux.personality.flags {flag}")),
        None => Ok(()),
    }
}

/// Refuses an agent that decides about system calls.
pub(super) fn seccomp(profile: &LinuxSeccomp) -> Result<(), PlanError> {
    if profile.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()) {
        return unsupported("linux.seccomp.listenerPath");
    }
    if given(profile.listener_metadata().as_deref()) {
        return unsupported("linux.seccomp.listenerMetadata");
    }
    Ok(())
}

impl Builder<'_, '_> {
    /// Members that mean something only with a namespace are refused without it.
    pub(super) fn check_namespaces(&self) -> Result<(), PlanError> {
        let listed = self.linux.namespaces().as_deref().unwrap_or_default();
        for (index, namespace) in listed.iter().enumerate() {
            if listed.iter().skip(index + 1).any(|other| other.typ() == namespace.typ()) {
                let kind = kind_of(namespace.typ()).proc_name();
                return Err(PlanError::Invalid(format!("linux.namespaces names the {kind} namespace twice")));
            }
        }
        let joined = |kind: Kind| self.joins.iter().any(|(other, _)| *other == kind);
        let has_maps = self.linux.uid_mappings().iter().chain(self.linux.gid_mappings()).flatten().next();
        let spec = self.request.spec;
        let own_uts = self.fresh.contains(&Kind::Uts) || joined(Kind::Uts);
        let has = |list: bool, name: &str, own: bool, kind: &str| {
            let message =
                format!("{name} needs a {kind} namespace of the container's own in linux.namespaces");
            if list && !own { Err(PlanError::Invalid(message)) } else { Ok(()) }
        };
        has(has_maps.is_some(), "linux.uidMappings and gidMappings", self.own_user, "user")?;
        let offsets = self.linux.time_offsets().iter().flatten().next().is_some();
        has(offsets, "linux.timeOffsets", self.fresh.contains(&Kind::Time), "time")?;
        let devices = self.linux.net_devices().iter().flatten().next().is_some();
        has(devices, "linux.netDevices", self.fresh.contains(&Kind::Net) || joined(Kind::Net), "network")?;
        let name = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
        has(name(spec.hostname()), "hostname", own_uts, "uts")?;
        has(name(spec.domainname()), "domainname", own_uts, "uts")
    }
}
