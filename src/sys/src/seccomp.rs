//! Compiler from an OCI seccomp profile to BPF, and its installation.
//!
//! ```text
//! profile file ── Profile::parse ── resolve(caps, kernel, arch) ──▶ LinuxSeccomp ── compile ──▶ Program ── install
//! ```
//!
//! The program looks at the architecture once, jumps to a balanced binary tree over the ranges of system
//! call numbers that share a verdict, and tests arguments only at the leaves that ask for it; so the depth is
//! logarithmic and a list of hundreds of calls needs about two instructions per range.
//!
//! What a profile means here:
//!
//! * An entry whose arguments name the same index twice is one rule per argument (any may match);
//!   otherwise all of its arguments must match.
//! * Rules with arguments come before rules without, and among either the first in the profile wins.
//! * Names no architecture of the program knows are skipped and listed by [`Program::ignored`].
//! * An architecture the profile does not name kills the process. The native one is always included.
//! * When the default is an errno other than `ENOSYS`, numbers above all that the profile names fail with
//!   `ENOSYS`: a C library that probes for a call newer than the profile then falls back.
//!
//! Compiling needs no privilege and makes no system call. [`install`] allocates nothing and takes no lock.

mod arch;
mod assemble;
mod compile;
mod install;
mod profile;
mod program;
mod rules;
mod table;
#[cfg(test)]
mod tests;

pub use arch::Arch;
pub use compile::{compile, compile_for};
pub use install::install;
pub use profile::{DEFAULT_PROFILE, KernelVersion, Profile};
pub use program::{Flags, MAX_INSTRUCTIONS, Program};

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not a profile.
    #[error("parse seccomp profile")]
    Parse(#[source] serde_json::Error),
    /// A field has a value that means nothing.
    #[error("seccomp profile: {field} cannot be {value:?}")]
    Invalid {
        /// The field, by its name in the profile.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// A notifying action where the listener could never answer.
    #[error("seccomp profile: SCMP_ACT_NOTIFY cannot be used for {0}")]
    Notify(&'static str),
    /// More instructions than the kernel accepts.
    #[error("seccomp profile compiles to {0} instructions, of which the kernel accepts {MAX_INSTRUCTIONS}")]
    TooLong(usize),
    /// This machine's architecture has no table of system calls here.
    #[error("no system call table for this architecture")]
    Architecture,
}
