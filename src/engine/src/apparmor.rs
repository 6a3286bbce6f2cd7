//! AppArmor: the profile of containers that ask for none of their own.

use std::io::Write;
use std::process::{Command, Stdio};

/// Name of the profile below.
pub(crate) const DEFAULT_PROFILE: &str = "berth-default";

const TEXT: &str = include_str!("../../../config/apparmor-berth-default");

/// What AppArmor can do on this host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Support {
    /// Whether the kernel enforces profiles.
    pub(crate) enabled: bool,
    /// Whether the default profile is loaded.
    pub(crate) default_loaded: bool,
}

/// Looks whether AppArmor is on, and loads the default profile if it is. Blocks. The sentence says what does
/// not work.
pub(crate) fn prepare() -> (Support, Option<String>) {
    let enabled =
        std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
    if !enabled {
        return (Support::default(), None);
    }
    match load() {
        Ok(()) => (Support { enabled, default_loaded: true }, None),
        Err(problem) => {
            let sentence = format!("the AppArmor profile {DEFAULT_PROFILE} is not loaded: {problem}");
            (Support { enabled, default_loaded: false }, Some(sentence))
        }
    }
}

/// The parser is a program of the distribution: profiles in binary form are its private matter.
fn load() -> Result<(), String> {
    let mut parser = Command::new("apparmor_parser")
        .args(["--replace", "--write-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("run apparmor_parser: {error}"))?;
    if let Some(mut stdin) = parser.stdin.take() {
        stdin
            .write_all(TEXT.as_bytes())
            .map_err(|error| format!("hand the profile to apparmor_parser: {error}"))?;
    }
    let output = parser.wait_with_output().map_err(|error| format!("wait for apparmor_parser: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("apparmor_parser: {}", said.lines().next().unwrap_or("no message")))
}
