//! Commands of external runtimes, run beside the loop.

use std::os::fd::OwnedFd;
use std::process::Command;

use sys::pidfd::WaitStatus;

use super::failure::io;
use super::reap::Owner;
use super::{Keeper, SIGKILL};
use crate::protocol::Failure;

/// A command that runs.
#[derive(Debug)]
pub(super) struct Tool {
    pidfd: OwnedFd,
    purpose: Purpose,
}

/// What happens when it ends.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// A process is one step nearer to running, or has failed.
    Birth(u64),
    /// A container that ended is cleaned up.
    Delete(String),
}

impl Keeper {
    /// Starts a command. Whatever it says goes where the caller directed it; its end is handled by purpose.
    pub(super) fn run_tool(&mut self, mut command: Command, purpose: Purpose) -> Result<u64, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        // The child is never waited for through std: the reaper sees its end.
        let child = command.spawn().map_err(|error| io(&format!("run {name}"), &error))?;
        let pidfd =
            sys::pidfd::open(child.id()).map_err(|error| io(&format!("open pidfd of {name}"), &error))?;
        let number = self.number();
        self.owners.insert(child.id(), Owner::Tool(number));
        self.tools.insert(number, Tool { pidfd, purpose });
        Ok(number)
    }

    pub(super) fn kill_tool(&mut self, number: u64) {
        if let Some(tool) = self.tools.get(&number) {
            use std::os::fd::AsFd;
            // One that has ended is reaped all the same.
            let _ = sys::pidfd::signal(tool.pidfd.as_fd(), SIGKILL);
        }
    }

    pub(super) fn tool_ended(&mut self, number: u64, status: WaitStatus) {
        let Some(tool) = self.tools.remove(&number) else { return };
        match tool.purpose {
            Purpose::Birth(birth) => self.external_step(birth, status),
            Purpose::Delete(id) => self.deleted(&id),
        }
    }
}
