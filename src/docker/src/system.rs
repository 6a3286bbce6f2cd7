//! The daemon itself: ping, version, info, disk usage, events.

use std::sync::Arc;

use engine::NodeInfo;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::http::{ApiError, ApiVersion, Call, Reply, Result};
use crate::{containers, events, images, shape, text, volumes};

pub(crate) async fn route(app: Arc<App>, call: Call) -> Result<Reply> {
    match (call.method.as_str(), call.path.as_str()) {
        ("GET" | "HEAD", "_ping") => Ok(ping(&call.method)),
        ("GET", "version") => Ok(Reply::json(&version(&app, &node(&app).await?))),
        ("GET", "info") => Ok(Reply::json(&info(&app, &node(&app).await?).await?)),
        ("GET", "system/df") => disk_usage(&app, &call).await,
        ("GET", "events") => events::stream(app, &call),
        ("POST", "auth") => Err(ApiError::not_implemented(
            "this daemon does not check credentials by itself: a pull with them tells whether they are good",
        )),
        _ => Err(ApiError::page_not_found()),
    }
}

async fn node(app: &App) -> Result<NodeInfo> {
    Ok(app.engine.node_info().await?)
}

fn ping(method: &Method) -> Reply {
    let body = if method == Method::HEAD { "" } else { "OK" };
    Reply::bytes(StatusCode::OK, "text/plain; charset=utf-8", body)
        .header("builder-version", "1")
        .header("swarm", "inactive")
        .header("cache-control", "no-cache, no-store, must-revalidate")
        .header("pragma", "no-cache")
}

/// The architecture as Go names it.
fn go_arch(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i686" | "i386" => "386",
        other if other.starts_with("arm") => "arm",
        other => other,
    }
}

fn version(app: &App, node: &NodeInfo) -> Value {
    let (own, commit, arch) = (&app.options.version, &app.options.commit, go_arch(&node.machine));
    let (max, min) = (ApiVersion::MAX.to_string(), ApiVersion::MIN.to_string());
    json!({
        "Platform": {"Name": format!("Berth - {own}")},
        "Components": [{
            "Name": "Engine",
            "Version": own,
            "Details": {
                "ApiVersion": max,
                "MinAPIVersion": min,
                "Arch": arch,
                "BuildTime": "",
                "Experimental": "false",
                "GitCommit": commit,
                "GoVersion": "",
                "KernelVersion": node.kernel,
                "Os": "linux",
            },
        }],
        "Version": own,
        "ApiVersion": max,
        "MinAPIVersion": min,
        "GitCommit": commit,
        "GoVersion": "",
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": node.kernel,
        "BuildTime": "",
    })
}

/// How many containers there are, of pods and others, in a state.
fn count(states: &[&str], wanted: &str) -> usize {
    states.iter().filter(|state| **state == wanted).count()
}

async fn info(app: &App, node: &NodeInfo) -> Result<Value> {
    let containers = containers::all(app);
    let states: Vec<&str> = containers.iter().map(containers::Target::state).collect();
    let (all, running, paused) = (states.len(), count(&states, "running"), count(&states, "paused"));
    let status = app.engine.status().await;
    let images = app.engine.images().await?.len();
    let has = |controller: &str| node.controllers.iter().any(|one| one == controller);
    let mut security = vec!["name=seccomp,profile=builtin".to_owned()];
    if node.apparmor {
        security.insert(0, "name=apparmor".to_owned());
    }
    if node.selinux {
        security.push("name=selinux".to_owned());
    }
    let runtimes: Map<String, Value> =
        node.handlers.iter().map(|name| (name.clone(), json!({"path": name}))).collect();
    let driver = match node.cgroup_driver {
        engine::CgroupDriver::Cgroupfs => "cgroupfs",
        engine::CgroupDriver::Systemd => "systemd",
    };
    let mut info = json!({
        "ID": node.id, "Name": node.hostname, "ServerVersion": app.options.version,
        "Containers": all, "ContainersRunning": running, "ContainersPaused": paused,
        "ContainersStopped": all - running - paused,
        "Images": images, "Driver": "overlay2",
        "DriverStatus": [["Supports d_type", "true"], ["Native Overlay Diff", "true"]],
        "DockerRootDir": node.root, "SystemStatus": null,
        "Plugins": {"Volume": ["local"], "Network": ["bridge", "host", "macvlan", "null"], "Authorization": null, "Log": ["json-file", "local", "none"]},
        "MemoryLimit": has("memory"), "SwapLimit": node.swap_limit, "CpuCfsPeriod": has("cpu"), "CpuCfsQuota": has("cpu"),
        "CPUShares": has("cpu"), "CPUSet": has("cpuset"), "PidsLimit": has("pids"),
        "OomKillDisable": false, "IPv4Forwarding": node.ip_forwarding,
        "BridgeNfIptables": false, "BridgeNfIp6tables": false,
        "Debug": false, "NFd": 0, "NGoroutines": 0, "NEventsListener": 0,
        "SystemTime": text::rfc3339(text::now_ns()), "LoggingDriver": "json-file",
        "CgroupDriver": driver, "CgroupVersion": node.cgroup_version.to_string(),
        "KernelVersion": node.kernel, "OperatingSystem": node.operating_system, "OSVersion": node.os_version,
        "OSType": "linux", "Architecture": node.machine, "NCPU": node.cpus, "MemTotal": node.memory_bytes,
        "IndexServerAddress": "https://index.docker.io/v1/",
    });
    let rest = json!({
        "RegistryConfig": {
            "AllowNondistributableArtifactsCIDRs": null, "AllowNondistributableArtifactsHostnames": null,
            "InsecureRegistryCIDRs": [], "Mirrors": null,
            "IndexConfigs": {"docker.io": {"Name": "docker.io", "Mirrors": [], "Secure": true, "Official": true}},
        },
        "GenericResources": null, "HttpProxy": "", "HttpsProxy": "", "NoProxy": "", "Labels": [],
        "ExperimentalBuild": false, "Runtimes": runtimes, "DefaultRuntime": node.default_handler,
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null},
        "LiveRestoreEnabled": true, "Isolation": "", "InitBinary": "built-in",
        "ContainerdCommit": {"ID": ""}, "RuncCommit": {"ID": ""}, "InitCommit": {"ID": ""},
        "SecurityOptions": security, "CDISpecDirs": [], "Warnings": status.degraded,
        "FirewallBackend": {"Driver": "nftables"},
    });
    merge(&mut info, rest);
    Ok(info)
}

/// Adds the keys of one map to another.
pub(crate) fn merge(to: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (to, from) {
        to.extend(from);
    }
}

async fn disk_usage(app: &App, call: &Call) -> Result<Reply> {
    let types: Vec<&str> = call.params.all("type").collect();
    if let Some(unknown) =
        types.iter().find(|one| !["container", "image", "volume", "build-cache"].contains(one))
    {
        return Err(ApiError::bad(format!("unknown object type: {unknown}")));
    }
    let wanted = |kind: &str| types.is_empty() || types.contains(&kind);
    let mut usage =
        json!({"Images": null, "Containers": null, "Volumes": null, "BuildCache": null, "LayersSize": 0});
    if wanted("image") {
        let (layers, _) = app.engine.image_fs_usage().await?;
        usage["LayersSize"] = json!(layers.used_bytes);
        usage["Images"] = Value::Array(images::summaries(app, call.version, true).await?);
    }
    if wanted("container") {
        usage["Containers"] =
            containers::all(app).iter().map(|target| containers::summary(app, target)).collect();
    }
    if wanted("volume") {
        usage["Volumes"] = Value::Array(volumes::with_usage(app).await?);
    }
    if wanted("build-cache") {
        usage["BuildCache"] = json!([]);
        usage["BuilderSize"] = json!(0);
    }
    shape::disk_usage(&mut usage, call.version);
    Ok(Reply::json(&usage))
}
