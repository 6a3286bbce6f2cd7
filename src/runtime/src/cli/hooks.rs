//! Hooks: programs of the host, and of the container, that learn of a container's life.
//!
//! Those of the host run with a clean environment, in `/`, with no descriptor but their standard streams.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use oci::runtime::{Hook, Spec};
use sys::process::{Command, Exec, Files, Op, Program, Script, Step};

use super::record::{Record, Root};

fn list(hooks: Option<&Option<Vec<Hook>>>) -> &[Hook] {
    hooks.and_then(Option::as_deref).unwrap_or_default()
}

/// Those that run in the container before its program.
pub(super) fn start_container(spec: &Spec) -> &[Hook] {
    list(spec.hooks().as_ref().map(|hooks| hooks.start_container()))
}

/// Whether some run while the container is created.
#[allow(deprecated)] // prestart is still what many tools write
pub(super) fn any_at_creation(spec: &Spec) -> bool {
    spec.hooks().as_ref().is_some_and(|hooks| {
        [hooks.prestart(), hooks.create_runtime(), hooks.create_container()]
            .iter()
            .any(|hooks| hooks.is_some())
    })
}

/// Runs those of creation; the first that fails ends it. The state is also written where those of the
/// container will read it.
#[allow(deprecated)]
pub(super) fn at_creation(
    root: &Root,
    record: &Record,
    spec: &Spec,
    container: BorrowedFd<'_>,
    state: &OwnedFd,
) -> Result<()> {
    let text = serde_json::to_vec(&root.hook_state(record, "creating"))?;
    let mut file = File::from(state.try_clone().context("open the state")?);
    file.write_all(&text).and_then(|()| file.rewind()).context("write the state")?;
    let hooks = spec.hooks().as_ref();
    for hook in list(hooks.map(|hooks| hooks.prestart()))
        .iter()
        .chain(list(hooks.map(|hooks| hooks.create_runtime())))
    {
        run(hook, &text)?;
    }
    for hook in list(hooks.map(|hooks| hooks.create_container())) {
        run_inside(hook, container, state)?;
    }
    Ok(())
}

/// Runs those that follow the start; failures are told and change nothing.
pub(super) fn after_start(root: &Root, record: &Record, spec: &Spec) {
    tell(root, record, "running", list(spec.hooks().as_ref().map(|hooks| hooks.poststart())));
}

/// Runs those that follow the end.
pub(super) fn after_stop(root: &Root, record: &Record, spec: &Spec) {
    tell(root, record, "stopped", list(spec.hooks().as_ref().map(|hooks| hooks.poststop())));
}

fn tell(root: &Root, record: &Record, status: &str, hooks: &[Hook]) {
    let text = serde_json::to_vec(&root.hook_state(record, status)).unwrap_or_default();
    for hook in hooks {
        if let Err(error) = run(hook, &text) {
            eprintln!("berth-runtime: warning: {error:#}");
        }
    }
}

fn run(hook: &Hook, state: &[u8]) -> Result<()> {
    let (name, arguments) = match hook.args().as_deref().unwrap_or_default() {
        [] => (None, &[][..]),
        [name, rest @ ..] => (Some(name.into()), rest),
    };
    let variable = |entry: &String| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.into(), value.into())
    };
    let command = Command {
        program: hook.path().clone(),
        name,
        arguments: arguments.iter().map(Into::into).collect(),
        environment: hook.env().iter().flatten().map(variable).collect(),
        directory: None,
        stdin: state.to_vec(),
        timeout: hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
    };
    let output = command.run().with_context(|| format!("run the hook {}", hook.path().display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("the hook {} failed with {}: {}", hook.path().display(), output.status, stderr.trim());
    }
    Ok(())
}

/// Runs a program of the host in the container's namespaces, before its root is the only one.
fn run_inside(hook: &Hook, container: BorrowedFd<'_>, state: &OwnedFd) -> Result<()> {
    use std::ffi::CString;
    let path = hook.path();
    let what = || format!("run the hook {}", path.display());
    let program = File::open(path).with_context(what)?;
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").with_context(what)?;
    let texts = |texts: &Option<Vec<String>>| -> Result<Vec<CString>> {
        Ok(texts.iter().flatten().map(|text| CString::new(text.as_str())).collect::<Result<_, _>>()?)
    };
    let mut arguments = texts(hook.args())?;
    if arguments.is_empty() {
        arguments.push(CString::new(path.as_os_str().as_encoded_bytes())?);
    }
    let mut files = Files::default();
    let (container, state, null) =
        (files.borrow(container), files.borrow(state.as_fd()), files.own(null.into()));
    let program = files.own(program.into());
    let kinds = [sys::ns::Kind::Mount, sys::ns::Kind::Net, sys::ns::Kind::Ipc, sys::ns::Kind::Uts];
    let flags = kinds.iter().fold(0, |flags, kind| flags | kind.clone_flag());
    let exec = Exec { program: Program::File(program), arguments, environment: texts(hook.env())? };
    let ops = [
        Op::Join { fd: container, flags },
        Op::Stdio([state, null, null]),
        Op::CloseOthers { keep: vec![program], preserve: 0 },
        Op::Exec(exec),
    ];
    let script = Script { steps: ops.map(Step::from).into(), files, ..Script::default() };
    let child = script.spawn().with_context(what)?;
    let timeout =
        hook.timeout().and_then(|seconds| i32::try_from(seconds).ok()).map_or(-1, |s| s.saturating_mul(1000));
    if !sys::pidfd::wait_readable(child.pidfd.as_fd(), timeout).with_context(what)? {
        sys::pidfd::signal(child.pidfd.as_fd(), 9).with_context(what)?;
    }
    let status = sys::pidfd::wait_blocking(child.pidfd.as_fd()).with_context(what)?;
    if status.code() != 0 {
        bail!("the hook {} failed with code {}", path.display(), status.code());
    }
    Ok(())
}
