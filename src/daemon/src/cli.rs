//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Node agent: Kubernetes' CRI and the Docker Engine API over one engine.
#[derive(Debug, Parser)]
#[command(
    name = "berth",
    version,
    after_help = "Examples:\n  berth daemon --config /etc/berth/config.toml\n  berth image pull docker.io/library/busybox:1.36\n  berth status --json"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground.
    Daemon(DaemonArgs),
    /// Print, check or show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check this host, the configuration and the stores.
    Check(CheckArgs),
    /// What the running daemon is doing.
    #[command(after_help = "Examples:\n  berth status\n  berth status --json | jq .running")]
    Status(Client),
    /// Versions of this program and of the running daemon.
    #[command(after_help = "Example:\n  berth version --json")]
    Version(Client),
    /// Images of this node.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Networks of this node.
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Print a script that completes commands in a shell.
    #[command(after_help = "Example:\n  berth completion bash > /etc/bash_completion.d/berth")]
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  berth daemon\n  berth daemon --root /data/berth --cri-socket /run/berth/cri.sock --log-format json"
)]
pub(crate) struct DaemonArgs {
    /// Configuration file; without it /etc/berth/config.toml is read if it is there.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of what outlives a reboot.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Directory of what dies with the boot; on a tmpfs.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Where the CRI is served.
    #[arg(long, value_name = "PATH")]
    pub(crate) cri_socket: Option<PathBuf>,
    /// Where the Docker API is served.
    #[arg(long, value_name = "PATH")]
    pub(crate) docker_socket: Option<PathBuf>,
    /// Where metrics are served for Prometheus, as 127.0.0.1:9095.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics_address: Option<String>,
    /// Least severity that is logged: error, warn, info, debug or trace; or a filter such as info,engine=debug.
    #[arg(long, value_name = "L")]
    pub(crate) log_level: Option<String>,
    /// Form of log lines.
    #[arg(long, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
}

/// How a command reaches the daemon and prints.
#[derive(Debug, Clone, Args)]
pub(crate) struct Client {
    /// Socket of the running daemon's commands; default: admin.sock in the state directory.
    #[arg(long, value_name = "PATH", default_value = "/run/berth/admin.sock")]
    pub(crate) socket: PathBuf,
    /// Print JSON, for scripts.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the default configuration with every key explained.
    #[command(after_help = "Example:\n  berth config default > /etc/berth/config.toml")]
    Default,
    /// Check a file and report every problem in it.
    Check(ConfigFile),
    /// Print the settings in force after reading a file.
    Show(ConfigFile),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  berth config check --config ./config.toml")]
pub(crate) struct ConfigFile {
    /// The file; default: /etc/berth/config.toml.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON, for scripts.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  berth check\n  berth check --repair --json")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) client: Client,
    /// Put right what can be; damaged images are pulled again when they are next needed.
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Fetch an image from its registry.
    #[command(
        after_help = "Examples:\n  berth image pull registry.k8s.io/pause:3.10\n  berth image pull --json quay.io/app@sha256:…"
    )]
    Pull {
        /// What to fetch.
        reference: String,
        /// User of the registry.
        #[arg(long, requires = "password_stdin")]
        username: Option<String>,
        /// Read the password from standard input.
        #[arg(long, requires = "username")]
        password_stdin: bool,
        #[command(flatten)]
        client: Client,
    },
    /// Images on this node.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  berth image list\n  berth image list --json | jq -r .[].id"
    )]
    List {
        #[command(flatten)]
        client: Client,
    },
    /// All that is known of an image.
    #[command(after_help = "Example:\n  berth image inspect busybox:1.36")]
    Inspect {
        /// An id, the beginning of one, or a name.
        image: String,
        #[command(flatten)]
        client: Client,
    },
    /// Remove an image with all its names.
    #[command(visible_alias = "rm", after_help = "Example:\n  berth image remove busybox:1.36")]
    Remove {
        /// Ids, beginnings of ids, or names.
        #[arg(required = true)]
        images: Vec<String>,
        #[command(flatten)]
        client: Client,
    },
    /// Take in the images of an archive (OCI layout or `docker save`), or the one that Berth carries.
    #[command(after_help = "Examples:\n  berth image load --input image.tar\n  berth image load --embedded")]
    Load {
        /// The archive.
        #[arg(long, value_name = "FILE", required_unless_present = "embedded", conflicts_with = "embedded")]
        input: Option<PathBuf>,
        /// The image that is part of this program: berth.local/hello.
        #[arg(long)]
        embedded: bool,
        #[command(flatten)]
        client: Client,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Networks that sandboxes can join; the first is the default.
    #[command(visible_alias = "ls", after_help = "Example:\n  berth network list")]
    List {
        #[command(flatten)]
        client: Client,
    },
    /// The configuration of a network.
    #[command(after_help = "Example:\n  berth network inspect berth")]
    Inspect {
        /// Its name.
        name: String,
        #[command(flatten)]
        client: Client,
    },
}
