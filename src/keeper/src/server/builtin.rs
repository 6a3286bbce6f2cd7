//! The runtime library, seen from the keeper's loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::births::ChildEnds;
use super::namespaces::Pinned;
use super::requests::Attached;
use super::{Keeper, Target};
use crate::protocol::{Exec, Failure, FailureKind, NamespaceSpec, Start, TerminalSize};

#[derive(Debug, Default)]
pub(super) struct SeccompCache;

/// What a container was started with.
#[derive(Debug, Default)]
pub(super) struct Setup {
    pub(super) bundle: PathBuf,
}

impl Setup {
    pub(super) fn load(bundle: &Path) -> Result<Setup, Failure> {
        Ok(Setup { bundle: bundle.to_owned() })
    }
}

pub(super) enum Streams<'a> {
    Pipes(&'a ChildEnds),
    Terminal(TerminalSize),
}

pub(super) struct ExecIn<'a> {
    pub(super) pid: u32,
    pub(super) pidfd: &'a OwnedFd,
    pub(super) setup: &'a Setup,
}

#[derive(Debug)]
pub(super) struct Parts {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) start_time: u64,
}

pub(super) enum Step {
    Pending,
    SetUp,
    Running,
}

#[derive(Debug)]
pub(super) struct Builtin {
    parts: Parts,
}

impl Builtin {
    pub(super) fn pid(&self) -> u32 {
        self.parts.pid
    }
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.parts.pidfd.as_fd()
    }
    pub(super) fn report_fd(&self) -> BorrowedFd<'_> {
        self.parts.pidfd.as_fd()
    }
    pub(super) fn advance(&mut self) -> Result<Step, Failure> {
        Ok(Step::Pending)
    }
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        Ok(())
    }
    pub(super) fn into_parts(self) -> (Parts, Option<OwnedFd>) {
        (self.parts, None)
    }
}

#[derive(Debug)]
pub(super) struct NamespaceChild {
    parts: Parts,
}
impl NamespaceChild {
    pub(super) fn pid(&self) -> u32 {
        self.parts.pid
    }
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.parts.pidfd.as_fd()
    }
    pub(super) fn report_fd(&self) -> BorrowedFd<'_> {
        self.parts.pidfd.as_fd()
    }
    pub(super) fn advance(&mut self) -> Result<Option<Pinned>, Failure> {
        Ok(None)
    }
}

fn no() -> Failure {
    Failure { kind: FailureKind::Internal, message: "built-in runtime missing".into(), errno: None }
}

pub(super) fn start(
    _: &Start,
    _: &Setup,
    _: Streams<'_>,
    _: &mut Attached,
    _: &mut SeccompCache,
) -> Result<Builtin, Failure> {
    Err(no())
}
pub(super) fn exec(
    _: &Exec,
    _: &ExecIn<'_>,
    _: Streams<'_>,
    _: &mut SeccompCache,
) -> Result<Builtin, Failure> {
    Err(no())
}
pub(super) fn namespaces(_: &NamespaceSpec) -> Result<NamespaceChild, Failure> {
    Err(no())
}

impl Keeper {
    pub(super) fn watch_report(&mut self, number: u64, child: &Builtin) -> Result<u64, Failure> {
        self.watch(&child.report_fd(), Target::Report(number))
            .map_err(|error| super::failure::io("watch the set-up of a process", &error))
    }
}
