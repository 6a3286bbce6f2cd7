//! A node that is a directory: what the chart's scripts call is `e2e/programs/node-stub.sh`.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::{Lab, checkout, run};

/// What kubeadm writes, with more keys around those that are changed.
pub(crate) const KUBELET: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
    cgroupDriver: systemd\nclusterDNS:\n- 10.96.0.10\n\
    containerRuntimeEndpoint: \"unix:///run/containerd/containerd.sock\"\nstaticPodPath: /etc/kubernetes/manifests\n";

/// Two programs do everything that a node's do.
const STUBS: [&str; 9] = ["nsenter", "systemctl", "kubectl", "crictl", "sleep", "mv", "cp", "rm", "rmdir"];

/// A node, its pod and its cluster.
#[derive(Debug)]
pub(crate) struct FakeNode {
    dir: PathBuf,
    /// Name in the cluster.
    pub(crate) name: String,
    /// More environment of the pod, by the chart's values.
    pub(crate) environment: BTreeMap<String, String>,
}

impl FakeNode {
    /// A node with containerd and kubelet, alone in its cluster.
    pub(crate) fn new(lab: &Lab, name: &str) -> Result<FakeNode> {
        let dir = lab.work().join(name);
        if dir.try_exists()? {
            std::fs::remove_dir_all(&dir)?;
        }
        let node = FakeNode { dir, name: "node-a".to_owned(), environment: BTreeMap::new() };
        for below in
            ["stubs", "applets", "state/units", "state/cluster", "sources", "config", "secret", "script"]
        {
            std::fs::create_dir_all(node.dir.join(below))?;
        }
        for stub in STUBS {
            symlink(checkout().join("e2e/programs/node-stub.sh"), node.dir.join("stubs").join(stub))?;
        }
        // The pod has what the image has: the applets of busybox.
        run(Command::new(Lab::tool("busybox")?).args(["--install", "-s"]).arg(node.dir.join("applets")))?;
        for script in ["install.sh", "host.sh"] {
            std::fs::copy(
                checkout().join("charts/berth/files").join(script),
                node.dir.join("script").join(script),
            )?;
        }
        node.host("var/lib/kubelet/config.yaml", KUBELET)?;
        node.host("usr/bin/other", "somebody else's\n")?;
        node.host("etc/systemd/system/kubelet.service", "[Service]\n")?;
        for unit in ["kubelet", "containerd"] {
            for state in ["there", "enabled", "active"] {
                node.state(&format!("units/{unit}.service.{state}"), "")?;
            }
        }
        node.state("cluster/node-a.node", "")?;
        node.version(1)?;
        node.set_config("version = 1\n[metrics]\naddress = \"@NODE_ADDRESS@:9095\"\n")?;
        Ok(node)
    }

    fn state(&self, name: &str, text: &str) -> Result<()> {
        write(&self.dir.join("state").join(name), text, 0o644)
    }

    /// Writes a file of the host.
    pub(crate) fn host(&self, path: &str, text: &str) -> Result<()> {
        write(&self.dir.join("host").join(path), text, 0o644)
    }

    /// Makes a file of the host one that can be run.
    pub(crate) fn make_program(&self, path: &str) -> Result<()> {
        let path = self.dir.join("host").join(path);
        Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?)
    }

    /// Reads a file of the host.
    pub(crate) fn read(&self, path: &str) -> Result<String> {
        let path = self.dir.join("host").join(path);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Whether the host has a path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.dir.join("host").join(path).symlink_metadata().is_ok()
    }

    /// Sets or clears a mark of the stub: a unit's state, what is broken, whose lease it is.
    pub(crate) fn mark(&self, name: &str, set: bool) -> Result<()> {
        if set { self.state(name, "") } else { Ok(std::fs::remove_file(self.dir.join("state").join(name))?) }
    }

    /// Whether the stub has a mark.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.dir.join("state").join(name).symlink_metadata().is_ok()
    }

    /// Makes a command fail from now on.
    pub(crate) fn fail(&self, command: &str) -> Result<()> {
        self.state("fail", &format!("{command}\n"))
    }

    /// Gives the lease to a node.
    pub(crate) fn lease(&self, holder: &str) -> Result<()> {
        self.state("cluster/lease", &format!("spec:\n  holderIdentity: \"{holder}\"\n"))
    }

    /// Puts programs of this version into the image.
    pub(crate) fn version(&self, version: u32) -> Result<()> {
        let sources = self.dir.join("sources");
        let berth = format!(
            "#!/bin/sh\n# version {version}\ncase \"$1\" in\n\
             status) [ ! -e \"$STUB/broken-{version}\" ] && [ -e \"$STUB/units/berth.service.active\" ] ;;\n\
             config) ! grep -q refused \"$HOST$4\" ;;\nesac\n"
        );
        write(&sources.join("programs/berth"), &berth, 0o755)?;
        for program in ["berth-keeper", "berth-runtime"] {
            write(&sources.join("programs").join(program), &format!("{program} {version}\n"), 0o755)?;
        }
        write(&sources.join("crictl"), "#!/bin/sh\nexec \"$STUBS/crictl\" \"$@\"\n", 0o755)?;
        for unit in ["berth.service", "berth-keeper.service"] {
            let text = std::fs::read_to_string(checkout().join("config").join(unit))?;
            write(&sources.join("units").join(unit), &text, 0o644)?;
        }
        Ok(())
    }

    /// Sets the chart's configuration.
    pub(crate) fn set_config(&self, text: &str) -> Result<()> {
        write(&self.dir.join("config/config.toml"), text, 0o400)
    }

    /// Sets a key of the metrics' Secret, or takes it away.
    pub(crate) fn set_secret(&self, key: &str, value: Option<&str>) -> Result<()> {
        let path = self.dir.join("secret").join(key);
        match value {
            Some(value) => write(&path, value, 0o400),
            None => Ok(std::fs::remove_file(path)?),
        }
    }

    fn command(&self, program: &Path, script: &Path, action: &str, path: &str) -> Command {
        let at = |below: &str| self.dir.join(below);
        let mut command = Command::new(program);
        // A group of its own: a power cut ends all of it.
        command.arg(script).arg(action).env_clear().process_group(0);
        command.env("PATH", format!("{}:{path}", at("stubs").display()));
        for (name, value) in [
            ("STUB", at("state")),
            ("STUBS", at("stubs")),
            ("HOST", at("host")),
            ("SOURCES", at("sources")),
            ("CONFIG", at("config")),
            ("SECRET", at("secret")),
        ] {
            command.env(name, value);
        }
        for (name, value) in [
            ("NODE", &*self.name),
            ("NODE_ADDRESS", "192.0.2.10"),
            ("NAMESPACE", "berth-system"),
            ("LEASE", "berth"),
            ("DRAIN", "true"),
            ("DRAIN_TIMEOUT", "10m"),
            ("DRAIN_OPTIONS", "--force"),
            ("BIN_DIR", "/usr/bin"),
            ("UNIT_DIR", "/etc/systemd/system"),
            ("RUNTIME_UNIT", "containerd.service"),
            ("RUNTIME_ENDPOINT", "unix:///run/containerd/containerd.sock"),
            ("KUBELET_UNIT", "kubelet.service"),
            ("KUBELET_CONFIG", "/var/lib/kubelet/config.yaml"),
            ("KUBELET_FLAGS", "/var/lib/kubelet/kubeadm-flags.env"),
            ("CGROUP_DRIVER", "cgroupfs"),
            ("WAIT_SECONDS", "3"),
            ("REMOVE_IMAGES", "false"),
        ] {
            command.env(name, value);
        }
        command.envs(&self.environment).stdin(Stdio::null());
        command
    }

    fn pod(&self, action: &str) -> Command {
        let applets = self.dir.join("applets");
        self.command(
            &applets.join("sh"),
            &self.dir.join("script/install.sh"),
            action,
            &applets.display().to_string(),
        )
    }

    /// Runs the pod's script to its end, and returns what it said.
    pub(crate) fn run(&self, action: &str) -> Result<String> {
        let switched = || std::fs::read_to_string(self.dir.join("state/switch.log")).unwrap_or_default();
        run(&mut self.pod(action)).with_context(|| format!("on the host: {}", switched()))
    }

    /// Runs it when it must fail, and returns what it said.
    pub(crate) fn fails(&self, action: &str) -> Result<String> {
        match self.run(action) {
            Ok(output) => anyhow::bail!("{action} succeeded: {output}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Starts the pod's script, which will have to wait.
    pub(crate) fn spawn(&self, action: &str) -> Result<Child> {
        self.pod(action).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start the script")
    }

    /// Runs it until just before its `number`th effect. False: it has not that many.
    pub(crate) fn interrupt(&self, action: &str, number: u32) -> Result<bool> {
        self.state("count", "0")?;
        let mut command = self.pod(action);
        command.env("DIE_AT", number.to_string());
        let status: ExitStatus = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        Ok(!status.success())
    }

    /// What a machine does that lost its power: services that are enabled are started.
    pub(crate) fn boot(&self) -> Result<()> {
        for unit in ["containerd", "berth-keeper", "berth", "kubelet"] {
            let active = format!("units/{unit}.service.active");
            if self.is(&active) {
                self.mark(&active, false)?;
            }
            if self.is(&format!("units/{unit}.service.enabled")) {
                self.mark(&active, true)?;
            }
        }
        if self.is("units/berth-switch.service.enabled")
            && self.has("etc/systemd/system/berth-switch.service")
        {
            let script = self.dir.join("host/var/lib/berth-install/host.sh");
            let shell = Path::new("/bin/sh");
            run(&mut self.command(shell, &script, "switch", "/usr/sbin:/usr/bin:/sbin:/bin"))?;
        }
        Ok(())
    }

    /// Every effect since [`FakeNode::forget`].
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("state/log")).unwrap_or_default()
    }

    /// Forgets the log.
    pub(crate) fn forget(&self) -> Result<()> {
        self.state("log", "")
    }

    /// The host's files, but what the scripts remember.
    pub(crate) fn files(&self) -> Result<BTreeMap<String, String>> {
        let host = self.dir.join("host");
        let mut files = BTreeMap::new();
        let mut pending = vec![host.clone()];
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(&dir)? {
                let path = entry?.path();
                let name = path.strip_prefix(&host)?.display().to_string();
                if name == "var/lib/berth-install" {
                    continue;
                }
                let meta = path.symlink_metadata()?;
                let content = if meta.is_dir() {
                    pending.push(path);
                    String::new()
                } else if meta.is_symlink() {
                    format!("-> {}", std::fs::read_link(&path)?.display())
                } else {
                    // Busybox keeps no fractions of a second.
                    format!("{}: {}", meta.mtime(), std::fs::read_to_string(&path)?)
                };
                files.insert(name, format!("{:o} {}:{} {content}", meta.mode(), meta.uid(), meta.gid()));
            }
        }
        Ok(files)
    }

    /// Which units are enabled and active.
    pub(crate) fn units(&self) -> Result<Vec<String>> {
        let mut units: Vec<String> = std::fs::read_dir(self.dir.join("state/units"))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        units.sort();
        Ok(units)
    }

    /// That nothing of the node is held back in the cluster.
    pub(crate) fn is_free(&self) -> Result<()> {
        for mark in ["lease", "node-a.cordoned", "node-a.annotated"] {
            ensure!(!self.is(&format!("cluster/{mark}")), "{mark} is left");
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    Ok(())
}
