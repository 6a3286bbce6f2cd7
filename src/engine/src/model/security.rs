//! Who a container is and what it may do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::NamespaceMode;

/// Security settings of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Security {
    /// Every capability the daemon holds, all devices, no masks.
    #[serde(default)]
    pub privileged: bool,
    /// Changes to the default set of capabilities.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// User id; wins over [`Security::run_as_username`].
    #[serde(default)]
    pub run_as_user: Option<u32>,
    /// User of the image's `/etc/passwd`, or a number.
    #[serde(default)]
    pub run_as_username: String,
    /// Primary group; only together with a user.
    #[serde(default)]
    pub run_as_group: Option<u32>,
    /// More groups.
    #[serde(default)]
    pub supplemental_groups: Vec<u32>,
    /// Whether groups of the image's `/etc/group` count.
    #[serde(default)]
    pub groups_policy: GroupsPolicy,
    /// Whether the root file system is read-only.
    #[serde(default)]
    pub readonly_rootfs: bool,
    /// Whether exec may not gain privileges.
    #[serde(default)]
    pub no_new_privs: bool,
    /// Hidden paths.
    #[serde(default)]
    pub masked_paths: Vec<String>,
    /// Read-only paths.
    #[serde(default)]
    pub readonly_paths: Vec<String>,
    /// System call filter.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// AppArmor profile.
    #[serde(default)]
    pub apparmor: AppArmor,
    /// SELinux label.
    #[serde(default)]
    pub selinux: Option<SelinuxLabel>,
    /// PID namespace, where it differs from the sandbox'.
    #[serde(default)]
    pub pid: Option<NamespaceMode>,
}

/// Changes to the default set of capabilities; names are upper case without `CAP_`, or `ALL`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Added.
    #[serde(default)]
    pub add: Vec<String>,
    /// Dropped.
    #[serde(default)]
    pub drop: Vec<String>,
    /// Added, and made ambient so that users other than root keep them.
    #[serde(default)]
    pub ambient: Vec<String>,
}

/// Whether groups that the image gives a user are added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// They are.
    #[default]
    Merge,
    /// Only those asked for are.
    Strict,
}

/// A system call filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// None.
    #[default]
    Unconfined,
    /// Berth's default profile.
    RuntimeDefault,
    /// A profile in the OCI runtime specification's form.
    File(PathBuf),
}

/// An AppArmor profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmor {
    /// Berth's default profile where AppArmor is on, else none.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The default profile, asked for by name: an error where AppArmor is off.
    RuntimeDefault,
    /// A profile that is loaded already.
    Profile(String),
}

/// Parts of an SELinux label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxLabel {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub type_: String,
    /// Level.
    pub level: String,
}
