//! A keeper was lost and another one is there: it gets what the old one held, of which the daemon has duplicates.
//!
//! Namespaces first, then containers. What the new keeper does not take stays with the daemon alone, whose pidfd
//! says when it ends.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use keeper::protocol::{Adopt, AdoptNamespaces, NamespaceKind, Request};
use oci::ContainerId;

use crate::engine::Shared;
use crate::error::{ErrorKind, Result};
use crate::sandbox::{Live, LiveContainer};

/// Gives the keeper everything that is alive; the containers that it did not take.
pub(crate) async fn hand_over(shared: &Arc<Shared>) -> Vec<ContainerId> {
    let mut left = Vec::new();
    let mut taken = 0_u32;
    for handle in shared.handles() {
        if let Err(error) = namespaces(shared, handle.id.as_str(), &handle.live).await {
            tracing::error!(sandbox = %handle.id, error = error.chain(), "the keeper does not take the namespaces of a sandbox");
        }
        for (id, live) in handle.live.containers() {
            match container(shared, &id, &live).await {
                Ok(true) => taken += 1,
                Ok(false) => left.push(id),
                Err(error) => {
                    tracing::error!(container = %id, error = error.chain(), "the keeper does not take a container");
                    left.push(id);
                }
            }
        }
    }
    tracing::warn!(containers = taken, left = left.len(), "another keeper has taken over");
    left
}

/// Attaches a descriptor; its index.
fn attach<'a>(fds: &mut Vec<BorrowedFd<'a>>, fd: BorrowedFd<'a>) -> usize {
    fds.push(fd);
    fds.len() - 1
}

async fn namespaces(shared: &Shared, key: &str, live: &Live) -> Result<()> {
    let held = live.namespaces();
    if held.is_empty() {
        return Ok(());
    }
    let mut fds = Vec::new();
    let namespaces: Vec<(NamespaceKind, usize)> =
        held.iter().map(|(kind, fd)| (*kind, attach(&mut fds, fd.as_fd()))).collect();
    let request = Request::AdoptNamespaces(AdoptNamespaces {
        key: key.to_owned(),
        namespaces,
        init_pid: live.init_pid(),
    });
    already_there(shared.link.call("hand over namespaces", request, &fds).await.map(drop))
}

/// False if there is not enough of it for a keeper.
async fn container(shared: &Shared, id: &ContainerId, live: &LiveContainer) -> Result<bool> {
    let Some(keeping) = &live.keeping else { return Ok(false) };
    // The front ends may close it meanwhile; the keeper's copy must not keep it open then.
    let stdin = {
        let stdin = live.stdin.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stdin.as_ref().and_then(|fd| fd.try_clone().ok())
    };
    let mut fds = Vec::new();
    let request = Adopt {
        id: id.to_string(),
        sandbox: keeping.sandbox.clone(),
        bundle: keeping.origin.bundle.clone(),
        runtime: keeping.origin.runtime.clone(),
        cgroups: keeping.origin.cgroups.clone(),
        log: keeping.origin.log.clone(),
        pid: live.pid,
        start_time: keeping.start_time,
        started_at_ns: keeping.started_at_ns,
        pidfd: attach(&mut fds, live.pidfd.as_fd()),
        stdin: stdin.as_ref().map(|fd| attach(&mut fds, fd.as_fd())),
        terminal: live.terminal.as_ref().map(|fd| attach(&mut fds, fd.as_fd())),
        stdout: keeping.stdout.as_ref().map(|fd| attach(&mut fds, fd.as_fd())),
        stderr: keeping.stderr.as_ref().map(|fd| attach(&mut fds, fd.as_fd())),
    };
    let request = Request::Adopt(Box::new(request));
    already_there(shared.link.call("hand over a container", request, &fds).await.map(drop)).map(|()| true)
}

/// Something that was made since the keeper started, or handed over before.
fn already_there(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
