//! Hooks: programs of the host, and of the container, that learn of a container's life.
//!
//! Those of the host run with a clean environment, in `/`, with no descriptor but their standard streams.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use oci::runtime::{Hook, Spec};
use sys::process::Command;

use super::record::{Record, Root};

fn list(hooks: Option<&Option<Vec<Hook>>>) -> &[Hook] {
    hooks.and_then(Option::as_deref).unwrap_or_default()
}

/// Those that run in the namespaces of the container: while it is created, and before its program.
pub(super) fn inside(spec: &Spec) -> (&[Hook], &[Hook]) {
    let hooks = spec.hooks().as_ref();
    (list(hooks.map(|hooks| hooks.create_container())), list(hooks.map(|hooks| hooks.start_container())))
}

/// Whether there are any.
#[allow(deprecated)] // prestart is still what many tools write
pub(super) fn any(spec: &Spec) -> bool {
    spec.hooks().as_ref().is_some_and(|hooks| {
        [
            hooks.prestart(),
            hooks.create_runtime(),
            hooks.create_container(),
            hooks.start_container(),
            hooks.poststart(),
            hooks.poststop(),
        ]
        .into_iter()
        .any(|hooks| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty()))
    })
}

/// Runs those of creation that belong to the host; the first that fails ends it. The state is also written where
/// those in the container's namespaces will read it.
#[allow(deprecated)]
pub(super) fn at_creation(root: &Root, record: &Record, spec: &Spec, state: &OwnedFd) -> Result<()> {
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

fn timeout(hook: &Hook) -> Result<Option<Duration>> {
    let Some(seconds) = hook.timeout() else { return Ok(None) };
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds))),
        _ => bail!("the timeout of hook {} is not above 0", hook.path().display()),
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
        timeout: timeout(hook)?,
    };
    let output = command.run().with_context(|| format!("run the hook {}", hook.path().display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("the hook {} failed with {}: {}", hook.path().display(), output.status, stderr.trim());
    }
    Ok(())
}
