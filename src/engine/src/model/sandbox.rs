//! Sandboxes: the namespaces and the network that one or more containers share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use oci::{ContainerId, SandboxId};
use serde::{Deserialize, Serialize};

use super::{BoundPort, ContainerStatus, EndpointStatus, Resources, SelinuxLabel, UserNetworking};

/// What a front end asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// What names the sandbox to its owner; two requests with the same metadata are the same request.
    pub metadata: SandboxMetadata,
    /// Host name; empty means the node's when the network is the host's, else the sandbox' short id.
    #[serde(default)]
    pub hostname: String,
    /// Directory that relative log paths of its containers start from.
    #[serde(default)]
    pub log_directory: String,
    /// Name resolution; `None` copies the host's.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// Published ports.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// For selection.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// For anybody.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Parent of its containers' cgroups, as the driver writes it; empty means Berth's own parent.
    #[serde(default)]
    pub cgroup_parent: String,
    /// Namespaced kernel parameters.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Which namespaces it has.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// Name of the runtime handler; empty means the default.
    #[serde(default)]
    pub runtime_handler: String,
    /// Whether its containers may be privileged.
    #[serde(default)]
    pub privileged: bool,
    /// SELinux label of what the sandbox itself owns.
    #[serde(default)]
    pub selinux: Option<SelinuxLabel>,
    /// Resources of the sandbox as a whole, as the client accounts them.
    #[serde(default)]
    pub resources: Option<Resources>,
    /// What the client adds for the sandbox itself.
    #[serde(default)]
    pub overhead: Option<Resources>,
    /// Size of `/dev/shm`; `None` is the node's.
    #[serde(default)]
    pub shm_size_bytes: Option<u64>,
    /// Networks to attach it to; `None` is the node's default network.
    #[serde(default)]
    pub user_networking: Option<Box<UserNetworking>>,
    /// Other sandboxes whose namespaces it uses instead of having its own.
    #[serde(default)]
    pub joined: Joined,
    /// The durable container it is a run of. It is listed with that container, not as a sandbox.
    #[serde(default)]
    pub durable: Option<ContainerId>,
}

/// Sandboxes whose namespaces another one uses; they must be up when it comes up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Joined {
    /// Network, host name, and the files that tell of them.
    pub network: Option<SandboxId>,
    /// Shared memory and message queues.
    pub ipc: Option<SandboxId>,
}

/// What names a sandbox to its owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SandboxMetadata {
    /// Name of the pod.
    pub name: String,
    /// Unique id of the pod.
    pub uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// How often it was tried.
    pub attempt: u32,
}

/// Where a namespace comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Shared by the sandbox' containers.
    #[default]
    Sandbox,
    /// Each container has its own.
    Container,
    /// The host's.
    Host,
    /// Another container's.
    Target(ContainerId),
}

/// The namespaces of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// `Sandbox` or `Host`.
    pub network: NamespaceMode,
    /// `Sandbox`, `Container`, `Host`; `Target` for single containers.
    pub pid: NamespaceMode,
    /// `Sandbox` or `Host`.
    pub ipc: NamespaceMode,
    /// A user namespace with these maps, or the host's.
    #[serde(default)]
    pub user: Option<UserNamespace>,
}

/// Maps of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Both maps.
    pub maps: keeper::protocol::IdMaps,
}

/// Name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Protocol,
    /// Port in the sandbox.
    pub container_port: u16,
    /// Port of the host; 0 means none.
    pub host_port: u16,
    /// Address of the host; `None` means all.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
}

/// Whether a sandbox is usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    /// Its namespaces and its network are up.
    Ready,
    /// It is being stopped, is stopped, or broke.
    NotReady,
}

/// An address of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpAddress {
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
}

/// A moment's view of a sandbox.
#[derive(Debug, Clone)]
pub struct SandboxStatus {
    /// Its id.
    pub id: SandboxId,
    /// As asked for.
    pub config: SandboxConfig,
    /// Whether it is usable.
    pub state: SandboxState,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// Addresses, the primary one first; empty with the host's network.
    pub addresses: Vec<IpAddress>,
    /// Path of its network namespace, if it has one of its own.
    pub netns_path: Option<String>,
    /// Its attachments to user networks, in the order of their interfaces.
    pub endpoints: Vec<EndpointStatus>,
    /// Ports published on user networks.
    pub bound_ports: Vec<BoundPort>,
    /// Its containers, oldest first.
    pub containers: Vec<ContainerStatus>,
    /// When this view was taken, nanoseconds since the Unix epoch.
    pub observed_at_ns: i64,
}
