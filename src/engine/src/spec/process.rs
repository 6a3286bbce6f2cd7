//! The process: command line, environment, user, capabilities, limits.

use oci::runtime::{
    LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, User,
    UserBuilder,
};

use super::{Input, bug, capabilities};
use crate::error::{Error, Result};
use crate::model::{AppArmor, ContainerConfig, ExecConfig, ResolvedUser};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Environment, split by what the runtime specification can carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// `NAME=value`, UTF-8.
    pub(crate) text: Vec<String>,
    /// `NAME=value` where the value is not UTF-8.
    pub(crate) bytes: Vec<Vec<u8>>,
}

impl Environment {
    /// The image's environment overlaid by the request's; a later entry of a name wins.
    pub(crate) fn of(
        config: &ContainerConfig,
        image: &oci::image::ImageConfiguration,
        hostname: &str,
        home: &str,
    ) -> Self {
        let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
        let mut put =
            |name: &str, value: &[u8], overwrite: bool| match entries.iter_mut().find(|(n, _)| n == name) {
                Some(entry) if overwrite => entry.1 = value.to_vec(),
                Some(_) => {}
                None => entries.push((name.to_owned(), value.to_vec())),
            };
        put("PATH", DEFAULT_PATH.as_bytes(), true);
        if config.tty {
            put("TERM", b"xterm", true);
        }
        put("HOSTNAME", hostname.as_bytes(), true);
        let image_env = image.config().as_ref().and_then(|c| c.env().as_ref()).into_iter().flatten();
        for entry in image_env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            put(name, value.as_bytes(), true);
        }
        for (name, value) in &config.env {
            put(name, value, true);
        }
        put("HOME", home.as_bytes(), false);
        let mut environment = Self::default();
        for (name, value) in entries {
            match String::from_utf8(value) {
                Ok(value) => environment.text.push(format!("{name}={value}")),
                Err(error) => environment.bytes.push([name.as_bytes(), b"=", error.as_bytes()].concat()),
            }
        }
        environment
    }
}

/// The program and its arguments: the request's command replaces the image's entry point and then its
/// command, too.
pub(crate) fn command_line(
    config: &ContainerConfig,
    image: &oci::image::ImageConfiguration,
) -> Result<Vec<String>> {
    let of_image = image.config().as_ref();
    let entrypoint = of_image.and_then(|c| c.entrypoint().clone()).unwrap_or_default();
    let cmd = of_image.and_then(|c| c.cmd().clone()).unwrap_or_default();
    let (mut line, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (config.command.clone(), config.args.clone()),
        (true, false) => (entrypoint, config.args.clone()),
        (true, true) => (entrypoint, cmd),
    };
    line.extend(args);
    if line.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(format!(
            "no command: neither the request nor image {:?} names one",
            config.image
        )));
    }
    Ok(line)
}

pub(super) fn build(input: &Input<'_>) -> Result<Process> {
    let config = input.config;
    let environment = Environment::of(config, input.image, input.hostname, input.home);
    let image_dir = input.image.config().as_ref().and_then(|c| c.working_dir().clone()).unwrap_or_default();
    let cwd = [config.working_dir.as_str(), image_dir.as_str(), "/"]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .unwrap_or("/")
        .to_owned();
    if !cwd.starts_with('/') {
        return Err(Error::invalid(format!("working directory {cwd:?} is not absolute")));
    }
    let mut builder = ProcessBuilder::default()
        .terminal(config.tty)
        .user(user(input.user)?)
        .args(command_line(config, input.image)?)
        .env(environment.text)
        .cwd(cwd)
        .no_new_privileges(config.security.no_new_privs && !config.security.privileged)
        .capabilities(capabilities::sets(&config.security, &input.defaults.capabilities, input.host)?)
        .rlimits(rlimits(input)?);
    if let Some(score) = config.resources.oom_score_adj {
        builder = builder.oom_score_adj(score);
    }
    let profile = match &config.security.apparmor {
        AppArmor::Profile(name) => Some(name.clone()),
        AppArmor::Default | AppArmor::RuntimeDefault
            if input.host.apparmor.default_loaded && !config.security.privileged =>
        {
            Some(crate::apparmor::DEFAULT_PROFILE.to_owned())
        }
        AppArmor::Default | AppArmor::RuntimeDefault | AppArmor::Unconfined => None,
    };
    if let Some(profile) = profile {
        builder = builder.apparmor_profile(profile);
    }
    if let Some(label) = config.security.selinux.as_ref().filter(|_| input.host.selinux) {
        builder =
            builder.selinux_label(format!("{}:{}:{}:{}", label.user, label.role, label.type_, label.level));
    }
    let mut process = builder.build().map_err(bug)?;
    process.set_console_size(None);
    Ok(process)
}

fn user(resolved: &ResolvedUser) -> Result<User> {
    UserBuilder::default()
        .uid(resolved.uid)
        .gid(resolved.gid)
        .additional_gids(resolved.groups.clone())
        .build()
        .map_err(bug)
}

fn rlimits(input: &Input<'_>) -> Result<Vec<PosixRlimit>> {
    let limit = |kind: PosixRlimitType, soft: u64, hard: u64| {
        PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().map_err(bug)
    };
    let mut all = Vec::new();
    for asked in &input.config.rlimits {
        let kind: PosixRlimitType = format!("RLIMIT_{}", asked.name.to_ascii_uppercase())
            .parse()
            .map_err(|_| Error::invalid(format!("there is no limit of processes called {:?}", asked.name)))?;
        all.push(limit(kind, asked.soft, asked.hard)?);
    }
    let own = input.config.rlimits.iter().any(|asked| asked.name.eq_ignore_ascii_case("nofile"));
    if let (Some((soft, hard)), false) = (input.defaults.nofile, own) {
        let hard = hard.min(input.host.nofile_hard);
        all.push(limit(PosixRlimitType::RlimitNofile, soft.min(hard), hard)?);
    }
    Ok(all)
}

/// A process to run beside the first one: the container's own, with another command line. It gets no
/// capability that the container does not have unless it asks to be privileged.
pub(crate) fn exec_process(
    first: &Process,
    config: &ExecConfig,
    user: Option<&ResolvedUser>,
    all: Option<LinuxCapabilities>,
) -> Result<Process> {
    let mut process = first.clone();
    if config.command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("no command to execute"));
    }
    process.set_args(Some(config.command.clone()));
    process.set_terminal(Some(config.tty));
    // The keeper sets the terminal's size.
    process.set_console_size(None);
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(config.env.iter().cloned());
    if config.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    process.set_env(Some(env));
    if !config.working_dir.is_empty() {
        process.set_cwd(config.working_dir.clone().into());
    }
    if let Some(user_of) = user {
        process.set_user(self::user(user_of)?);
    }
    if let Some(all) = all {
        process.set_capabilities(Some(all));
        process.set_no_new_privileges(Some(false));
    }
    Ok(process)
}
