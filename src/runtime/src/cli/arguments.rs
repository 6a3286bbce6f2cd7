//! The command line, flag by flag as runc's.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs containers as the OCI runtime specification says.
#[derive(Debug, Parser)]
#[command(name = "berth-runtime", version)]
pub(crate) struct Arguments {
    /// Directory for the state of containers; must be lost on reboot
    #[arg(long, global = true)]
    pub(crate) root: Option<PathBuf>,
    /// File to which errors are appended
    #[arg(long, global = true)]
    pub(crate) log: Option<PathBuf>,
    /// Format of the log
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Accepted for compatibility
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// Not supported
    #[arg(long, global = true)]
    pub(crate) systemd_cgroup: bool,
    /// Accepted for compatibility
    #[arg(id = "rootless-mode", long = "rootless", num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pub(crate) rootless: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Format of the log.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Format of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a container
    Create(Create),
    /// Create and start a container, and wait for it unless it is detached
    Run(Run),
    /// Start the program of a created container
    Start { id: String },
    /// Show the state of a container
    State { id: String },
    /// Send a signal to the first process of a container
    Kill {
        /// To every process of the container
        #[arg(long, short)]
        all: bool,
        id: String,
        /// Number or name
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Remove what is left of a stopped container
    Delete {
        /// Kill it first if it runs; no error if there is none
        #[arg(long, short)]
        force: bool,
        id: String,
    },
    /// Run one more process in a container
    Exec(Box<Exec>),
    /// List containers
    List {
        #[arg(long, short, value_enum, default_value = "table")]
        format: ListFormat,
        /// Only ids
        #[arg(long, short)]
        quiet: bool,
    },
    /// List the processes of a container
    Ps {
        #[arg(long, short, value_enum, default_value = "table")]
        format: ListFormat,
        id: String,
        /// For ps(1)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Freeze all processes of a container
    Pause { id: String },
    /// Let a paused container go on
    Resume { id: String },
    /// Change the limits of a container
    Update(Box<Update>),
    /// Show statistics of a container
    Events {
        /// Once
        #[arg(long)]
        stats: bool,
        /// How often, as 5s
        #[arg(long, default_value = "5s", value_parser = super::manage::parse_interval)]
        interval: std::time::Duration,
        id: String,
    },
    /// Show what this runtime can do
    Features,
    /// Write a specification to start from
    Spec {
        #[arg(long, short)]
        bundle: Option<PathBuf>,
        /// For a user namespace of the caller
        #[arg(long)]
        rootless: bool,
    },
    /// Not available: needs criu
    Checkpoint {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Not available: needs criu
    Restore {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Directory of the bundle
    #[arg(long, short, default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Unix socket to which the master of the terminal is sent
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    /// File for the id of the process
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// Refused: the old root would stay reachable
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Keep the session keyring of the caller
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// How many descriptors after the standard streams the program inherits
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) create: Create,
    /// Do not wait
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Keep the state when it has ended
    #[arg(long)]
    pub(crate) keep: bool,
    /// Accepted: the caller reaps
    #[arg(long)]
    pub(crate) no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[arg(long)]
    pub(crate) console_socket: Option<PathBuf>,
    #[arg(long)]
    pub(crate) cwd: Option<PathBuf>,
    /// NAME=value, more than once
    #[arg(long, short)]
    pub(crate) env: Vec<String>,
    /// With a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// UID or UID:GID
    #[arg(long, short)]
    pub(crate) user: Option<String>,
    #[arg(long, short = 'g')]
    pub(crate) additional_gids: Vec<u32>,
    /// File with the process as the specification writes it
    #[arg(long, short)]
    pub(crate) process: Option<PathBuf>,
    #[arg(long, short)]
    pub(crate) detach: bool,
    #[arg(long)]
    pub(crate) pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long)]
    pub(crate) process_label: Option<String>,
    /// AppArmor profile
    #[arg(long)]
    pub(crate) apparmor: Option<String>,
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Add a capability to those of the container
    #[arg(long, short)]
    pub(crate) cap: Vec<String>,
    #[arg(long, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Path of a cgroup below the container's
    #[arg(long)]
    pub(crate) cgroup: Option<String>,
    /// Also in a paused container
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    pub(crate) id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// File with resources as the specification writes them; - is standard input
    #[arg(long, short)]
    pub(crate) resources: Option<PathBuf>,
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    #[arg(long)]
    pub(crate) cpu_share: Option<u64>,
    #[arg(long)]
    pub(crate) cpu_rt_period: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Bytes, or with k, m, g
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<String>,
    /// Memory and swap together; -1 is no limit
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    pub(crate) id: String,
}
