//! `berth`: the daemon, and the commands that talk to it.
#![forbid(unsafe_code)]

mod admin;
mod cli;
mod commands;
mod config;
mod embedded;
mod logging;
mod output;
mod serve;
mod traces;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failures; clap prints them to standard output.
            let code = if error.use_stderr() { 2 } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("berth: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
