//! What requests become: pure, so compared as values.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use keeper::protocol::NamespaceKind;
use oci::image::ImageConfiguration;
use oci::runtime::{Capability, LinuxNamespaceType, Spec};

use super::*;
use crate::model::{
    ContainerMount, MountSource, NamespaceMode, Propagation, Resources, Rlimit, Security, SelinuxLabel,
};

struct Case {
    config: ContainerConfig,
    sandbox: SandboxConfig,
    image: ImageConfiguration,
    host: HostFacts,
    binds: Vec<BindMount>,
    join: BTreeMap<NamespaceKind, PathBuf>,
}

impl Default for Case {
    fn default() -> Self {
        let image = serde_json::from_value(serde_json::json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] },
            "config": {
                "Entrypoint": ["/entry"], "Cmd": ["arg"], "Env": ["A=image", "PATH=/bin"], "WorkingDir": "/work"
            }
        }))
        .unwrap();
        let host = HostFacts {
            capabilities: ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"].map(str::to_owned).to_vec(),
            kernel: (6, 18),
            nofile_hard: 1024,
            ..HostFacts::default()
        };
        let join = [NamespaceKind::Net, NamespaceKind::Uts, NamespaceKind::Ipc]
            .map(|kind| (kind, PathBuf::from("/proc/self/fd/9")))
            .into();
        Self {
            config: ContainerConfig::default(),
            sandbox: SandboxConfig::default(),
            image,
            host,
            binds: Vec::new(),
            join,
        }
    }
}

fn defaults() -> ContainerDefaults {
    ContainerDefaults {
        seccomp_profile: None,
        seccomp_dir: "/seccomp".into(),
        cdi_dirs: Vec::new(),
        capabilities: vec!["CHOWN".into(), "KILL".into()],
        shm_size_bytes: 64 << 20,
        unprivileged_ports: true,
        nofile: Some((2048, 4096)),
        selinux: false,
    }
}

impl Case {
    fn build(&self) -> Result<Spec> {
        let files = SandboxFiles {
            resolv_conf: "/s/resolv.conf".into(),
            hostname: "/s/hostname".into(),
            hosts: "/s/hosts".into(),
            shm: "/s/shm".into(),
        };
        build(&Input {
            config: &self.config,
            sandbox: &self.sandbox,
            image: &self.image,
            user: &ResolvedUser { uid: 5, gid: 6, groups: vec![6, 7] },
            home: "/home/me",
            hostname: "host",
            host: &self.host,
            defaults: &defaults(),
            files: &files,
            binds: &self.binds,
            devices: &[],
            seccomp: None,
            cgroups_path: "/berth/c1",
            rootfs: Path::new("/b/rootfs"),
            join: &self.join,
            annotations: HashMap::new(),
        })
    }

    fn env(&self) -> Vec<String> {
        self.build().unwrap().process().as_ref().unwrap().env().clone().unwrap()
    }

    fn args(&self) -> Vec<String> {
        self.build().unwrap().process().as_ref().unwrap().args().clone().unwrap()
    }

    fn namespaces(&self) -> Vec<LinuxNamespaceType> {
        let spec = self.build().unwrap();
        let linux = spec.linux().clone().unwrap();
        linux.namespaces().clone().unwrap().iter().map(oci::runtime::LinuxNamespace::typ).collect()
    }

    fn mounts(&self) -> Vec<String> {
        let spec = self.build().unwrap();
        let show = |m: &oci::runtime::Mount| {
            format!("{} {}", m.destination().display(), m.options().clone().unwrap_or_default().join(","))
        };
        spec.mounts().clone().unwrap().iter().map(show).collect()
    }
}

#[test]
fn environment_is_the_images_overlaid_by_the_requests() {
    let mut case = Case::default();
    assert_eq!(case.env(), ["PATH=/bin", "HOSTNAME=host", "A=image", "HOME=/home/me"]);
    case.config.env = vec![("A".into(), b"mine".to_vec()), ("B".into(), vec![0xff])];
    case.config.tty = true;
    assert_eq!(case.env(), ["PATH=/bin", "TERM=xterm", "HOSTNAME=host", "A=mine", "HOME=/home/me"]);
    let environment = Environment::of(&case.config, &case.image, "host", "/");
    assert_eq!(environment.bytes, [b"B=\xff".to_vec()]);
}

#[test]
fn command_replaces_entry_point_and_command() {
    let mut case = Case::default();
    assert_eq!(case.args(), ["/entry", "arg"]);
    case.config.args = vec!["x".into()];
    assert_eq!(case.args(), ["/entry", "x"]);
    case.config.command = vec!["/cmd".into()];
    assert_eq!(case.args(), ["/cmd", "x"]);
    case.config.args.clear();
    assert_eq!(case.args(), ["/cmd"]);
    case.config.command.clear();
    case.image = serde_json::from_str(
        r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#,
    )
    .unwrap();
    assert!(case.build().unwrap_err().to_string().contains("no command"));
}

#[test]
fn inheritable_capabilities_are_ambient_ones_only() {
    let mut case = Case::default();
    let caps = |case: &Case| case.build().unwrap().process().clone().unwrap().capabilities().clone().unwrap();
    let default = caps(&case);
    assert_eq!(default.bounding().clone().unwrap(), [Capability::Chown, Capability::Kill].into());
    assert_eq!(default.inheritable().clone().unwrap_or_default(), HashSet::new());
    case.config.security.capabilities.drop = vec!["ALL".into()];
    case.config.security.capabilities.add = vec!["sys_admin".into()];
    assert_eq!(caps(&case).effective().clone().unwrap(), [Capability::SysAdmin].into());
    case.config.security.capabilities.ambient = vec!["CAP_KILL".into()];
    let with_ambient = caps(&case);
    assert_eq!(with_ambient.ambient().clone().unwrap(), [Capability::Kill].into());
    assert_eq!(with_ambient.inheritable().clone().unwrap(), [Capability::Kill].into());
    case.config.security.capabilities.add = vec!["FLY".into()];
    assert!(case.build().is_err());
}

#[test]
fn privileged_needs_a_privileged_sandbox_and_gets_what_the_daemon_has() {
    let mut case = Case::default();
    case.config.security.privileged = true;
    case.config.security.masked_paths = vec!["/proc/kcore".into()];
    assert!(case.build().is_err());
    case.sandbox.privileged = true;
    let spec = case.build().unwrap();
    let linux = spec.linux().clone().unwrap();
    assert_eq!(linux.masked_paths().clone().unwrap_or_default(), Vec::<String>::new());
    let bounding =
        spec.process().clone().unwrap().capabilities().clone().unwrap().bounding().clone().unwrap();
    assert_eq!(bounding.len(), case.host.capabilities.len());
}

#[test]
fn limits_of_processes_go_over_those_of_the_node() {
    let limits = |case: &Case| {
        let limits = case.build().unwrap().process().as_ref().unwrap().rlimits().clone().unwrap_or_default();
        limits.iter().map(|l| format!("{} {} {}", l.typ(), l.soft(), l.hard())).collect::<Vec<_>>()
    };
    let mut case = Case::default();
    let usual = limits(&case);
    case.config.rlimits = vec![Rlimit { name: "core".into(), soft: 0, hard: 9 }];
    let core = "RLIMIT_CORE 0 9".to_owned();
    assert_eq!(limits(&case), [vec![core], usual].concat());
    case.config.rlimits = vec![Rlimit { name: "nofile".into(), soft: 7, hard: 8 }];
    assert_eq!(limits(&case), ["RLIMIT_NOFILE 7 8"]);
    case.config.rlimits = vec![Rlimit { name: "files".into(), soft: 7, hard: 8 }];
    assert!(case.build().is_err());
}

#[test]
fn namespaces_are_joined_made_or_the_hosts() {
    use LinuxNamespaceType as T;
    let mut case = Case::default();
    assert_eq!(case.namespaces(), [T::Mount, T::Network, T::Ipc, T::Uts]);
    case.sandbox.namespaces.pid = NamespaceMode::Container;
    assert_eq!(case.namespaces(), [T::Mount, T::Network, T::Ipc, T::Uts, T::Pid]);
    case.config.security.pid = Some(NamespaceMode::Host);
    assert_eq!(case.namespaces(), [T::Mount, T::Network, T::Ipc, T::Uts]);
    case.host.cgroup_v2 = true;
    case.join.clear();
    assert_eq!(case.namespaces(), [T::Mount, T::Cgroup]);
}

#[test]
fn mounts_of_the_request_replace_the_standard_ones_and_come_parents_first() {
    let mut case = Case::default();
    let bind = |destination: &str, readonly: bool, propagation: Propagation| BindMount {
        source: Some("/src".into()),
        asked: ContainerMount {
            destination: destination.into(),
            source: MountSource::Host("/src".into()),
            readonly,
            non_recursive: false,
            recursive_readonly: readonly,
            propagation,
            id_maps: None,
            selinux_relabel: false,
            options: vec!["noexec".into()],
        },
    };
    case.binds = vec![
        bind("/a/b", true, Propagation::Private),
        bind("/a", false, Propagation::Bidirectional),
        bind("/etc/hosts", false, Propagation::Private),
    ];
    let mounts = case.mounts();
    assert_eq!(mounts.iter().filter(|m| m.starts_with("/etc/hosts ")).count(), 1);
    let position =
        |text: &str| mounts.iter().position(|m| m == text).unwrap_or_else(|| panic!("{text} in {mounts:?}"));
    assert!(position("/a rbind,rshared,rw,noexec") < position("/a/b rbind,rprivate,rro,noexec"));
    let linux = case.build().unwrap().linux().clone().unwrap();
    assert_eq!(linux.rootfs_propagation().as_deref(), Some("rshared"));
}

#[test]
fn what_the_kernel_lacks_is_an_error() {
    let label = SelinuxLabel { level: "s0:c1".into(), ..SelinuxLabel::default() };
    for security in [
        Security { apparmor: AppArmor::RuntimeDefault, ..Security::default() },
        Security { apparmor: AppArmor::Profile("mine".into()), ..Security::default() },
        Security { selinux: Some(label), ..Security::default() },
    ] {
        let mut case = Case::default();
        case.config.security = security;
        assert_eq!(case.build().unwrap_err().kind(), crate::ErrorKind::Unsupported);
    }
}

#[test]
fn limits_are_checked() {
    let memory = |limit| Resources { memory_limit_bytes: Some(limit), ..Resources::default() };
    let swap = *limits(&memory(1 << 20)).unwrap().memory().as_ref().unwrap();
    assert_eq!((swap.limit(), swap.swap()), (Some(1 << 20), Some(1 << 20)));
    for bad in [
        Resources { oom_score_adj: Some(5000), ..Resources::default() },
        memory(-2),
        Resources { memory_limit_bytes: Some(10), memory_swap_limit_bytes: Some(5), ..Resources::default() },
        Resources { cpu_quota_us: Some(1), ..Resources::default() },
        Resources { cpu_period_us: Some(1), ..Resources::default() },
        Resources { unified: [("a/b".into(), "1".into())].into(), ..Resources::default() },
    ] {
        assert_eq!(limits(&bad).unwrap_err().kind(), crate::ErrorKind::InvalidArgument, "{bad:?}");
    }
}

#[test]
fn sysctls_of_the_host_are_refused() {
    let own = crate::model::Namespaces::default();
    let host =
        crate::model::Namespaces { network: NamespaceMode::Host, ipc: NamespaceMode::Host, ..own.clone() };
    let check =
        |name: &str, value: &str, modes| check_sysctls(&[(name.to_owned(), value.to_owned())].into(), modes);
    for good in ["net.ipv4.ip_forward", "net/ipv4/ip_forward", "kernel.shmmax", "fs.mqueue.msg_max"] {
        assert!(check(good, "1", &own).is_ok(), "{good}");
        assert!(check(good, "1", &host).is_err(), "{good} on the host");
    }
    for bad in
        ["kernel.core_pattern", "vm.swappiness", "net..x", "../kernel", "net.ipv4.a\nb", "", "kernel.shm=1"]
    {
        assert!(check(bad, "1", &own).is_err(), "{bad}");
    }
    assert!(check("net.ipv4.ip_forward", "1\nkernel.core_pattern=x", &own).is_err());
}
