//! What a container is given of files and devices: volumes, directories of the host, memory, images.

use std::path::{Path, PathBuf};

use engine::{BindSource, Device, Propagation, VolumeMount, VolumeSource};

use super::body::{Body, HostConfig, Mount};
use crate::app::App;
use crate::http::{ApiError, Result};

/// Mounts in the order they were asked for; the mounts of other containers come first, so that the container's own
/// go over them.
pub(super) fn convert(app: &App, body: &Body) -> Result<Vec<VolumeMount>> {
    let mut all = body
        .host_config
        .volumes_from
        .iter()
        .map(|text| from_container(text, |name| Ok(app.engine.durable(name)?.id.to_string())))
        .collect::<Result<Vec<_>>>()?;
    all.extend(own(body)?);
    Ok(all)
}

/// All but what is taken from other containers.
fn own(body: &Body) -> Result<Vec<VolumeMount>> {
    let host = &body.host_config;
    let mut all = Vec::new();
    for text in &host.binds {
        all.push(bind(text, &host.volume_driver)?);
    }
    for mount in &host.mounts {
        all.push(asked(mount)?);
    }
    for (destination, options) in &host.tmpfs {
        all.push(memory(destination, options)?);
    }
    for (index, mount) in all.iter().enumerate() {
        if all.iter().skip(index + 1).any(|other| other.destination == mount.destination) {
            return Err(ApiError::bad(format!("Duplicate mount point: {}", mount.destination.display())));
        }
    }
    for destination in body.volumes.keys() {
        let destination = absolute(destination, destination)?;
        if !all.iter().any(|mount| mount.destination == destination) {
            let source = volume("", &host.volume_driver);
            all.push(VolumeMount { destination, source, ..VolumeMount::default() });
        }
    }
    Ok(all)
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

fn volume(name: &str, driver: &str) -> VolumeSource {
    VolumeSource::Volume {
        name: name.to_owned(),
        driver: driver.to_owned(),
        options: Default::default(),
        labels: Default::default(),
        sub_path: String::new(),
        nocopy: false,
    }
}

/// `container[:ro|rw]`.
fn from_container(text: &str, id: impl Fn(&str) -> Result<String>) -> Result<VolumeMount> {
    let (name, readonly) = match text.split_once(':') {
        None | Some((_, "" | "rw")) => (text.split(':').next().unwrap_or(text), false),
        Some((name, "ro")) => (name, true),
        Some((_, mode)) => return Err(ApiError::bad(format!("invalid mode for volumes-from: {mode}"))),
    };
    let source = VolumeSource::Container { id: id(name)?, readonly };
    Ok(VolumeMount { source, ..VolumeMount::default() })
}

/// `source:destination[:options]`: a source that is no absolute path names a volume.
fn bind(text: &str, driver: &str) -> Result<VolumeMount> {
    let bad = || ApiError::bad(format!("invalid volume specification: {text:?}"));
    let mut parts = text.split(':');
    let (source, destination) = (parts.next().unwrap_or_default(), parts.next().ok_or_else(bad)?);
    let options = parts.next().unwrap_or_default();
    if parts.next().is_some() || source.is_empty() {
        return Err(bad());
    }
    let mut mount = VolumeMount { destination: absolute(destination, text)?, ..VolumeMount::default() };
    let (mut spread, mut leave_empty) = (None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" => {}
            "ro" => mount.readonly = true,
            "z" | "Z" => mount.selinux_relabel = true,
            "nocopy" => leave_empty = true,
            // About the speed of file systems that are shared with a virtual machine.
            "consistent" | "cached" | "delegated" => {}
            other => spread = Some(propagation(other).ok_or_else(bad)?),
        }
    }
    mount.source = if source.starts_with('/') {
        if leave_empty {
            return Err(bad());
        }
        let propagation = spread.unwrap_or_default();
        VolumeSource::Bind(BindSource {
            path: PathBuf::from(source),
            create: true,
            propagation,
            non_recursive: false,
            recursive_readonly: mount.readonly && propagation == Propagation::Private,
        })
    } else {
        if spread.is_some() {
            return Err(bad());
        }
        let mut named = volume(source, driver);
        if let VolumeSource::Volume { nocopy, .. } = &mut named {
            *nocopy = leave_empty;
        }
        named
    };
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

/// Memory at a path, with options as mount(8) has them.
fn memory(destination: &str, options: &str) -> Result<VolumeMount> {
    let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    let source = VolumeSource::Tmpfs { size_bytes: None, mode: None, options };
    Ok(VolumeMount { destination: absolute(destination, destination)?, source, ..VolumeMount::default() })
}

/// A mount in the long form.
fn asked(mount: &Mount) -> Result<VolumeMount> {
    let kind = mount.r#type.as_str();
    let invalid = |why: &str| ApiError::bad(format!("invalid mount config for type {kind:?}: {why}"));
    if mount.target.is_empty() {
        return Err(invalid("field Target must not be empty"));
    }
    let options = [
        ("bind", "BindOptions", mount.bind_options.is_some()),
        ("volume", "VolumeOptions", mount.volume_options.is_some()),
        ("tmpfs", "TmpfsOptions", mount.tmpfs_options.is_some()),
        ("image", "ImageOptions", mount.image_options.is_some()),
    ];
    if let Some((_, field, _)) = options.iter().find(|(of, _, given)| *given && *of != kind) {
        return Err(invalid(&format!("field {field} must not be specified")));
    }
    let source = match kind {
        "bind" => bound(mount, &invalid)?,
        "volume" => {
            let options = mount.volume_options.clone().unwrap_or_default();
            VolumeSource::Volume {
                name: mount.source.clone(),
                driver: options.driver_config.name,
                options: options.driver_config.options,
                labels: options.labels,
                sub_path: options.subpath,
                nocopy: options.no_copy,
            }
        }
        "tmpfs" if !mount.source.is_empty() => return Err(invalid("field Source must not be specified")),
        "tmpfs" => {
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            VolumeSource::Tmpfs {
                size_bytes: u64::try_from(options.size_bytes).ok().filter(|size| *size > 0),
                mode: Some(options.mode).filter(|mode| *mode > 0),
                options: options.options.iter().map(|pair| pair.join("=")).collect(),
            }
        }
        "image" => VolumeSource::Image {
            reference: mount.source.clone(),
            sub_path: mount.image_options.as_ref().map(|options| options.subpath.clone()).unwrap_or_default(),
        },
        _ => return Err(invalid("mount type unknown")),
    };
    Ok(VolumeMount {
        destination: absolute(&mount.target, &mount.target)?,
        source,
        readonly: mount.read_only || kind == "image",
        selinux_relabel: false,
    })
}

fn bound(mount: &Mount, invalid: &impl Fn(&str) -> ApiError) -> Result<VolumeSource> {
    if !mount.source.starts_with('/') {
        return Err(invalid("mount source must be an absolute path"));
    }
    let options = mount.bind_options.clone().unwrap_or_default();
    if options.read_only_force_recursive && (!mount.read_only || options.read_only_non_recursive) {
        return Err(invalid("ReadOnlyForceRecursive goes with ReadOnly and without ReadOnlyNonRecursive"));
    }
    let propagation = propagation(&options.propagation).ok_or_else(|| invalid("invalid propagation mode"))?;
    if options.read_only_force_recursive && propagation != Propagation::Private {
        return Err(invalid("ReadOnlyForceRecursive requires Propagation to be rprivate"));
    }
    Ok(VolumeSource::Bind(BindSource {
        path: PathBuf::from(&mount.source),
        create: options.create_mountpoint,
        propagation,
        non_recursive: options.non_recursive,
        recursive_readonly: mount.read_only
            && !options.read_only_non_recursive
            && propagation == Propagation::Private,
    }))
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

    fn of(host: serde_json::Value) -> Result<Vec<VolumeMount>> {
        own(&serde_json::from_value(json!({"HostConfig": host})).unwrap())
    }

    fn bind_of(mount: &VolumeMount) -> &BindSource {
        match &mount.source {
            VolumeSource::Bind(bind) => bind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn directories_are_bound() {
        let all = of(json!({"Binds": ["/a:/b:ro,z,rslave", "/c:/d"], "Mounts": [{"Type": "bind", "Source": "/e", "Target": "/f", "ReadOnly": true}]})).unwrap();
        assert_eq!(all.len(), 3);
        assert!(all[0].readonly && all[0].selinux_relabel);
        assert_eq!(bind_of(&all[0]).propagation, Propagation::HostToContainer);
        assert!(!bind_of(&all[0]).recursive_readonly && bind_of(&all[0]).create);
        assert!(!all[1].readonly && bind_of(&all[2]).recursive_readonly);
        // The long form binds what is there.
        assert!(!bind_of(&all[2]).create);
    }

    #[test]
    fn volumes_are_named_or_anonymous() {
        let body = json!({
            "Volumes": {"/data": {}, "/named": {}},
            "HostConfig": {
                "Binds": ["v:/named:nocopy"], "VolumeDriver": "other",
                "Mounts": [{"Type": "volume", "Source": "w", "Target": "/w", "VolumeOptions": {
                    "NoCopy": true, "Labels": {"a": "b"}, "Subpath": "x",
                    "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs"}},
                }}],
            },
        });
        let all = own(&serde_json::from_value(body).unwrap()).unwrap();
        assert_eq!(all.len(), 3);
        let named = |mount: &VolumeMount| match &mount.source {
            VolumeSource::Volume { name, driver, nocopy, sub_path, .. } => {
                (name.clone(), driver.clone(), *nocopy, sub_path.clone())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(named(&all[0]), ("v".into(), "other".into(), true, String::new()));
        assert_eq!(named(&all[1]), ("w".into(), "local".into(), true, "x".into()));
        assert_eq!(named(&all[2]), (String::new(), "other".into(), false, String::new()));
        assert_eq!(all[2].destination, Path::new("/data"));
    }

    #[test]
    fn memory_has_options() {
        let all = of(json!({"Tmpfs": {"/t": "size=64m,mode=1770"}, "Mounts": [{"Type": "tmpfs", "Target": "/u", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 448, "Options": [["noexec"], ["uid", "5"]]}}]})).unwrap();
        let long = VolumeSource::Tmpfs {
            size_bytes: Some(4096),
            mode: Some(0o700),
            options: vec!["noexec".into(), "uid=5".into()],
        };
        assert_eq!(all[0].source, long);
        let short = vec!["size=64m".to_owned(), "mode=1770".into()];
        assert_eq!(all[1].source, VolumeSource::Tmpfs { size_bytes: None, mode: None, options: short });
    }

    #[test]
    fn mounts_of_others_are_theirs_or_read_only() {
        let of = |text: &str| from_container(text, |name| Ok(format!("id-of-{name}"))).map(|m| m.source);
        let expected = |readonly| VolumeSource::Container { id: "id-of-c".to_owned(), readonly };
        assert_eq!(of("c"), Ok(expected(false)));
        assert_eq!(of("c:rw"), Ok(expected(false)));
        assert_eq!(of("c:ro"), Ok(expected(true)));
        assert!(of("c:z").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for host in [
            json!({"Binds": ["/a"]}),
            json!({"Binds": ["/a:b"]}),
            json!({"Binds": ["/a:/"]}),
            json!({"Binds": ["/a:/b:nonsense"]}),
            json!({"Binds": ["/a:/b:nocopy"]}),
            json!({"Binds": ["v:/b:rslave"]}),
            json!({"Binds": ["/a:/b", "/c:/b"]}),
            json!({"Binds": ["v:/b"], "Tmpfs": {"/b": ""}}),
            json!({"Mounts": [{"Type": "bind", "Source": "a", "Target": "/b"}]}),
            json!({"Mounts": [{"Type": "npipe", "Source": "a", "Target": "/b"}]}),
            json!({"Mounts": [{"Type": "image", "Source": "a", "Target": "/b", "BindOptions": {}}]}),
            json!({"Mounts": [{"Type": "tmpfs", "Source": "a", "Target": "/b"}]}),
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
