//! A container in full.

use engine::{
    DurablePhase, EndpointStatus, ExitReason, IpNet, MountSource, Propagation, ResolvedMount, ResolvedSource,
};
use serde_json::{Map, Value, json};

use super::networking::{by_port, main_network};
use super::security::{MASKED, READONLY};
use super::target::{self, Target};
use crate::app::App;
use crate::http::{Call, Reply, Result};
use crate::{shape, text};

pub(super) async fn inspect(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    let target = target::find(app, reference)?;
    let mut document = describe(app, &target);
    let sessions = app.engine.running_execs(target.id());
    if !sessions.is_empty() {
        document["ExecIDs"] = json!(sessions);
    }
    if call.params.flag("size") {
        let stats = app.engine.container_stats(target.id().as_str()).await;
        let written = stats.map_or(0, |stats| stats.filesystem.used_bytes);
        let layers: u64 = app.engine.image_layers(target.image_id()).iter().map(|(_, bytes)| bytes).sum();
        document["SizeRw"] = json!(written);
        document["SizeRootFs"] = json!(written + layers);
    }
    shape::container_inspect(&mut document, call.version);
    Ok(Reply::json(&document))
}

fn describe(app: &App, target: &Target) -> Value {
    let (config, host) = words(target);
    let (path, args) = command(&config);
    let (log_path, restarts, files) = match target {
        Target::Own(status) => {
            let files = status.run.as_ref().map(|run| run.files.clone());
            (status.log_path.clone(), status.restart_count, files)
        }
        Target::Pod(_, status) => (status.log_path.clone(), status.config.key.attempt, None),
    };
    let file = |name: &str| {
        files.as_ref().map(|dir| dir.join(name).to_string_lossy().into_owned()).unwrap_or_default()
    };
    json!({
        "Id": target.id().as_str(),
        "Created": text::rfc3339(target.created_at_ns()),
        "Path": path,
        "Args": args,
        "State": state(target),
        "Image": target.image_id().as_str(),
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": log_path,
        "Name": format!("/{}", target.name()),
        "RestartCount": restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host,
        "GraphDriver": {"Name": "overlay2", "Data": null},
        "Mounts": mounts(app, target),
        "Config": config,
        "NetworkSettings": network_settings(target),
    })
}

fn state(target: &Target) -> Value {
    let word = target.state();
    let (pid, started) = target.process().unwrap_or((0, 0));
    let exit = target.exit();
    let running = matches!(word, "running" | "paused" | "restarting");
    let (mut error, dead) = match target {
        Target::Own(status) => (status.error.clone(), status.phase == DurablePhase::Dead),
        Target::Pod(..) => (String::new(), false),
    };
    let mut code = exit.map_or(0, |exit| exit.code);
    if error.is_empty()
        && let Some(exit) = exit.filter(|exit| exit.reason == ExitReason::StartError)
    {
        error.clone_from(&exit.message);
    }
    // What was before a start that goes well is over.
    if running && word != "restarting" {
        code = 0;
    }
    if word == "created" && !error.is_empty() {
        code = super::lifecycle::start_code(&error);
    }
    let mut state = json!({
        "Status": word,
        "Running": running,
        "Paused": word == "paused",
        "Restarting": word == "restarting",
        "OOMKilled": exit.is_some_and(|exit| exit.reason == ExitReason::OomKilled) && !running,
        "Dead": dead,
        "Pid": pid,
        "ExitCode": code,
        "Error": error,
        "StartedAt": text::rfc3339(if started == 0 { exit.map_or(0, |exit| exit.started_at_ns) } else { started }),
        "FinishedAt": text::rfc3339(exit.map_or(0, |exit| exit.finished_at_ns)),
    });
    if let Some(health) = health(target) {
        state["Health"] = health;
    }
    state
}

fn health(target: &Target) -> Option<Value> {
    let Target::Own(status) = target else { return None };
    let health = status.health.as_ref()?;
    let log: Vec<Value> = health
        .log
        .iter()
        .map(|probe| {
            json!({
                "Start": text::rfc3339(probe.started_at_ns), "End": text::rfc3339(probe.ended_at_ns),
                "ExitCode": probe.exit_code, "Output": probe.output,
            })
        })
        .collect();
    Some(json!({"Status": target.health(), "FailingStreak": health.failing_streak, "Log": log}))
}

/// The configuration and the part about the host.
pub(super) fn words(target: &Target) -> (Value, Value) {
    match target {
        Target::Own(status) => {
            let mut words = status.config.extra.clone();
            let (mut config, host) = (words["Config"].take(), words["HostConfig"].take());
            if super::keys::is_empty(&config["Hostname"]) {
                let joined = status.config.join.network.is_some();
                config["Hostname"] = json!(if joined { "" } else { status.id.short() });
            }
            (config, host)
        }
        Target::Pod(sandbox, status) => {
            let own = &status.config;
            let env: Vec<String> = own
                .env
                .iter()
                .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
                .collect();
            let mut config = config_defaults();
            config["Hostname"] = json!(sandbox.config.hostname);
            config["User"] = json!(status.user.uid.to_string());
            config["Tty"] = json!(own.tty);
            config["OpenStdin"] = json!(own.stdin);
            config["StdinOnce"] = json!(own.stdin_once);
            config["Env"] = json!(env);
            config["Cmd"] = json!(own.args);
            config["Entrypoint"] = json!(own.command);
            config["Image"] = json!(target.image());
            config["WorkingDir"] = json!(own.working_dir);
            config["Labels"] = json!(own.labels);
            let mut host = host_defaults();
            host["Privileged"] = json!(own.security.privileged);
            host["ReadonlyRootfs"] = json!(own.security.readonly_rootfs);
            host["Memory"] = json!(own.resources.memory_limit_bytes.unwrap_or_default());
            host["CpuShares"] = json!(own.resources.cpu_shares.unwrap_or_default());
            host["CpuPeriod"] = json!(own.resources.cpu_period_us.unwrap_or_default());
            host["CpuQuota"] = json!(own.resources.cpu_quota_us.unwrap_or_default());
            host["NetworkMode"] = json!(format!("container:{}", sandbox.id));
            host["LogConfig"] = json!({"Type": "json-file", "Config": {}});
            (config, host)
        }
    }
}

fn list(value: &Value) -> Vec<String> {
    match value {
        Value::String(word) => vec![word.clone()],
        other => {
            other.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
        }
    }
}

/// The program and its arguments.
pub(super) fn command(config: &Value) -> (String, Vec<String>) {
    let mut all = list(&config["Entrypoint"]);
    all.extend(list(&config["Cmd"]));
    all.retain(|word| !word.is_empty());
    if all.is_empty() {
        return (String::new(), all);
    }
    let args = all.split_off(1);
    (all.remove(0), args)
}

/// What it is given of files, as far as clients asked for it.
pub(super) fn mounts(app: &App, target: &Target) -> Vec<Value> {
    match target {
        Target::Own(status) => {
            let given = app.engine.given_mounts(&status.id);
            given.iter().map(|mount| given_mount(app, mount)).collect()
        }
        Target::Pod(_, status) => status.config.mounts.iter().map(pods_mount).collect(),
    }
}

fn given_mount(app: &App, mount: &ResolvedMount) -> Value {
    let mut spread = "";
    let mut document = match &mount.source {
        ResolvedSource::Volume { name, driver, .. } => {
            let mountpoint = app.engine.volume(name).map(|volume| volume.mountpoint).unwrap_or_default();
            json!({"Type": "volume", "Name": name, "Source": mountpoint, "Driver": driver})
        }
        ResolvedSource::Bind(bind) => {
            spread = propagation(bind.propagation);
            json!({"Type": "bind", "Source": bind.path})
        }
        ResolvedSource::Tmpfs { .. } => json!({"Type": "tmpfs", "Source": ""}),
        ResolvedSource::Image { reference, .. } => json!({"Type": "image", "Source": reference}),
    };
    let modes = [(mount.readonly, "ro"), (mount.selinux_relabel, "z")];
    let mode: Vec<&str> = modes.iter().filter(|(set, _)| *set).map(|(_, mode)| *mode).collect();
    crate::system::merge(
        &mut document,
        json!({
            "Destination": mount.destination, "Mode": mode.join(","), "RW": !mount.readonly, "Propagation": spread,
        }),
    );
    document
}

fn pods_mount(mount: &engine::ContainerMount) -> Value {
    let (kind, source) = match &mount.source {
        MountSource::Host(path) => ("bind", path.to_string_lossy().into_owned()),
        MountSource::Image { image, .. } => ("image", image.clone()),
        MountSource::Within { directory, sub_path } => {
            ("bind", directory.join(sub_path).to_string_lossy().into_owned())
        }
        MountSource::Tmpfs { .. } => ("tmpfs", String::new()),
    };
    json!({
        "Type": kind, "Source": source, "Destination": mount.destination, "Mode": if mount.readonly { "ro" } else { "" },
        "RW": !mount.readonly, "Propagation": propagation(mount.propagation),
    })
}

fn propagation(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    }
}

fn address(net: Option<IpNet>) -> (String, u8) {
    net.map_or_else(Default::default, |net| (net.addr().to_string(), net.prefix_len()))
}

/// An attachment to a network.
fn endpoint(endpoint: &EndpointStatus) -> Value {
    let ((v4, v4_len), (v6, v6_len)) = (address(endpoint.ipv4), address(endpoint.ipv6));
    let gateway = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let asked = &endpoint.config;
    let mut ipam = Map::new();
    for (key, ip) in [
        ("IPv4Address", asked.ipv4.map(|ip| ip.to_string())),
        ("IPv6Address", asked.ipv6.map(|ip| ip.to_string())),
    ] {
        if let Some(ip) = ip {
            ipam.insert(key.to_owned(), json!(ip));
        }
    }
    let links: Vec<String> = asked.links.iter().map(|(name, alias)| format!("{name}:{alias}")).collect();
    json!({
        "IPAMConfig": if ipam.is_empty() { Value::Null } else { Value::Object(ipam) },
        "Links": if links.is_empty() { Value::Null } else { json!(links) },
        "Aliases": if asked.aliases.is_empty() { Value::Null } else { json!(asked.aliases) },
        "DriverOpts": if asked.driver_opts.is_empty() { Value::Null } else { json!(asked.driver_opts) },
        "GwPriority": asked.gw_priority,
        "NetworkID": endpoint.network_id,
        "EndpointID": endpoint.endpoint_id,
        "Gateway": gateway(endpoint.gateway4),
        "IPAddress": v4,
        "MacAddress": endpoint.mac,
        "IPPrefixLen": v4_len,
        "IPv6Gateway": gateway(endpoint.gateway6),
        "GlobalIPv6Address": v6,
        "GlobalIPv6PrefixLen": v6_len,
        "DNSNames": endpoint.dns_names,
    })
}

/// Networks by name: the attachments there are, or the ones there will be.
pub(super) fn networks(target: &Target) -> Map<String, Value> {
    let live: Map<String, Value> =
        target.endpoints().iter().map(|one| (one.network_name.clone(), endpoint(one))).collect();
    if !live.is_empty() {
        return live;
    }
    let Target::Own(status) = target else { return live };
    if status.config.sandbox.namespaces.network == engine::NamespaceMode::Host {
        return Map::from_iter([("host".to_owned(), endpoint(&unattached("host", None)))]);
    }
    let asked = status.config.sandbox.user_networking.iter().flat_map(|networking| &networking.endpoints);
    asked.map(|one| (one.network.clone(), endpoint(&unattached(&one.network, Some(one))))).collect()
}

fn unattached(network: &str, config: Option<&engine::NetworkEndpointConfig>) -> EndpointStatus {
    EndpointStatus {
        network_id: String::new(),
        network_name: network.to_owned(),
        endpoint_id: String::new(),
        mac: String::new(),
        ipv4: None,
        ipv6: None,
        gateway4: None,
        gateway6: None,
        ifname: String::new(),
        dns_names: Vec::new(),
        config: config.cloned().unwrap_or_default(),
    }
}

fn network_settings(target: &Target) -> Value {
    let mut ports: Map<String, Value> = Map::new();
    if target.process().is_some() {
        let (config, _) = words(target);
        for port in config["ExposedPorts"].as_object().into_iter().flatten().map(|(port, _)| port) {
            ports.insert(port.clone(), Value::Null);
        }
        for (port, bound) in by_port(&target.bound_ports()) {
            ports.insert(port, json!(bound));
        }
    }
    let sandbox = match target {
        Target::Own(status) => status.run.as_ref().map(|run| run.sandbox.to_string()).unwrap_or_default(),
        Target::Pod(sandbox, _) => sandbox.id.to_string(),
    };
    let networks = networks(target);
    let bridge = networks.get("bridge").cloned().unwrap_or_else(|| endpoint(&unattached("bridge", None)));
    let mut settings = json!({
        "Bridge": "", "SandboxID": sandbox, "SandboxKey": "", "Ports": ports,
        "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
        "Networks": networks,
    });
    for key in [
        "EndpointID",
        "Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "MacAddress",
    ] {
        settings[key] = bridge[key].clone();
    }
    settings
}

/// The configuration of a container that asks for nothing.
pub(super) fn config_defaults() -> Value {
    json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": [], "Cmd": null, "Image": "", "Volumes": null,
        "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
    })
}

/// The part about the host of a container that asks for nothing.
pub(super) fn host_defaults() -> Value {
    let mut host = json!({
        "Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "", "Config": {}}, "NetworkMode": main_network(""),
        "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": false,
        "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0], "CapAdd": null, "CapDrop": null,
        "CgroupnsMode": "", "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null,
        "IpcMode": "", "Cgroup": "", "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false,
        "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "",
        "ShmSize": 0, "Runtime": "", "Isolation": "",
    });
    let limits = json!({
        "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "",
        "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": [],
        "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0, "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [], "DeviceCgroupRules": null,
        "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": null,
        "OomKillDisable": false, "PidsLimit": null, "Ulimits": [], "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0, "MaskedPaths": MASKED, "ReadonlyPaths": READONLY,
    });
    crate::system::merge(&mut host, limits);
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_in_two_parts() {
        let config = json!({"Entrypoint": ["/entry"], "Cmd": ["a", "b"]});
        assert_eq!(command(&config), ("/entry".into(), vec!["a".into(), "b".into()]));
        assert_eq!(command(&json!({"Entrypoint": null, "Cmd": "sh"})), ("sh".into(), vec![]));
        assert_eq!(command(&json!({"Entrypoint": [""], "Cmd": null})), (String::new(), vec![]));
    }

    #[test]
    fn defaults_have_keys_of_the_table_only() {
        let keys = |map: &Value| map.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        for key in keys(&host_defaults()) {
            assert!(super::super::keys::HOST.iter().any(|(known, _)| *known == key), "{key}");
        }
        for key in keys(&config_defaults()) {
            assert!(super::super::keys::CONFIG.iter().any(|(known, _)| *known == key), "{key}");
        }
    }
}
