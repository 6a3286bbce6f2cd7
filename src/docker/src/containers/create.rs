//! Making a container: the body becomes what the engine is asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::{
    ContainerConfig, DurableConfig, HealthConfig, HealthTest, JoinModes, LogConfig, NamespaceMode, NodeInfo,
    RestartPolicy, SandboxConfig,
};
use http::StatusCode;
use serde_json::{Value, json};

use super::body::{Body, Healthcheck, HostConfig};
use super::{keys, limits, mounts, names, networking, security, signal};
use crate::app::App;
use crate::http::{ApiError, ApiVersion, Call, Reply, Result};
use crate::images;

/// What a container is made from besides its body.
struct Surroundings<'a> {
    node: &'a NodeInfo,
    /// The image's configuration.
    image: &'a Value,
    version: ApiVersion,
}

pub(super) async fn create(app: &App, mut call: Call) -> Result<Reply> {
    let raw: Value = call.json().await?;
    let mut warnings = keys::check(&raw)?;
    let body: Body = serde_json::from_value(raw.clone())
        .map_err(|error| ApiError::bad(format!("invalid JSON: {error}")))?;
    images::check_platform(call.params.get("platform"))?;
    let name = match call.params.get("name").trim_start_matches('/') {
        "" => names::random(app)?,
        name => name.to_owned(),
    };
    let image = images::find(app, &body.image).await?;
    let document = app.engine.image_document(&image.id).await?;
    let node = app.engine.node_info().await?;
    let around = Surroundings { node: &node, image: &document["config"], version: call.version };
    let mut config = convert(&body, &around, &mut warnings)?;
    config.name = name;
    config.volumes = mounts::convert(app, &body)?;
    config.container.image = image.id.to_string();
    config.container.user_image.clone_from(&body.image);
    config.extra = words(&raw, around.image, &config);
    let made = app.engine.create_durable(config).await?;
    warnings.extend(made.warnings);
    Ok(Reply::json_with(StatusCode::CREATED, &json!({"Id": made.id.as_str(), "Warnings": warnings})))
}

/// The whole of a container but its name and the words to keep.
fn convert(body: &Body, around: &Surroundings<'_>, warnings: &mut Vec<String>) -> Result<DurableConfig> {
    let host = &body.host_config;
    check_modes(host)?;
    let (command, args) = command(body, around.image)?;
    let network = networking::convert(body, around.image, around.version)?;
    let container = ContainerConfig {
        command,
        args,
        env: environment(body, around.image)?,
        working_dir: body.working_dir.clone(),
        devices: mounts::devices(host)?,
        cdi_devices: mounts::cdi_devices(host)?,
        labels: labels(body, around.image),
        annotations: host.annotations.clone(),
        stdin: body.open_stdin,
        stdin_once: body.stdin_once,
        tty: body.tty,
        terminal_size: super::exec::size(host.console_size),
        stop_signal: match body.stop_signal.as_str() {
            "" => None,
            text => Some(signal::parse(text)?),
        },
        resources: limits::convert(&host.limits, host.oom_score_adj, around.node, warnings)?,
        rlimits: limits::rlimits(&host.ulimits)?,
        security: security::convert(body)?,
        ..ContainerConfig::default()
    };
    let mut sandbox = SandboxConfig {
        hostname: body.hostname.clone(),
        dns: networking::dns(host),
        cgroup_parent: host.cgroup_parent.clone(),
        sysctls: host.sysctls.clone(),
        runtime_handler: handler(&host.runtime, around.node)?,
        privileged: host.privileged,
        shm_size_bytes: host.shm_size.filter(|size| *size > 0).and_then(|size| u64::try_from(size).ok()),
        user_networking: network.networking.map(Box::new),
        ..SandboxConfig::default()
    };
    sandbox.namespaces.network = network.mode;
    let mut join = JoinModes { network: network.join, ..JoinModes::default() };
    (sandbox.namespaces.pid, join.pid) = shared_namespace(&host.pid_mode, NamespaceMode::Container);
    (sandbox.namespaces.ipc, join.ipc) = shared_namespace(&host.ipc_mode, NamespaceMode::Sandbox);
    Ok(DurableConfig {
        container,
        sandbox,
        join,
        restart: restart(host)?,
        auto_remove: host.auto_remove,
        log: log(host)?,
        health: health(body, around.image)?,
        stop_timeout: body.stop_timeout.map(grace),
        init: host.init.unwrap_or_default(),
        ..DurableConfig::default()
    })
}

/// Words that have one meaning here, or are refused.
fn check_modes(host: &HostConfig) -> Result<()> {
    let refuse = |what: &str, given: &str, why: &str| {
        Err(ApiError::bad(format!("{what} {given:?} is not supported by this daemon: {why}")))
    };
    match host.cgroupns_mode.as_str() {
        "" | "private" => {}
        other => {
            return refuse("cgroup namespace mode", other, "containers see their own part of the hierarchy");
        }
    }
    match host.uts_mode.as_str() {
        "" => {}
        other => {
            return refuse(
                "UTS mode",
                other,
                "the host's name comes with the host's network (--network host)",
            );
        }
    }
    match host.userns_mode.as_str() {
        "" | "host" => {}
        other => return refuse("user namespace mode", other, "user namespaces are not part of this release"),
    }
    match host.isolation.as_str() {
        "" | "default" => {}
        other => return refuse("isolation", other, "it is for Windows"),
    }
    match host.ipc_mode.as_str() {
        "" | "private" | "shareable" | "host" => Ok(()),
        container if container.starts_with("container:") => Ok(()),
        other => refuse("IPC mode", other, "use private, shareable, host or container:NAME"),
    }?;
    match host.pid_mode.as_str() {
        "" | "host" => Ok(()),
        container if container.starts_with("container:") => Ok(()),
        other => refuse("PID mode", other, "use host or container:NAME"),
    }
}

/// A namespace of its own, the host's, or another container's.
fn shared_namespace(mode: &str, own: NamespaceMode) -> (NamespaceMode, Option<String>) {
    match mode.strip_prefix("container:") {
        Some(container) => (own, Some(container.to_owned())),
        None if mode == "host" => (NamespaceMode::Host, None),
        None => (own, None),
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

/// The program and its arguments. An entry point of the body's own sets the image's command aside.
fn command(body: &Body, image: &Value) -> Result<(Vec<String>, Vec<String>)> {
    let (mut entry, mut cmd) = (body.entrypoint.clone(), body.cmd.clone());
    if entry.is_empty() {
        entry = strings(&image["Entrypoint"]);
        if cmd.is_empty() {
            cmd = strings(&image["Cmd"]);
        }
    }
    // One empty word clears the image's entry point.
    if entry.len() == 1 && entry.iter().all(String::is_empty) {
        entry.clear();
    }
    match (entry.is_empty(), cmd.is_empty()) {
        (true, true) => Err(ApiError::bad("no command specified")),
        (true, false) => Ok((cmd, Vec::new())),
        (false, _) => Ok((entry, cmd)),
    }
}

/// The whole environment: the image's, and the body's over it.
fn environment(body: &Body, image: &Value) -> Result<Vec<(String, Vec<u8>)>> {
    let of_image = strings(&image["Env"]);
    let name_of = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for text in of_image.iter().chain(&body.env) {
        let Some((name, value)) = text.split_once('=') else {
            if of_image.iter().any(|one| name_of(one) == *text) {
                return Err(ApiError::bad(format!(
                    "environment variable {text}: taking a variable of the image away is not part of this release; give it an empty value ({text}=)"
                )));
            }
            continue;
        };
        if name.is_empty() {
            return Err(ApiError::bad(format!("invalid environment variable: {text}")));
        }
        all.retain(|(known, _)| known != name);
        all.push((name.to_owned(), value.as_bytes().to_vec()));
    }
    Ok(all)
}

fn labels(body: &Body, image: &Value) -> BTreeMap<String, String> {
    let of_image = image["Labels"].as_object().into_iter().flatten();
    let mut labels: BTreeMap<String, String> =
        of_image.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    labels.extend(body.labels.clone());
    labels
}

/// Names of the usual runtime mean the node's default.
fn handler(name: &str, node: &NodeInfo) -> Result<String> {
    match name {
        "" | "io.containerd.runc.v2" => Ok(String::new()),
        "runc" if !node.handlers.iter().any(|one| one == "runc") => Ok(String::new()),
        known if node.handlers.iter().any(|one| one == known) => Ok(known.to_owned()),
        other => Err(ApiError::bad(format!("unknown or invalid runtime name: {other}"))),
    }
}

fn restart(host: &HostConfig) -> Result<RestartPolicy> {
    let Some(asked) = &host.restart_policy else { return Ok(RestartPolicy::No) };
    let policy = restart_policy(&asked.name, asked.maximum_retry_count)?;
    if host.auto_remove && policy != RestartPolicy::No {
        return Err(ApiError::bad("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(policy)
}

/// A policy by its name.
pub(super) fn restart_policy(name: &str, retries: i64) -> Result<RestartPolicy> {
    let max = u32::try_from(retries)
        .map_err(|_| ApiError::bad("invalid restart policy: maximum retry count cannot be negative"))?;
    let policy = match name {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => return Ok(RestartPolicy::OnFailure { max }),
        other => {
            return Err(ApiError::bad(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    };
    if max > 0 && !name.is_empty() {
        return Err(ApiError::bad(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    Ok(policy)
}

fn log(host: &HostConfig) -> Result<LogConfig> {
    let Some(asked) = &host.log_config else { return Ok(LogConfig::default()) };
    let kind = asked.r#type.as_str();
    if kind == "none" {
        return Ok(LogConfig::None);
    }
    if !matches!(kind, "" | "json-file" | "local") {
        return Err(ApiError::bad(format!(
            "logging driver {kind:?} is not supported by this daemon: use json-file, local or none, and a collector that reads files"
        )));
    }
    let (mut max_bytes, mut max_files) = (Some(20 << 20), 5);
    for (key, value) in &asked.config {
        match key.as_str() {
            "max-size" => max_bytes = limits::size(value).ok_or_else(|| bad_log(key, value))?,
            "max-file" => {
                max_files = value.parse().ok().filter(|n| *n > 0).ok_or_else(|| bad_log(key, value))?
            }
            // Rotated files stay as they are, so that they can be followed.
            "compress" if value == "false" => {}
            _ => {
                return Err(ApiError::bad(format!(
                    "log option {key:?} is not supported by this daemon: {kind} has max-size and max-file"
                )));
            }
        }
    }
    if max_bytes.is_none() {
        max_files = 1;
    }
    Ok(if kind == "local" {
        LogConfig::Local { max_bytes, max_files }
    } else {
        LogConfig::JsonFile { max_bytes, max_files }
    })
}

fn bad_log(key: &str, value: &str) -> ApiError {
    ApiError::bad(format!("invalid value for log option {key}: {value:?}"))
}

/// The health check of the body, with what it leaves open from the image's.
fn health(body: &Body, image: &Value) -> Result<Option<HealthConfig>> {
    let of_image: Option<Healthcheck> = serde_json::from_value(image["Healthcheck"].clone()).ok();
    let (own, base) = (body.healthcheck.clone().unwrap_or_default(), of_image.unwrap_or_default());
    let test = if own.test.is_empty() { base.test } else { own.test };
    let shell = if body.shell.is_empty() { strings(&image["Shell"]) } else { body.shell.clone() };
    let test = match test.split_first() {
        None => return Ok(None),
        Some((kind, rest)) => match (kind.as_str(), rest) {
            ("NONE", _) => return Ok(None),
            ("CMD", [_, ..]) => HealthTest::Exec(rest.to_vec()),
            ("CMD-SHELL", [line]) if shell.is_empty() => HealthTest::Shell(line.clone()),
            ("CMD-SHELL", [line]) => HealthTest::Exec(shell.into_iter().chain([line.clone()]).collect()),
            _ => return Err(ApiError::bad(format!("health check: unknown type or missing command: {kind}"))),
        },
    };
    let time = |own: i64, base: i64, usual: u64, what: &str| {
        let ns = if own == 0 { base } else { own };
        match u64::try_from(ns) {
            Ok(0) => Ok(Duration::from_secs(usual)),
            Ok(ns) if ns >= 1_000_000 => Ok(Duration::from_nanos(ns)),
            Ok(_) | Err(_) => Err(ApiError::bad(format!("{what} in Healthcheck cannot be less than 1ms"))),
        }
    };
    let retries = if own.retries == 0 { base.retries } else { own.retries };
    Ok(Some(HealthConfig {
        test,
        interval: time(own.interval, base.interval, 30, "Interval")?,
        timeout: time(own.timeout, base.timeout, 30, "Timeout")?,
        start_period: time(own.start_period, base.start_period, 0, "StartPeriod")?,
        start_interval: time(own.start_interval, base.start_interval, 5, "StartInterval")?,
        retries: match u32::try_from(retries) {
            Ok(0) => 3,
            Ok(retries) => retries,
            Err(_) => return Err(ApiError::bad("Retries in Healthcheck cannot be negative")),
        },
    }))
}

/// Seconds to wait for an end; less than none is for ever.
pub(super) fn grace(seconds: i64) -> Duration {
    u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs)
}

/// What inspect gives back: the body as it was sent, with what the image and the daemon decided.
fn words(raw: &Value, image: &Value, made: &DurableConfig) -> Value {
    let mut config = super::document::config_defaults();
    let mut host = super::document::host_defaults();
    for (key, value) in raw.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "HostConfig" | "NetworkingConfig") && !value.is_null() {
            config[key] = value.clone();
        }
    }
    for (key, value) in raw["HostConfig"].as_object().into_iter().flatten() {
        if !value.is_null() {
            host[key] = value.clone();
        }
    }
    let env: Vec<String> = made
        .container
        .env
        .iter()
        .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
        .collect();
    config["Env"] = json!(env);
    config["Labels"] = json!(made.container.labels);
    for key in [
        "User",
        "WorkingDir",
        "StopSignal",
        "Entrypoint",
        "Cmd",
        "Healthcheck",
        "ExposedPorts",
        "Volumes",
        "OnBuild",
        "Shell",
    ] {
        let missing = keys::is_empty(&config[key]);
        // An entry point of the body's own sets the image's command aside.
        let aside = key == "Cmd" && !keys::is_empty(&raw["Entrypoint"]);
        if missing && !aside && !image[key].is_null() {
            config[key] = image[key].clone();
        }
    }
    if keys::is_empty(&host["NetworkMode"]) || host["NetworkMode"] == "default" {
        host["NetworkMode"] = json!("bridge");
    }
    if keys::is_empty(&host["LogConfig"]["Type"]) {
        host["LogConfig"] = json!({"Type": "json-file", "Config": raw["HostConfig"]["LogConfig"]["Config"].as_object().cloned().unwrap_or_default()});
    }
    for (key, usual) in [("IpcMode", "private"), ("CgroupnsMode", "private"), ("Runtime", "runc")] {
        if keys::is_empty(&host[key]) {
            host[key] = json!(usual);
        }
    }
    if keys::is_empty(&host["ShmSize"]) {
        host["ShmSize"] = json!(64 << 20);
    }
    if keys::is_empty(&host["RestartPolicy"]["Name"]) {
        host["RestartPolicy"] = json!({"Name": "no", "MaximumRetryCount": 0});
    }
    json!({"Config": config, "HostConfig": host})
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
