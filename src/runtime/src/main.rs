//! `berth-runtime`: the OCI runtime as a command line with runc's flags.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            cli::report(&arguments, &error);
            ExitCode::from(cli::exit_code(&error))
        }
    }
}
