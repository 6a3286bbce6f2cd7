//! Plugins that are programs: started, fed, bounded, and their answers read.
//!
//! A plugin gets a clean environment, its own process group and a deadline that does not depend on any caller. It may hang,
//! write without end or write nonsense; the answer is an error that says so and shows its standard error.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::conflist::PluginType;
use crate::error::{PluginError, PluginFailure};

/// No result is larger.
const STDOUT_LIMIT_BYTES: usize = 1 << 20;
const STDERR_LIMIT_BYTES: usize = 4096;
/// How long a plugin that has ended may leave its output open, for example in the hands of a daemon it started.
const LINGER: Duration = Duration::from_millis(200);

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Status,
}

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }
}

/// Where programs are found and how long they may run.
#[derive(Debug, Clone)]
pub(crate) struct Executor {
    pub(crate) bin_dirs: Vec<PathBuf>,
    pub(crate) timeout: Duration,
}

/// One call of a plugin.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) plugin: &'a PluginType,
    pub(crate) verb: Verb,
    pub(crate) network: &'a str,
    pub(crate) config: &'a Value,
    /// `CNI_CONTAINERID`, `CNI_NETNS`, `CNI_IFNAME`, `CNI_ARGS`, as far as the verb has them.
    pub(crate) environment: &'a [(&'static str, String)],
}

/// An error as the specification lets plugins report it.
#[derive(Deserialize)]
struct Report {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// What came out of a process.
#[derive(Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Executor {
    /// The program of a type.
    pub(crate) fn find(&self, plugin: &PluginType) -> Result<PathBuf, PluginFailure> {
        let candidates = self.bin_dirs.iter().map(|dir| dir.join(plugin.as_str()));
        let found = candidates.into_iter().find(|path| path.is_file());
        found.ok_or_else(|| PluginFailure::NotFound { directories: self.bin_dirs.clone() })
    }

    /// Runs a plugin to its end; `None` if it had nothing to say.
    pub(crate) fn run(&self, call: &Call<'_>) -> Result<Option<Value>, Box<PluginError>> {
        let started = Instant::now();
        let mut output = Output::default();
        let answer = self.execute(call, &mut output).and_then(|status| interpret(status, &output.stdout));
        let elapsed = started.elapsed();
        tracing::debug!(
            plugin = %call.plugin, verb = call.verb.as_str(), network = call.network,
            elapsed_ms = elapsed.as_millis(), ok = answer.is_ok(), "plugin ended"
        );
        answer.map_err(|failure| {
            Box::new(PluginError {
                plugin: call.plugin.to_string(),
                verb: call.verb.as_str(),
                network: call.network.to_owned(),
                failure,
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
                elapsed,
            })
        })
    }

    fn execute(&self, call: &Call<'_>, output: &mut Output) -> Result<ExitStatus, PluginFailure> {
        let program = self.find(call.plugin)?;
        let mut child = self.spawn(&program, call).map_err(|source| PluginFailure::Spawn { source })?;
        let collected = collect(&mut child, Instant::now() + self.timeout, self.timeout, output);
        if collected.is_err() {
            // The leader is still ours to wait for, so the group number cannot have been given to somebody else.
            let _ = sys::watch::kill_group(child.id());
        }
        let status = child.wait().map_err(|source| PluginFailure::Spawn { source })?;
        collected.map(|()| status)
    }

    fn spawn(&self, program: &Path, call: &Call<'_>) -> std::io::Result<Child> {
        let config = serde_json::to_vec(call.config)?;
        // A file instead of a pipe: there is nobody who could block on writing it.
        let stdin = sys::watch::memory_file("cni-config", &config)?;
        let directories: Vec<_> = self.bin_dirs.iter().map(|d| d.to_string_lossy()).collect();
        Command::new(program)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", call.verb.as_str())
            .env("CNI_PATH", directories.join(":"))
            .envs(call.environment.iter().map(|(name, value)| (*name, value.as_str())))
            .current_dir("/")
            .process_group(0)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// Reads both outputs until the process has ended and they are closed, or a limit is reached.
fn collect(
    child: &mut Child,
    deadline: Instant,
    timeout: Duration,
    output: &mut Output,
) -> Result<(), PluginFailure> {
    let spawn_failure = |source| PluginFailure::Spawn { source };
    let pidfd = sys::pidfd::open(child.id()).map_err(spawn_failure)?;
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    let mut ended = false;
    let mut deadline = deadline;
    while !ended || stdout.is_some() || stderr.is_some() {
        let mut waited = Vec::new();
        waited.extend((!ended).then(|| pidfd.as_fd()));
        waited.extend(stdout.as_ref().map(AsFd::as_fd));
        waited.extend(stderr.as_ref().map(AsFd::as_fd));
        let ready = sys::watch::readable(&waited, Some(deadline)).map_err(spawn_failure)?;
        if !ready.contains(&true) {
            return if ended { Ok(()) } else { Err(PluginFailure::TimedOut { deadline: timeout }) };
        }
        let mut ready = ready.into_iter();
        if !ended && ready.next() == Some(true) {
            ended = true;
            deadline = deadline.min(Instant::now() + LINGER);
        }
        let stdout_ready = stdout.is_some() && ready.next() == Some(true);
        let stderr_ready = stderr.is_some() && ready.next() == Some(true);
        if stdout_ready && !read_some(stdout.as_mut(), &mut output.stdout, STDOUT_LIMIT_BYTES + 1) {
            stdout = None;
        }
        if output.stdout.len() > STDOUT_LIMIT_BYTES {
            return Err(PluginFailure::TooMuchOutput { limit_bytes: STDOUT_LIMIT_BYTES });
        }
        if stderr_ready && !read_some(stderr.as_mut(), &mut output.stderr, STDERR_LIMIT_BYTES) {
            stderr = None;
        }
    }
    Ok(())
}

/// Reads what is there, keeps the first `limit` bytes of all, and says whether there may be more.
fn read_some(source: Option<&mut impl Read>, kept: &mut Vec<u8>, limit: usize) -> bool {
    let mut buffer = [0u8; 16 * 1024];
    let Some(source) = source else { return false };
    match source.read(&mut buffer) {
        Ok(0) => false,
        Ok(n) => {
            let room = limit.saturating_sub(kept.len()).min(n);
            kept.extend_from_slice(&buffer[..room]);
            true
        }
        Err(e) => e.kind() == std::io::ErrorKind::Interrupted,
    }
}

fn interpret(status: ExitStatus, stdout: &[u8]) -> Result<Option<Value>, PluginFailure> {
    if !status.success() {
        if let Ok(Report { code, msg, details }) = serde_json::from_slice(stdout) {
            return Err(PluginFailure::Reported { code, msg, details });
        }
        let text = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => status.to_string(),
        };
        return Err(PluginFailure::Exited { status: text });
    }
    if stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let bad = |problem: String| PluginFailure::BadOutput { problem };
    let value: Value = serde_json::from_slice(stdout).map_err(|e| bad(e.to_string()))?;
    if value.is_object() { Ok(Some(value)) } else { Err(bad("it is not an object".to_owned())) }
}
