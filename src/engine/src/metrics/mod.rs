//! What the engine counts, for people who watch a node.
//!
//! Outcomes are counted where they are decided. Handles are resolved once, when a [`Metrics`] is registered:
//! counting is an atomic addition. What is a state and not an event is read when somebody asks, by
//! [`crate::Engine::observe`].

mod labels;
mod observe;
mod registry;

use std::time::Instant;

use keeper::protocol::Request;
use prometheus::{Histogram, IntCounter};

pub use labels::Labels;
pub use prometheus::{Counter, Gauge, IntGauge};
pub use registry::{Counters, Description, Family, Gauges, Histograms, Registry};

use crate::error::{ErrorKind, Result};
use crate::label;
use crate::model::ExitReason;

label! {
    /// How an operation of the engine ended.
    pub enum Outcome: "outcome" {
        /// It did what it was asked.
        Ok = "ok",
        /// The request makes no sense.
        Invalid = "invalid",
        /// Something that it needs is not there.
        NotFound = "not_found",
        /// A name is taken.
        Exists = "exists",
        /// Not in this state.
        Precondition = "precondition",
        /// Not on this host.
        Unsupported = "unsupported",
        /// Disk, memory, addresses or descriptors ran out.
        Exhausted = "exhausted",
        /// A registry refused.
        Denied = "denied",
        /// It took too long.
        Timeout = "timeout",
        /// Something that it depends on did not answer.
        Unavailable = "unavailable",
        /// A bug, or the kernel refused something that should work.
        Internal = "internal",
    }
}

label! {
    /// Whether something worked.
    pub enum Success: "outcome" {
        /// It did.
        Ok = "ok",
        /// It did not.
        Failed = "failed",
    }
}

label! {
    /// Why a container ended.
    pub(crate) enum Exit: "reason" {
        /// By itself, with code 0.
        Completed = "completed",
        /// By itself with another code, or by a signal.
        Error = "error",
        /// The kernel killed in it for want of memory.
        OomKilled = "oom_killed",
        /// It could not be started.
        StartError = "start_error",
        /// Nobody saw how.
        Unknown = "unknown",
    }
}

label! {
    /// How a container that was told to stop came to its end.
    pub(crate) enum Stop: "outcome" {
        /// Within its grace period.
        Graceful = "graceful",
        /// By SIGKILL, because it had no grace or did not use it.
        Killed = "killed",
    }
}

label! {
    /// Who waits for an exec session.
    pub(crate) enum ExecKind: "kind" {
        /// One request runs it to its end.
        Sync = "sync",
        /// A client is connected to its streams.
        Stream = "stream",
    }
}

label! {
    /// What collection removes.
    pub(crate) enum Garbage: "kind" {
        /// Blobs.
        Blob = "blob",
        /// Unpacked layers.
        Layer = "layer",
    }
}

label! {
    /// What recovery found that nobody owns.
    pub(crate) enum Leftover: "kind" {
        /// A process of a container.
        Container = "container",
        /// A process of an exec session.
        Exec = "exec",
        /// Namespaces of a sandbox.
        Namespaces = "namespaces",
        /// A record or directory of an earlier boot, or one that cannot be read.
        Record = "record",
        /// An attachment to a network, with its addresses and ports.
        Attachment = "attachment",
        /// A network link.
        Link = "link",
        /// A snapshot.
        Snapshot = "snapshot",
    }
}

label! {
    /// What the keeper is asked.
    pub(crate) enum KeeperRequest: "request" {
        /// Everything it holds, and subscriptions.
        List = "list",
        /// Namespaces are made.
        CreateNamespaces = "create_namespaces",
        /// Namespaces are dropped.
        DropNamespaces = "drop_namespaces",
        /// A container is started.
        Start = "start",
        /// A process is run in a container.
        Exec = "exec",
        /// Output and input are connected.
        Attach = "attach",
        /// A log is opened anew.
        ReopenLog = "reopen_log",
        /// An exited process is forgotten.
        Release = "release",
        /// Anything else.
        Other = "other",
    }
}

label! {
    /// What blocking work is for.
    pub(crate) enum Pool: "purpose" {
        /// Making and removing sandboxes and containers.
        Lifecycle = "lifecycle",
        /// Statistics.
        Reading = "reading",
        /// Images.
        Images = "images",
        /// Archives that clients read or write.
        Archives = "archives",
    }
}

label! {
    /// Where a blocking job is.
    pub(crate) enum JobState: "state" {
        /// It has no place yet.
        Waiting = "waiting",
        /// It is under way.
        Running = "running",
    }
}

label! {
    /// State of a sandbox.
    pub(crate) enum SandboxLabel: "state" {
        /// Containers can be started in it.
        Ready = "ready",
        /// It is being made, or stopped.
        NotReady = "not_ready",
    }
}

label! {
    /// State of a container.
    pub(crate) enum ContainerLabel: "state" {
        /// Made, not started.
        Created = "created",
        /// Its first process runs.
        Running = "running",
        /// Its first process ended.
        Exited = "exited",
    }
}

label! {
    /// What takes space.
    pub(crate) enum Stored: "kind" {
        /// Blobs and layers.
        Images = "images",
        /// Writable layers.
        Containers = "containers",
    }
}

impl Outcome {
    /// The outcome that a result stands for.
    pub fn of<T>(result: &Result<T>) -> Self {
        let Err(error) = result else { return Self::Ok };
        match error.kind() {
            ErrorKind::InvalidArgument => Self::Invalid,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::AlreadyExists => Self::Exists,
            ErrorKind::FailedPrecondition => Self::Precondition,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Exhausted => Self::Exhausted,
            ErrorKind::Denied => Self::Denied,
            ErrorKind::DeadlineExceeded => Self::Timeout,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Internal => Self::Internal,
        }
    }
}

impl Success {
    /// The outcome that a result stands for.
    pub fn of<T, E>(result: &std::result::Result<T, E>) -> Self {
        if result.is_ok() { Self::Ok } else { Self::Failed }
    }
}

impl Exit {
    pub(crate) fn of(reason: ExitReason) -> Self {
        match reason {
            ExitReason::Completed => Self::Completed,
            ExitReason::Error => Self::Error,
            ExitReason::OomKilled => Self::OomKilled,
            ExitReason::StartError => Self::StartError,
            ExitReason::Unknown => Self::Unknown,
        }
    }
}

impl KeeperRequest {
    pub(crate) fn of(request: &Request) -> Self {
        match request {
            Request::List | Request::Subscribe | Request::Hello { .. } => Self::List,
            Request::CreateNamespaces { .. } => Self::CreateNamespaces,
            Request::DropNamespaces { .. } => Self::DropNamespaces,
            Request::Start(_) => Self::Start,
            Request::Exec(_) => Self::Exec,
            Request::Attach { .. } | Request::CloseStdin { .. } => Self::Attach,
            Request::ReopenLog { .. } => Self::ReopenLog,
            Request::Release { .. } => Self::Release,
            Request::Adopt(_) | Request::AdoptNamespaces(_) | Request::Shutdown | Request::Upgrade => {
                Self::Other
            }
        }
    }
}

/// Counts what is under way, as long as it lives.
#[derive(Debug)]
pub struct Within(IntGauge);

impl Within {
    /// Counts one more from now on.
    pub fn enter(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// An operation: how often by outcome, and how long where it worked.
#[derive(Debug)]
pub(crate) struct Operation {
    total: Counters<Outcome>,
    seconds: Histogram,
}

impl Operation {
    fn new(
        registry: &Registry,
        [total, seconds]: [&'static str; 2],
        [count, time]: [&'static str; 2],
    ) -> Self {
        Self { total: registry.counters(total, count).filled(), seconds: registry.histogram(seconds, time) }
    }

    /// Counts an operation that began at `started` and has just ended.
    pub(crate) fn ended<T>(&self, started: Instant, result: &Result<T>) {
        let outcome = Outcome::of(result);
        self.total.get(outcome).inc();
        if outcome == Outcome::Ok {
            self.seconds.observe(started.elapsed().as_secs_f64());
        }
    }
}

/// All metrics of the engine.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) sandbox_starts: Operation,
    pub(crate) sandbox_stops: Operation,
    pub(crate) container_creates: Operation,
    pub(crate) container_starts: Operation,
    pub(crate) container_stops: Counters<Stop>,
    pub(crate) container_stop_seconds: Histogram,
    pub(crate) container_exits: Counters<Exit>,
    pub(crate) exec_sessions: Counters<(ExecKind, Outcome)>,
    pub(crate) exec_active: IntGauge,
    pub(crate) exec_start_seconds: Histogram,
    pub(crate) rootfs_mounts: Operation,
    pub(crate) network_attaches: Operation,
    pub(crate) network_detaches: Operation,
    pub(crate) pulls: Operation,
    pub(crate) pull_bytes: IntCounter,
    pub(crate) pulls_active: IntGauge,
    pub(crate) unpacks: Counters<Success>,
    pub(crate) unpack_seconds: Histogram,
    pub(crate) unpack_bytes: IntCounter,
    pub(crate) gc_runs: Counters<Success>,
    pub(crate) gc_seconds: Histogram,
    pub(crate) gc_removed: Counters<Garbage>,
    pub(crate) gc_reclaimed_bytes: IntCounter,
    pub(crate) leftovers: Counters<Leftover>,
    pub(crate) recovery_seconds: Gauge,
    pub(crate) keeper_up: IntGauge,
    pub(crate) keeper_reconnects: IntCounter,
    pub(crate) keeper_requests: Counters<(KeeperRequest, Success)>,
    pub(crate) keeper_seconds: Histograms<KeeperRequest>,
    pub(crate) jobs: Gauges<(Pool, JobState)>,
    pub(crate) commands_queued: IntGauge,
    pub(crate) commands_queued_max: IntGauge,
    pub(crate) events: IntCounter,
    pub(crate) events_missed: IntCounter,
    pub(crate) event_subscribers: IntGauge,
    pub(crate) events_queued: IntGauge,
    pub(crate) sandboxes: Gauges<SandboxLabel>,
    pub(crate) containers: Gauges<ContainerLabel>,
    pub(crate) images: IntGauge,
    pub(crate) stored_bytes: Gauges<Stored>,
    pub(crate) stored_inodes: Gauges<Stored>,
    pub(crate) store_capacity_bytes: IntGauge,
    pub(crate) store_available_bytes: IntGauge,
    pub(crate) store_inodes_free: IntGauge,
}

impl Metrics {
    /// Registers everything that the engine counts.
    #[allow(clippy::too_many_lines, reason = "a list, one entry after the other")]
    pub fn register(r: &Registry) -> Self {
        Self {
            sandbox_starts: Operation::new(
                r,
                ["berth_sandbox_starts_total", "berth_sandbox_start_seconds"],
                ["Sandboxes brought up", "Time to bring a sandbox up, of those that came up"],
            ),
            sandbox_stops: Operation::new(
                r,
                ["berth_sandbox_stops_total", "berth_sandbox_stop_seconds"],
                [
                    "Sandboxes taken down",
                    "Time to take a sandbox down once its containers have ended, of those that went down",
                ],
            ),
            container_creates: Operation::new(
                r,
                ["berth_container_creates_total", "berth_container_create_seconds"],
                ["Containers created", "Time to create a container, of those that were created"],
            ),
            container_starts: Operation::new(
                r,
                ["berth_container_starts_total", "berth_container_start_seconds"],
                ["Containers started", "Time to start a container, of those that started"],
            ),
            container_stops: r
                .counters("berth_container_stops_total", "Containers that ended after they were told to stop")
                .filled(),
            container_stop_seconds: r.histogram(
                "berth_container_stop_seconds",
                "Time from telling a container to stop to its end, grace period included",
            ),
            container_exits: r
                .counters("berth_container_exits_total", "Containers that ended or could not be started")
                .filled(),
            exec_sessions: r
                .counters("berth_exec_sessions_total", "Processes run in containers on request")
                .filled(),
            exec_active: r.gauge("berth_exec_sessions", "Processes that run in containers on request now"),
            exec_start_seconds: r
                .histogram("berth_exec_start_seconds", "Time to start a process in a container"),
            rootfs_mounts: Operation::new(
                r,
                ["berth_rootfs_mounts_total", "berth_rootfs_mount_seconds"],
                ["Root file systems mounted", "Time to mount a root file system"],
            ),
            network_attaches: Operation::new(
                r,
                ["berth_network_attaches_total", "berth_network_attach_seconds"],
                ["Sandboxes attached to their network", "Time to attach a sandbox to its network"],
            ),
            network_detaches: Operation::new(
                r,
                ["berth_network_detaches_total", "berth_network_detach_seconds"],
                ["Sandboxes detached from their network", "Time to detach a sandbox from its network"],
            ),
            pulls: Operation::new(
                r,
                ["berth_image_pulls_total", "berth_image_pull_seconds"],
                ["Images pulled", "Time to pull an image, layers unpacked, of those that were pulled"],
            ),
            pull_bytes: r
                .counter("berth_image_pull_bytes_total", "Bytes of layers, compressed, that pulls have read"),
            pulls_active: r.gauge("berth_image_pulls", "Pulls under way"),
            unpacks: r.counters("berth_layer_unpacks_total", "Layers unpacked").filled(),
            unpack_seconds: r.histogram(
                "berth_layer_unpack_seconds",
                "Time to unpack a layer, waiting for its download included",
            ),
            unpack_bytes: r.counter(
                "berth_layer_unpack_bytes_total",
                "Bytes of files that unpacking layers has written",
            ),
            gc_runs: r.counters("berth_gc_runs_total", "Collections of what no image needs").filled(),
            gc_seconds: r.histogram("berth_gc_seconds", "Time of a collection of what no image needs"),
            gc_removed: r.counters("berth_gc_removed_total", "Things that collections have removed").filled(),
            gc_reclaimed_bytes: r.counter(
                "berth_gc_reclaimed_bytes_total",
                "Bytes of blobs and partial downloads that collections have reclaimed",
            ),
            leftovers: r
                .counters(
                    "berth_recovery_leftovers_total",
                    "Things without an owner that were found and removed when the daemon started",
                )
                .filled(),
            recovery_seconds: r.level(
                "berth_recovery_seconds",
                "Time that taking over what an earlier daemon left has taken at the start",
            ),
            keeper_up: r.gauge("berth_keeper_up", "1 while the daemon is connected to the keeper"),
            keeper_reconnects: r.counter(
                "berth_keeper_reconnects_total",
                "Times that the connection to the keeper was lost and made again",
            ),
            keeper_requests: r
                .counters("berth_keeper_requests_total", "Requests that the keeper has answered")
                .filled(),
            keeper_seconds: r.histograms(
                "berth_keeper_request_seconds",
                "Time from a request to the keeper to its answer",
            ),
            jobs: r
                .gauges("berth_blocking_jobs", "Jobs of the pools for blocking work, waiting and running")
                .filled(),
            commands_queued: r
                .gauge("berth_sandbox_commands_queued", "Commands that wait for the tasks of all sandboxes"),
            commands_queued_max: r.gauge(
                "berth_sandbox_commands_queued_max",
                "Commands that wait for the task of the sandbox with the longest queue",
            ),
            events: r.counter("berth_events_total", "Events published"),
            events_missed: r
                .counter("berth_events_missed_total", "Events that subscribers were too slow to get"),
            event_subscribers: r.gauge("berth_event_subscribers", "Subscribers to events"),
            events_queued: r
                .gauge("berth_events_queued", "Events that the slowest subscriber has still to get"),
            sandboxes: r.gauges("berth_sandboxes", "Sandboxes, by state").filled(),
            containers: r.gauges("berth_containers", "Containers, by state").filled(),
            images: r.gauge("berth_images", "Images"),
            stored_bytes: r.gauges("berth_store_bytes", "Bytes that images and containers take").filled(),
            stored_inodes: r.gauges("berth_store_inodes", "Inodes that images and containers take").filled(),
            store_capacity_bytes: r
                .gauge("berth_store_capacity_bytes", "Size of the file system that the store is on"),
            store_available_bytes: r.gauge(
                "berth_store_available_bytes",
                "Bytes that are free on the file system that the store is on",
            ),
            store_inodes_free: r.gauge(
                "berth_store_inodes_free",
                "Inodes that are free on the file system that the store is on",
            ),
        }
    }

    /// Counts a collection that worked.
    pub(crate) fn collected(&self, layers: usize, blobs: usize, bytes: u64) {
        self.gc_runs.get(Success::Ok).inc();
        self.gc_removed.get(Garbage::Layer).inc_by(layers as u64);
        self.gc_removed.get(Garbage::Blob).inc_by(blobs as u64);
        self.gc_reclaimed_bytes.inc_by(bytes);
    }
}
