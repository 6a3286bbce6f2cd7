//! The blocking half of creating a container: snapshot, user, devices, mounts, configuration. One job.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keeper::protocol::NamespaceKind;
use oci::ContainerId;

use super::task::Task;
use crate::config::Handler;
use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    ContainerConfig, ContainerMount, Device, ImageInfo, MountSource, NamespaceMode, ResolvedUser,
    SandboxConfig,
};
use crate::record::ContainerRecord;
use crate::spec::{self, BindMount, HostDevice, Input};
use crate::{cdi, files, user};

/// Everything the job needs, by value.
pub(super) struct PrepareInput {
    pub(super) shared: Arc<Shared>,
    pub(super) sandbox: SandboxConfig,
    pub(super) sandbox_id: String,
    pub(super) sandbox_dir: PathBuf,
    pub(super) hostname: String,
    pub(super) container: ContainerRecord,
    pub(super) dir: PathBuf,
    pub(super) image: ImageInfo,
    pub(super) handler: Handler,
    pub(super) namespaces: Arc<BTreeMap<NamespaceKind, OwnedFd>>,
}

/// What the job found.
pub(super) struct Prepared {
    pub(super) rootfs: OwnedFd,
    pub(super) user: ResolvedUser,
    pub(super) home: String,
}

impl Task {
    pub(super) fn prepare_input(&mut self, id: &ContainerId, image: ImageInfo) -> Result<PrepareInput> {
        let handler = self.shared.handler(&self.record.config.runtime_handler)?.clone();
        Ok(PrepareInput {
            shared: Arc::clone(&self.shared),
            sandbox: self.record.config.clone(),
            sandbox_id: self.record.id.to_string(),
            sandbox_dir: self.dir.clone(),
            hostname: self.record.hostname.clone(),
            container: self.container(id)?.clone(),
            dir: self.container_dir(id),
            image,
            handler,
            namespaces: self.live.namespaces(),
        })
    }
}

/// Makes the snapshot and writes the bundle. Blocks.
pub(super) fn prepare(input: &PrepareInput) -> Result<Prepared> {
    let rootfs = prepare_rootfs(input)?;
    let config = &input.container.config;
    let image_user = input.image.user.as_str();
    let resolved = user::resolve(rootfs.as_fd(), &config.security, image_user)?;
    sys::fs::ensure_directories(&input.dir, 0o711)
        .map_err(|error| Error::io(format!("make {}", input.dir.display()), error))?;
    write_bundle(input, &resolved)?;
    check_image_mounts(input)?;
    Ok(Prepared { rootfs, user: resolved.user, home: resolved.home })
}

/// A sub path that is not in its image is found now, not when the container starts.
fn check_image_mounts(input: &PrepareInput) -> Result<()> {
    for mount in &input.container.config.mounts {
        if let MountSource::Image { sub_path, .. } = &mount.source
            && let Some(image) = input.container.mounted_images.get(&mount.destination)
        {
            drop(view_image(
                &input.shared,
                image,
                mount,
                sub_path,
                input.namespaces.get(&NamespaceKind::User),
            )?);
        }
    }
    Ok(())
}

/// Mounts what of an image a container asks for, attached nowhere.
pub(crate) fn view_image(
    shared: &Shared,
    image: &oci::Digest,
    mount: &ContainerMount,
    sub_path: &str,
    user: Option<&OwnedFd>,
) -> Result<OwnedFd> {
    let sub_path = (!sub_path.is_empty()).then(|| Path::new(sub_path));
    let options = storage::ViewOptions { sub_path, user_namespace: user.map(AsFd::as_fd) };
    let view = shared.storage.view(image, options).map_err(|error| {
        let what = match sub_path {
            Some(path) => {
                format!("mount {} of image {image} at {}", path.display(), mount.destination.display())
            }
            None => format!("mount image {image} at {}", mount.destination.display()),
        };
        storage_error(what, error)
    })?;
    Ok(view.into())
}

/// Mounts what lies at a path in a directory of the host, attached nowhere. Links in the path stay in the directory,
/// and what is mounted is what was found: nobody can put something else in its place.
pub(crate) fn mount_within(mount: &ContainerMount, directory: &Path, sub_path: &Path) -> Result<OwnedFd> {
    let failed = |error: std::io::Error| {
        let what = format!(
            "mount {} of {} at {}",
            sub_path.display(),
            directory.display(),
            mount.destination.display()
        );
        match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Error::caused_by(ErrorKind::InvalidArgument, what, error)
            }
            _ => Error::io(what, error),
        }
    };
    let open = || -> std::io::Result<OwnedFd> {
        let root = sys::tree::open_root(directory)?;
        let pinned = sys::tree::pin_in_root(root.as_fd(), sub_path)?;
        let copy = sys::mount::clone_tree(pinned.as_fd(), Path::new(""), !mount.non_recursive)?;
        let set = if mount.readonly { sys::mount::Attributes::RDONLY } else { sys::mount::Attributes::EMPTY };
        let change = sys::mount::Change {
            set,
            propagation: Some(sys::mount::Propagation::Private),
            recursive: true,
            ..sys::mount::Change::default()
        };
        sys::mount::set_attributes(copy.as_fd(), change)?;
        Ok(copy.into())
    };
    open().map_err(failed)
}

fn prepare_rootfs(input: &PrepareInput) -> Result<OwnedFd> {
    let id = &input.container.id;
    let maps = input.sandbox.namespaces.user.as_ref().map(|u| to_storage_maps(&u.maps));
    prepare_snapshot(&input.shared, id, &input.image.id, maps, input.container.config.durable.is_some())?;
    mount_rootfs(&input.shared, id, input.namespaces.get(&NamespaceKind::User))
}

/// Makes a container's snapshot; that of a durable container is there since it was made, and outlives its image.
pub(crate) fn prepare_snapshot(
    shared: &Shared,
    id: &ContainerId,
    image: &oci::Digest,
    idmap: Option<storage::IdMaps>,
    durable: bool,
) -> Result<()> {
    if durable && shared.storage.snapshot(id).is_some_and(|known| known.durable && known.idmap == idmap) {
        return Ok(());
    }
    let options = storage::SnapshotOptions { idmap, durable };
    let made = shared.storage.prepare(id, image, options);
    made.map_err(|error| storage_error(format!("make the snapshot of container {}", id.short()), error))?;
    Ok(())
}

/// Mounts a container's root file system, attached nowhere.
pub(super) fn mount_rootfs(shared: &Shared, id: &ContainerId, user: Option<&OwnedFd>) -> Result<OwnedFd> {
    let what = || format!("mount the root file system of container {}", id.short());
    let snapshot = shared.storage.snapshot(id).ok_or_else(|| {
        Error::new(ErrorKind::FailedPrecondition, format!("{}: it has no snapshot", what()))
    })?;
    let options = storage::MountOptions { readonly: false, user_namespace: user.map(AsFd::as_fd) };
    let started = std::time::Instant::now();
    let mounted = shared.storage.mount(&snapshot, options).map_err(|error| storage_error(what(), error));
    shared.metrics.rootfs_mounts.ended(started, &mounted);
    Ok(mounted?.into())
}

fn write_bundle(input: &PrepareInput, resolved: &user::Resolved) -> Result<()> {
    let shared = &input.shared;
    let config = &input.container.config;
    let binds = resolve_mounts(config)?;
    let devices = resolve_devices(config, &input.handler)?;
    let kernel = shared.host.kernel;
    let capabilities =
        spec::effective_capabilities(&config.security, &shared.config.containers.capabilities, &shared.host)?;
    let seccomp = shared.seccomp.resolve(&config.security, &capabilities, kernel)?;
    let join = join_paths(config, &input.sandbox);
    let rootfs = input.dir.join("rootfs");
    let spec = spec::build(&Input {
        config,
        sandbox: &input.sandbox,
        image: &input.image.config,
        user: &resolved.user,
        home: &resolved.home,
        hostname: &input.hostname,
        host: &shared.host,
        defaults: &shared.config.containers,
        files: &sandbox_files(input),
        binds: &binds,
        devices: &devices,
        seccomp,
        cgroups_path: &input.container.cgroup_path,
        rootfs: &rootfs,
        join: &join,
        annotations: annotations(input),
    })?;
    let spec = cdi::inject(spec, &config.cdi_devices, &shared.config.containers.cdi_dirs)?;
    let bytes = serde_json::to_vec(&spec).map_err(spec::bug)?;
    let path = input.dir.join("config.json");
    sys::fs::write_volatile(&path, &bytes, 0o600)
        .map_err(|error| Error::io(format!("write {}", path.display()), error))
}

/// The files of the sandbox; its shared memory may be another's.
fn sandbox_files(input: &PrepareInput) -> spec::SandboxFiles {
    let mut paths = files::paths(&input.sandbox_dir, input.sandbox.namespaces.ipc == NamespaceMode::Host);
    if let Some(other) = &input.sandbox.joined.ipc {
        paths.shm = files::paths(&input.shared.sandbox_dir(other), false).shm;
    }
    paths
}

/// Namespaces a container joins. The built-in runtime is given descriptors; the paths here are placeholders
/// that [`super::start`] replaces for runtimes that open paths.
fn join_paths(config: &ContainerConfig, sandbox: &SandboxConfig) -> BTreeMap<NamespaceKind, PathBuf> {
    join_kinds(config, sandbox)
        .into_iter()
        .map(|kind| (kind, PathBuf::from(format!("/proc/self/fd/{}", kind as u8))))
        .collect()
}

/// Kinds of namespaces a container joins instead of making or sharing the host's.
pub(super) fn join_kinds(config: &ContainerConfig, sandbox: &SandboxConfig) -> Vec<NamespaceKind> {
    let modes = &sandbox.namespaces;
    let pid = config.security.pid.as_ref().unwrap_or(&modes.pid);
    let mut kinds = Vec::new();
    if modes.user.is_some() {
        kinds.push(NamespaceKind::User);
    }
    if modes.network != NamespaceMode::Host {
        kinds.extend([NamespaceKind::Net, NamespaceKind::Uts]);
    }
    if modes.ipc != NamespaceMode::Host {
        kinds.push(NamespaceKind::Ipc);
    }
    if matches!(pid, NamespaceMode::Sandbox | NamespaceMode::Target(_)) {
        kinds.push(NamespaceKind::Pid);
    }
    kinds
}

/// Sources of mounts: links are followed now, so that what is mounted is what was looked at; a missing
/// directory is made, as clients expect.
fn resolve_mounts(config: &ContainerConfig) -> Result<Vec<BindMount>> {
    config
        .mounts
        .iter()
        .map(|asked| {
            let source = match &asked.source {
                MountSource::Host(path) => Some(resolve_source(path, asked)?),
                MountSource::Image { .. } | MountSource::Within { .. } | MountSource::Tmpfs { .. } => None,
            };
            Ok(BindMount { source, asked: asked.clone() })
        })
        .collect()
}

fn resolve_source(path: &Path, asked: &ContainerMount) -> Result<PathBuf> {
    let what = || format!("find the source {} of mount {}", path.display(), asked.destination.display());
    if !path.is_absolute() {
        return Err(Error::invalid(format!("mount source {} is not absolute", path.display())));
    }
    match std::fs::canonicalize(path) {
        Ok(found) => Ok(found),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(|error| Error::io(what(), error))?;
            std::fs::canonicalize(path).map_err(|error| Error::io(what(), error))
        }
        Err(error) => Err(Error::io(what(), error)),
    }
}

fn resolve_devices(config: &ContainerConfig, handler: &Handler) -> Result<Vec<HostDevice>> {
    let mut devices = Vec::new();
    for asked in &config.devices {
        if asked.permissions.is_empty() || asked.permissions.chars().any(|c| !"rwm".contains(c)) {
            return Err(Error::invalid(format!(
                "permissions {:?} of device {} are not letters of \"rwm\"",
                asked.permissions,
                asked.host_path.display()
            )));
        }
        collect_device(asked, &asked.host_path, &asked.container_path, &mut devices, 0)?;
    }
    if config.security.privileged && !handler.privileged_without_host_devices {
        let all =
            Device { host_path: "/dev".into(), container_path: "/dev".into(), permissions: "rwm".into() };
        let mut host = Vec::new();
        collect_device(&all, Path::new("/dev"), Path::new("/dev"), &mut host, 0)?;
        host.retain(|device| !is_private_to_container(&device.path));
        devices.extend(host);
    }
    Ok(devices)
}

/// Nodes that every container has its own of.
fn is_private_to_container(path: &Path) -> bool {
    ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx", "/dev/fd"]
        .iter()
        .any(|private| path.starts_with(private))
}

/// A device, or all devices of a directory. Directories of device nodes are shallow; what is deeper than
/// any real one is refused instead of walked.
fn collect_device(
    asked: &Device,
    host: &Path,
    container: &Path,
    devices: &mut Vec<HostDevice>,
    depth: u32,
) -> Result<()> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let top = depth == 0;
    let metadata = if top { std::fs::metadata(host) } else { std::fs::symlink_metadata(host) };
    let metadata = match metadata {
        Ok(metadata) => metadata,
        Err(_) if !top => return Ok(()),
        Err(error) => {
            return Err(Error::caused_by(
                ErrorKind::InvalidArgument,
                format!("find device {}", host.display()),
                error,
            ));
        }
    };
    let kind = metadata.file_type();
    if kind.is_dir() && depth < 8 {
        if is_private_to_container(host) {
            return Ok(());
        }
        let entries =
            std::fs::read_dir(host).map_err(|error| Error::io(format!("list {}", host.display()), error))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            collect_device(asked, &host.join(&name), &container.join(&name), devices, depth + 1)?;
        }
        return Ok(());
    }
    if !kind.is_char_device() && !kind.is_block_device() {
        return if top { Err(Error::invalid(format!("{} is not a device", host.display()))) } else { Ok(()) };
    }
    let (major, minor) = sys::host::device_numbers(metadata.rdev());
    devices.push(HostDevice {
        path: container.to_owned(),
        block: kind.is_block_device(),
        major: i64::from(major),
        minor: i64::from(minor),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: asked.permissions.clone(),
    });
    Ok(())
}

/// Annotations the handler lets through, and those that tell runtimes what they run.
fn annotations(input: &PrepareInput) -> HashMap<String, String> {
    let pass = |globs: &[String], from: &BTreeMap<String, String>| -> Vec<(String, String)> {
        from.iter()
            .filter(|(key, _)| globs.iter().any(|glob| matches_glob(glob, key)))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    let mut all: HashMap<String, String> = HashMap::new();
    all.extend(pass(&input.handler.pod_annotations, &input.sandbox.annotations));
    all.extend(pass(&input.handler.container_annotations, &input.container.config.annotations));
    let metadata = &input.sandbox.metadata;
    for (key, value) in [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.sandbox-id", input.sandbox_id.as_str()),
        ("io.kubernetes.cri.container-name", input.container.config.key.name.as_str()),
        ("io.kubernetes.cri.image-name", input.container.config.user_image.as_str()),
        ("io.kubernetes.cri.sandbox-name", metadata.name.as_str()),
        ("io.kubernetes.cri.sandbox-namespace", metadata.namespace.as_str()),
        ("io.kubernetes.cri.sandbox-uid", metadata.uid.as_str()),
    ] {
        all.insert(key.to_owned(), value.to_owned());
    }
    all
}

/// Whether `text` fits a glob in which `*` stands for any text.
pub(crate) fn matches_glob(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

pub(crate) fn to_storage_maps(maps: &keeper::protocol::IdMaps) -> storage::IdMaps {
    let convert = |list: &[keeper::protocol::IdMap]| {
        list.iter()
            .map(|m| storage::IdMap { container: m.container_id, host: m.host_id, length: m.size })
            .collect()
    };
    storage::IdMaps { uids: convert(&maps.uids), gids: convert(&maps.gids) }
}

/// Maps storage's outcomes to ours.
pub(crate) fn storage_error(message: String, error: storage::Error) -> Error {
    let kind = match error.kind() {
        storage::ErrorKind::NotFound => ErrorKind::NotFound,
        storage::ErrorKind::NoSpace => ErrorKind::Exhausted,
        storage::ErrorKind::Invalid | storage::ErrorKind::Ambiguous | storage::ErrorKind::Limit => {
            ErrorKind::InvalidArgument
        }
        storage::ErrorKind::Locked | storage::ErrorKind::Stale => ErrorKind::FailedPrecondition,
        storage::ErrorKind::Exists => ErrorKind::AlreadyExists,
        storage::ErrorKind::Io => ErrorKind::Internal,
    };
    Error::caused_by(kind, message, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_texts() {
        for (glob, text, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*", "", true),
            ("*.io/x", "b.io/x", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("", "a", false),
        ] {
            assert_eq!(matches_glob(glob, text), fits, "{glob} {text}");
        }
    }
}
