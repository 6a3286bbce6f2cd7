//! The OCI runtime as a library: a container is a plan that a cloned child carries out.
//!
//! [`plan`] turns a runtime specification into a [`Plan`]: a flat list of operations in which every string,
//! descriptor and BPF program is ready. [`Plan::spawn`] makes exactly one clone3 and returns at once; the
//! caller watches [`Child::report_fd`] in its own loop and calls [`Child::advance`] when it is readable.
//! Nothing here blocks on a child, and nothing that may block (mounts above all) is done by the caller.
//!
//! ```text
//!  Request ── plan ──▶ Plan ── spawn ──▶ Child ── advance ──▶ NeedsStart ── start, advance ──▶ Running
//!  ExecRequest ── plan_exec ──▶ Plan                     └──▶ ChildError
//!  NamespaceRequest ── namespaces ──▶ NamespaceChild ── advance ──▶ Made
//! ```
#![forbid(unsafe_code)]

mod bits;
mod child;
mod fields;
mod host;
mod idmap;
mod namespaces;
mod options;
mod plan;
mod request;
mod seccomp;
#[cfg(test)]
mod tests;

pub use child::{Child, ChildError, ErrorKind, Progress, SpawnError, wait_started};
pub use fields::{Handling, Member, check_members, check_process_members, correct_names, members};
pub use host::{CgroupMount, Host};
pub use idmap::{prepare_idmaps, user_namespace};
pub use namespaces::{Made, NamespaceChild, NamespaceError, NamespaceRequest, namespaces};
pub use plan::{Plan, PlanError, default_device_rules, plan, plan_exec, plan_with_hooks};
pub use request::{ExecRequest, Hold, HookPlan, IdMap, IdMaps, Request, Rootfs, Stdio};
pub use seccomp::SeccompCache;
