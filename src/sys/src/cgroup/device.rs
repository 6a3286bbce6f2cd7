//! Which devices a group may use: rules, what they add up to, and v1's files.

use std::fmt;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{Error, files};

/// Kind of a device file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Block device.
    Block,
    /// Character device.
    Char,
}

/// What may be done with a device: the bits of the kernel's `BPF_DEVCG_ACC_…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(pub(super) u32);

impl Access {
    /// Make a file for it.
    pub const MKNOD: Access = Access(1);
    /// Read.
    pub const READ: Access = Access(2);
    /// Write.
    pub const WRITE: Access = Access(4);
    /// Everything.
    pub const ALL: Access = Access(7);

    fn parse(text: &str) -> Option<Access> {
        text.bytes().try_fold(Access(0), |all, letter| match letter {
            b'm' => Some(Access(all.0 | Self::MKNOD.0)),
            b'r' => Some(Access(all.0 | Self::READ.0)),
            b'w' => Some(Access(all.0 | Self::WRITE.0)),
            _ => None,
        })
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")] {
            if self.0 & bit.0 != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Devices and accesses; `None` is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Block or character.
    pub kind: Kind,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// The accesses.
    pub access: Access,
}

impl DeviceRule {
    fn same_devices(&self, other: &DeviceRule) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    /// Whether every device of `other` is one of ours.
    fn covers(&self, other: &DeviceRule) -> bool {
        let includes = |ours: Option<u32>, theirs: Option<u32>| ours.is_none() || ours == theirs;
        self.kind == other.kind && includes(self.major, other.major) && includes(self.minor, other.minor)
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Block => 'b',
            Kind::Char => 'c',
        };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

/// What a list of rules adds up to: a default and the exceptions from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePolicy {
    /// Whether devices without an exception may be used.
    pub allow_by_default: bool,
    /// Allowed when the default denies, denied when it allows.
    pub exceptions: Vec<DeviceRule>,
}

impl DevicePolicy {
    /// Follows the rules in their order, as the v1 controller would from "allow everything": a rule for all
    /// devices sets the default and drops the exceptions, others add exceptions or narrow them.
    ///
    /// # Errors
    /// A rule has a type, number or access that means nothing.
    pub fn new(rules: &[LinuxDeviceCgroup]) -> Result<Self, Error> {
        let mut policy = DevicePolicy { allow_by_default: true, exceptions: Vec::new() };
        for rule in rules {
            match parse(rule)? {
                Parsed::Everything => {
                    policy = DevicePolicy { allow_by_default: rule.allow(), exceptions: Vec::new() };
                }
                Parsed::Some(kinds, wanted) => {
                    for kind in kinds {
                        policy.add(rule.allow(), DeviceRule { kind: *kind, ..wanted });
                    }
                }
            }
        }
        Ok(policy)
    }

    fn add(&mut self, allow: bool, rule: DeviceRule) {
        if allow == self.allow_by_default {
            // Back to the default: take the accesses out of the exceptions the rule covers.
            for exception in &mut self.exceptions {
                if rule.covers(exception) {
                    exception.access.0 &= !rule.access.0;
                }
            }
            self.exceptions.retain(|exception| !exception.access.is_empty());
        } else if let Some(same) = self.exceptions.iter_mut().find(|e| e.same_devices(&rule)) {
            same.access.0 |= rule.access.0;
        } else if !rule.access.is_empty() {
            self.exceptions.push(rule);
        }
    }
}

enum Parsed {
    Everything,
    Some(&'static [Kind], DeviceRule),
}

fn parse(rule: &LinuxDeviceCgroup) -> Result<Parsed, Error> {
    let wrong = |field: &str, value: &dyn fmt::Debug| Error::Invalid {
        field: field.to_owned(),
        value: format!("{value:?}"),
    };
    let text = rule.access().as_deref().filter(|text| !text.is_empty()).unwrap_or("rwm");
    let access = Access::parse(text).ok_or_else(|| wrong("devices.access", &text))?;
    let number = |field: &str, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| wrong(field, &n)),
    };
    let major = number("devices.major", rule.major())?;
    let minor = number("devices.minor", rule.minor())?;
    let kinds: &[Kind] = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => &[Kind::Block, Kind::Char],
        LinuxDeviceType::B => &[Kind::Block],
        LinuxDeviceType::C | LinuxDeviceType::U => &[Kind::Char],
        LinuxDeviceType::P => return Err(wrong("devices.type", &"p")),
    };
    if kinds.len() == 2 && major.is_none() && minor.is_none() && access == Access::ALL {
        return Ok(Parsed::Everything);
    }
    Ok(Parsed::Some(kinds, DeviceRule { kind: Kind::Char, major, minor, access }))
}

/// Writes `policy` to a v1 group. When the group denies by default already, only the difference is written,
/// so that running processes never lose a device they keep. On failure the old state is written again.
pub(super) fn apply_v1(dir: &Path, policy: &DevicePolicy) -> Result<(), Error> {
    let before = files::read(&dir.join("devices.list"))?;
    let writes = v1_writes(&before, policy);
    for (file, line) in &writes {
        if let Err(error) = files::write(&dir.join(file), line) {
            restore_v1(dir, &before);
            return Err(error);
        }
    }
    Ok(())
}

/// The lines to write, with the file each goes to.
pub(super) fn v1_writes(before: &str, policy: &DevicePolicy) -> Vec<(&'static str, String)> {
    let wanted: Vec<String> = policy.exceptions.iter().map(ToString::to_string).collect();
    if policy.allow_by_default {
        let denials = wanted.into_iter().map(|line| ("devices.deny", line));
        return std::iter::once(("devices.allow", "a".to_owned())).chain(denials).collect();
    }
    if allows_everything(before) {
        let grants = wanted.into_iter().map(|line| ("devices.allow", line));
        return std::iter::once(("devices.deny", "a".to_owned())).chain(grants).collect();
    }
    // The kernel matches a written line with the entry for exactly the same devices.
    let (mut writes, mut grants) = (Vec::new(), Vec::new());
    for line in before.lines() {
        let Some((devices, access)) = line.rsplit_once(' ') else { continue };
        let kept = wanted.iter().find_map(|w| w.strip_prefix(devices)?.strip_prefix(' ')).unwrap_or_default();
        let surplus: String = access.chars().filter(|letter| !kept.contains(*letter)).collect();
        if !surplus.is_empty() {
            writes.push(("devices.deny", format!("{devices} {surplus}")));
        }
    }
    for line in wanted {
        if !before.lines().any(|old| old == line) {
            grants.push(("devices.allow", line));
        }
    }
    writes.extend(grants);
    writes
}

fn allows_everything(list: &str) -> bool {
    list.lines().any(|line| line.starts_with("a "))
}

fn restore_v1(dir: &Path, before: &str) {
    if allows_everything(before) {
        _ = files::write_io(&dir.join("devices.allow"), "a");
        return;
    }
    _ = files::write_io(&dir.join("devices.deny"), "a");
    for line in before.lines() {
        _ = files::write_io(&dir.join("devices.allow"), line);
    }
}
