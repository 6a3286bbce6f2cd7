//! The Container Device Interface: devices that a vendor describes in files of the host.
//!
//! Specifications are JSON or YAML files in the configured directories; a later directory wins. What a device adds
//! is applied to the finished OCI configuration. Only the operator writes these files; a request or an image
//! can only name what is in them.

use std::path::{Path, PathBuf};

use oci::runtime::{LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, MountBuilder, Spec};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::spec::bug;

/// Largest specification that is read.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiSpec {
    kind: String,
    #[serde(default)]
    devices: Vec<CdiDevice>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiDevice {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    device_nodes: Vec<DeviceNode>,
    #[serde(default)]
    mounts: Vec<CdiMount>,
    #[serde(default)]
    hooks: Vec<serde_json::Value>,
    #[serde(default, rename = "additionalGIDs")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: PathBuf,
    #[serde(default)]
    host_path: Option<PathBuf>,
    #[serde(default)]
    permissions: Option<String>,
    #[serde(default)]
    file_mode: Option<u32>,
    #[serde(default)]
    uid: Option<u32>,
    #[serde(default)]
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiMount {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
}

/// Applies the devices of these qualified names (`vendor/class=name`) to a configuration.
pub(crate) fn inject(mut spec: Spec, devices: &[String], dirs: &[PathBuf]) -> Result<Spec> {
    if devices.is_empty() {
        return Ok(spec);
    }
    let known = load(dirs)?;
    let mut edited_kinds: Vec<&str> = Vec::new();
    for name in devices {
        let (kind, device) = name.split_once('=').ok_or_else(|| {
            Error::invalid(format!("CDI device {name:?} is not of the form vendor/class=name"))
        })?;
        // The last directory wins, so the search goes backwards.
        let found = known
            .iter()
            .rev()
            .filter(|s| s.kind == kind)
            .find_map(|s| s.devices.iter().find(|d| d.name == device).map(|d| (s, d)));
        let Some((of, device)) = found else {
            return Err(Error::invalid(format!("CDI device {name:?} is in no specification of this host")));
        };
        if !edited_kinds.contains(&kind) {
            edited_kinds.push(kind);
            apply(&mut spec, &of.container_edits, name)?;
        }
        apply(&mut spec, &device.container_edits, name)?;
    }
    Ok(spec)
}

fn load(dirs: &[PathBuf]) -> Result<Vec<CdiSpec>> {
    let mut specs = Vec::new();
    for dir in dirs {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io(format!("list {}", dir.display()), error)),
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            if let Some("json" | "yaml" | "yml") = path.extension().and_then(|e| e.to_str()) {
                specs.push(read(&path)?);
            }
        }
    }
    Ok(specs)
}

fn read(path: &Path) -> Result<CdiSpec> {
    let what = || format!("read CDI specification {}", path.display());
    let size = std::fs::metadata(path).map_err(|error| Error::io(what(), error))?.len();
    if size > MAX_BYTES {
        return Err(Error::invalid(format!("CDI specification {} is larger than 4 MiB", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(what(), error))?;
    let malformed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::caused_by(crate::ErrorKind::FailedPrecondition, what(), error)
    };
    if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(&text).map_err(|error| malformed(error.into()))
    } else {
        serde_saphyr::from_str(&text).map_err(|error| malformed(error.to_string().into()))
    }
}

fn apply(spec: &mut Spec, edits: &Edits, name: &str) -> Result<()> {
    if !edits.hooks.is_empty() {
        return Err(Error::unsupported(format!(
            "CDI device {name:?} asks for hooks, which the built-in runtime does not run for containers of the daemon"
        )));
    }
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(edits.env.iter().cloned());
        process.set_env(Some(env));
        let mut user = process.user().clone();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(edits.additional_gids.iter().filter(|g| **g != 0));
        user.set_additional_gids(Some(groups));
        process.set_user(user);
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in &edits.mounts {
        let mut options = mount.options.clone();
        if !options.iter().any(|o| o == "bind" || o == "rbind") {
            options.push("bind".to_owned());
        }
        let mount = MountBuilder::default()
            .destination(mount.container_path.clone())
            .source(mount.host_path.clone())
            .typ("bind")
            .options(options)
            .build()
            .map_err(bug)?;
        mounts.push(mount);
    }
    spec.set_mounts(Some(mounts));
    edits.device_nodes.iter().try_for_each(|node| add_device(spec, node, name))
}

fn add_device(spec: &mut Spec, node: &DeviceNode, name: &str) -> Result<()> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let host = node.host_path.as_ref().unwrap_or(&node.path);
    let metadata = std::fs::metadata(host)
        .map_err(|error| Error::io(format!("find {} of CDI device {name:?}", host.display()), error))?;
    let kind = match (metadata.file_type().is_char_device(), metadata.file_type().is_block_device()) {
        (true, _) => LinuxDeviceType::C,
        (_, true) => LinuxDeviceType::B,
        (false, false) => {
            return Err(Error::invalid(format!("{} of CDI device {name:?} is not a device", host.display())));
        }
    };
    let (major, minor) = sys::host::device_numbers(metadata.rdev());
    let device = LinuxDeviceBuilder::default()
        .path(node.path.clone())
        .typ(kind)
        .major(i64::from(major))
        .minor(i64::from(minor))
        .file_mode(node.file_mode.unwrap_or(metadata.mode() & 0o7777))
        .uid(node.uid.unwrap_or(metadata.uid()))
        .gid(node.gid.unwrap_or(metadata.gid()))
        .build()
        .map_err(bug)?;
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(kind)
        .major(i64::from(major))
        .minor(i64::from(minor))
        .access(node.permissions.clone().unwrap_or_else(|| "rwm".to_owned()))
        .build()
        .map_err(bug)?;
    let Some(mut linux) = spec.linux().clone() else { return Ok(()) };
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.push(device);
    linux.set_devices(Some(devices));
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.push(rule);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let yaml = "cdiVersion: 0.6.0\nkind: vendor.com/zero\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n- name: a\n  \
                    containerEdits:\n    env: [\"A=1\"]\n    additionalGIDs: [7, 0]\n    deviceNodes:\n    - path: /dev/z\n      \
                    hostPath: /dev/zero\n      permissions: r\n    mounts:\n    - {hostPath: /h, containerPath: /c}\n";
        let json =
            r#"{"kind": "vendor.com/hooked", "devices": [{"name": "h", "containerEdits": {"hooks": [{}]}}]}"#;
        std::fs::write(dir.path().join("zero.yaml"), yaml).unwrap();
        std::fs::write(dir.path().join("hooked.json"), json).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "no specification").unwrap();
        dir
    }

    fn injected(names: &[&str]) -> Result<Spec> {
        let dir = directory();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        inject(Spec::default(), &names, &[dir.path().to_owned(), "/no/such/directory".into()])
    }

    #[test]
    fn devices_of_a_yaml_file_are_added() {
        let spec = injected(&["vendor.com/zero=a"]).unwrap();
        let process = spec.process().clone().unwrap();
        let env = process.env().clone().unwrap();
        assert!(env.ends_with(&["ALL=1".to_owned(), "A=1".to_owned()]), "{env:?}");
        assert_eq!(process.user().additional_gids().clone().unwrap(), [7]);
        let linux = spec.linux().clone().unwrap();
        let device = &linux.devices().clone().unwrap()[0];
        assert_eq!(
            (device.path().display().to_string(), device.major(), device.minor()),
            ("/dev/z".into(), 1, 5)
        );
        let rules = linux.resources().clone().unwrap().devices().clone().unwrap();
        assert_eq!(rules.last().unwrap().access().as_deref(), Some("r"));
        let mounts = spec.mounts().clone().unwrap();
        assert_eq!(mounts.last().unwrap().options().clone().unwrap(), ["bind"]);
    }

    #[test]
    fn unknown_devices_and_hooks_are_errors() {
        for (name, part) in [
            ("vendor.com/zero=b", "in no specification"),
            ("vendor.com/other=a", "in no specification"),
            ("zero", "vendor/class=name"),
            ("vendor.com/hooked=h", "hooks"),
        ] {
            let error = injected(&[name]).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
    }
}
