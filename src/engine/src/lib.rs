//! The engine: sandboxes, containers, exec sessions, images and networks as one domain.
//!
//! Front ends translate a protocol into calls of [`Engine`] and back. Nothing here knows CRI or Docker, and
//! nothing below `engine` knows sandboxes.
//!
//! Who owns what:
//!
//! * One task per sandbox ([`sandbox`]) is the only writer of that sandbox' state. Commands reach it on a
//!   bounded queue; readers see snapshots and never wait for it.
//! * The link to the keeper ([`keeper_link`]) turns its protocol into futures and hands exits to the tasks.
//! * [`spec`] is pure: configuration, image and host facts in, OCI runtime configuration out.
//! * [`record`] is what survives the daemon: written before an effect and after it.
#![forbid(unsafe_code)]

mod adoption;
mod apparmor;
mod archive;
mod blocking;
mod cdi;
mod config;
mod cpu;
mod durable;
mod engine;
mod error;
mod events;
mod exec;
mod files;
mod happenings;
mod images;
mod inspect;
mod keeper_link;
mod logs;
pub mod metrics;
mod model;
mod names;
mod networks;
mod node;
mod record;
mod recovery;
mod registry;
mod sandbox;
mod seccomp;
mod sessions;
mod spec;
mod stats;
mod status;
#[cfg(test)]
mod testing;
mod traces;
mod user;
mod volumes;
mod watch;

pub use archive::{
    ArchiveProblem, ArchivePut, ArchiveStream, Change, ChangeKind, CommitConfig, PathKind, PathStat,
};
pub use config::{
    CgroupConfig, CgroupDriver, Config, ContainerDefaults, Handler, HandlerRuntime, ImageConfig,
    NetworkConfig, UserNetworkDefaults,
};
pub use durable::{
    AttachInput, AttachOptions, DurableAttach, DurableProblem, ExecSpec, ExecState, ExecStatus, ProcessRow,
    RunningExec, WaitExit,
};
pub use engine::Engine;
pub use error::{Error, ErrorKind, Result};
pub use events::{Event, EventKind, Subscription};
pub use happenings::{Action, Happening, Happenings, Subject};
pub use image::{Auth, AuthFields, ScopedAuth, Secret};
pub use images::{LayerProgress, LayerState, PullProgress, PullStage};
pub use inspect::NetworkInfo;
pub use ipnet::IpNet;
pub use keeper::protocol::{IdMap, IdMaps};
pub use logs::{LogLine, LogQuery, LogSource, LogStream};
pub use model::*;
pub use networks::NetworkProblem;
pub use node::{HostCpu, NodeInfo};
pub use registry::{Descriptor, DistributionInfo, PrunedImages};
pub use sessions::{AttachSession, ExecSession, Streams, Terminal};
pub use status::{Condition, EngineStatus, HandlerFeatures, NodeFeatures};
pub use sys::cgroup::{
    Cpu as CgroupCpu, Device as CgroupDevice, Pressure, PressureLine, Pressures, Stats as CgroupStats,
};
pub use traces::TRACE_TARGET;
pub use volumes::VolumeProblem;
