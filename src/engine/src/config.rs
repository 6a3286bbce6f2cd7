//! What the engine is told once, at its start. Text is parsed in the daemon; here everything is checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Durable state: images, snapshots.
    pub root: PathBuf,
    /// State that dies with the boot: sandboxes, addresses, sockets.
    pub state: PathBuf,
    /// Where the keeper listens.
    pub keeper_socket: PathBuf,
    /// The keeper's program, started when nobody listens; `None` leaves that to the service manager.
    pub keeper_program: Option<PathBuf>,
    /// Cgroups.
    pub cgroups: CgroupConfig,
    /// Runtime handlers by name; the default one is among them.
    pub handlers: BTreeMap<String, Handler>,
    /// Name of the handler for requests that name none.
    pub default_handler: String,
    /// Networks.
    pub network: NetworkConfig,
    /// Images and registries.
    pub images: ImageConfig,
    /// Containers.
    pub containers: ContainerDefaults,
}

/// How cgroups are made.
#[derive(Debug, Clone)]
pub struct CgroupConfig {
    /// Root of the cgroup file systems: `/sys/fs/cgroup`.
    pub root: PathBuf,
    /// Who makes them.
    pub driver: CgroupDriver,
    /// Parent for sandboxes that name none.
    pub default_parent: String,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Berth itself.
    #[default]
    Cgroupfs,
    /// systemd, over D-Bus.
    Systemd,
}

/// A runtime handler.
#[derive(Debug, Clone, Default)]
pub struct Handler {
    /// Who carries out the OCI operations.
    pub runtime: HandlerRuntime,
    /// Globs of sandbox annotations that reach the OCI annotations.
    pub pod_annotations: Vec<String>,
    /// Globs of container annotations that reach the OCI annotations.
    pub container_annotations: Vec<String>,
    /// Whether privileged containers see no devices of the host but those they ask for.
    pub privileged_without_host_devices: bool,
    /// Directory of network configuration for this handler; `None` means the common one.
    pub network_conf_dir: Option<PathBuf>,
}

/// Who carries out a handler's OCI operations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HandlerRuntime {
    /// The bundled runtime.
    #[default]
    BuiltIn,
    /// A runc-compatible program.
    External {
        /// The program.
        path: PathBuf,
        /// Its state directory.
        root: PathBuf,
    },
}

/// Networks.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Directory of conflists.
    pub conf_dir: PathBuf,
    /// Directories of plugins, first match wins.
    pub bin_dirs: Vec<PathBuf>,
    /// Subnets of the built-in network, used while the directory has no conflist; IPv4 first.
    pub default_subnets: Vec<String>,
    /// How long one plugin may take.
    pub plugin_timeout: Duration,
    /// Networks that are made at run time.
    pub user: UserNetworkDefaults,
}

/// Defaults of networks that are made at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNetworkDefaults {
    /// Name of the bridge of the network `bridge`.
    pub bridge: String,
    /// Address of that bridge with the length of its network's prefix; `None` takes one from the pools.
    pub bridge_address: Option<ipnet::IpNet>,
    /// Pools to take networks from, and the prefix lengths of the networks; empty means the built-in ones.
    pub pools: Vec<(ipnet::IpNet, u8)>,
    /// Where ports are published when a request does not say; `None` is every address.
    pub publish_address: Option<std::net::IpAddr>,
    /// Largest packet of the network `bridge`; 0 is the kernel's default.
    pub mtu: u32,
}

impl Default for UserNetworkDefaults {
    fn default() -> Self {
        Self {
            bridge: "berth1".to_owned(),
            bridge_address: None,
            pools: Vec::new(),
            publish_address: None,
            mtu: 0,
        }
    }
}

/// Images and registries.
#[derive(Debug, Clone)]
pub struct ImageConfig {
    /// Directory of `<host>/hosts.toml`.
    pub registry_config_dir: Option<PathBuf>,
    /// Credentials per registry host.
    pub credentials: BTreeMap<String, image::Auth>,
    /// Blobs fetched at once.
    pub max_concurrent_downloads: usize,
    /// A download that makes no progress for this long is broken off.
    pub progress_timeout: Duration,
    /// Images that garbage collection leaves alone: references, or globs with `*`.
    pub pinned: Vec<String>,
    /// Whether compressed layers are deleted once they are unpacked.
    pub discard_unpacked_layers: bool,
}

/// Defaults of containers.
#[derive(Debug, Clone)]
pub struct ContainerDefaults {
    /// The default seccomp profile, in the form of the moby project's profiles; `None` is the built-in one.
    pub seccomp_profile: Option<PathBuf>,
    /// Directory that `Localhost` seccomp profiles must be in when they are not absolute.
    pub seccomp_dir: PathBuf,
    /// Directories of CDI specifications.
    pub cdi_dirs: Vec<PathBuf>,
    /// Capabilities of containers that ask for no change.
    pub capabilities: Vec<String>,
    /// Size of `/dev/shm`, in bytes.
    pub shm_size_bytes: u64,
    /// Whether ports below 1024 and ping work for every user in a network namespace of its own.
    pub unprivileged_ports: bool,
    /// Limit of open files, soft and hard; `None` inherits the keeper's.
    pub nofile: Option<(u64, u64)>,
    /// Whether SELinux labels are honoured; without it a request for one is an error.
    pub selinux: bool,
}
