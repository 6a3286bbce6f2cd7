//! The program of the image that the daemon carries: proof that a pod runs, without any registry.
//!
//! `hello` prints one line and ends; `hello sleep SECONDS` prints it and stays that long.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let stay = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => None,
        ["sleep", seconds] => match seconds.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let line = format!(
        "Hello from Berth: this container runs in pod {}, as process {}.\n",
        host.trim(),
        std::process::id()
    );
    let mut out = std::io::stdout();
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    if let Some(stay) = stay {
        std::thread::sleep(stay);
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    let _ = std::io::stderr().write_all(b"usage: hello [sleep SECONDS]\n");
    ExitCode::from(2)
}
