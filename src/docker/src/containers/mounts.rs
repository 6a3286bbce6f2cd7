//! What a container sees of the host: directories, images, devices.

use std::path::{Path, PathBuf};

use engine::{ContainerMount, Device, MountSource, Propagation};

use super::body::{Body, HostConfig, Mount};
use crate::http::{ApiError, Result};

/// Mounts in the order they were asked for.
pub(super) fn convert(body: &Body) -> Result<Vec<ContainerMount>> {
    let host = &body.host_config;
    if !body.volumes.is_empty() || !host.volumes_from.is_empty() || !host.volume_driver.is_empty() {
        return Err(no_volumes());
    }
    if !host.tmpfs.is_empty() {
        return Err(no_tmpfs());
    }
    let mut all = Vec::new();
    for text in &host.binds {
        all.push(bind(text)?);
    }
    for mount in &host.mounts {
        all.push(asked(mount)?);
    }
    for (index, mount) in all.iter().enumerate() {
        if all.iter().skip(index + 1).any(|other| other.destination == mount.destination) {
            return Err(ApiError::bad(format!("Duplicate mount point: {}", mount.destination.display())));
        }
    }
    Ok(all)
}

fn no_volumes() -> ApiError {
    ApiError::bad("volumes are not part of this release: mount a directory of the host by its absolute path")
}

fn no_tmpfs() -> ApiError {
    ApiError::bad("tmpfs mounts are not part of this release; /dev/shm can be given a size (--shm-size)")
}

fn absolute(path: &str, text: &str) -> Result<PathBuf> {
    if !path.starts_with('/') {
        return Err(ApiError::bad(format!("invalid mount config {text:?}: mount path must be absolute")));
    }
    if Path::new(path) == Path::new("/") {
        return Err(ApiError::bad(format!(
            "invalid volume specification: {text:?}: destination can't be '/'"
        )));
    }
    Ok(PathBuf::from(path))
}

/// `source:destination[:options]`.
fn bind(text: &str) -> Result<ContainerMount> {
    let bad = || ApiError::bad(format!("invalid volume specification: {text:?}"));
    let mut parts = text.split(':');
    let (source, destination) = (parts.next().unwrap_or_default(), parts.next().ok_or_else(bad)?);
    let options = parts.next().unwrap_or_default();
    if parts.next().is_some() || source.is_empty() {
        return Err(bad());
    }
    if !source.starts_with('/') {
        return Err(no_volumes());
    }
    let mut mount = ContainerMount {
        destination: absolute(destination, text)?,
        source: MountSource::Host(PathBuf::from(source)),
        readonly: false,
        recursive_readonly: false,
        non_recursive: false,
        propagation: Propagation::Private,
        id_maps: None,
        selinux_relabel: false,
        options: Vec::new(),
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" => {}
            "ro" => (mount.readonly, mount.recursive_readonly) = (true, true),
            "z" | "Z" => mount.selinux_relabel = true,
            // About the speed of file systems that are shared with a virtual machine.
            "consistent" | "cached" | "delegated" => {}
            other => mount.propagation = propagation(other).ok_or_else(bad)?,
        }
    }
    Ok(mount)
}

fn propagation(text: &str) -> Option<Propagation> {
    match text {
        "" | "private" | "rprivate" => Some(Propagation::Private),
        "slave" | "rslave" => Some(Propagation::HostToContainer),
        "shared" | "rshared" => Some(Propagation::Bidirectional),
        _ => None,
    }
}

/// A mount in the long form.
fn asked(mount: &Mount) -> Result<ContainerMount> {
    let kind = mount.r#type.as_str();
    let invalid = |why: &str| ApiError::bad(format!("invalid mount config for type {kind:?}: {why}"));
    if mount.target.is_empty() {
        return Err(invalid("field Target must not be empty"));
    }
    let source = match kind {
        "bind" => {
            if !mount.source.starts_with('/') {
                return Err(invalid("mount source must be an absolute path"));
            }
            MountSource::Host(PathBuf::from(&mount.source))
        }
        "image" => MountSource::Image {
            image: mount.source.clone(),
            sub_path: mount.image_options.as_ref().map(|options| options.subpath.clone()).unwrap_or_default(),
        },
        "volume" => return Err(no_volumes()),
        "tmpfs" => return Err(no_tmpfs()),
        _ => return Err(invalid("mount type unknown")),
    };
    if mount.volume_options.is_some() || mount.tmpfs_options.is_some() {
        return Err(invalid("options of another type are given"));
    }
    let image = kind == "image";
    let usual = super::body::BindOptions { create_mountpoint: true, ..Default::default() };
    let options = mount.bind_options.as_ref().unwrap_or(&usual);
    if image && mount.bind_options.is_some() {
        return Err(invalid("field BindOptions must not be specified"));
    }
    if options.read_only_force_recursive && (!mount.read_only || options.read_only_non_recursive) {
        return Err(invalid("ReadOnlyForceRecursive goes with ReadOnly and without ReadOnlyNonRecursive"));
    }
    Ok(ContainerMount {
        destination: absolute(&mount.target, &mount.target)?,
        source,
        readonly: mount.read_only || image,
        recursive_readonly: mount.read_only && !options.read_only_non_recursive && !image,
        non_recursive: options.non_recursive,
        propagation: propagation(&options.propagation).ok_or_else(|| invalid("invalid propagation mode"))?,
        id_maps: None,
        selinux_relabel: false,
        options: Vec::new(),
    })
}

/// Devices of the host.
pub(super) fn devices(host: &HostConfig) -> Result<Vec<Device>> {
    host.devices
        .iter()
        .map(|device| {
            let letters = match device.cgroup_permissions.as_str() {
                "" => "rwm",
                given if given.chars().all(|c| "rwm".contains(c)) => given,
                given => return Err(ApiError::bad(format!("invalid device permissions: {given:?}"))),
            };
            let inside = match device.path_in_container.as_str() {
                "" => &device.path_on_host,
                given => given,
            };
            Ok(Device {
                host_path: PathBuf::from(&device.path_on_host),
                container_path: PathBuf::from(inside),
                permissions: letters.to_owned(),
            })
        })
        .collect()
}

/// Devices by their qualified name.
pub(super) fn cdi_devices(host: &HostConfig) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for request in &host.device_requests {
        if request.driver != "cdi" {
            return Err(ApiError::bad(format!(
                "could not select device driver {:?}: this daemon knows devices by their CDI name (--device vendor.com/class=name)",
                request.driver
            )));
        }
        all.extend(request.device_ids.iter().cloned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(host: serde_json::Value) -> Result<Vec<ContainerMount>> {
        convert(&serde_json::from_value(json!({"HostConfig": host})).unwrap())
    }

    #[test]
    fn directories_are_bound() {
        let all = of(json!({"Binds": ["/a:/b:ro,z,rslave", "/c:/d"], "Mounts": [{"Type": "bind", "Source": "/e", "Target": "/f", "ReadOnly": true}]})).unwrap();
        assert_eq!(all.len(), 3);
        assert!(
            all[0].readonly && all[0].selinux_relabel && all[0].propagation == Propagation::HostToContainer
        );
        assert!(!all[1].readonly && all[2].recursive_readonly);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for host in [
            json!({"Binds": ["/a"]}),
            json!({"Binds": ["/a:b"]}),
            json!({"Binds": ["/a:/"]}),
            json!({"Binds": ["/a:/b:nonsense"]}),
            json!({"Binds": ["/a:/b", "/c:/b"]}),
            json!({"Mounts": [{"Type": "bind", "Source": "a", "Target": "/b"}]}),
            json!({"Mounts": [{"Type": "npipe", "Source": "a", "Target": "/b"}]}),
            json!({"Mounts": [{"Type": "image", "Source": "a", "Target": "/b", "BindOptions": {}}]}),
        ] {
            assert!(of(host.clone()).is_err(), "{host}");
        }
    }

    #[test]
    fn devices_have_permissions() {
        let host: HostConfig =
            serde_json::from_value(json!({"Devices": [{"PathOnHost": "/dev/x"}]})).unwrap();
        let device = &devices(&host).unwrap()[0];
        assert_eq!((device.permissions.as_str(), device.container_path.to_str()), ("rwm", Some("/dev/x")));
        let host: HostConfig =
            serde_json::from_value(json!({"DeviceRequests": [{"Driver": "nvidia"}]})).unwrap();
        assert!(cdi_devices(&host).is_err());
    }
}
