//! One more process in a container.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oci::runtime::{Process, Spec};
use runtime::{Child, ChildError, ExecRequest, Host, Progress, SeccompCache, Stdio};

use super::arguments::Exec;
use super::record::{Root, Status};
use super::{create, terminal};

pub(super) fn exec(root: &Root, arguments: &Exec) -> Result<u8> {
    let record = root.load(&arguments.id)?;
    match root.status(&record)? {
        Status::Stopped => bail!("container {} does not run", record.id),
        Status::Paused if !arguments.ignore_paused => bail!("container {} is paused", record.id),
        Status::Created | Status::Running | Status::Paused => {}
    }
    let pidfd = record.running()?;
    let spec = root.spec(&record.id)?;
    let process = process(arguments, &spec)?;
    let with_terminal = process.terminal().unwrap_or(false);
    if with_terminal && arguments.detach && arguments.console_socket.is_none() {
        bail!("a detached process with a terminal needs --console-socket");
    }
    let (columns, rows) = terminal::size_of(process.console_size());
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let host = Host::detect().context("look at the machine")?;
    let env_bytes = home(&spec, Some(&process), &record.rootfs);
    let mut cgroups = record.group()?.dirs();
    if let Some(below) = &arguments.cgroup {
        let path = format!("{}/{}", record.cgroup, below.trim_start_matches('/'));
        cgroups =
            super::record::layout()?.open(&path).with_context(|| format!("find the cgroup {path}"))?.dirs();
    }
    let keyring = record.keyring.then(|| super::record::Record::keyring_name(&record.id));
    let request = ExecRequest {
        pid: record.pid,
        pidfd: pidfd.as_fd(),
        process: &process,
        spec: &spec,
        cgroups,
        stdio: if with_terminal {
            Stdio::Terminal { columns, rows }
        } else {
            Stdio::Fds { stdin: stdin.as_fd(), stdout: stdout.as_fd(), stderr: stderr.as_fd() }
        },
        env_bytes: &env_bytes,
        preserve_fds: arguments.preserve_fds,
        keyring: keyring.as_deref(),
        host: &host,
    };
    let plan = runtime::plan_exec(&request, &mut SeccompCache::default()).context("plan the process")?;
    let mut child = plan.spawn().context("start the process")?;
    if let Err(error) = settle(&mut child) {
        // It has ended or is about to; a zombie would keep the container from ending.
        let _ = sys::pidfd::signal(child.pidfd.as_fd(), 9);
        let _ = sys::pidfd::wait_blocking(child.pidfd.as_fd());
        return Err(error).with_context(|| format!("run a process in container {}", record.id));
    }
    if let Some(path) = &arguments.pid_file {
        create::write_pid(path, child.pid)?;
    }
    let console = child.take_console();
    if arguments.detach || arguments.console_socket.is_some() {
        if let Some(master) = console {
            terminal::hand_over(arguments.console_socket.as_deref(), master)?;
        }
        if arguments.detach {
            return Ok(0);
        }
        return terminal::attend(child.pidfd.as_fd(), None);
    }
    terminal::attend(child.pidfd.as_fd(), console)
}

fn settle(child: &mut Child) -> Result<(), ChildError> {
    while child.wait_blocking()? != Progress::Running {}
    Ok(())
}

/// The process: from a file, or the container's with what the flags change.
fn process(arguments: &Exec, spec: &Spec) -> Result<Process> {
    if let Some(path) = &arguments.process {
        let mut json = super::record::read_json(path)?;
        runtime::correct_names(&mut json);
        let unknown =
            runtime::check_process_members(&json).with_context(|| format!("check {}", path.display()))?;
        super::record::tell_unknown(path, &unknown);
        return serde_json::from_value(json).with_context(|| format!("parse {}", path.display()));
    }
    if arguments.command.is_empty() {
        bail!("no command is given");
    }
    let mut process = spec.process().clone().context("the specification has no process")?;
    process.set_args(Some(arguments.command.clone()));
    process.set_terminal(Some(arguments.tty));
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(arguments.env.iter().cloned());
    process.set_env(Some(env));
    if let Some(cwd) = &arguments.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(user) = &arguments.user {
        let (uid, gid) = parse_user(user)?;
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if !arguments.additional_gids.is_empty() {
        process.user_mut().set_additional_gids(Some(arguments.additional_gids.clone()));
    }
    if arguments.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if arguments.process_label.is_some() {
        process.set_selinux_label(arguments.process_label.clone());
    }
    if arguments.apparmor.is_some() {
        process.set_apparmor_profile(arguments.apparmor.clone());
    }
    if !arguments.cap.is_empty() {
        process.set_capabilities(Some(with_capabilities(&process, &arguments.cap)?));
    }
    Ok(process)
}

fn with_capabilities(process: &Process, names: &[String]) -> Result<oci::runtime::LinuxCapabilities> {
    let mut value = serde_json::to_value(process.capabilities().clone().unwrap_or_default())?;
    for name in names {
        let set = sys::caps::Set::named(name).with_context(|| format!("{name} is no capability"))?;
        for list in ["bounding", "effective", "permitted"] {
            let list = value
                .as_object_mut()
                .map(|object| object.entry(list).or_insert_with(|| serde_json::json!([])));
            if let Some(serde_json::Value::Array(list)) = list {
                list.extend(set.names().map(Into::into));
            }
        }
    }
    Ok(serde_json::from_value(value)?)
}

/// `UID` or `UID:GID`, in digits only.
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |part: &str| -> Result<u32> {
        let digits = !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'));
        let id = digits.then(|| part.parse().ok()).flatten().filter(|id| *id != u32::MAX);
        id.with_context(|| format!("{text:?} is no user: give UID or UID:GID as decimal numbers"))
    };
    match text.split_once(':') {
        None => Ok((number(text)?, None)),
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
    }
}

/// `HOME` from the container's own user database, when the process has none.
pub(super) fn home(spec: &Spec, process: Option<&Process>, rootfs: &Path) -> Vec<Vec<u8>> {
    let Some(process) = process else { return Vec::new() };
    let has_home = process.env().iter().flatten().any(|entry| entry.starts_with("HOME="));
    if has_home || spec.process().is_none() {
        return Vec::new();
    }
    let home = home_of(rootfs, process.user().uid()).unwrap_or_else(|| "/".to_owned());
    vec![format!("HOME={home}").into_bytes()]
}

fn home_of(rootfs: &Path, uid: u32) -> Option<String> {
    use std::io::Read;
    const MAX_BYTES: u64 = 1 << 20;
    let root = std::fs::File::open(rootfs).ok()?;
    let flags = sys::path::OFlags::RDONLY | sys::path::OFlags::NONBLOCK;
    let file = sys::path::open_in_root(root.as_fd(), Path::new("etc/passwd"), flags).ok()?;
    let mut text = String::new();
    std::fs::File::from(file).take(MAX_BYTES).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).map(|home| (*home).to_owned()))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_plain_numbers() {
        assert_eq!(parse_user("0").unwrap(), (0, None));
        assert_eq!(parse_user("1000:5").unwrap(), (1000, Some(5)));
        for text in ["", "0x0", "+0", "1:", ":1", "4294967296", "4294967295", "-1", "01", "1:2:3", " 1"] {
            parse_user(text).unwrap_err();
        }
    }
}
