//! Volumes, and how containers that outlive their runs are given files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Propagation;

/// The driver that is built in.
pub const LOCAL_DRIVER: &str = "local";

/// What a front end asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeConfig {
    /// Its name; empty makes an anonymous volume, whose name is 64 random hexadecimal digits.
    pub name: String,
    /// What makes it: [`LOCAL_DRIVER`], or a plugin's name. Empty is the former.
    pub driver: String,
    /// Options of the driver. Those of the local one are `type`, `device` and `o`, as mount(8) has them.
    pub options: BTreeMap<String, String>,
    /// For selection.
    pub labels: BTreeMap<String, String>,
}

/// Where a volume is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeScope {
    /// On this node.
    #[default]
    Local,
    /// Wherever its driver runs.
    Global,
}

/// A moment's view of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// What makes it.
    pub driver: String,
    /// Where its files are on the host; empty while a plugin does not tell.
    pub mountpoint: PathBuf,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// For selection.
    pub labels: BTreeMap<String, String>,
    /// Whether nobody gave it a name.
    pub anonymous: bool,
    /// Where it is known.
    pub scope: VolumeScope,
    /// Ids of the containers that use it, whether or not they run.
    pub containers: Vec<String>,
}

/// What a volume takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Bytes on disk; `None` for volumes whose files are not on this node's disk.
    pub bytes: Option<u64>,
    /// How many containers use it.
    pub references: usize,
}

/// What to prune: volumes that no container uses and that fit all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumePruneFilter {
    /// Those with a name, too.
    pub all: bool,
    /// `key` or `key=value` that they have.
    pub labels: Vec<String>,
    /// `key` or `key=value` that they have not.
    pub not_labels: Vec<String>,
}

/// What was pruned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedVolumes {
    /// Their names.
    pub names: Vec<String>,
    /// What they took on disk.
    pub bytes: u64,
}

/// Files that a durable container is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Where it appears; absolute. Of [`VolumeSource::Container`] it says nothing: each mount is where it is there.
    #[serde(default)]
    pub destination: PathBuf,
    /// What appears.
    pub source: VolumeSource,
    /// Whether it is read-only.
    #[serde(default)]
    pub readonly: bool,
    /// Whether to give the files the container's SELinux label.
    #[serde(default)]
    pub selinux_relabel: bool,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// A volume; made if there is none of this name.
    Volume {
        /// Its name; empty makes an anonymous one.
        #[serde(default)]
        name: String,
        /// Its driver, if it is made; empty is the local one.
        #[serde(default)]
        driver: String,
        /// Options of the driver, if it is made.
        #[serde(default)]
        options: BTreeMap<String, String>,
        /// Labels, if it is made.
        #[serde(default)]
        labels: BTreeMap<String, String>,
        /// A directory or file in it that appears instead of all of it; it must be there.
        #[serde(default)]
        sub_path: String,
        /// Whether an empty volume is left empty, and not filled with what the image has there.
        #[serde(default)]
        nocopy: bool,
    },
    /// A path of the host.
    Bind(BindSource),
    /// Memory.
    Tmpfs {
        /// Size; `None` is half of the machine's memory.
        #[serde(default)]
        size_bytes: Option<u64>,
        /// Mode of its root; `None` is 1777.
        #[serde(default)]
        mode: Option<u32>,
        /// More options, as mount(8) has them.
        #[serde(default)]
        options: Vec<String>,
    },
    /// An image; always read-only.
    Image {
        /// Its id or reference.
        reference: String,
        /// A directory in it.
        #[serde(default)]
        sub_path: String,
    },
    /// All that another container is given.
    Container {
        /// Its id.
        id: String,
        /// Whether all of it is read-only, or only what is there.
        #[serde(default)]
        readonly: bool,
    },
}

impl Default for VolumeSource {
    fn default() -> Self {
        Self::Volume {
            name: String::new(),
            driver: String::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            sub_path: String::new(),
            nocopy: false,
        }
    }
}

/// A path of the host, and how it is bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindSource {
    /// The path; absolute.
    pub path: PathBuf,
    /// Whether a directory is made if there is nothing; else that is an error.
    #[serde(default)]
    pub create: bool,
    /// How mounts and unmounts cross.
    #[serde(default)]
    pub propagation: Propagation,
    /// Whether the mounts below it are left out.
    #[serde(default)]
    pub non_recursive: bool,
    /// Whether, when it is read-only, the mounts below it are, too.
    #[serde(default)]
    pub recursive_readonly: bool,
}

/// What a container is given, with everything found that was to be found: it does not change between its runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedMount {
    /// Where it appears.
    pub destination: PathBuf,
    /// What appears.
    pub source: ResolvedSource,
    /// Whether it is read-only.
    pub readonly: bool,
    /// Whether to give the files the container's SELinux label.
    #[serde(default)]
    pub selinux_relabel: bool,
}

/// Where files of a [`ResolvedMount`] come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResolvedSource {
    /// A volume.
    Volume {
        /// Its name.
        name: String,
        /// Its driver.
        driver: String,
        /// A directory or file in it; empty is all of it.
        #[serde(default)]
        sub_path: String,
        /// Whether it was made for this container and goes with it, if so wished.
        #[serde(default)]
        own: bool,
    },
    /// A path of the host.
    Bind(BindSource),
    /// Memory.
    Tmpfs {
        /// Size.
        size_bytes: Option<u64>,
        /// Mode of its root.
        mode: Option<u32>,
        /// More options.
        options: Vec<String>,
    },
    /// An image.
    Image {
        /// Its id or reference.
        reference: String,
        /// A directory in it.
        sub_path: String,
    },
}
