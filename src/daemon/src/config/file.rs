//! The shape of the configuration file.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

table! {
    /// The whole file.
    File {
        version: u32 = 1,
        root: String = "/var/lib/berth".into(),
        state: String = "/run/berth".into(),
        default_runtime: String = "berth".into(),
        log: Log = Log::default(),
        cri: Cri = Cri::default(),
        docker: Docker = Docker::default(),
        streaming: Streaming = Streaming::default(),
        metrics: Metrics = Metrics::default(),
        tracing: Tracing = Tracing::default(),
        keeper: Keeper = Keeper::default(),
        cgroups: Cgroups = Cgroups::default(),
        runtimes: BTreeMap<String, Runtime> = BTreeMap::from([("berth".to_owned(), Runtime::default())]),
        network: Network = Network::default(),
        registry: Registry = Registry::default(),
        images: Images = Images::default(),
        containers: Containers = Containers::default(),
    }
}

table! {
    Log {
        level: String = "info".into(),
        format: String = "text".into(),
    }
}

table! {
    Cri {
        socket: String = String::new(),
        group: String = String::new(),
    }
}

table! {
    Docker {
        enabled: bool = true,
        socket: String = String::new(),
        mode: String = "0660".into(),
        group: String = String::new(),
    }
}

table! {
    Streaming {
        address: String = "127.0.0.1:0".into(),
        tls_certificate: String = String::new(),
        tls_key: String = String::new(),
    }
}

table! {
    Metrics {
        address: String = String::new(),
        containers: bool = false,
        tls_certificate: String = String::new(),
        tls_key: String = String::new(),
        bearer_token_file: String = String::new(),
    }
}

table! {
    Tracing {
        endpoint: String = String::new(),
        sampling_ratio: f64 = 1.0,
        service_name: String = "berth".into(),
        ca: String = String::new(),
    }
}

table! {
    Keeper {
        socket: String = String::new(),
        start: bool = true,
        program: String = String::new(),
    }
}

table! {
    Cgroups {
        root: String = "/sys/fs/cgroup".into(),
        driver: String = "cgroupfs".into(),
        parent: String = "/berth".into(),
    }
}

table! {
    Runtime {
        r#type: String = String::new(),
        path: String = String::new(),
        root: String = String::new(),
        pod_annotations: Vec<String> = Vec::new(),
        container_annotations: Vec<String> = Vec::new(),
        privileged_without_host_devices: bool = false,
        network_conf_dir: String = String::new(),
    }
}

table! {
    Network {
        conf_dir: String = "/etc/cni/net.d".into(),
        bin_dirs: Vec<String> = vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        default_subnets: Vec<String> = vec!["10.88.0.0/16".into()],
        plugin_timeout_s: u64 = 60,
        user_bridge: String = "berth1".into(),
        user_bridge_address: String = String::new(),
        user_bridge_mtu: u32 = 0,
        address_pools: Vec<String> = Vec::new(),
        publish_address: String = String::new(),
    }
}

table! {
    Registry {
        config_path: String = "/etc/berth/certs.d".into(),
        credentials: BTreeMap<String, Credentials> = BTreeMap::new(),
    }
}

table! {
    Credentials {
        username: String = String::new(),
        password: String = String::new(),
        identity_token: String = String::new(),
        registry_token: String = String::new(),
    }
}

table! {
    Images {
        pinned: Vec<String> = Vec::new(),
        max_concurrent_downloads: usize = 3,
        progress_timeout_s: u64 = 60,
        discard_unpacked_layers: bool = false,
    }
}

table! {
    Containers {
        seccomp_profile: String = String::new(),
        seccomp_dir: String = "/var/lib/kubelet/seccomp".into(),
        cdi_dirs: Vec<String> = vec!["/etc/cdi".into(), "/var/run/cdi".into()],
        capabilities: Vec<String> = [
            "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
            "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
        ].map(str::to_owned).to_vec(),
        shm_size_bytes: u64 = 64 << 20,
        unprivileged_ports: bool = true,
        nofile_soft: u64 = 0,
        nofile_hard: u64 = 0,
        selinux: bool = false,
    }
}

impl File {
    /// Reads a file; every key that nobody knows and every value of the wrong type is reported.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| vec![error.to_string().trim_end().to_owned()])?;
        let mut problems = unknown_keys(&table);
        match Self::deserialize(table) {
            Ok(file) if problems.is_empty() => Ok(file),
            Ok(_) => Err(problems),
            Err(error) => {
                problems.push(error.to_string().trim_end().replace('\n', " "));
                Err(problems)
            }
        }
    }

    /// The file with every secret replaced, for people.
    pub(crate) fn redacted(&self) -> Self {
        let mut copy = self.clone();
        for credentials in copy.registry.credentials.values_mut() {
            for secret in
                [&mut credentials.password, &mut credentials.identity_token, &mut credentials.registry_token]
            {
                if !secret.is_empty() {
                    "…".clone_into(secret);
                }
            }
        }
        copy
    }
}

/// Keys of the file that no table of ours has. Tables whose keys are names of the user's are looked into.
fn unknown_keys(table: &toml::Table) -> Vec<String> {
    let mut example = File::default();
    example.registry.credentials.insert("*".to_owned(), Credentials::default());
    let known = toml::Table::try_from(&example).expect("our own tables can be written");
    let mut problems = Vec::new();
    compare(table, &known, "", &mut problems);
    problems
}

fn compare(table: &toml::Table, known: &toml::Table, prefix: &str, problems: &mut Vec<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        let named = matches!(prefix, "runtimes." | "registry.credentials.");
        let expected = if named { known.values().next() } else { known.get(key) };
        match (expected, value) {
            (None, _) => problems.push(match closest(key, known) {
                Some(near) => format!("unknown key {path:?}; did you mean {near:?}?"),
                None => format!("unknown key {path:?}"),
            }),
            (Some(toml::Value::Table(expected)), toml::Value::Table(value)) => {
                compare(value, expected, &format!("{path}."), problems);
            }
            (Some(_), _) => {}
        }
    }
}

/// The known key that shares most letters with an unknown one, if it is close.
fn closest<'a>(key: &str, known: &'a toml::Table) -> Option<&'a str> {
    let pairs = |text: &str| -> BTreeSet<(char, char)> { text.chars().zip(text.chars().skip(1)).collect() };
    let of_key = pairs(key);
    known
        .keys()
        .map(|candidate| {
            let of_candidate = pairs(candidate);
            let shared = of_key.intersection(&of_candidate).count();
            (shared * 200 / (of_key.len() + of_candidate.len()).max(1), candidate.as_str())
        })
        .filter(|(likeness, _)| *likeness >= 50)
        .max()
        .map(|(_, candidate)| candidate)
}
