//! `berth-keeper`: holds every container of a node, so that the daemon may go and come back.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
Holds the containers of a node: starts them, writes their logs, reports how they ended.
The daemon talks to it and may be stopped, upgraded or killed at any time.

Usage: berth-keeper [--socket PATH] [--state DIR]

Options:
  --socket PATH      where to listen [default: /run/berth/keeper.sock]
  --state DIR        for small files that die with the boot [default: /run/berth/keeper]
  --log-level LEVEL  error, warn or info: failures alone, degradations too, or also what starts
                     and ends [default: warn]
  -h, --help         this text
  -V, --version      the version

Signals: SIGUSR2 executes the binary anew, keeping everything; SIGTERM ends the keeper if nothing
runs, and the second time in any case, leaving containers alone.

Example: berth-keeper --socket /run/berth/keeper.sock --state /run/berth/keeper
";

enum Command {
    Run(keeper::Options),
    Help,
    Version,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Command::Run(options)) => match keeper::run(options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("{:#}", anyhow::Error::from(error)));
                ExitCode::from(1)
            }
        },
        Ok(Command::Help) => say(HELP),
        Ok(Command::Version) => say(&format!("berth-keeper {}\n", env!("CARGO_PKG_VERSION"))),
        Err(message) => {
            complain(&format!("{message}; try `berth-keeper --help`"));
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = keeper::Options {
        socket: "/run/berth/keeper.sock".into(),
        state: "/run/berth/keeper".into(),
        log_level: keeper::LogLevel::default(),
    };
    while let Some(argument) = arguments.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || {
            let value = inline.clone().or_else(|| arguments.next()).filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("{name} needs a value"))
        };
        match name.as_str() {
            "-h" | "--help" => return Ok(Command::Help),
            "-V" | "--version" => return Ok(Command::Version),
            "--socket" => options.socket = PathBuf::from(value()?),
            "--state" => options.state = PathBuf::from(value()?),
            "--log-level" => options.log_level = value()?.parse()?,
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    Ok(Command::Run(options))
}

fn say(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(1),
    }
}

fn complain(message: &str) {
    // Nobody reads standard error if this fails.
    let _ = writeln!(std::io::stderr(), "berth-keeper: {message}");
}
