//! Containers.

use std::collections::HashMap;
use std::path::PathBuf;

use cri_api::v1;
use engine::{
    Capabilities, ContainerConfig, ContainerKey, ContainerMount, ContainerState, ContainerStatus, Device,
    ExitReason, LogSettings, MountSource, NamespaceMode, Namespaces, Propagation, Security,
};

use crate::convert::{
    apparmor, groups_policy, hashed, id_mappings, id_maps, id32, ids32, linux_resources, namespace_mode,
    pid_mode, resources, seccomp, selects, selinux, signal_name, sorted, stop_signal,
};
use crate::error::Invalid;
use crate::sandbox;

/// A request for a container in the engine's words. `within` are the namespaces of its pod.
pub(crate) fn config(config: v1::ContainerConfig, within: &Namespaces) -> Result<ContainerConfig, Invalid> {
    if config.windows.is_some() {
        return Err(Invalid::new("windows: this node runs Linux containers"));
    }
    let metadata = config.metadata.ok_or_else(|| Invalid::new("a container needs metadata"))?;
    if metadata.name.is_empty() {
        return Err(Invalid::new("a container's metadata needs a name"));
    }
    let image = config.image.filter(|image| !image.image.is_empty());
    let image = image.ok_or_else(|| Invalid::new("a container needs an image"))?;
    let linux = config.linux.unwrap_or_default();
    Ok(ContainerConfig {
        key: ContainerKey { name: metadata.name, attempt: metadata.attempt },
        image: image.image,
        user_image: image.user_specified_image,
        command: config.command,
        args: config.args,
        env: config.envs.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        working_dir: config.working_dir,
        mounts: config.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        devices: config.devices.into_iter().map(device).collect(),
        cdi_devices: config.cdi_devices.into_iter().map(|device| device.name).collect(),
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        log_path: config.log_path,
        log: LogSettings::default(),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        terminal_size: None,
        stop_signal: stop_signal(config.stop_signal)?,
        resources: linux.resources.map(resources).transpose()?.unwrap_or_default(),
        rlimits: Vec::new(),
        security: security(linux.security_context.unwrap_or_default(), within)?,
        durable: None,
    })
}

fn device(device: v1::Device) -> Device {
    Device {
        host_path: device.host_path.into(),
        container_path: device.container_path.into(),
        permissions: device.permissions,
    }
}

fn mount(mount: v1::Mount) -> Result<ContainerMount, Invalid> {
    let at = mount.container_path;
    let refuse = |why: &str| Invalid::new(format!("mount at {at:?}: {why}"));
    if at.is_empty() {
        return Err(refuse("it needs a container_path"));
    }
    let propagation = match v1::MountPropagation::try_from(mount.propagation) {
        Ok(v1::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(v1::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(v1::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => return Err(refuse("unknown propagation")),
    };
    if mount.recursive_read_only && !(mount.readonly && propagation == Propagation::Private) {
        return Err(refuse("recursive_read_only needs readonly and private propagation"));
    }
    let source = match mount.image.filter(|image| !image.image.is_empty()) {
        Some(_) if !mount.host_path.is_empty() => return Err(refuse("it has both an image and a host_path")),
        Some(_) if !mount.readonly => return Err(refuse("an image can only be mounted readonly")),
        Some(image) => MountSource::Image { image: image.image, sub_path: mount.image_sub_path },
        None if mount.host_path.is_empty() => return Err(refuse("it needs a host_path or an image")),
        // The kubelet gives the sub path of any volume here; without an image host_path has it already.
        None => MountSource::Host(PathBuf::from(mount.host_path)),
    };
    if let Some(option) =
        mount.mount_options.iter().find(|o| !["noexec", "nodev", "nosuid"].contains(&o.as_str()))
    {
        return Err(refuse(&format!("unknown option {option:?}")));
    }
    if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
        return Err(refuse("an idmapped mount needs mappings of users and of groups"));
    }
    let id_maps = (!mount.uid_mappings.is_empty()).then(|| id_maps(&mount.uid_mappings, &mount.gid_mappings));
    Ok(ContainerMount {
        destination: PathBuf::from(at),
        source,
        readonly: mount.readonly,
        recursive_readonly: mount.recursive_read_only,
        non_recursive: false,
        propagation,
        id_maps,
        selinux_relabel: mount.selinux_relabel,
        options: mount.mount_options,
    })
}

// Both deprecated fields still count for callers that know no others.
#[allow(deprecated)]
fn security(context: v1::LinuxContainerSecurityContext, within: &Namespaces) -> Result<Security, Invalid> {
    let run_as_user = id32("run_as_user", context.run_as_user.map(|v| v.value))?;
    let run_as_group = id32("run_as_group", context.run_as_group.map(|v| v.value))?;
    if run_as_user.is_some() && !context.run_as_username.is_empty() {
        return Err(Invalid::new("only one of run_as_user and run_as_username can be given"));
    }
    if run_as_group.is_some() && run_as_user.is_none() && context.run_as_username.is_empty() {
        return Err(Invalid::new("run_as_group needs run_as_user or run_as_username"));
    }
    let capabilities = context.capabilities.unwrap_or_default();
    Ok(Security {
        privileged: context.privileged,
        capabilities: Capabilities {
            add: capability_names(capabilities.add_capabilities),
            drop: capability_names(capabilities.drop_capabilities),
            ambient: capability_names(capabilities.add_ambient_capabilities),
        },
        run_as_user,
        run_as_username: context.run_as_username,
        run_as_group,
        supplemental_groups: ids32("supplemental_groups", &context.supplemental_groups)?,
        groups_policy: groups_policy(context.supplemental_groups_policy)?,
        readonly_rootfs: context.readonly_rootfs,
        no_new_privs: context.no_new_privs,
        masked_paths: context.masked_paths,
        readonly_paths: context.readonly_paths,
        seccomp: seccomp(context.seccomp.as_ref(), &context.seccomp_profile_path)?,
        apparmor: apparmor(context.apparmor.as_ref(), &context.apparmor_profile)?,
        selinux: selinux(context.selinux_options),
        pid: context.namespace_options.map(|options| own_namespaces(options, within)).transpose()?,
    })
}

/// A container's own choice is its process ids; everything else is its pod's. What callers repeat of the pod
/// must be so, and the default value asks for nothing.
fn own_namespaces(options: v1::NamespaceOption, within: &Namespaces) -> Result<NamespaceMode, Invalid> {
    for (name, asked, pods) in
        [("network", options.network, &within.network), ("ipc", options.ipc, &within.ipc)]
    {
        let mode = namespace_mode(asked, "")?;
        if mode != NamespaceMode::Sandbox && mode != *pods {
            return Err(Invalid::new(format!(
                "the {name} namespace of a container is its pod's, which is {:?}, not {mode:?}",
                pods
            )));
        }
    }
    let is_empty = |user: &v1::UserNamespace| {
        user.mode == i32::from(v1::NamespaceMode::Pod) && user.uids.is_empty() && user.gids.is_empty()
    };
    let user = options.userns_options.clone().filter(|user| !is_empty(user));
    if user.is_some() && sandbox::user_namespace(user)? != within.user {
        return Err(Invalid::new(
            "the user namespace of a container is its pod's, and the pod has another one",
        ));
    }
    pid_mode(&options)
}

/// Upper case without `CAP_`, as the engine has them.
fn capability_names(names: Vec<String>) -> Vec<String> {
    names
        .into_iter()
        .map(|name| name.to_ascii_uppercase())
        .map(|name| name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name))
        .collect()
}

fn state(status: &ContainerStatus) -> v1::ContainerState {
    match &status.state {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => v1::ContainerState::ContainerExited,
    }
}

fn reason(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Completed => "Completed",
        ExitReason::Error => "Error",
        ExitReason::OomKilled => "OOMKilled",
        ExitReason::StartError => "StartError",
        ExitReason::Unknown => "Unknown",
    }
}

pub(crate) fn metadata(config: &ContainerConfig) -> v1::ContainerMetadata {
    v1::ContainerMetadata { name: config.key.name.clone(), attempt: config.key.attempt }
}

/// The image as a person would name it: callers often ask for it by its id.
pub(crate) fn image_name(config: &ContainerConfig) -> &str {
    let is_id = config.image.rsplit(':').next().is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) && !config.image.contains('@')
    });
    if is_id && !config.user_image.is_empty() { &config.user_image } else { &config.image }
}

fn image_spec(config: &ContainerConfig) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image_name(config).to_owned(),
        user_specified_image: config.user_image.clone(),
        ..Default::default()
    }
}

/// A container in a list.
pub(crate) fn item(status: &ContainerStatus) -> v1::Container {
    v1::Container {
        id: status.id.to_string(),
        pod_sandbox_id: status.sandbox.to_string(),
        metadata: Some(metadata(&status.config)),
        image: Some(image_spec(&status.config)),
        image_ref: status.image_ref.clone(),
        state: state(status).into(),
        created_at: status.created_at_ns,
        labels: hashed(&status.config.labels),
        annotations: hashed(&status.config.annotations),
        image_id: status.image_id.to_string(),
    }
}

/// A container's state.
pub(crate) fn status(status: &ContainerStatus) -> v1::ContainerStatus {
    let config = &status.config;
    let mut message = v1::ContainerStatus {
        id: status.id.to_string(),
        metadata: Some(metadata(config)),
        state: state(status).into(),
        created_at: status.created_at_ns,
        image: Some(image_spec(config)),
        image_ref: status.image_ref.clone(),
        labels: hashed(&config.labels),
        annotations: hashed(&config.annotations),
        mounts: config.mounts.iter().map(|mount| mount_status(status, mount)).collect(),
        log_path: status.log_path.clone(),
        resources: Some(v1::ContainerResources {
            linux: Some(linux_resources(&config.resources)),
            windows: None,
        }),
        image_id: status.image_id.to_string(),
        user: Some(user(status)),
        stop_signal: signal_name(status.stop_signal).into(),
        ..Default::default()
    };
    match &status.state {
        ContainerState::Created => {}
        ContainerState::Running { started_at_ns, .. } => message.started_at = *started_at_ns,
        ContainerState::Exited(exit) => {
            message.started_at = exit.started_at_ns;
            message.finished_at = exit.finished_at_ns;
            message.exit_code = exit.code;
            reason(exit.reason).clone_into(&mut message.reason);
            message.message.clone_from(&exit.message);
        }
    }
    message
}

fn user(status: &ContainerStatus) -> v1::ContainerUser {
    let linux = v1::LinuxContainerUser {
        uid: status.user.uid.into(),
        gid: status.user.gid.into(),
        supplemental_groups: status.user.groups.iter().map(|group| i64::from(*group)).collect(),
    };
    v1::ContainerUser { linux: Some(linux) }
}

fn mount_status(status: &ContainerStatus, mount: &ContainerMount) -> v1::Mount {
    let (uid_mappings, gid_mappings) = mount.id_maps.as_ref().map(id_mappings).unwrap_or_default();
    let (host_path, image, image_sub_path) = match &mount.source {
        MountSource::Host(path) => (path.to_string_lossy().into_owned(), None, String::new()),
        MountSource::Image { image, sub_path } => {
            let image_ref = status.mounted_images.get(&mount.destination).map(ToString::to_string);
            let image_ref = image_ref.unwrap_or_default();
            let spec = v1::ImageSpec { image: image.clone(), image_ref, ..Default::default() };
            (String::new(), Some(spec), sub_path.clone())
        }
        // Nobody asks for these through this interface.
        MountSource::Within { directory, sub_path } => {
            (directory.join(sub_path).to_string_lossy().into_owned(), None, String::new())
        }
        MountSource::Tmpfs { .. } => Default::default(),
    };
    let propagation = match mount.propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: mount.destination.to_string_lossy().into_owned(),
        host_path,
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        uid_mappings,
        gid_mappings,
        recursive_read_only: mount.recursive_readonly,
        image,
        image_sub_path,
        mount_options: mount.options.clone(),
    }
}

/// A container's state with what people ask for.
pub(crate) fn response(snapshot: &ContainerStatus, verbose: bool) -> v1::ContainerStatusResponse {
    let pid = match &snapshot.state {
        ContainerState::Running { pid, .. } => *pid,
        ContainerState::Created | ContainerState::Exited(_) => 0,
    };
    let info = || {
        let mut config = snapshot.config.clone();
        // Environments carry secrets, and this goes to terminals and bug reports.
        config.env.iter_mut().for_each(|(_, value)| *value = b"...".to_vec());
        serde_json::json!({
            "sandboxID": snapshot.sandbox,
            "pid": pid,
            "cgroupPath": snapshot.cgroup_path,
            "config": config,
        })
        .to_string()
    };
    v1::ContainerStatusResponse {
        status: Some(status(snapshot)),
        info: if verbose { [("info".to_owned(), info())].into() } else { HashMap::new() },
    }
}

/// Whether a container passes a filter.
pub(crate) fn passes(filter: Option<&v1::ContainerFilter>, status: &ContainerStatus) -> bool {
    filter.is_none_or(|filter| {
        status.id.as_str().starts_with(&filter.id)
            && status.sandbox.as_str().starts_with(&filter.pod_sandbox_id)
            && filter.state.is_none_or(|wanted| wanted.state == i32::from(state(status)))
            && selects(&filter.label_selector, &status.config.labels)
    })
}

/// Whether a container passes a filter for statistics, which only running ones have.
pub(crate) fn passes_stats(filter: Option<&v1::ContainerStatsFilter>, status: &ContainerStatus) -> bool {
    matches!(status.state, ContainerState::Running { .. })
        && filter.is_none_or(|filter| {
            status.id.as_str().starts_with(&filter.id)
                && status.sandbox.as_str().starts_with(&filter.pod_sandbox_id)
                && selects(&filter.label_selector, &status.config.labels)
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use engine::{ExitRecord, ResolvedUser};

    use super::*;

    fn mounts() -> Vec<v1::Mount> {
        let mapping = v1::IdMapping { host_id: 1000, container_id: 0, length: 1 };
        vec![
            v1::Mount {
                container_path: "/data".into(),
                host_path: "/srv".into(),
                readonly: true,
                recursive_read_only: true,
                uid_mappings: vec![mapping],
                gid_mappings: vec![mapping],
                mount_options: vec!["noexec".into()],
                ..Default::default()
            },
            v1::Mount {
                container_path: "/image".into(),
                readonly: true,
                image: Some(v1::ImageSpec { image: "tools".into(), ..Default::default() }),
                image_sub_path: "bin".into(),
                propagation: v1::MountPropagation::PropagationHostToContainer.into(),
                ..Default::default()
            },
        ]
    }

    pub(crate) fn request() -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 1 }),
            image: Some(v1::ImageSpec {
                image: format!("sha256:{}", "cd".repeat(32)),
                user_specified_image: "busybox:1".into(),
                ..Default::default()
            }),
            envs: vec![v1::KeyValue { key: "TOKEN".into(), value: b"\xffsecret".to_vec() }],
            mounts: mounts(),
            labels: HashMap::from([("app".into(), "web".into())]),
            stop_signal: v1::Signal::Sigusr1.into(),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources { cpu_shares: 7, ..Default::default() }),
                security_context: Some(v1::LinuxContainerSecurityContext {
                    capabilities: Some(v1::Capability {
                        add_capabilities: vec!["cap_net_admin".into(), "ALL".into()],
                        add_ambient_capabilities: vec!["CHOWN".into()],
                        ..Default::default()
                    }),
                    run_as_user: Some(v1::Int64Value { value: 1000 }),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }

    pub(crate) fn snapshot() -> ContainerStatus {
        let digest = |byte: &str| format!("sha256:{}", byte.repeat(32)).parse().unwrap();
        ContainerStatus {
            id: "12".repeat(32).parse().unwrap(),
            sandbox: "ab".repeat(32).parse().unwrap(),
            config: config(request(), &Namespaces::default()).unwrap(),
            state: ContainerState::Running { pid: 42, start_time: 1, started_at_ns: 20 },
            created_at_ns: 10,
            image_id: digest("cd"),
            image_ref: "docker.io/library/busybox@sha256:0".into(),
            log_path: "/var/log/app.log".into(),
            user: ResolvedUser { uid: 1000, gid: 1000, groups: vec![1000, 5] },
            stop_signal: 10,
            mounted_images: BTreeMap::from([("/image".into(), digest("ef"))]),
            cgroup_path: "/berth/12".into(),
        }
    }

    #[test]
    fn a_request_comes_back_in_the_status() {
        let request = request();
        let message = status(&snapshot());
        assert_eq!(message.metadata, request.metadata);
        assert_eq!(message.stop_signal, request.stop_signal);
        let linux = request.linux.unwrap();
        assert_eq!(message.resources.unwrap().linux, linux.resources);
        let mut expected = mounts();
        expected[1].image.as_mut().unwrap().image_ref = format!("sha256:{}", "ef".repeat(32));
        assert_eq!(message.mounts, expected);
        assert_eq!(message.image.unwrap().image, "busybox:1", "not the id");
        assert_eq!(message.user.unwrap().linux.unwrap().supplemental_groups, [1000, 5]);
        let security = snapshot().config.security;
        assert_eq!(security.capabilities.add, ["NET_ADMIN", "ALL"]);
    }

    #[test]
    fn the_end_is_told() {
        let exit = ExitRecord {
            code: 137,
            reason: ExitReason::OomKilled,
            message: String::new(),
            started_at_ns: 20,
            finished_at_ns: 30,
        };
        let message = status(&ContainerStatus { state: ContainerState::Exited(exit), ..snapshot() });
        assert_eq!((message.exit_code, message.reason.as_str()), (137, "OOMKilled"));
        assert_eq!((message.started_at, message.finished_at), (20, 30));
        assert_eq!(message.state, i32::from(v1::ContainerState::ContainerExited));
    }

    #[test]
    fn verbose_answers_keep_secrets() {
        let info = &response(&snapshot(), true).info["info"];
        assert!(info.contains("\"pid\":42") && info.contains("TOKEN"), "{info}");
        let bytes: Vec<String> = b"secret".iter().map(ToString::to_string).collect();
        assert!(!info.contains(&bytes.join(",")), "{info}");
        assert!(response(&snapshot(), false).info.is_empty());
    }

    fn refused(change: impl FnOnce(&mut v1::ContainerConfig)) -> bool {
        let mut request = request();
        change(&mut request);
        config(request, &Namespaces::default()).is_err()
    }

    fn context(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(refused(|c| c.metadata = None));
        assert!(refused(|c| c.image = None));
        assert!(refused(|c| c.mounts[0].readonly = false), "recursively read-only but writable");
        assert!(refused(|c| c.mounts[0].propagation = 1), "recursively read-only but propagated");
        assert!(refused(|c| c.mounts[0].host_path.clear()));
        assert!(refused(|c| c.mounts[0].mount_options.push("suid".into())));
        assert!(refused(|c| c.mounts[0].gid_mappings.clear()));
        assert!(!refused(|c| c.mounts[0].image_sub_path = "x".into()), "the kubelet does so");
        assert!(refused(|c| c.mounts[1].readonly = false), "writable image");
        assert!(refused(|c| c.mounts[1].host_path = "/x".into()));
        assert!(refused(|c| c.mounts[1].propagation = 7));
        assert!(refused(|c| context(c).run_as_username = "root".into()));
        assert!(refused(|c| context(c).run_as_user = Some(v1::Int64Value { value: -1 })));
        assert!(refused(|c| {
            context(c).run_as_user = None;
            context(c).run_as_group = Some(v1::Int64Value { value: 1 });
        }));
    }

    #[test]
    fn filters_need_all_conditions() {
        let status = snapshot();
        let filter =
            v1::ContainerFilter { id: "12".into(), pod_sandbox_id: "ab".into(), ..Default::default() };
        assert!(passes(Some(&filter), &status));
        assert!(!passes(
            Some(&v1::ContainerFilter { pod_sandbox_id: "12".into(), ..filter.clone() }),
            &status
        ));
        let created = v1::ContainerStateValue { state: v1::ContainerState::ContainerCreated.into() };
        assert!(!passes(Some(&v1::ContainerFilter { state: Some(created), ..filter }), &status));
        assert!(!passes_stats(None, &ContainerStatus { state: ContainerState::Created, ..status }));
    }
}
