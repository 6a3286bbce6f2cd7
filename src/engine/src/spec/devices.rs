//! Devices: nodes and the rules of the device cgroup.

use std::path::PathBuf;

use oci::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use super::{Input, bug};
use crate::error::Result;

/// A device node of the host that the container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    /// Where it appears.
    pub(crate) path: PathBuf,
    /// Whether it is a block device; else a character device.
    pub(crate) block: bool,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Letters of `rwm`.
    pub(crate) access: String,
}

impl HostDevice {
    fn kind(&self) -> LinuxDeviceType {
        if self.block { LinuxDeviceType::B } else { LinuxDeviceType::C }
    }
}

/// Nodes beyond the standard ones, which every runtime makes.
pub(super) fn nodes(input: &Input<'_>) -> Result<Vec<LinuxDevice>> {
    input
        .devices
        .iter()
        .map(|device| {
            LinuxDeviceBuilder::default()
                .path(device.path.clone())
                .typ(device.kind())
                .major(device.major)
                .minor(device.minor)
                .file_mode(device.mode)
                .uid(device.uid)
                .gid(device.gid)
                .build()
                .map_err(bug)
        })
        .collect()
}

/// Everything is denied but the standard devices and those asked for; privileged containers may use all.
pub(super) fn rules(input: &Input<'_>) -> Result<Vec<LinuxDeviceCgroup>> {
    if input.config.security.privileged {
        return Ok(vec![rule(true, LinuxDeviceType::A, None, None, "rwm")?]);
    }
    let standard: [(i64, Option<i64>); 9] = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ];
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm")?,
        // Making a node gives no access to its device; images and package managers do it.
        rule(true, LinuxDeviceType::C, None, None, "m")?,
        rule(true, LinuxDeviceType::B, None, None, "m")?,
    ];
    for (major, minor) in standard {
        rules.push(rule(true, LinuxDeviceType::C, Some(major), minor, "rwm")?);
    }
    for device in input.devices {
        rules.push(rule(true, device.kind(), Some(device.major), Some(device.minor), &device.access)?);
    }
    Ok(rules)
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Result<LinuxDeviceCgroup> {
    let mut builder = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access);
    if let Some(major) = major {
        builder = builder.major(major);
    }
    if let Some(minor) = minor {
        builder = builder.minor(minor);
    }
    builder.build().map_err(bug)
}
