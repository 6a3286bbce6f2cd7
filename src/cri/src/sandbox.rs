//! Pods.

use std::collections::HashMap;

use cri_api::v1;
use engine::{
    Dns, Joined, NamespaceMode, Namespaces, PortMapping, Protocol, SandboxConfig, SandboxMetadata,
    SandboxState, SandboxStatus, UserNamespace,
};

use crate::container;
use crate::convert::{
    hashed, id_mappings, id_maps, namespace_mode, namespace_mode_name, pid_mode, resources, selects, selinux,
    sorted,
};
use crate::error::Invalid;

/// A request for a pod in the engine's words.
pub(crate) fn config(request: v1::RunPodSandboxRequest) -> Result<SandboxConfig, Invalid> {
    let config = request.config.ok_or_else(|| Invalid::new("a pod needs a config"))?;
    let metadata = config.metadata.ok_or_else(|| Invalid::new("a pod needs metadata"))?;
    if metadata.name.is_empty() || metadata.uid.is_empty() || metadata.namespace.is_empty() {
        return Err(Invalid::new("a pod's metadata needs name, uid and namespace"));
    }
    if config.windows.is_some() {
        return Err(Invalid::new("windows: this node runs Linux containers"));
    }
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        return Err(Invalid::new("run_as_group needs run_as_user"));
    }
    Ok(SandboxConfig {
        metadata: SandboxMetadata {
            name: metadata.name,
            uid: metadata.uid,
            namespace: metadata.namespace,
            attempt: metadata.attempt,
        },
        hostname: config.hostname,
        log_directory: config.log_directory,
        dns: config.dns_config.map(dns).filter(|dns| *dns != Dns::default()),
        ports: config.port_mappings.iter().map(port).collect::<Result<_, _>>()?,
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        cgroup_parent: linux.cgroup_parent,
        sysctls: sorted(linux.sysctls),
        namespaces: namespaces(security.namespace_options.unwrap_or_default())?,
        runtime_handler: request.runtime_handler,
        privileged: security.privileged,
        selinux: selinux(security.selinux_options),
        resources: linux.resources.map(resources).transpose()?,
        overhead: linux.overhead.map(resources).transpose()?,
        shm_size_bytes: None,
        user_networking: None,
        joined: Joined::default(),
        durable: None,
    })
}

fn dns(config: v1::DnsConfig) -> Dns {
    Dns { servers: config.servers, searches: config.searches, options: config.options }
}

fn port(mapping: &v1::PortMapping) -> Result<PortMapping, Invalid> {
    let number = |name: &str, value: i32| {
        u16::try_from(value).map_err(|_| Invalid::new(format!("{name} {value} is not a port")))
    };
    let protocol = match v1::Protocol::try_from(mapping.protocol) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => return Err(Invalid::new(format!("unknown protocol {}", mapping.protocol))),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Invalid::new(format!("host_ip {text:?} is not an address")))?),
    };
    let container_port = number("container_port", mapping.container_port)?;
    let host_port = number("host_port", mapping.host_port)?;
    if container_port == 0 && host_port != 0 {
        return Err(Invalid::new(format!("host port {host_port} leads to no port of the pod")));
    }
    Ok(PortMapping { protocol, container_port, host_port, host_ip })
}

fn namespaces(options: v1::NamespaceOption) -> Result<Namespaces, Invalid> {
    Ok(Namespaces {
        network: namespace_mode(options.network, "")?,
        pid: pid_mode(&options)?,
        ipc: namespace_mode(options.ipc, "")?,
        user: user_namespace(options.userns_options)?,
    })
}

/// The interface allows one range, the same for users and groups, and the container's root must be in it.
pub(crate) fn user_namespace(options: Option<v1::UserNamespace>) -> Result<Option<UserNamespace>, Invalid> {
    let Some(options) = options else { return Ok(None) };
    match namespace_mode(options.mode, "-")? {
        NamespaceMode::Host if options.uids.is_empty() && options.gids.is_empty() => Ok(None),
        NamespaceMode::Host => Err(Invalid::new("mappings make no sense in the node's user namespace")),
        NamespaceMode::Sandbox => {
            let ([uids], [gids]) = (options.uids.as_slice(), options.gids.as_slice()) else {
                return Err(Invalid::new(
                    "a user namespace needs exactly one mapping of users and one of groups",
                ));
            };
            if uids != gids {
                return Err(Invalid::new("a user namespace needs the same mapping of users and groups"));
            }
            if uids.container_id != 0 || uids.length == 0 {
                return Err(Invalid::new("the mapping of a user namespace must start with container id 0"));
            }
            if uids.host_id.checked_add(uids.length).is_none() {
                return Err(Invalid::new("the mapping of a user namespace exceeds the ids there are"));
            }
            Ok(Some(UserNamespace { maps: id_maps(&options.uids, &options.gids) }))
        }
        NamespaceMode::Container | NamespaceMode::Target(_) => {
            Err(Invalid::new("the user namespace is the pod's or the node's"))
        }
    }
}

fn state(status: &SandboxStatus) -> v1::PodSandboxState {
    match status.state {
        SandboxState::Ready => v1::PodSandboxState::SandboxReady,
        SandboxState::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

pub(crate) fn metadata(config: &SandboxConfig) -> v1::PodSandboxMetadata {
    let SandboxMetadata { name, uid, namespace, attempt } = config.metadata.clone();
    v1::PodSandboxMetadata { name, uid, namespace, attempt }
}

/// A pod in a list.
pub(crate) fn item(status: &SandboxStatus) -> v1::PodSandbox {
    v1::PodSandbox {
        id: status.id.to_string(),
        metadata: Some(metadata(&status.config)),
        state: state(status).into(),
        created_at: status.created_at_ns,
        labels: hashed(&status.config.labels),
        annotations: hashed(&status.config.annotations),
        runtime_handler: status.config.runtime_handler.clone(),
    }
}

/// A pod's state.
pub(crate) fn status(status: &SandboxStatus) -> v1::PodSandboxStatus {
    let mut addresses = status.addresses.iter().map(|address| address.ip.to_string());
    let network = v1::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
    };
    let options = namespace_options(&status.config.namespaces);
    v1::PodSandboxStatus {
        id: status.id.to_string(),
        metadata: Some(metadata(&status.config)),
        state: state(status).into(),
        created_at: status.created_at_ns,
        network: Some(network),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options: Some(options) }) }),
        labels: hashed(&status.config.labels),
        annotations: hashed(&status.config.annotations),
        runtime_handler: status.config.runtime_handler.clone(),
    }
}

fn namespace_options(namespaces: &Namespaces) -> v1::NamespaceOption {
    let (pid, target_id) = namespace_mode_name(&namespaces.pid);
    let userns_options = namespaces.user.as_ref().map(|user| {
        let (uids, gids) = id_mappings(&user.maps);
        v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids, gids }
    });
    v1::NamespaceOption {
        network: namespace_mode_name(&namespaces.network).0.into(),
        pid: pid.into(),
        ipc: namespace_mode_name(&namespaces.ipc).0.into(),
        target_id,
        userns_options,
    }
}

/// A pod's state with those of its containers, all of one moment.
pub(crate) fn response(snapshot: &SandboxStatus, verbose: bool) -> v1::PodSandboxStatusResponse {
    let info = serde_json::json!({
        "networkNamespace": snapshot.netns_path,
        "cgroupParent": snapshot.config.cgroup_parent,
        "config": snapshot.config,
    });
    v1::PodSandboxStatusResponse {
        status: Some(status(snapshot)),
        info: if verbose { [("info".to_owned(), info.to_string())].into() } else { HashMap::new() },
        containers_statuses: snapshot.containers.iter().map(container::status).collect(),
        timestamp: snapshot.observed_at_ns,
    }
}

/// Whether a pod passes a filter.
pub(crate) fn passes(filter: Option<&v1::PodSandboxFilter>, status: &SandboxStatus) -> bool {
    filter.is_none_or(|filter| {
        status.id.as_str().starts_with(&filter.id)
            && filter.state.is_none_or(|wanted| wanted.state == i32::from(state(status)))
            && selects(&filter.label_selector, &status.config.labels)
    })
}

/// Whether a pod passes a filter for statistics.
pub(crate) fn passes_stats(filter: Option<&v1::PodSandboxStatsFilter>, status: &SandboxStatus) -> bool {
    status.state == SandboxState::Ready
        && filter.is_none_or(|filter| {
            status.id.as_str().starts_with(&filter.id)
                && selects(&filter.label_selector, &status.config.labels)
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn request() -> v1::RunPodSandboxRequest {
        let metadata = v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u1".into(),
            namespace: "prod".into(),
            attempt: 2,
        };
        let mapping = v1::IdMapping { host_id: 100_000, container_id: 0, length: 65536 };
        let options = v1::NamespaceOption {
            pid: v1::NamespaceMode::Container.into(),
            userns_options: Some(v1::UserNamespace { mode: 0, uids: vec![mapping], gids: vec![mapping] }),
            ..Default::default()
        };
        let config = v1::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: "web-0".into(),
            port_mappings: vec![v1::PortMapping {
                protocol: v1::Protocol::Udp.into(),
                container_port: 53,
                host_port: 5353,
                host_ip: "::1".into(),
            }],
            labels: HashMap::from([("app".into(), "web".into())]),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        v1::RunPodSandboxRequest { config: Some(config), runtime_handler: "crun".into() }
    }

    /// A snapshot of the pod that [`request`] asks for.
    pub(crate) fn snapshot() -> SandboxStatus {
        SandboxStatus {
            id: "ab".repeat(32).parse().unwrap(),
            config: config(request()).unwrap(),
            state: SandboxState::Ready,
            created_at_ns: 5,
            addresses: ["10.88.0.2", "fd00::2"]
                .map(|ip| engine::IpAddress { ip: ip.parse().unwrap(), prefix_len: 16 })
                .into(),
            netns_path: Some("/run/netns/x".into()),
            endpoints: Vec::new(),
            bound_ports: Vec::new(),
            containers: Vec::new(),
            observed_at_ns: 7,
        }
    }

    #[test]
    fn a_request_comes_back_in_the_status() {
        let status = status(&snapshot());
        let config = request().config.unwrap();
        assert_eq!(status.metadata, config.metadata);
        assert_eq!(status.labels, config.labels);
        assert_eq!(status.runtime_handler, "crun");
        let network = status.network.unwrap();
        assert_eq!((network.ip.as_str(), network.additional_ips[0].ip.as_str()), ("10.88.0.2", "fd00::2"));
        let options = config.linux.unwrap().security_context.unwrap().namespace_options;
        assert_eq!(status.linux.unwrap().namespaces.unwrap().options, options);
    }

    fn check(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<SandboxConfig, Invalid> {
        let mut request = request();
        change(request.config.as_mut().unwrap());
        config(request)
    }

    fn user_options(config: &mut v1::PodSandboxConfig) -> &mut v1::UserNamespace {
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options.as_mut().unwrap().userns_options.as_mut().unwrap()
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(config(v1::RunPodSandboxRequest::default()).is_err());
        assert!(check(|c| c.metadata = None).is_err());
        assert!(check(|c| c.metadata.as_mut().unwrap().uid.clear()).is_err());
        assert!(check(|c| c.port_mappings[0].host_port = 70_000).is_err());
        assert!(check(|c| c.port_mappings[0].host_ip = "localhost".into()).is_err());
        assert!(check(|c| c.port_mappings[0].protocol = 9).is_err());
        let more = |o: &mut v1::UserNamespace| o.uids.push(o.uids[0]);
        assert!(check(|c| more(user_options(c))).is_err());
        assert!(check(|c| user_options(c).gids[0].length = 1).is_err());
        assert!(check(|c| user_options(c).mode = v1::NamespaceMode::Container.into()).is_err());
        assert!(check(|c| user_options(c).mode = v1::NamespaceMode::Target.into()).is_err());
        assert!(check(|c| user_options(c).mode = v1::NamespaceMode::Node.into()).is_err());
        let shift = |o: &mut v1::UserNamespace| {
            o.uids[0].container_id = 1;
            o.gids[0].container_id = 1;
        };
        assert!(check(|c| shift(user_options(c))).is_err());
    }

    #[test]
    fn filters_need_all_conditions() {
        let status = snapshot();
        let filter = |id: &str, state: Option<i32>, label: Option<&str>| v1::PodSandboxFilter {
            id: id.into(),
            state: state.map(|state| v1::PodSandboxStateValue { state }),
            label_selector: label.map(|value| ("app".to_owned(), value.to_owned())).into_iter().collect(),
        };
        assert!(passes(None, &status));
        assert!(passes(Some(&filter("abab", Some(0), Some("web"))), &status));
        assert!(!passes(Some(&filter("ba", None, None)), &status));
        assert!(!passes(Some(&filter("", Some(1), None)), &status));
        assert!(!passes(Some(&filter("", None, Some("db"))), &status));
    }
}
