//! The commands of `berth-runtime`.
//!
//! The command line holds nothing while a container runs: what is needed later is in a [`record::Record`]
//! below `--root`, and the kernel is asked for the rest.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;

mod arguments;
mod create;
mod describe;
mod exec;
mod hooks;
mod manage;
mod netdevices;
mod record;
mod resources;
mod terminal;

pub(crate) use arguments::Arguments;
use arguments::{Command, LogFormat};

/// Runs a command; its exit code.
pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let root = record::Root::new(arguments.root.as_deref().unwrap_or(&PathBuf::from("/run/berth-runtime")));
    if arguments.systemd_cgroup {
        anyhow::bail!("--systemd-cgroup is not supported: leave it out and give a path as cgroupsPath");
    }
    match &arguments.command {
        Command::Create(create) => create::create(&root, create).map(|()| 0),
        Command::Run(run) => create::run(&root, run),
        Command::Start { id } => create::start(&root, id).map(|()| 0),
        Command::State { id } => manage::state(&root, id).map(|()| 0),
        Command::Kill { all, id, signal } => manage::kill(&root, id, signal, *all).map(|()| 0),
        Command::Delete { force, id } => manage::delete(&root, id, *force).map(|()| 0),
        Command::Exec(exec) => exec::exec(&root, exec),
        Command::List { format, quiet } => manage::list(&root, *format, *quiet).map(|()| 0),
        Command::Ps { format, id, options } => manage::ps(&root, id, *format, options).map(|()| 0),
        Command::Pause { id } => manage::pause(&root, id).map(|()| 0),
        Command::Resume { id } => manage::resume(&root, id).map(|()| 0),
        Command::Update(update) => resources::update(&root, update).map(|()| 0),
        Command::Events { stats, interval, id } => manage::events(&root, id, *stats, *interval).map(|()| 0),
        Command::Features => describe::features().map(|()| 0),
        Command::Spec { bundle, rootless } => describe::spec(bundle.as_deref(), *rootless).map(|()| 0),
        Command::Checkpoint { .. } | Command::Restore { .. } => {
            anyhow::bail!("checkpoint and restore need criu, which is not installed")
        }
    }
}

/// Exit code of a failure: 127 and 126 as a shell gives them for a program that is missing or cannot run.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let kind =
        error.chain().find_map(|cause| cause.downcast_ref::<runtime::ChildError>()).map(|error| error.kind);
    match kind {
        Some(runtime::ErrorKind::ProgramNotFound) => 127,
        Some(runtime::ErrorKind::NotExecutable) => 126,
        Some(runtime::ErrorKind::Setup) | None => 1,
    }
}

/// Tells of a failure: on standard error and, where asked for, in the log file that callers read.
pub(crate) fn report(arguments: &Arguments, error: &anyhow::Error) {
    eprintln!("berth-runtime: {error:#}");
    log(arguments, "error", &format!("{error:#}"));
}

fn log(arguments: &Arguments, level: &str, message: &str) {
    let Some(path) = &arguments.log else { return };
    let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path) else { return };
    let time = record::timestamp(sys::fs::now_ns());
    let line = match arguments.log_format {
        LogFormat::Json => serde_json::json!({"level": level, "msg": message, "time": time}).to_string(),
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}"),
    };
    // The message is on standard error already.
    let _ = writeln!(file, "{line}");
}
