//! Who a container is and what it may do.

use engine::{AppArmor, Capabilities, Seccomp, Security, SelinuxLabel};

use super::body::Body;
use crate::http::{ApiError, Result};

/// Hidden from containers unless they say otherwise.
pub(super) const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
/// Read-only for containers unless they say otherwise.
pub(super) const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(super) fn convert(body: &Body) -> Result<Security> {
    let host = &body.host_config;
    let list = |given: &Option<Vec<String>>, usual: &[&str]| match (given, host.privileged) {
        (Some(given), _) => given.clone(),
        (None, true) => Vec::new(),
        (None, false) => usual.iter().map(|path| (*path).to_owned()).collect(),
    };
    let mut security = Security {
        privileged: host.privileged,
        capabilities: Capabilities {
            add: host.cap_add.iter().map(|name| capability(name)).collect(),
            drop: host.cap_drop.iter().map(|name| capability(name)).collect(),
            ambient: Vec::new(),
        },
        run_as_username: body.user.clone(),
        supplemental_groups: host.group_add.iter().map(|group| group_id(group)).collect::<Result<_>>()?,
        readonly_rootfs: host.readonly_rootfs,
        masked_paths: list(&host.masked_paths, &MASKED),
        readonly_paths: list(&host.readonly_paths, &READONLY),
        seccomp: if host.privileged { Seccomp::Unconfined } else { Seccomp::RuntimeDefault },
        apparmor: if host.privileged { AppArmor::Unconfined } else { AppArmor::Default },
        ..Security::default()
    };
    for option in &host.security_opt {
        apply(option, &mut security)?;
    }
    Ok(security)
}

/// A capability in the engine's form.
fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
}

fn group_id(text: &str) -> Result<u32> {
    text.parse().map_err(|_| {
        ApiError::bad(format!(
            "additional group {text:?}: groups by name are not part of this release; give its number"
        ))
    })
}

fn apply(option: &str, security: &mut Security) -> Result<()> {
    if option == "no-new-privileges" {
        security.no_new_privs = true;
        return Ok(());
    }
    // Older clients write a colon.
    let (key, value) = option
        .split_once('=')
        .or_else(|| option.split_once(':'))
        .ok_or_else(|| ApiError::bad(format!("invalid --security-opt 1: {option:?}")))?;
    match (key, value) {
        ("no-new-privileges", _) => {
            security.no_new_privs =
                value.parse().map_err(|_| ApiError::bad(format!("invalid --security-opt 2: {option:?}")))?;
        }
        ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
        ("seccomp", "builtin") => security.seccomp = Seccomp::RuntimeDefault,
        ("seccomp", _) => {
            return Err(ApiError::bad(
                "seccomp profiles of a request are not part of this release: use seccomp=builtin or seccomp=unconfined",
            ));
        }
        ("apparmor", "unconfined") => security.apparmor = AppArmor::Unconfined,
        ("apparmor", "docker-default") => security.apparmor = AppArmor::RuntimeDefault,
        ("apparmor", profile) => security.apparmor = AppArmor::Profile(profile.to_owned()),
        ("systempaths", "unconfined") => {
            security.masked_paths.clear();
            security.readonly_paths.clear();
        }
        ("label", "disable") => security.selinux = None,
        ("label", part) => label(part, security)?,
        _ => return Err(ApiError::bad(format!("invalid --security-opt 2: {option:?}"))),
    }
    Ok(())
}

/// A part of an SELinux label.
fn label(part: &str, security: &mut Security) -> Result<()> {
    let (key, value) = part
        .split_once(':')
        .ok_or_else(|| ApiError::bad(format!("bad label option {part:?}, valid options 'disable' or 'user, role, level, type' followed by ':' and a value")))?;
    let label = security.selinux.get_or_insert_with(SelinuxLabel::default);
    match key {
        "user" => value.clone_into(&mut label.user),
        "role" => value.clone_into(&mut label.role),
        "type" => value.clone_into(&mut label.type_),
        "level" => value.clone_into(&mut label.level),
        _ => {
            return Err(ApiError::bad(format!(
                "bad label option {part:?}, valid options 'disable' or 'user, role, level, type' followed by ':' and a value"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(host: serde_json::Value) -> Result<Security> {
        convert(&serde_json::from_value(json!({"User": "1:2", "HostConfig": host})).unwrap())
    }

    #[test]
    fn usual_containers_are_confined() {
        let security = of(json!({})).unwrap();
        assert_eq!((security.seccomp, security.run_as_username.as_str()), (Seccomp::RuntimeDefault, "1:2"));
        assert!(
            security.masked_paths.contains(&"/proc/kcore".to_owned()) && !security.readonly_paths.is_empty()
        );
        let bare = of(json!({"Privileged": true})).unwrap();
        assert!(bare.masked_paths.is_empty() && bare.seccomp == Seccomp::Unconfined);
    }

    #[test]
    fn options_are_read() {
        let security = of(json!({
            "CapAdd": ["CAP_net_admin", "ALL"], "GroupAdd": ["7"],
            "SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined", "label=type:spc_t", "systempaths=unconfined", "apparmor:mine"],
        }))
        .unwrap();
        assert_eq!(security.capabilities.add, ["NET_ADMIN", "ALL"]);
        assert!(security.no_new_privs && security.masked_paths.is_empty());
        assert_eq!(security.selinux.unwrap().type_, "spc_t");
        assert_eq!(
            (security.apparmor, security.supplemental_groups),
            (AppArmor::Profile("mine".into()), vec![7])
        );
        for bad in ["bogus", "bogus=1", "seccomp={}", "label=x", "no-new-privileges=perhaps"] {
            assert!(of(json!({"SecurityOpt": [bad]})).is_err(), "{bad}");
        }
        assert!(of(json!({"GroupAdd": ["audio"]})).is_err());
    }
}
