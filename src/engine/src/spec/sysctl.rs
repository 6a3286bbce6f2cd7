//! Kernel parameters: only those that a namespace of the sandbox holds.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::model::{NamespaceMode, Namespaces};

/// The part of the kernel a parameter belongs to.
enum Scope {
    Network,
    Ipc,
    Uts,
}

/// Refuses parameters that are not namespaced, and those whose namespace is the host's: they would change
/// the host. Names and values are taken literally; nothing in a value is a separator.
pub(crate) fn check(sysctls: &BTreeMap<String, String>, namespaces: &Namespaces) -> Result<()> {
    for (name, value) in sysctls {
        let scope = scope(name)?;
        let host = |mode: &NamespaceMode| *mode == NamespaceMode::Host;
        let (is_host, what) = match scope {
            Scope::Network => (host(&namespaces.network), "network"),
            Scope::Ipc => (host(&namespaces.ipc), "IPC"),
            Scope::Uts => (host(&namespaces.network), "UTS"),
        };
        if is_host {
            return Err(Error::invalid(format!(
                "sysctl {name:?} would change the host, whose {what} namespace this sandbox uses"
            )));
        }
        if value.contains(['\0', '\n']) {
            return Err(Error::invalid(format!(
                "the value of sysctl {name:?} has a line break or a zero byte"
            )));
        }
    }
    Ok(())
}

fn scope(name: &str) -> Result<Scope> {
    let well_formed = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
    let dotted = name.replace('/', ".");
    if !well_formed || dotted.split('.').any(str::is_empty) {
        return Err(Error::invalid(format!("malformed sysctl name {name:?}")));
    }
    if dotted.starts_with("net.") {
        return Ok(Scope::Network);
    }
    let ipc = ["kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.msgmax"];
    let more = ["kernel.msgmnb", "kernel.msgmni", "kernel.sem"];
    if ipc.contains(&dotted.as_str()) || more.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        return Ok(Scope::Ipc);
    }
    if dotted == "kernel.domainname" {
        return Ok(Scope::Uts);
    }
    Err(Error::invalid(format!("sysctl {name:?} is not namespaced; set it on the host")))
}
