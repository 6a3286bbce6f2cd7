//! User namespaces that exist for their maps only.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use oci::runtime::Spec;
use sys::ns::Kind;
use sys::process::{Op, Script, Step};

use crate::request::IdMaps;

/// A user namespace with these maps, by one short-lived child.
pub fn user_namespace(maps: &IdMaps) -> io::Result<OwnedFd> {
    let script = Script {
        clone_flags: Kind::User.clone_flag(),
        steps: vec![Step::from(Op::ExitWhenTold)],
        ..Script::default()
    };
    let child = script.spawn()?;
    let made = maps.write(child.pid).and_then(|()| sys::ns::open_of(child.pid, Kind::User));
    // It waits for nothing but this.
    drop(child.report);
    sys::pidfd::signal(child.pidfd.as_fd(), 9).or_else(|error| match error.raw_os_error() {
        Some(3) => Ok(()),
        _ => Err(error),
    })?;
    sys::pidfd::wait_blocking(child.pidfd.as_fd())?;
    made
}

/// The user namespaces that the mounts of a specification with maps of their own need, by index of the mount.
pub fn prepare_idmaps(spec: &Spec) -> io::Result<Vec<(usize, OwnedFd)>> {
    let mut made = Vec::new();
    for (index, mount) in spec.mounts().as_deref().unwrap_or_default().iter().enumerate() {
        let maps = IdMaps::from_spec(mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
        if !maps.is_empty() {
            made.push((index, user_namespace(&maps)?));
        }
    }
    Ok(made)
}
