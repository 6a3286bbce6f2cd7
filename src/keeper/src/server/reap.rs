//! Whatever ends: containers, exec sessions, external runtimes, inits, and orphans that were adopted.

use sys::pidfd::WaitStatus;

use super::Keeper;
use super::requests::Client;
use crate::protocol::Reply;

/// What a child was started for. A child without an owner is an adopted orphan.
#[derive(Debug, Clone)]
pub(super) enum Owner {
    /// A container or an exec session.
    Process(String),
    /// One that is being started.
    Birth(u64),
    /// An external runtime's command.
    Tool(u64),
    /// The built-in init of namespaces.
    Init(String),
    /// The built-in init of namespaces that were dropped; the client waits for its end.
    DroppedInit(Client),
    /// A process that makes namespaces.
    Making(u64),
}

impl Keeper {
    /// Reaps every child that has ended. A child is looked at before it is reaped: as long as it is a zombie
    /// its pid is its own, so nothing is ever attributed to a stranger.
    pub(super) fn reap(&mut self) {
        loop {
            if !self.tools.is_empty() {
                // Orphans are left alone for now: one may be the container that a runtime is just making.
                self.reap_known();
                if !self.tools.is_empty() {
                    return;
                }
            }
            let pid = match sys::reaper::peek_dead_child() {
                Ok(Some(pid)) => pid,
                Ok(None) => return,
                Err(error) => {
                    return super::fail_loudly(&format!("look for children that have ended: {error}"));
                }
            };
            if let Some(Owner::Birth(birth)) = self.owners.get(&pid) {
                // It may have come to run its program, and that program to its end, before we looked.
                self.advance(*birth);
            }
            match sys::reaper::reap(pid) {
                Ok(Some(status)) => self.ended(pid, status),
                Ok(None) => {}
                Err(error) => return super::fail_loudly(&format!("reap child {pid}: {error}")),
            }
        }
    }

    fn reap_known(&mut self) {
        let known: Vec<u32> = self.owners.keys().copied().collect();
        for pid in known {
            if let Some(Owner::Birth(birth)) = self.owners.get(&pid) {
                self.advance(*birth);
            }
            if let Ok(Some(status)) = sys::reaper::reap(pid) {
                self.ended(pid, status);
            }
        }
    }

    fn ended(&mut self, pid: u32, status: WaitStatus) {
        match self.owners.remove(&pid) {
            Some(Owner::Process(id)) => self.process_ended(&id, status),
            Some(Owner::Birth(birth)) => self.birth_ended(birth, status),
            Some(Owner::Tool(tool)) => self.tool_ended(tool, status),
            Some(Owner::Init(key)) => self.init_ended(&key),
            Some(Owner::DroppedInit(client)) => self.reply(client, Reply::Done, Vec::new()),
            Some(Owner::Making(making)) => self.making_ended(making),
            None => {}
        }
    }
}
