//! clone3 and the operations a cloned child may perform before exec.
//!
//! A [`Script`] is made before the clone: a flat list of [`Op`]s with every string, descriptor and BPF
//! program ready. [`Script::spawn`] clones once; the child interprets the list with raw system calls. It
//! allocates nothing, takes no lock and calls no libc function that might, so cloning is safe in a process
//! with threads. It reports the index of a failed operation and the errno through a socket:
//!
//! ```text
//!  parent                                   child
//!    spawn ── clone3 ──────────────────────▶ step 0, 1, 2 …
//!    Report::next ◀── NeedsMaps ──────────── (a new user namespace: the parent writes the maps)
//!    go_on ───────────────────────────────▶
//!    Report::next ◀── Console + fd ──────── (the master of a terminal)
//!    Report::next ◀── Warning / Failed ──── (step, errno)
//!    Report::next ◀── Executing ─────────── last step
//!    Report::next ◀── end of file ───────── exec closed the socket: the program runs
//! ```
//!
//! Nothing here knows what a container is; which operations make one is the runtime's plan.

// Values pass as registers here: a cast keeps their bits, which is what the kernel reads.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
mod child;
mod command;
mod display;
mod init;
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
mod mountpoint;
mod op;
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
mod raw;
mod report;
mod spawn;
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
mod terminal;
#[cfg(test)]
mod tests;

pub use command::{Command, Output, RunError};
pub use init::init_image;
pub use op::{
    Argument, Capabilities, Exec, Fd, FsOption, Hook, MountChange, Op, Program, Scheduler, Slot, Step,
    Target, resolve,
};
pub use report::{Message, Report, listen};
pub use spawn::{Files, Script, Spawned};
