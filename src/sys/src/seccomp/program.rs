//! The compiled filter.

use std::sync::Arc;

/// Most instructions the kernel takes in one filter (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Flags of `seccomp(2)` that a profile may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Flags(u32);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// Apply to all threads of the process.
    pub const TSYNC: Flags = Flags(1);
    /// Log every verdict but allow.
    pub const LOG: Flags = Flags(2);
    /// Leave speculative store bypass alone.
    pub const SPEC_ALLOW: Flags = Flags(4);
    /// Return a descriptor that is told of notifications.
    pub const NEW_LISTENER: Flags = Flags(8);
    /// With a listener, only fatal signals interrupt a call that waits for the answer.
    pub const WAIT_KILLABLE: Flags = Flags(32);
    const TSYNC_ESRCH: u32 = 16;

    /// Both sets.
    #[must_use]
    pub const fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits for the kernel: a listener with thread synchronisation needs one more, and the flag about
    /// waiting is refused without a listener.
    #[must_use]
    pub const fn bits(self) -> u32 {
        let listener = self.contains(Flags::NEW_LISTENER);
        if listener && self.contains(Flags::TSYNC) {
            self.0 | Self::TSYNC_ESRCH
        } else if listener {
            self.0
        } else {
            self.0 & !Flags::WAIT_KILLABLE.0
        }
    }
}

/// A filter ready to be installed; cheap to clone and to share between threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub(super) code: Arc<[u64]>,
    pub(super) flags: Flags,
    pub(super) ignored: Arc<[String]>,
}

impl Program {
    /// The instructions, each a `struct sock_filter` in its memory layout.
    #[must_use]
    pub fn instructions(&self) -> &[u64] {
        &self.code
    }

    /// Flags the profile asks for, [`Flags::NEW_LISTENER`] among them when a rule notifies.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// Whether a rule hands system calls to a listener.
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.flags.contains(Flags::NEW_LISTENER)
    }

    /// System calls and architectures the profile names and this program does not know.
    #[must_use]
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }
}
