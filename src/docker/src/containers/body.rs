//! The body that makes a container, as it is sent.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::networks::{EndpointSettings, null_is_empty};

/// The whole body.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Body {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) hostname: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) domainname: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) user: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) tty: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) open_stdin: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) stdin_once: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "one_or_many")]
    pub(super) cmd: Vec<String>,
    pub(super) healthcheck: Option<Healthcheck>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) image: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) working_dir: String,
    #[serde(deserialize_with = "one_or_many")]
    pub(super) entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) network_disabled: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) mac_address: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) stop_signal: String,
    pub(super) stop_timeout: Option<i64>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) shell: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) host_config: HostConfig,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) networking_config: NetworkingConfig,
}

/// A command is a list, or a word alone.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::<Either>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Either::One(word)) => vec![word],
        Some(Either::Many(words)) => words,
    })
}

/// How health is found out. Times are in nanoseconds; 0 is the image's, or the default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Healthcheck {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) test: Vec<String>,
    pub(super) interval: i64,
    pub(super) timeout: i64,
    pub(super) start_period: i64,
    pub(super) start_interval: i64,
    pub(super) retries: i64,
}

/// The part about networks.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct NetworkingConfig {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) endpoints_config: BTreeMap<String, Option<EndpointSettings>>,
}

/// The part about the host.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct HostConfig {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) binds: Vec<String>,
    pub(super) log_config: Option<LogConfig>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) network_mode: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    pub(super) restart_policy: Option<Restart>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) auto_remove: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) volume_driver: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) volumes_from: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) mounts: Vec<Mount>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) cap_add: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) cap_drop: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) cgroupns_mode: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) dns: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) dns_options: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) dns_search: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) extra_hosts: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) group_add: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) ipc_mode: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) links: Vec<String>,
    pub(super) oom_score_adj: Option<i32>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) pid_mode: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) privileged: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) publish_all_ports: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) readonly_rootfs: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) security_opt: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) tmpfs: BTreeMap<String, String>,
    #[serde(rename = "UTSMode", deserialize_with = "null_is_empty")]
    pub(super) uts_mode: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) userns_mode: String,
    pub(super) shm_size: Option<i64>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) sysctls: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) runtime: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) isolation: String,
    pub(super) masked_paths: Option<Vec<String>>,
    pub(super) readonly_paths: Option<Vec<String>>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) cgroup_parent: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) devices: Vec<DeviceMapping>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) device_requests: Vec<DeviceRequest>,
    pub(super) init: Option<bool>,
    /// Rows and columns of the client's terminal.
    pub(super) console_size: Option<[u16; 2]>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) ulimits: Vec<Ulimit>,
    #[serde(flatten)]
    pub(super) limits: Limits,
}

/// Limits, which can be changed later, too.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Limits {
    pub(super) cpu_shares: Option<i64>,
    pub(super) memory: Option<i64>,
    pub(super) cpu_period: Option<i64>,
    pub(super) cpu_quota: Option<i64>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) cpuset_cpus: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) cpuset_mems: String,
    pub(super) memory_reservation: Option<i64>,
    pub(super) memory_swap: Option<i64>,
    pub(super) nano_cpus: Option<i64>,
    pub(super) pids_limit: Option<i64>,
}

/// Where output goes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct LogConfig {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) r#type: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) config: BTreeMap<String, String>,
}

/// A port of the host.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct PortBinding {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) host_ip: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) host_port: String,
}

/// What to do when the container ends.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Restart {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) name: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) maximum_retry_count: i64,
}

/// A mount.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Mount {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) target: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) source: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) r#type: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) read_only: bool,
    pub(super) bind_options: Option<BindOptions>,
    pub(super) volume_options: Option<VolumeOptions>,
    pub(super) image_options: Option<ImageOptions>,
    pub(super) tmpfs_options: Option<TmpfsOptions>,
}

/// Options of a bind mount.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct BindOptions {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) propagation: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) non_recursive: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) create_mountpoint: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) read_only_non_recursive: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) read_only_force_recursive: bool,
}

/// Options of a mounted volume, and what to make it with.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct VolumeOptions {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) no_copy: bool,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) driver_config: DriverConfig,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) subpath: String,
}

/// What makes a volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct DriverConfig {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) name: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) options: BTreeMap<String, String>,
}

/// Options of a mount of memory.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct TmpfsOptions {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) size_bytes: i64,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) mode: u32,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) options: Vec<Vec<String>>,
}

/// Options of a mounted image.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct ImageOptions {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) subpath: String,
}

/// A device of the host.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct DeviceMapping {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) path_on_host: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) path_in_container: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) cgroup_permissions: String,
}

/// Devices that somebody else describes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct DeviceRequest {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) driver: String,
    #[serde(rename = "DeviceIDs", deserialize_with = "null_is_empty")]
    pub(super) device_ids: Vec<String>,
}

/// A limit of a process.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Ulimit {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) name: String,
    pub(super) soft: i64,
    pub(super) hard: i64,
}
