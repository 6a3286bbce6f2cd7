//! From the file's text to settings, with every problem found on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{Credentials, File, Runtime};
use super::{Docker, Metrics, Settings, Streaming, Tracing};
use crate::cli::LogFormat;

/// Checks everything before it says anything.
pub(super) fn settings(file: File) -> Result<Settings, Vec<String>> {
    let mut problems = Vec::new();
    let mut say = |problem: String| problems.push(problem);
    if file.version != 1 {
        say(format!("version = {}: this release reads version 1", file.version));
    }
    let root = absolute("root", &file.root, &mut say);
    let state = absolute("state", &file.state, &mut say);
    let in_state =
        |value: &str, name: &str| if value.is_empty() { state.join(name) } else { PathBuf::from(value) };
    let cri_socket = in_state(&file.cri.socket, "cri.sock");
    let keeper_socket = in_state(&file.keeper.socket, "keeper.sock");
    let docker_socket = in_state(&file.docker.socket, "docker.sock");
    let sockets =
        [("cri.socket", &cri_socket), ("docker.socket", &docker_socket), ("keeper.socket", &keeper_socket)];
    for (key, path) in sockets {
        if !path.is_absolute() {
            say(format!("{key} = {:?}: not an absolute path", path.display().to_string()));
        } else if path.as_os_str().len() > 107 {
            say(format!("{key}: {} is longer than the 107 bytes a socket's path can have", path.display()));
        }
    }
    let log_format = match file.log.format.as_str() {
        "json" => LogFormat::Json,
        "text" => LogFormat::Text,
        other => {
            say(format!("log.format = {other:?}: use \"text\" or \"json\""));
            LogFormat::Text
        }
    };
    if let Err(error) = crate::logging::parse(&file.log.level) {
        say(format!("log.level: {error}"));
    }
    let socket_group = group("cri", &file.cri.group, &mut say);
    let docker = docker(&file, docker_socket, &mut say);
    let streaming = streaming(&file, &mut say);
    let metrics = metrics(&file, &mut say);
    let tracing = tracing(&file, &mut say);
    let engine = engine::Config {
        keeper_program: file.keeper.start.then(|| keeper_program(&file.keeper.program)),
        cgroups: cgroups(&file, &mut say),
        handlers: handlers(&file, &state, &mut say),
        default_handler: file.default_runtime.clone(),
        network: network(&file, &mut say),
        images: images(&file, &mut say),
        containers: containers(&file, &mut say),
        root,
        state: state.clone(),
        keeper_socket,
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Settings {
        engine,
        cri_socket,
        admin_socket: state.join("admin.sock"),
        socket_group,
        docker,
        streaming: streaming.unwrap_or(Streaming { address: ([127, 0, 0, 1], 0).into(), tls: None }),
        metrics,
        tracing,
        log_filter: file.log.level.clone(),
        log_format,
        config_path: None,
        file,
    })
}

fn absolute(key: &str, value: &str, say: &mut impl FnMut(String)) -> PathBuf {
    let path = PathBuf::from(value);
    if !path.is_absolute() {
        say(format!("{key} = {value:?}: not an absolute path"));
    }
    path
}

fn optional(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| value.into())
}

/// The keeper is found beside this program unless the file says where it is.
fn keeper_program(configured: &str) -> PathBuf {
    if !configured.is_empty() {
        return configured.into();
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("berth-keeper")));
    beside.unwrap_or_else(|| "/usr/bin/berth-keeper".into())
}

fn group(table: &str, name: &str, say: &mut impl FnMut(String)) -> Option<u32> {
    if name.is_empty() {
        return None;
    }
    if let Ok(id) = name.parse() {
        return Some(id);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    if found.is_none() {
        say(format!("{table}.group = {name:?}: there is no such group on this host"));
    }
    found
}

fn docker(file: &File, socket: PathBuf, say: &mut impl FnMut(String)) -> Option<Docker> {
    let group = group("docker", &file.docker.group, say);
    let mode = &file.docker.mode;
    // Whoever can use the socket is root on this node.
    let read = u32::from_str_radix(mode, 8).ok().filter(|mode| mode & !0o660 == 0);
    if read.is_none() {
        say(format!(
            "docker.mode = {mode:?}: use \"0660\" or \"0600\"; whoever can use the socket is root here"
        ));
    }
    file.docker.enabled.then(|| Docker { socket, mode: read.unwrap_or(0o600), group })
}

fn streaming(file: &File, say: &mut impl FnMut(String)) -> Option<Streaming> {
    let given = &file.streaming;
    let address = address("streaming.address", &given.address, say);
    let tls = certificate("streaming", &given.tls_certificate, &given.tls_key, say);
    address.map(|address| Streaming { address, tls })
}

fn metrics(file: &File, say: &mut impl FnMut(String)) -> Option<Metrics> {
    let given = &file.metrics;
    let tls = certificate("metrics", &given.tls_certificate, &given.tls_key, say);
    let bearer_token_file = optional(&given.bearer_token_file);
    if let Some(path) = &bearer_token_file
        && let Err(error) = std::fs::metadata(path)
    {
        say(format!("metrics.bearer_token_file: {} cannot be read: {error}", path.display()));
    }
    if given.address.is_empty() {
        return None;
    }
    let address = address("metrics.address", &given.address, say)?;
    Some(Metrics { address, containers: given.containers, tls, bearer_token_file })
}

fn tracing(file: &File, say: &mut impl FnMut(String)) -> Option<Tracing> {
    let given = &file.tracing;
    if !(0.0..=1.0).contains(&given.sampling_ratio) {
        say(format!("tracing.sampling_ratio = {}: use a share from 0.0 to 1.0", given.sampling_ratio));
    }
    if given.service_name.is_empty() {
        say("tracing.service_name is empty: traces need a name to be found by".to_owned());
    }
    let ca = optional(&given.ca);
    if let Some(path) = &ca
        && let Err(error) = std::fs::metadata(path)
    {
        say(format!("tracing.ca: {} cannot be read: {error}", path.display()));
    }
    let endpoint = &given.endpoint;
    if endpoint.is_empty() {
        return None;
    }
    let url: Option<http::Uri> = endpoint.parse().ok();
    let scheme = url.as_ref().filter(|url| url.authority().is_some() && matches!(url.path(), "" | "/"));
    match scheme.and_then(http::Uri::scheme_str) {
        Some("https") => {}
        Some("http") if ca.is_none() => {}
        Some("http") => {
            say("tracing.ca has no use with an endpoint without TLS: write https://, or remove it".to_owned())
        }
        _ => say(format!(
            "tracing.endpoint = {endpoint:?}: expected the URL of a collector, as http://127.0.0.1:4317, or https:// with TLS"
        )),
    }
    Some(Tracing {
        endpoint: endpoint.clone(),
        sampling_ratio: given.sampling_ratio,
        service_name: given.service_name.clone(),
        ca,
    })
}

fn address(key: &str, text: &str, say: &mut impl FnMut(String)) -> Option<std::net::SocketAddr> {
    let address = text.parse();
    if address.is_err() {
        say(format!("{key} = {text:?}: expected an address with a port, as 127.0.0.1:9095"));
    }
    address.ok()
}

/// A certificate and its key: both or none, and both are there.
fn certificate(
    table: &str,
    certificate: &str,
    key: &str,
    say: &mut impl FnMut(String),
) -> Option<(PathBuf, PathBuf)> {
    match (optional(certificate), optional(key)) {
        (Some(certificate), Some(key)) => {
            for (name, path) in [("tls_certificate", &certificate), ("tls_key", &key)] {
                if let Err(error) = std::fs::metadata(path) {
                    say(format!("{table}.{name}: {} cannot be read: {error}", path.display()));
                }
            }
            Some((certificate, key))
        }
        (None, None) => None,
        (Some(_), None) => {
            say(format!("{table}.tls_certificate is set without {table}.tls_key"));
            None
        }
        (None, Some(_)) => {
            say(format!("{table}.tls_key is set without {table}.tls_certificate"));
            None
        }
    }
}

fn cgroups(file: &File, say: &mut impl FnMut(String)) -> engine::CgroupConfig {
    let driver = match file.cgroups.driver.as_str() {
        "cgroupfs" => engine::CgroupDriver::Cgroupfs,
        "systemd" => {
            say("cgroups.driver = \"systemd\": this release makes cgroups itself; use \"cgroupfs\", in the kubelet, too".to_owned());
            engine::CgroupDriver::Systemd
        }
        other => {
            say(format!("cgroups.driver = {other:?}: use \"cgroupfs\""));
            engine::CgroupDriver::Cgroupfs
        }
    };
    let parent = &file.cgroups.parent;
    if !parent.starts_with('/') || parent.split('/').any(|part| part == "..") {
        say(format!("cgroups.parent = {parent:?}: expected a path that starts with / and has no \"..\""));
    }
    engine::CgroupConfig {
        root: absolute("cgroups.root", &file.cgroups.root, say),
        driver,
        default_parent: parent.clone(),
    }
}

fn handlers(file: &File, state: &Path, say: &mut impl FnMut(String)) -> BTreeMap<String, engine::Handler> {
    if !file.runtimes.contains_key(&file.default_runtime) {
        say(format!(
            "default_runtime = {:?}: there is no [runtimes.{}]",
            file.default_runtime, file.default_runtime
        ));
    }
    file.runtimes.iter().map(|(name, runtime)| (name.clone(), handler(name, runtime, state, say))).collect()
}

fn handler(name: &str, runtime: &Runtime, state: &Path, say: &mut impl FnMut(String)) -> engine::Handler {
    let built_in = match (runtime.r#type.as_str(), runtime.path.as_str()) {
        ("built-in" | "", "") => true,
        ("", _) => false,
        ("built-in", _) => {
            say(format!("runtimes.{name}: type \"built-in\" has no path; remove one of the two"));
            true
        }
        (other, _) => {
            say(format!("runtimes.{name}.type = {other:?}: use \"built-in\", or give a path instead"));
            true
        }
    };
    let what = if built_in {
        engine::HandlerRuntime::BuiltIn
    } else {
        let path = absolute(&format!("runtimes.{name}.path"), &runtime.path, say);
        if let Err(error) = std::fs::metadata(&path) {
            say(format!("runtimes.{name}.path: {} cannot be found: {error}", path.display()));
        }
        let root = optional(&runtime.root).unwrap_or_else(|| state.join("runtimes").join(name));
        engine::HandlerRuntime::External { path, root }
    };
    engine::Handler {
        runtime: what,
        pod_annotations: runtime.pod_annotations.clone(),
        container_annotations: runtime.container_annotations.clone(),
        privileged_without_host_devices: runtime.privileged_without_host_devices,
        network_conf_dir: optional(&runtime.network_conf_dir)
            .map(|_| absolute(&format!("runtimes.{name}.network_conf_dir"), &runtime.network_conf_dir, say)),
    }
}

fn network(file: &File, say: &mut impl FnMut(String)) -> engine::NetworkConfig {
    let network = &file.network;
    if network.plugin_timeout_s == 0 {
        say("network.plugin_timeout_s = 0: a plugin needs some time; use 60".to_owned());
    }
    for subnet in &network.default_subnets {
        let valid = subnet
            .split_once('/')
            .is_some_and(|(ip, len)| ip.parse::<std::net::IpAddr>().is_ok() && len.parse::<u8>().is_ok());
        if !valid {
            say(format!("network.default_subnets: {subnet:?} is not an address with a prefix length"));
        }
    }
    engine::NetworkConfig {
        conf_dir: absolute("network.conf_dir", &network.conf_dir, say),
        bin_dirs: network.bin_dirs.iter().map(|dir| absolute("network.bin_dirs", dir, say)).collect(),
        default_subnets: network.default_subnets.clone(),
        plugin_timeout: Duration::from_secs(network.plugin_timeout_s),
        user: user_networks(network, say),
    }
}

/// Networks that containers share by name.
fn user_networks(
    network: &super::file::Network,
    say: &mut impl FnMut(String),
) -> engine::UserNetworkDefaults {
    let mut problem = |key: &str, text: &str, expected: &str| {
        say(format!("network.{key}: {text:?} is not {expected}"));
    };
    let text = network.user_bridge_address.as_str();
    let bridge_address = optional(text).and_then(|_| text.parse().ok());
    if !text.is_empty() && bridge_address.is_none() {
        problem("user_bridge_address", text, "an address with a prefix length");
    }
    let text = network.publish_address.as_str();
    let publish_address = optional(text).and_then(|_| text.parse().ok());
    if !text.is_empty() && publish_address.is_none() {
        problem("publish_address", text, "an address");
    }
    let mut pools = Vec::new();
    for text in &network.address_pools {
        let pool =
            text.rsplit_once(':').and_then(|(net, size)| Some((net.parse().ok()?, size.parse().ok()?)));
        let fits = |(net, size): &(engine::IpNet, u8)| {
            *size >= net.prefix_len() && *size <= net.max_prefix_len() - 2 && net.addr() == net.network()
        };
        match pool.filter(fits) {
            Some(pool) => pools.push(pool),
            None => {
                problem("address_pools", text, "a network and the size of its parts, as in 10.200.0.0/16:24")
            }
        }
    }
    let bridge = network.user_bridge.clone();
    if bridge.is_empty() || bridge.len() > 15 || bridge.contains(['/', ' ', ':', '%']) || bridge == "berth0" {
        problem("user_bridge", &bridge, "a name that a bridge of its own can have");
    }
    engine::UserNetworkDefaults {
        bridge,
        bridge_address,
        pools,
        publish_address,
        mtu: network.user_bridge_mtu,
    }
}

fn images(file: &File, say: &mut impl FnMut(String)) -> engine::ImageConfig {
    let mut credentials = BTreeMap::new();
    for (host, entry) in &file.registry.credentials {
        match auth(entry) {
            Ok(Some(auth)) => drop(credentials.insert(host.clone(), auth)),
            Ok(None) => say(format!("registry.credentials.{host:?} has neither user nor token")),
            Err(error) => say(format!("registry.credentials.{host:?}: {error}")),
        }
    }
    if file.images.max_concurrent_downloads == 0 {
        say("images.max_concurrent_downloads = 0: use 1 or more".to_owned());
    }
    if file.images.progress_timeout_s == 0 {
        say("images.progress_timeout_s = 0: use 1 or more".to_owned());
    }
    engine::ImageConfig {
        registry_config_dir: optional(&file.registry.config_path),
        credentials,
        max_concurrent_downloads: file.images.max_concurrent_downloads,
        progress_timeout: Duration::from_secs(file.images.progress_timeout_s),
        pinned: file.images.pinned.clone(),
        discard_unpacked_layers: file.images.discard_unpacked_layers,
    }
}

fn auth(entry: &Credentials) -> Result<Option<engine::Auth>, String> {
    let fields = engine::AuthFields {
        username: entry.username.clone(),
        password: engine::Secret::new(entry.password.clone()),
        identity_token: engine::Secret::new(entry.identity_token.clone()),
        registry_token: engine::Secret::new(entry.registry_token.clone()),
        ..engine::AuthFields::default()
    };
    fields.parse().map(|scoped| scoped.map(|s| s.auth)).map_err(|error| error.to_string())
}

fn containers(file: &File, say: &mut impl FnMut(String)) -> engine::ContainerDefaults {
    let containers = &file.containers;
    let nofile = match (containers.nofile_soft, containers.nofile_hard) {
        (0, 0) => None,
        (soft, hard) if soft > hard => {
            say(format!("containers.nofile_soft = {soft} is above containers.nofile_hard = {hard}"));
            None
        }
        limits => Some(limits),
    };
    if containers.shm_size_bytes < 4096 {
        say(format!("containers.shm_size_bytes = {}: less than a page", containers.shm_size_bytes));
    }
    engine::ContainerDefaults {
        seccomp_profile: optional(&containers.seccomp_profile),
        seccomp_dir: absolute("containers.seccomp_dir", &containers.seccomp_dir, say),
        cdi_dirs: containers.cdi_dirs.iter().map(|dir| absolute("containers.cdi_dirs", dir, say)).collect(),
        capabilities: containers.capabilities.clone(),
        shm_size_bytes: containers.shm_size_bytes,
        unprivileged_ports: containers.unprivileged_ports,
        nofile,
        selinux: containers.selinux,
    }
}
