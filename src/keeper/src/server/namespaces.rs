//! Namespaces that are kept for sandboxes, by descriptor and without a process, but for the built-in init of
//! a PID namespace.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::builtin::{self, NamespaceChild};
use super::failure::{exists, io};
use super::reap::Owner;
use super::requests::Client;
use super::{Keeper, SIGKILL, Target};
use crate::protocol::{Event, Failure, FailureKind, NamespaceKind, NamespaceSpec, Reply};

/// No such process: it has ended and was reaped.
const ESRCH: i32 = 3;

/// Namespaces under a key.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) fds: Vec<(NamespaceKind, Rc<OwnedFd>)>,
    pub(super) init: Option<Init>,
}

/// The first process of a PID namespace.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    /// The poller's token, if it is not our child.
    pub(super) watch: Option<u64>,
}

/// Namespaces that are being made.
#[derive(Debug)]
pub(super) struct Making {
    client: Client,
    key: String,
    child: NamespaceChild,
    token: u64,
}

impl Pinned {
    pub(super) fn init_pid(&self) -> Option<u32> {
        self.init.as_ref().map(|init| init.pid)
    }
}

impl Keeper {
    /// Begins to make namespaces; those that exist under the key are answered with at once.
    pub(super) fn create_namespaces(
        &mut self,
        client: Client,
        key: String,
        spec: &NamespaceSpec,
    ) -> Result<(), Failure> {
        if self.namespaces.contains_key(&key) {
            self.answer_namespaces(client, &key);
            return Ok(());
        }
        if self.makings.values().any(|making| making.key == key) {
            return Err(exists(&key));
        }
        let child = builtin::namespaces(spec)?;
        let number = self.number();
        self.owners.insert(child.pid(), Owner::Making(number));
        let token = self
            .watch(&child.report_fd(), Target::Namespaces(number))
            .map_err(|error| io("watch the making of namespaces", &error))?;
        self.makings.insert(number, Making { client, key, child, token });
        Ok(())
    }

    pub(super) fn advance_namespaces(&mut self, number: u64) {
        let Some(making) = self.makings.get_mut(&number) else { return };
        let result = match making.child.advance() {
            Ok(None) => return,
            Ok(Some(made)) => Ok(made),
            Err(failure) => Err(failure),
        };
        let Some(making) = self.makings.remove(&number) else { return };
        self.unwatch(&making.child.report_fd(), making.token);
        match result {
            Ok(pinned) => {
                if let Some(pid) = pinned.init_pid() {
                    self.owners.insert(pid, Owner::Init(making.key.clone()));
                }
                super::inform(|| format!("namespaces of {} are made", making.key));
                self.namespaces.insert(making.key.clone(), pinned);
                self.answer_namespaces(making.client, &making.key);
            }
            Err(failure) => {
                // One that has ended is reaped all the same.
                let _ = sys::pidfd::signal(making.child.pidfd(), SIGKILL);
                self.fail(making.client, failure);
            }
        }
    }

    /// The process that makes namespaces ended; what it reported before counts.
    pub(super) fn making_ended(&mut self, number: u64) {
        self.advance_namespaces(number);
        let Some(making) = self.makings.remove(&number) else { return };
        self.unwatch(&making.child.report_fd(), making.token);
        let message = format!("making the namespaces of {} ended without a report", making.key);
        self.fail(making.client, Failure { kind: FailureKind::Setup, message, errno: None });
    }

    /// Forgets namespaces. With an init the answer waits until it is gone, so that its cgroup is free.
    pub(super) fn drop_namespaces(&mut self, client: Client, key: &str) -> Result<Option<Reply>, Failure> {
        let Some(pinned) = self.namespaces.remove(key) else { return Ok(Some(Reply::Done)) };
        super::inform(|| format!("namespaces of {key} are dropped"));
        let Some(init) = pinned.init else { return Ok(Some(Reply::Done)) };
        // One that has ended already is waited for all the same.
        sys::pidfd::signal(init.pidfd.as_fd(), SIGKILL)
            .or_else(|error| if error.raw_os_error() == Some(ESRCH) { Ok(()) } else { Err(error) })
            .map_err(|error| io(&format!("kill the init of {key}"), &error))?;
        match init.watch {
            None => drop(self.owners.insert(init.pid, Owner::DroppedInit(client))),
            Some(token) => {
                self.targets.insert(token, Target::LeavingInit(client));
                self.leaving.insert(token, init.pidfd);
            }
        }
        Ok(None)
    }

    pub(super) fn init_ended(&mut self, key: &str) {
        if let Some(pinned) = self.namespaces.get_mut(key) {
            pinned.init = None;
            self.emit(&Event::InitExited { key: key.to_owned() });
        }
    }

    fn answer_namespaces(&mut self, client: Client, key: &str) {
        let Some(pinned) = self.namespaces.get(key) else { return };
        let kinds = pinned.fds.iter().map(|(kind, _)| *kind).collect();
        let fds = pinned.fds.iter().map(|(_, fd)| Rc::clone(fd)).collect();
        let init_pid = pinned.init_pid();
        self.reply(client, Reply::Namespaces { kinds, init_pid }, fds);
    }
}
