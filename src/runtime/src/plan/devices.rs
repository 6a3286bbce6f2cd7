//! `/dev`: the devices every container has, those of the specification, and links.

use std::path::{Path, PathBuf};

use oci::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use sys::process::{Fd, Op, Slot, Target};

use super::{Builder, PlanError, ROOT, c_path, inside};

const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFIFO: u32 = 0o010_000;

/// A device: type and number.
pub(super) type Number = (u32, u32, u32);

/// `/dev/null`.
pub(super) const NULL: Number = (S_IFCHR, 1, 3);

/// What every container has.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &std::ffi::CStr); 6] = [
    ("/dev/fd", c"/proc/self/fd"),
    ("/dev/stdin", c"/proc/self/fd/0"),
    ("/dev/stdout", c"/proc/self/fd/1"),
    ("/dev/stderr", c"/proc/self/fd/2"),
    ("/dev/core", c"/proc/kcore"),
    ("/dev/ptmx", c"pts/ptmx"),
];

/// Rules of the device cgroup that every container needs besides its own: making nodes, and the use of the
/// devices that are always there and of terminals.
#[must_use]
pub fn default_device_rules() -> Vec<LinuxDeviceCgroup> {
    let rule = |kind, major: Option<u32>, minor: Option<u32>, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true);
        rule.set_typ(Some(kind));
        rule.set_major(major.map(i64::from));
        rule.set_minor(minor.map(i64::from));
        rule.set_access(Some(access.to_owned()));
        rule
    };
    let terminals = [(5, Some(1)), (5, Some(2)), (136, None)];
    let usable = DEFAULTS.iter().map(|(_, major, minor)| (*major, Some(*minor))).chain(terminals);
    [rule(LinuxDeviceType::C, None, None, "m"), rule(LinuxDeviceType::B, None, None, "m")]
        .into_iter()
        .chain(usable.map(|(major, minor)| rule(LinuxDeviceType::C, Some(major), minor, "rwm")))
        .collect()
}

/// A device that is made or, where that takes a privilege of the host, mounted.
#[derive(Debug)]
pub(super) struct Device {
    path: PathBuf,
    number: Number,
    mode: u32,
    owner: (u32, u32),
    source: Option<Slot>,
}

/// Makes sure that what is opened is this device.
pub(super) fn require(slot: Slot, (kind, major, minor): Number) -> Op {
    Op::RequireDevice { fd: Fd::Slot(slot), kind, device: device_number(major, minor) }
}

/// As makedev(3) composes it.
fn device_number(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12) | ((major & !0xfff) << 32)
}

impl Builder<'_, '_> {
    /// Lists the devices and, with a user namespace, copies the host's: mknod(2) is not allowed inside.
    pub(super) fn prepare_devices(&mut self) -> Result<Vec<Device>, PlanError> {
        if self.dev_is_bound() {
            if self.linux.devices().iter().flatten().next().is_some() {
                let warning = "/dev is a bind mount: linux.devices are those that it has";
                self.parts.warnings.push(warning.to_owned());
            }
            return Ok(Vec::new());
        }
        let mut devices: Vec<Device> = Vec::new();
        for (path, major, minor) in DEFAULTS {
            let number = (S_IFCHR, major, minor);
            devices.push(Device { path: path.into(), number, mode: 0o666, owner: (0, 0), source: None });
        }
        for device in self.linux.devices().as_deref().unwrap_or_default() {
            let kind = match device.typ() {
                LinuxDeviceType::B => S_IFBLK,
                LinuxDeviceType::P => S_IFIFO,
                LinuxDeviceType::C | LinuxDeviceType::U => S_IFCHR,
                LinuxDeviceType::A => {
                    let path = device.path().display();
                    return Err(PlanError::Invalid(format!("linux.devices: {path} has no type of a device")));
                }
            };
            let part = |number: i64| {
                u32::try_from(number).map_err(|_| PlanError::Invalid(format!("{number} is no device number")))
            };
            let path = inside(device.path());
            // One of the same name replaces a default.
            devices.retain(|other| other.path != path);
            devices.push(Device {
                path,
                number: (kind, part(device.major())?, part(device.minor())?),
                mode: device.file_mode().unwrap_or(0o666) & 0o7777,
                owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
                source: None,
            });
        }
        if self.own_user {
            for device in devices.iter_mut().filter(|device| device.number.0 != S_IFIFO) {
                let slot = self.parts.slot();
                let path = c_path(&device.path)?;
                self.parts.push(Op::CloneTree { slot, directory: Fd::Cwd, path, recursive: false });
                self.parts.push(require(slot, device.number));
                device.source = Some(slot);
            }
        }
        Ok(devices)
    }

    /// Makes the devices and links.
    pub(super) fn attach_devices(&mut self, devices: Vec<Device>) -> Result<(), PlanError> {
        if self.dev_is_bound() {
            return Ok(());
        }
        let root = Fd::Slot(ROOT);
        for Device { path, number: (kind, major, minor), mode, owner: (uid, gid), source } in devices {
            let target = Target::without_links(&path)?;
            self.parts.push(match source {
                Some(slot) => Op::Attach { mount: Fd::Slot(slot), root, target },
                None => {
                    let device = device_number(major, minor);
                    Op::MakeNode { root, target, mode: kind | mode, device, uid, gid }
                }
            });
        }
        for (path, to) in LINKS {
            self.parts.push(Op::MakeLink {
                root,
                target: Target::without_links(Path::new(path))?,
                to: to.into(),
            });
        }
        Ok(())
    }

    /// A `/dev` of the host is left alone.
    fn dev_is_bound(&self) -> bool {
        let bound = |mount: &oci::runtime::Mount| {
            let options = mount.options().as_deref().unwrap_or_default();
            let bind = options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
            inside(mount.destination()) == Path::new("/dev")
                && (bind || mount.typ().as_deref() == Some("bind"))
        };
        let given = |(_, place): &(_, PathBuf)| inside(place) == Path::new("/dev");
        self.request.spec.mounts().iter().flatten().any(bound) || self.request.mounts.iter().any(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_composed_as_the_kernel_does() {
        assert_eq!(device_number(1, 3), 0x103);
        assert_eq!(device_number(259, 70_000), (70_000 & 0xff) | (259 << 8) | ((70_000 & !0xff) << 12));
    }
}
