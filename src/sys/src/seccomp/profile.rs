//! Profile files: JSON in the format of Docker's profiles, of which the OCI's is a subset.

use std::str::FromStr;

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::Error;
use super::arch::Arch;

/// The profile for containers that ask for the runtime's default.
pub const DEFAULT_PROFILE: &str = include_str!("../../../../config/seccomp-default.json");

/// A profile whose entries may depend on capabilities, architecture and kernel.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: LinuxSeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    arch_map: Option<Vec<ArchEntry>>,
    #[serde(default)]
    architectures: Option<Vec<OciArch>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Entry>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchEntry {
    architecture: OciArch,
    #[serde(default)]
    sub_architectures: Option<Vec<OciArch>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<KernelVersion>,
}

/// Major and minor number of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct KernelVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

impl KernelVersion {
    /// The running kernel's, as it reports it.
    #[must_use]
    pub fn current() -> Self {
        let release = rustix::system::uname();
        release.release().to_string_lossy().parse().unwrap_or(KernelVersion { major: 0, minor: 0 })
    }
}

impl FromStr for KernelVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Invalid { field: "minKernel", value: text.to_owned() };
        let (major, rest) = text.split_once('.').ok_or_else(wrong)?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let minor = rest[..digits].parse().map_err(|_| wrong())?;
        Ok(KernelVersion { major: major.parse().map_err(|_| wrong())?, minor })
    }
}

impl TryFrom<String> for KernelVersion {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

/// What a container is given, as far as entries ask for it.
struct Context<'a> {
    caps: &'a [&'a str],
    kernel: KernelVersion,
    arch: Arch,
}

impl Profile {
    /// Reads a profile file.
    ///
    /// # Errors
    /// The text is not JSON of this shape, or contradicts itself.
    pub fn parse(json: &str) -> Result<Self, Error> {
        let profile: Profile = serde_json::from_str(json).map_err(Error::Parse)?;
        let given = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|l: &Vec<OciArch>| !l.is_empty());
        if given(&profile.architectures) && profile.arch_map.as_ref().is_some_and(|map| !map.is_empty()) {
            let value = "given together with archMap".to_owned();
            return Err(Error::Invalid { field: "architectures", value });
        }
        for entry in profile.syscalls.iter().flatten() {
            if entry.name.is_some() && entry.names.as_ref().is_some_and(|names| !names.is_empty()) {
                let value = "given together with names".to_owned();
                return Err(Error::Invalid { field: "name", value });
            }
        }
        Ok(profile)
    }

    /// The profile for one container: entries that do not apply are left out. `caps` are names such as
    /// `CAP_SYS_ADMIN`, those of the container's bounding set.
    ///
    /// # Errors
    /// An entry cannot be expressed.
    pub fn resolve(&self, caps: &[&str], kernel: KernelVersion, arch: Arch) -> Result<LinuxSeccomp, Error> {
        let context = Context { caps, kernel, arch };
        let mut resolved = LinuxSeccomp::default();
        resolved
            .set_default_action(self.default_action)
            .set_default_errno_ret(self.default_errno_ret)
            .set_architectures(self.architectures_for(arch))
            .set_flags(self.flags.clone())
            .set_listener_path(self.listener_path.as_ref().map(Into::into))
            .set_listener_metadata(self.listener_metadata.clone());
        let entries = self.syscalls.iter().flatten().filter(|entry| entry.applies(&context));
        let syscalls = entries.map(Entry::to_oci).collect::<Result<Vec<_>, _>>()?;
        resolved.set_syscalls(Some(syscalls));
        Ok(resolved)
    }

    fn architectures_for(&self, arch: Arch) -> Option<Vec<OciArch>> {
        let Some(map) = self.arch_map.as_ref().filter(|map| !map.is_empty()) else {
            return self.architectures.clone();
        };
        let entry = map.iter().find(|entry| entry.architecture == arch.to_oci())?;
        let mut all = vec![entry.architecture];
        all.extend(entry.sub_architectures.iter().flatten());
        Some(all)
    }
}

impl Entry {
    fn applies(&self, context: &Context<'_>) -> bool {
        let included = self.includes.as_ref().is_none_or(|filter| filter.includes(context));
        let excluded = self.excludes.as_ref().is_some_and(|filter| filter.excludes(context));
        included && !excluded
    }

    fn to_oci(&self) -> Result<LinuxSyscall, Error> {
        let mut names = self.names.clone().unwrap_or_default();
        names.extend(self.name.clone());
        let mut builder = LinuxSyscallBuilder::default().names(names).action(self.action);
        if let Some(errno) = self.errno_ret {
            builder = builder.errno_ret(errno);
        }
        if let Some(args) = self.args.as_ref().filter(|args| !args.is_empty()) {
            builder = builder.args(args.clone());
        }
        builder.build().map_err(|e| Error::Invalid { field: "syscalls", value: e.to_string() })
    }
}

impl Filter {
    /// All that is named must be so.
    fn includes(&self, context: &Context<'_>) -> bool {
        let caps = self.caps.iter().flatten().all(|cap| context.has(cap));
        let arches = self.arches.as_ref().is_none_or(|list| list.is_empty() || context.is_one_of(list));
        caps && arches && self.min_kernel.is_none_or(|min| context.kernel >= min)
    }

    /// Any that is named suffices.
    fn excludes(&self, context: &Context<'_>) -> bool {
        self.caps.iter().flatten().any(|cap| context.has(cap))
            || self.arches.as_ref().is_some_and(|list| context.is_one_of(list))
            || self.min_kernel.is_some_and(|min| context.kernel >= min)
    }
}

impl Context<'_> {
    fn has(&self, cap: &str) -> bool {
        self.caps.contains(&cap)
    }

    fn is_one_of(&self, arches: &[String]) -> bool {
        arches.iter().any(|name| name == self.arch.go_name())
    }
}
