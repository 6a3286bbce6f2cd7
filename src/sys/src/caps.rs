//! Capability sets: names, the bounding set, what this process holds.

use std::fmt;
use std::io;
use std::ops::{BitAnd, BitOr};

/// Names in the order of their numbers, without the prefix `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities; bit n is capability n.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Set(pub u64);

impl Set {
    /// The empty set.
    pub const EMPTY: Set = Set(0);

    /// The set with the one capability of this name, with or without `CAP_`, in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<Set> {
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        NAMES.iter().position(|known| *known == name).map(|bit| Set(1 << bit))
    }

    /// Every capability that has a name.
    #[must_use]
    pub fn known() -> Set {
        Set((1 << NAMES.len()) - 1)
    }

    /// Whether all of `other` is in this set.
    #[must_use]
    pub fn contains(self, other: Set) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn without(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    /// The names, with `CAP_`, in the order of their numbers.
    pub fn names(self) -> impl Iterator<Item = String> {
        NAMES
            .iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 >> bit & 1 == 1)
            .map(|(_, name)| format!("CAP_{name}"))
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl BitOr for Set {
    type Output = Set;
    fn bitor(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }
}

impl BitAnd for Set {
    type Output = Set;
    fn bitand(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }
}

/// What a process holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// CapInh
    pub inheritable: Set,
    /// CapPrm
    pub permitted: Set,
    /// CapEff
    pub effective: Set,
    /// CapBnd
    pub bounding: Set,
    /// CapAmb
    pub ambient: Set,
}

/// What the calling thread holds.
pub fn held() -> io::Result<Held> {
    parse(&std::fs::read_to_string("/proc/thread-self/status")?)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What a process holds.
pub fn held_by(pid: u32) -> io::Result<Held> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/status"))?)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(status: &str) -> Option<Held> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Set)
    };
    Some(Held {
        inheritable: field("CapInh")?,
        permitted: field("CapPrm")?,
        effective: field("CapEff")?,
        bounding: field("CapBnd")?,
        ambient: field("CapAmb")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_kernel() {
        assert_eq!(Set::named("CAP_CHOWN"), Some(Set(1)));
        assert_eq!(Set::named("sys_admin"), Some(Set(1 << 21)));
        assert_eq!(Set::named("CAP_CHECKPOINT_RESTORE"), Some(Set(1 << 40)));
        assert_eq!(Set::named("CAP_NONSENSE"), None);
        assert_eq!(Set(0b11).names().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    }

    #[test]
    fn the_sets_of_this_process_are_read() {
        let held = held().unwrap();
        assert!(held.permitted.contains(held.effective));
        assert_eq!(held_by(std::process::id()).unwrap().bounding, held.bounding);
    }
}
