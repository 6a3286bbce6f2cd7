//! How the peers are configured and started: as close to their defaults as this kind of host allows.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::lab::Lab;

/// Where Debian puts its plugins.
const CNI_DIR: &str = "/usr/lib/cni";
/// What containers of a pod hang on with the peers.
pub(super) const PAUSE: &str = "registry.k8s.io/pause:3.10";

/// A distribution's program.
pub(super) fn runtime(name: &str) -> Result<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .into_iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed"))
}

/// containerd's configuration with one OCI runtime.
pub(super) fn containerd_configuration(
    name: &str,
    dir: &Path,
    state: &Path,
    socket: &Path,
) -> Result<String> {
    let runtime = runtime(name)?;
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    Ok(format!(
        r#"version = 4
root = {root}
state = {state}
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.image-verifier.v1.bindir"]
imports = []

[plugins."io.containerd.server.v1.grpc"]
  address = {socket}
[plugins."io.containerd.server.v1.ttrpc"]
  address = {ttrpc}
[plugins."io.containerd.internal.v1.opt"]
  path = {opt}

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = {hosts}

[plugins."io.containerd.cri.v1.runtime"]
  # A process without CAP_SYS_RESOURCE cannot lower it.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "bench"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.bench]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.bench.options]
  BinaryName = {runtime}
  Root = {runtime_root}
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{CNI_DIR}"]
  conf_dir = {conflists}
"#,
        root = quoted(dir.join("root")),
        state = quoted(state.join("state")),
        socket = quoted(socket.to_owned()),
        ttrpc = quoted(socket.with_extension("ttrpc")),
        opt = quoted(dir.join("opt")),
        hosts = quoted(dir.join("certs.d")),
        conflists = quoted(dir.join("net.d")),
        runtime = quoted(runtime),
        runtime_root = quoted(state.join("runtime")),
    ))
}

/// The command that starts containerd. Shims are found through `PATH`.
pub(super) fn containerd(config: &Path, runtime: &str) -> Result<Command> {
    let program = Lab::tool("containerd")?;
    let tools = program.parent().context("containerd has no directory")?;
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = if runtime == "crun" && hybrid() {
        // Debian's crun refuses hosts that have both hierarchies: it gets to see one. The process stays the
        // same, for the shell and unshare replace themselves.
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "umount -l /sys/fs/cgroup/unified && exec \"$@\"", "sh"]);
        command.arg(&program);
        command
    } else {
        Command::new(&program)
    };
    command.env("PATH", path).arg("--config").arg(config).args(["--log-level", "warn"]);
    Ok(command)
}

/// Whether version 1 and 2 of cgroups are both mounted.
pub(super) fn hybrid() -> bool {
    Path::new("/sys/fs/cgroup/unified/cgroup.procs").is_file()
}

/// CRI-O's configuration with crun.
pub(super) fn crio_configuration(dir: &Path, state: &Path, socket: &Path) -> Result<String> {
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    Ok(format!(
        r#"[crio]
root = {root}
runroot = {runroot}
log_dir = {logs}
version_file = {version}
clean_shutdown_file = {clean}
storage_driver = "overlay"
[crio.api]
listen = {socket}
[crio.image]
pause_image = "{PAUSE}"
signature_policy = {policy}
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
default_runtime = "crun"
container_exits_dir = {exits}
container_attach_socket_dir = {attach}
namespaces_dir = {namespaces}
[crio.runtime.runtimes.crun]
runtime_path = {runtime}
monitor_path = {monitor}
runtime_root = {runtime_root}
[crio.network]
network_dir = {conflists}
plugin_dirs = ["{CNI_DIR}"]
"#,
        root = quoted(dir.join("root")),
        runroot = quoted(state.join("storage")),
        logs = quoted(dir.join("pods")),
        version = quoted(state.join("version")),
        clean = quoted(dir.join("clean")),
        socket = quoted(socket.to_owned()),
        policy = quoted(dir.join("policy.json")),
        exits = quoted(state.join("exits")),
        attach = quoted(state.join("attach")),
        namespaces = quoted(state.join("ns")),
        runtime = quoted(runtime("crun")?),
        monitor = quoted(runtime("conmon")?),
        runtime_root = quoted(state.join("runtime")),
        conflists = quoted(dir.join("net.d")),
    ))
}

/// The command that starts CRI-O.
pub(super) fn crio(config: &Path) -> Result<Command> {
    let mut command = Command::new(Lab::tool("crio")?);
    command.arg("--config").arg(config).args(["--config-dir", ""]);
    Ok(command)
}
