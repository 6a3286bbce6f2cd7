//! Containers of external OCI runtimes: `create`, `start`, `exec --detach` and `delete` of their binaries.
//!
//! The container's first process is an orphan as soon as `create` has ended, and so becomes ours. Its pid is
//! read from the pid file; no orphan is reaped while a runtime's command runs, so the pid cannot be another's.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sys::pidfd::WaitStatus;
use sys::socket::Listener;

use super::births::{ChildEnds, How, LogState};
use super::builtin::Parts;
use super::failure::{invalid, io};
use super::reap::Owner;
use super::tools::Purpose;
use super::{Keeper, SIGKILL};
use crate::protocol::{Exec, Failure, FailureKind};

/// Most bytes of a runtime's log that are looked at for its last message.
const LOG_BYTES: usize = 64 * 1024;

/// Which runtime, and its name for the container.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct ExternalRuntime {
    pub(super) program: PathBuf,
    pub(super) root: PathBuf,
    pub(super) systemd_cgroup: bool,
    pub(super) id: String,
}

impl ExternalRuntime {
    fn command(&self, log: Option<&Path>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        if let Some(log) = log {
            command.arg("--log").arg(log).args(["--log-format", "json"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// A process on its way, in an external runtime's hands.
#[derive(Debug)]
pub(super) struct External {
    pub(super) runtime: ExternalRuntime,
    /// Small files of this one start; removed with this.
    directory: Directory,
    /// The command that runs now.
    pub(super) tool: Option<u64>,
    console: Option<Listener>,
    phase: Phase,
    /// The process, once the runtime has made it.
    pub(super) parts: Option<Parts>,
    /// How the process ended, if it did before its start was complete.
    pub(super) ended: Option<WaitStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Creating,
    Created,
    Starting,
    Execing,
    Deleting,
    Gone,
}

#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // Best effort: the state directory dies with the boot.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl External {
    pub(super) fn new(runtime: ExternalRuntime, state: &Path) -> Result<External, Failure> {
        let random = sys::fs::random_bytes::<8>().map_err(|error| io("get random bytes", &error))?;
        let name = format!("start-{:016x}", u64::from_ne_bytes(random));
        let path = state.join(name);
        sys::fs::ensure_directory(&path, 0o700)
            .map_err(|error| io(&format!("create {}", path.display()), &error))?;
        let directory = Directory(path);
        Ok(External {
            runtime,
            directory,
            tool: None,
            console: None,
            phase: Phase::Creating,
            parts: None,
            ended: None,
        })
    }

    pub(super) fn create_with_pipes(&self, bundle: &Path, ends: ChildEnds) -> Command {
        let mut command = self.create(bundle);
        command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr).arg(&self.runtime.id);
        command
    }

    pub(super) fn create_with_terminal(&mut self, bundle: &Path) -> Result<Command, Failure> {
        let mut command = self.create(bundle);
        command.arg("--console-socket").arg(self.listen()?).arg(&self.runtime.id);
        Ok(command)
    }

    pub(super) fn exec(&mut self, exec: &Exec, ends: Option<ChildEnds>) -> Result<Command, Failure> {
        self.phase = Phase::Execing;
        let process = self.file("process.json");
        let json = serde_json::to_vec(&exec.process).map_err(|error| invalid(format!("process: {error}")))?;
        sys::fs::write_volatile(&process, &json, 0o600)
            .map_err(|error| io(&format!("write {}", process.display()), &error))?;
        let mut command = self.runtime.command(Some(&self.file("log.json")));
        command.args(["exec", "--detach", "--pid-file"]).arg(self.file("pid")).arg("--process").arg(process);
        match ends {
            Some(ends) => {
                command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr);
            }
            None => {
                command.arg("--console-socket").arg(self.listen()?);
            }
        }
        command.arg(&self.runtime.id);
        Ok(command)
    }

    fn create(&self, bundle: &Path) -> Command {
        let mut command = self.runtime.command(Some(&self.file("log.json")));
        command.args(["create", "--bundle"]).arg(bundle).arg("--pid-file").arg(self.file("pid"));
        command
    }

    fn listen(&mut self) -> Result<PathBuf, Failure> {
        let path = self.file("console");
        let listener = Listener::bind(&path, 0o600).map_err(|error| io("listen for the terminal", &error))?;
        self.console = Some(listener);
        Ok(path)
    }

    /// The terminal that the runtime has sent before its command ended.
    fn take_console(&mut self) -> Result<Option<OwnedFd>, Failure> {
        let Some(listener) = self.console.take() else { return Ok(None) };
        let mut fds = Vec::new();
        let received = listener.accept().and_then(|stream| match stream {
            Some(stream) => stream.recv(&mut [0; 4096], &mut fds).map(|_| ()),
            None => Ok(()),
        });
        received.map_err(|error| io("receive the terminal from the runtime", &error))?;
        let missing = || Failure {
            kind: FailureKind::Internal,
            message: format!("{} sent no terminal", self.runtime.program.display()),
            errno: None,
        };
        fds.into_iter().next().map(Some).ok_or_else(missing)
    }

    fn read_parts(&self) -> Result<Parts, Failure> {
        let path = self.file("pid");
        let wrong = |what: &dyn std::fmt::Display| Failure {
            kind: FailureKind::Internal,
            message: format!("pid file of {}: {what}", self.runtime.program.display()),
            errno: None,
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        let pid: u32 = text.trim().parse().map_err(|error| wrong(&error))?;
        let pidfd = sys::pidfd::open(pid).map_err(|error| io(&format!("open pidfd of {pid}"), &error))?;
        let start_time =
            sys::pidfd::start_time(pid).map_err(|error| io(&format!("read start of {pid}"), &error))?;
        Ok(Parts { pid, pidfd, start_time })
    }

    /// What the runtime said last, as a failure.
    fn complaint(&self, status: WaitStatus) -> Failure {
        let log = std::fs::read(self.file("log.json")).unwrap_or_default();
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_BYTES)..]).into_owned();
        let message_of = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            value.get("msg").and_then(|message| message.as_str().map(str::to_owned))
        };
        let said = tail.lines().rev().find_map(message_of).unwrap_or_else(|| match status {
            WaitStatus::Exited(code) => format!("exit code {code} and no message"),
            WaitStatus::Signaled(signal) => format!("killed by signal {signal}"),
        });
        let message = format!("{}: {said}", self.runtime.program.display());
        Failure { kind: kind_of_message(&said), message, errno: None }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }
}

impl Keeper {
    /// A command of a birth's runtime has ended.
    pub(super) fn external_step(&mut self, number: u64, status: WaitStatus) {
        let Some(birth) = self.births.get_mut(&number) else { return };
        let How::External(external) = &mut birth.how else { return };
        external.tool = None;
        if external.phase == Phase::Deleting {
            external.phase = Phase::Gone;
            return self.abort_external(number);
        }
        if birth.failure.is_none() && status != WaitStatus::Exited(0) {
            birth.failure = Some(external.complaint(status));
        }
        let result = match external.phase {
            Phase::Creating | Phase::Execing if birth.failure.is_none() => {
                external.read_parts().and_then(|parts| {
                    self.owners.insert(parts.pid, Owner::Birth(number));
                    external.parts = Some(parts);
                    birth.stdio.terminal = external.take_console()?;
                    Ok(())
                })
            }
            _ => Ok(()),
        };
        if let Err(failure) = result {
            birth.failure = Some(failure);
        }
        match (birth.failure.is_some(), external.phase) {
            (true, _) => self.abort_external(number),
            (false, Phase::Creating) => {
                external.phase = Phase::Created;
                self.start_external(number);
            }
            (false, _) => {
                let (id, ended, pid) =
                    (birth.id.clone(), external.ended, external.parts.as_ref().map(|parts| parts.pid));
                self.born(number);
                if let (Some(status), Some(pid)) = (ended, pid) {
                    self.owners.remove(&pid);
                    self.process_ended(&id, status);
                }
            }
        }
    }

    /// Runs `start` if the container is created and its log is open.
    pub(super) fn start_external(&mut self, number: u64) {
        let Some(birth) = self.births.get_mut(&number) else { return };
        let How::External(external) = &mut birth.how else { return };
        let log_ready = !matches!(birth.log, LogState::Opening);
        if external.phase != Phase::Created || !log_ready || birth.failure.is_some() {
            return;
        }
        external.phase = Phase::Starting;
        let mut command = external.runtime.command(Some(&external.file("log.json")));
        command.arg("start").arg(&external.runtime.id);
        match self.run_tool(command, Purpose::Birth(number)) {
            Ok(tool) => {
                if let Some(How::External(external)) =
                    self.births.get_mut(&number).map(|birth| &mut birth.how)
                {
                    external.tool = Some(tool);
                }
            }
            Err(failure) => self.abort(number, failure),
        }
    }

    /// One step nearer to nothing being left: the command killed, the process killed, the container deleted.
    pub(super) fn abort_external(&mut self, number: u64) {
        let Some(birth) = self.births.get_mut(&number) else { return };
        let is_exec = birth.exec_in.is_some();
        let How::External(external) = &mut birth.how else { return };
        if let Some(tool) = external.tool {
            if external.phase != Phase::Deleting {
                self.kill_tool(tool);
            }
            return;
        }
        let process_left = external.ended.is_none();
        if let Some(parts) = external.parts.as_ref().filter(|_| process_left) {
            // One that has ended is reaped all the same.
            let _ = sys::pidfd::signal(parts.pidfd.as_fd(), SIGKILL);
        }
        if !is_exec && external.phase != Phase::Gone {
            external.phase = Phase::Deleting;
            let mut command = external.runtime.command(None);
            command.args(["delete", "--force"]).arg(&external.runtime.id);
            match self.run_tool(command, Purpose::Birth(number)) {
                Ok(tool) => return self.note_tool(number, tool),
                Err(failure) => super::warn(&format!("clean up after a failed start: {}", failure.message)),
            }
        }
        let Some(birth) = self.births.get_mut(&number) else { return };
        let How::External(external) = &mut birth.how else { return };
        if external.parts.is_some() && external.ended.is_none() {
            return;
        }
        let failure = birth.failure.take().unwrap_or_else(|| Failure {
            kind: FailureKind::Setup,
            message: format!("{} ended before it was started", birth.id),
            errno: None,
        });
        self.stillborn(number, failure);
    }

    /// Cleans up after a container that has ended.
    pub(super) fn delete_external(&mut self, id: &str, runtime: &ExternalRuntime) {
        let mut command = runtime.command(None);
        command.args(["delete", "--force"]).arg(&runtime.id);
        if let Err(failure) = self.run_tool(command, Purpose::Delete(id.to_owned())) {
            super::warn(&format!("clean up container {id}: {}", failure.message));
            self.deleted(id);
        }
    }

    fn note_tool(&mut self, number: u64, tool: u64) {
        if let Some(How::External(external)) = self.births.get_mut(&number).map(|birth| &mut birth.how) {
            external.tool = Some(tool);
        }
    }
}

/// Runtimes say in words why a program did not run.
fn kind_of_message(message: &str) -> FailureKind {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["executable file", "exec"]) && says(&["not found", "no such file", "No such file"]) {
        FailureKind::ProgramNotFound
    } else if says(&["exec"]) && says(&["permission denied", "Permission denied", "format error"]) {
        FailureKind::ProgramNotExecutable
    } else {
        FailureKind::Setup
    }
}
