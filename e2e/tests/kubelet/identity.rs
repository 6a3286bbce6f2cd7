//! Who a container is: users, groups, capabilities, filters, sysctls, user namespaces.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::scene::*;

pub(crate) const GROUP: Group = Group {
    name: "identity",
    pods,
    once: &[
        ("root is refused where it must not run", root_refused),
        ("an unsafe sysctl is refused", sysctl_refused),
        ("groups of the image, merged or strict", groups),
    ],
    steady: &[
        ("security contexts", secured),
        ("what a container has by default", by_default),
        ("privileges", privileged),
        ("a filter of the node", filtered),
        ("user namespaces", user_namespaces),
    ],
    midway: &[],
};

/// Refuses `mkdir` and nothing else.
const FILTER: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#;

/// An image whose user 1000 is in group 50000.
const WITH_GROUP: &str = "gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest";

fn context(container: Value, context: Value) -> Value {
    with(container, json!({ "securityContext": context }))
}

fn pods(s: &Scene) -> Vec<Value> {
    let filters = s.kubelet.root().join("seccomp");
    std::fs::create_dir_all(&filters).expect("make the directory of filters");
    std::fs::write(filters.join("no-mkdir.json"), FILTER).expect("write a filter");
    let mut all = context_pods();
    all.extend(group_pods());
    all.extend(user_namespace_pods());
    all
}

fn context_pods() -> Vec<Value> {
    let filter = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "no-mkdir.json"}});
    let bound = json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_TIME"]}});
    let sysctl = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
    vec![
        pod(
            "secured",
            json!({
                "securityContext": {
                    "runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000],
                    "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
                    "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}],
                },
                "containers": [context(mounted(shell("main", WAIT), &[("data", "/data")]), json!({
                    "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "runAsNonRoot": true,
                    "capabilities": {"drop": ["ALL"]},
                }))],
                "volumes": [{"name": "data", "emptyDir": {}}],
            }),
        ),
        pod(
            "powers",
            json!({"containers": [
                shell("plain", WAIT),
                context(shell("privileged", WAIT), json!({"privileged": true})),
                context(shell("bound", WAIT), bound),
                context(shell("filtered", WAIT), filter),
                context(shell("unconfined", WAIT), json!({"seccompProfile": {"type": "Unconfined"}})),
            ]}),
        ),
        pod(
            "root-refused",
            json!({"securityContext": {"runAsNonRoot": true}, "containers": [shell("main", WAIT)]}),
        ),
        pod(
            "sysctl-refused",
            json!({"securityContext": sysctl("kernel.msgmax"), "containers": [shell("main", WAIT)]}),
        ),
    ]
}

fn group_pods() -> Vec<Value> {
    let of = |name: &str, policy: &str| {
        let container = with(shell("main", WAIT), json!({"image": WITH_GROUP}));
        let security =
            json!({"runAsUser": 1000, "supplementalGroups": [4000], "supplementalGroupsPolicy": policy});
        pod(name, json!({"securityContext": security, "containers": [container]}))
    };
    vec![of("merged", "Merge"), of("strict", "Strict")]
}

fn user_namespace_pods() -> Vec<Value> {
    let of = |name: &str| {
        let container = mounted(shell("main", WAIT), &[("disk", "/disk"), ("memory", "/memory")]);
        let unmasked = context(shell("unmasked", WAIT), json!({"procMount": "Unmasked"}));
        pod(
            name,
            json!({"hostUsers": false, "containers": [container, unmasked], "volumes": [
                {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
            ]}),
        )
    };
    vec![of("users-one"), of("users-two")]
}

fn secured(s: &mut Scene) -> Result<()> {
    let pod = s.ready("secured")?;
    let ids = s.exec(&pod, "main", &["id"])?;
    has(&ids, &["uid=1000", "gid=2000", "3000", "4000"])?;
    let status = s.show(&pod, "main", "/proc/1/status")?;
    has(
        &status,
        &["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"],
    )?;
    ensure!(s.exec(&pod, "main", &["touch", "/new"]).is_err(), "the root file system can be written");
    s.exec(&pod, "main", &["touch", "/data/new"])?;
    let owner = s.exec(&pod, "main", &["stat", "-c", "%u:%g", "/data/new"])?;
    ensure!(owner.trim() == "1000:3000", "a file of the volume is {owner}");
    let sysctl = s.show(&pod, "main", "/proc/sys/kernel/shm_rmid_forced")?;
    ensure!(sysctl == "1", "the sysctl is {sysctl}");
    Ok(())
}

/// A line of the status of a container's first process.
fn status_line(s: &Scene, pod: &Value, container: &str, name: &str) -> Result<String> {
    let status = s.show(pod, container, "/proc/1/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:\t")));
    Ok(line.with_context(|| format!("no {name} in {status}"))?.to_owned())
}

fn by_default(s: &mut Scene) -> Result<()> {
    let pod = s.ready("powers")?;
    // The fourteen of Docker's list, which every runtime grants.
    let wanted =
        [("CapEff", "00000000a80425fb"), ("NoNewPrivs", "0"), ("Seccomp", "0"), ("Uid", "0\t0\t0\t0")];
    for (name, wanted) in wanted {
        let found = status_line(s, &pod, "plain", name)?;
        ensure!(found == wanted, "{name} is {found}");
    }
    let mounts = s.show(&pod, "plain", "/proc/self/mounts")?;
    for path in [" /proc/keys ", " /proc/timer_list ", " /sys/firmware ", " /proc/sys proc ro,"] {
        let exists = Path::new(path.split(' ').nth(1).unwrap_or_default()).try_exists()?;
        ensure!(mounts.contains(path) || !exists, "{path:?} is not covered: {mounts}");
    }
    ensure!(s.exec(&pod, "plain", &["touch", "/proc/sys/x"]).is_err(), "sysctls can be written");
    let bound = status_line(s, &pod, "bound", "CapBnd")?;
    let wanted: u64 = 1 << 12 | 1 << 25;
    ensure!(bound == format!("{wanted:016x}"), "the bound set is {bound}");
    Ok(())
}

fn privileged(s: &mut Scene) -> Result<()> {
    let pod = s.ready("powers")?;
    let ours = std::fs::read_to_string("/proc/self/status")?;
    let all = ours.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).context("no bound set")?;
    let found = status_line(s, &pod, "privileged", "CapEff")?;
    ensure!(found == all, "its capabilities are {found}, not {all}");
    s.exec(&pod, "privileged", &["test", "-c", "/dev/kmsg"])?;
    s.exec(&pod, "privileged", &["sh", "-c", "mkdir -p /mnt && mount -t tmpfs tmpfs /mnt && umount /mnt"])?;
    ensure!(
        s.exec(&pod, "plain", &["test", "-e", "/dev/kmsg"]).is_err(),
        "devices of the host are everybody's"
    );
    Ok(())
}

fn filtered(s: &mut Scene) -> Result<()> {
    let pod = s.ready("powers")?;
    let modes = [("filtered", "2"), ("unconfined", "0")];
    for (container, wanted) in modes {
        let found = status_line(s, &pod, container, "Seccomp")?;
        ensure!(found == wanted, "{container}: the mode of the filter is {found}");
    }
    let made = s.exec(&pod, "filtered", &["mkdir", "/tmp/new"]);
    ensure!(
        made.is_err_and(|error| format!("{error:#}").contains("not implemented")),
        "the filter is another one"
    );
    s.exec(&pod, "unconfined", &["mkdir", "-p", "/tmp/new"])?;
    Ok(())
}

fn user_namespaces(s: &mut Scene) -> Result<()> {
    let mut ranges = Vec::new();
    for name in ["users-one", "users-two"] {
        let pod = s.ready(name)?;
        let map = s.show(&pod, "main", "/proc/self/uid_map")?;
        let fields: Vec<&str> = map.split_whitespace().collect();
        ensure!(fields.first() == Some(&"0") && fields.get(2) == Some(&"65536"), "{name}: the map is {map}");
        ranges.push(fields.get(1).copied().unwrap_or_default().to_owned());
        for path in ["/disk/new", "/memory/new", "/new"] {
            s.exec(&pod, "main", &["touch", path])?;
            let owner = s.exec(&pod, "main", &["stat", "-c", "%u:%g", path])?;
            ensure!(owner.trim() == "0:0", "{name}: {path} is of {owner}");
        }
        let masked = |container| s.exec(&pod, container, &["grep", "-c", " /proc/", "/proc/self/mounts"]);
        ensure!(masked("main").is_ok() && masked("unmasked").is_err(), "{name}: what is masked");
    }
    ranges.dedup();
    ensure!(ranges.len() == 2 && !ranges.contains(&"0".to_owned()), "the ranges are {ranges:?}");
    Ok(())
}

fn root_refused(s: &mut Scene) -> Result<()> {
    s.container("root-refused", "main", "is refused", |status| {
        status["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    })?;
    s.kubelet.take("root-refused")
}

fn sysctl_refused(s: &mut Scene) -> Result<()> {
    let pod = s.ended("sysctl-refused")?;
    ensure!(pod["status"]["reason"] == "SysctlForbidden", "{}", pod["status"]);
    s.kubelet.take("sysctl-refused")
}

fn groups(s: &mut Scene) -> Result<()> {
    for (name, wanted) in [("merged", vec!["4000", "50000"]), ("strict", vec!["4000"])] {
        let pod = s.ready(name)?;
        let found = s.exec(&pod, "main", &["id", "-G"])?;
        let mut groups: Vec<&str> =
            found.split_whitespace().filter(|group| *group != "0" && *group != "1000").collect();
        groups.sort_unstable();
        ensure!(groups == wanted, "{name}: its groups are {found}");
        let user = &container_status(&pod, "main")?["user"]["linux"];
        ensure!(user["uid"] == 1000, "{name}: kubelet says {user}");
    }
    Ok(())
}
