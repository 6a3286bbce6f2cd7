//! The engine's own vocabulary: what front ends ask for and what they are told.
//!
//! Plain data without behaviour beyond small queries. Nothing here knows CRI or Docker.

mod container;
mod durable;
mod image;
mod resources;
mod sandbox;
mod security;
mod session;
mod stats;
mod user_network;
mod volume;

pub use container::{
    ContainerConfig, ContainerKey, ContainerMount, ContainerState, ContainerStatus, Device, ExitReason,
    ExitRecord, LogFormat, LogSettings, MountSource, Propagation, ResolvedUser, Rlimit,
};
pub use durable::{
    CreatedDurable, DurableConfig, DurablePhase, DurableStatus, DurableUpdate, Health, HealthConfig,
    HealthProbe, HealthState, HealthTest, JoinModes, LogConfig, RemoveDurable, RestartPolicy, RunInfo,
    Started, Stopped, WaitFor, WaitOutcome,
};
pub use image::{FsUsage, ImageInfo, PullOutcome, PullRequest};
pub use resources::Resources;
pub use sandbox::{
    Dns, IpAddress, Joined, NamespaceMode, Namespaces, PortMapping, Protocol, SandboxConfig, SandboxMetadata,
    SandboxState, SandboxStatus, UserNamespace,
};
pub use security::{AppArmor, Capabilities, GroupsPolicy, Seccomp, Security, SelinuxLabel};
pub use session::{ExecConfig, ExecOutput, ExecSyncConfig, TerminalSize};
pub use stats::{ContainerStats, Detail, FilesystemStats, InterfaceStats, ProcessStats, SandboxStats};
pub use user_network::{
    BoundPort, EndpointStatus, HostAddress, IpamPool, NetworkDriver, NetworkEndpointConfig, NetworkMember,
    NetworkPruneFilter, PublishRequest, UserNetworkConfig, UserNetworkStatus, UserNetworking,
};
pub use volume::{
    BindSource, LOCAL_DRIVER, PrunedVolumes, ResolvedMount, ResolvedSource, VolumeConfig, VolumeMount,
    VolumePruneFilter, VolumeScope, VolumeSource, VolumeStatus, VolumeUsage,
};
