//! What Helm makes of the chart, and what it refuses.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{Lab, checkout, run};
use serde_json::{Value, json};

type Check = fn(&Lab) -> Result<()>;

/// Every check, by name.
pub(crate) const CHECKS: [(&str, Check); 8] = [
    ("defaults", defaults),
    ("rights", rights),
    ("handlers", handlers),
    ("every key of the configuration", every_key),
    ("metrics with a secret, for the operator", operator),
    ("without everything", without),
    ("bad values", bad_values),
    ("names", names),
];

fn helm(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(Lab::tool("helm")?);
    run(command.args(arguments).env("HOME", "/nonexistent").current_dir(checkout().join("charts/berth")))
}

/// Lints and renders the chart with some values.
fn render(lab: &Lab, release: &str, values: &Value) -> Result<Vec<Value>> {
    let file = lab.work().join("values.json");
    std::fs::write(&file, values.to_string())?;
    let file = file.to_str().context("a path that is no text")?;
    helm(&["lint", "--strict", "-f", file, "."])?;
    let text = helm(&["template", release, ".", "--namespace", "nodes", "-f", file])?;
    text.split("\n---\n")
        .filter(|document| document.lines().any(|line| !line.is_empty() && !line.starts_with(['#', '-'])))
        .map(|document| serde_saphyr::from_str(document).with_context(|| document.to_owned()))
        .collect()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is_it).with_context(|| format!("no {kind} {name}"))
}

fn kinds(objects: &[Value]) -> Vec<String> {
    let mut kinds: Vec<String> = objects
        .iter()
        .map(|object| format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"])))
        .collect();
    kinds.sort();
    kinds
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn file(name: &str) -> Result<String> {
    let path = checkout().join("charts/berth/files").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The configuration of a rendered chart, on a node at 192.0.2.10, as the daemon understands it.
fn configuration(lab: &Lab, objects: &[Value], name: &str) -> Result<Value> {
    let secret = find(objects, "Secret", name)?;
    let place = lab.work().join("metrics");
    std::fs::create_dir_all(&place)?;
    for key in ["tls.crt", "tls.key", "token"] {
        std::fs::write(place.join(key), "x")?;
    }
    let toml = text(&secret["stringData"]["config.toml"])
        .replace("@NODE_ADDRESS@", "192.0.2.10")
        .replace("/etc/berth/metrics", &place.display().to_string());
    let path = lab.work().join("config.toml");
    std::fs::write(&path, &toml)?;
    show(&path).with_context(|| toml)
}

fn show(path: &Path) -> Result<Value> {
    let mut berth = Command::new(Lab::binary("berth")?);
    let shown = run(berth.args(["config", "show", "--json", "--config"]).arg(path))?;
    serde_json::from_str(&shown).context("read the configuration")
}

fn defaults(lab: &Lab) -> Result<()> {
    let objects = render(lab, "berth", &json!({}))?;
    let wanted = [
        "ClusterRole nodes-berth",
        "ClusterRoleBinding nodes-berth",
        "ConfigMap berth-dashboard",
        "ConfigMap berth-rules",
        "ConfigMap berth-scripts",
        "DaemonSet berth",
        "Job berth-uninstall",
        "Role berth",
        "Role berth-uninstall",
        "RoleBinding berth",
        "RoleBinding berth-uninstall",
        "RuntimeClass berth",
        "Secret berth-config",
        "ServiceAccount berth",
        "ServiceAccount berth-uninstall",
    ];
    ensure!(kinds(&objects) == wanted, "{:#?}", kinds(&objects));

    let daemon_set = &find(&objects, "DaemonSet", "berth")?["spec"];
    ensure!(
        daemon_set["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == 1,
        "more than one node at a time"
    );
    let pod = &daemon_set["template"]["spec"];
    ensure!(pod["hostPID"] == true && pod["hostNetwork"] == true, "{pod}");
    let annotations = &daemon_set["template"]["metadata"]["annotations"];
    ensure!(annotations["prometheus.io/port"] == "9095", "{annotations}");
    let stays = &pod["containers"][0];
    ensure!(stays["ports"][0]["hostPort"] == 9095, "{}", stays["ports"]);
    ensure!(stays["readinessProbe"]["httpGet"]["path"] == "/readyz", "{}", stays["readinessProbe"]);
    for (script, text) in [("install.sh", file("install.sh")?), ("host.sh", file("host.sh")?)] {
        let rendered = &find(&objects, "ConfigMap", "berth-scripts")?["data"][script];
        ensure!(*rendered == text, "{script} is another one");
    }
    ensure!(
        find(&objects, "ConfigMap", "berth-rules")?["data"]["berth.yaml"] == file("prometheus-rules.yaml")?,
        "rules"
    );
    let dashboard = find(&objects, "ConfigMap", "berth-dashboard")?;
    ensure!(dashboard["metadata"]["labels"]["grafana_dashboard"] == "1", "{}", dashboard["metadata"]);
    let panels: Value = serde_json::from_str(text(&dashboard["data"]["berth.json"]))?;
    ensure!(panels["uid"] == "berth-nodes", "another dashboard");

    let config = configuration(lab, &objects, "berth-config")?;
    ensure!(config["keeper"]["start"] == false, "the daemon starts the keeper");
    ensure!(config["metrics"]["address"] == "192.0.2.10:9095", "{}", config["metrics"]);
    ensure!(config["registry"]["config_path"] == "/etc/containerd/certs.d", "{}", config["registry"]);
    every_variable_is_set(pod)
}

/// What the scripts take from the environment, the pod has.
fn every_variable_is_set(pod: &Value) -> Result<()> {
    let install = &pod["initContainers"][0];
    let names: Vec<&str> =
        install["env"].as_array().context("no environment")?.iter().map(|one| text(&one["name"])).collect();
    let scripts = file("host.sh")? + &file("install.sh")?;
    let settings = scripts
        .split_once("SETTINGS=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .context("no settings")?
        .0
        .replace('\\', " ");
    for name in settings.split_whitespace().chain(["NODE", "NODE_ADDRESS", "NAMESPACE", "LEASE", "DRAIN"]) {
        // These two are the script's own.
        ensure!(names.contains(&name) || ["HASH", "ADOPTED"].contains(&name), "{name} is not set");
    }
    for name in names {
        ensure!(scripts.contains(&format!("${name}")) || settings.contains(name), "nobody reads {name}");
    }
    Ok(())
}

/// Who may do what: only the installer is privileged, and nobody gets more of the API than a drain takes.
fn rights(lab: &Lab) -> Result<()> {
    let objects = render(lab, "berth", &json!({}))?;
    let pod = &find(&objects, "DaemonSet", "berth")?["spec"]["template"]["spec"];
    ensure!(pod["automountServiceAccountToken"] == false, "every container has a token");
    ensure!(pod["initContainers"][0]["securityContext"]["privileged"] == true, "the installer");
    let job = &find(&objects, "Job", "berth-uninstall")?["spec"]["template"]["spec"];
    ensure!(job["hostPID"].is_null() && job["hostNetwork"].is_null(), "the job is the host's");
    for container in [&pod["containers"][0], &job["containers"][0]] {
        let context = &container["securityContext"];
        ensure!(context["capabilities"]["drop"] == json!(["ALL"]), "{context}");
        ensure!(context["runAsNonRoot"] == true && context["readOnlyRootFilesystem"] == true, "{context}");
        ensure!(context["allowPrivilegeEscalation"] == false, "{context}");
    }
    let mounts = pod["containers"][0]["volumeMounts"].as_array().context("no mounts")?;
    ensure!(mounts.iter().all(|mount| mount["name"] == "script"), "{mounts:?}");
    for object in objects.iter().filter(|object| text(&object["kind"]).ends_with("Role")) {
        for rule in object["rules"].as_array().context("a role without rules")? {
            let all = rule.to_string();
            ensure!(!all.contains('*') && !all.contains("secrets"), "{all}");
        }
    }
    let undrained = render(lab, "berth", &json!({"drain": {"enabled": false}}))?;
    let role = &find(&undrained, "ClusterRole", "nodes-berth")?["rules"];
    ensure!(*role == json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]), "{role}");
    Ok(())
}

fn handlers(lab: &Lab) -> Result<()> {
    let values = json!({"handlers": {
        "crun": {
            "runtimeClass": "fast",
            "settings": {"path": "/usr/bin/crun", "pod_annotations": ["run.oci.*", "a\"b"]},
            "overhead": {"podFixed": {"memory": "10Mi"}},
            "scheduling": {"nodeSelector": {"crun": "yes"}},
        },
        "quiet": {"settings": {"type": "built-in", "privileged_without_host_devices": true}},
    }});
    let objects = render(lab, "berth", &values)?;
    let classes: Vec<String> =
        kinds(&objects).into_iter().filter(|object| object.starts_with("RuntimeClass")).collect();
    ensure!(classes == ["RuntimeClass berth", "RuntimeClass fast"], "{classes:?}");
    let fast = find(&objects, "RuntimeClass", "fast")?;
    ensure!(fast["handler"] == "crun" && fast["overhead"]["podFixed"]["memory"] == "10Mi", "{fast}");
    ensure!(fast["scheduling"]["nodeSelector"]["crun"] == "yes", "{fast}");
    let runtimes = &configuration(lab, &objects, "berth-config")?["runtimes"];
    ensure!(runtimes["crun"]["path"] == "/usr/bin/crun", "{runtimes}");
    ensure!(runtimes["crun"]["pod_annotations"] == json!(["run.oci.*", "a\"b"]), "{runtimes}");
    ensure!(runtimes["quiet"]["privileged_without_host_devices"] == true, "{runtimes}");
    ensure!(runtimes["berth"]["type"] == "built-in", "{runtimes}");
    Ok(())
}

/// Values hold the whole default configuration, and the daemon reads the same from what comes out.
fn every_key(lab: &Lab) -> Result<()> {
    let wanted = show(&checkout().join("config/config.toml"))?;
    let mut config = wanted.clone();
    let table = config.as_object_mut().context("the configuration is no table")?;
    for decided in ["version", "root", "state", "keeper", "metrics", "runtimes"] {
        ensure!(table.remove(decided).is_some(), "{decided} is no key");
    }
    table["cri"].as_object_mut().context("cri")?.remove("socket");
    table["cgroups"].as_object_mut().context("cgroups")?.remove("driver");
    table["registry"]["credentials"] =
        json!({"registry.example.com": {"username": "node", "password": "p<\\\"&"}});
    let values = json!({"config": config, "metrics": {"enabled": false}});
    let found = configuration(lab, &render(lab, "berth", &values)?, "berth-config")?;
    for (key, value) in wanted.as_object().context("no table")? {
        if !["keeper", "runtimes", "registry"].contains(&key.as_str()) {
            ensure!(found[key] == *value, "{key} is {}, not {value}", found[key]);
        }
    }
    let names = &found["registry"]["credentials"];
    ensure!(names.to_string().contains("registry.example.com"), "{names}");
    Ok(())
}

fn operator(lab: &Lab) -> Result<()> {
    let values = json!({
        "metrics": {
            "secret": {"name": "metrics", "tls": true, "token": true},
            "podMonitor": {"enabled": true, "labels": {"release": "prometheus"}, "tlsConfig": {"serverName": "berth"}},
        },
        "rules": {"prometheusRule": true, "job": "nodes/berth"},
        "image": {"repository": "registry.example.com/berth", "tag": "7"},
    });
    let objects = render(lab, "cluster", &values)?;
    let monitor = find(&objects, "PodMonitor", "cluster-berth")?;
    ensure!(monitor["metadata"]["labels"]["release"] == "prometheus", "{}", monitor["metadata"]);
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    ensure!(endpoint["scheme"] == "https" && endpoint["tlsConfig"]["serverName"] == "berth", "{endpoint}");
    ensure!(
        endpoint["authorization"]["credentials"] == json!({"name": "metrics", "key": "token"}),
        "{endpoint}"
    );
    let template = &find(&objects, "DaemonSet", "cluster-berth")?["spec"]["template"];
    let selector = &monitor["spec"]["selector"]["matchLabels"];
    for (label, value) in selector.as_object().context("no selector")? {
        ensure!(template["metadata"]["labels"][label] == *value, "{label} does not select the pods");
    }
    ensure!(template["metadata"]["annotations"]["prometheus.io/scrape"].is_null(), "scraped twice");
    ensure!(template["spec"]["containers"][0]["readinessProbe"]["httpGet"]["scheme"] == "HTTPS", "the probe");
    ensure!(template["spec"]["initContainers"][0]["image"] == "registry.example.com/berth:7", "the image");
    let mounts = template["spec"]["initContainers"][0]["volumeMounts"].to_string();
    ensure!(mounts.contains("\"/secret\""), "{mounts}");
    let rule = &find(&objects, "PrometheusRule", "cluster-berth")?["spec"];
    ensure!(rule["groups"][0]["rules"][0]["expr"] == "up{job=\"nodes/berth\"} == 0", "{rule}");
    let metrics = &configuration(lab, &objects, "cluster-berth-config")?["metrics"];
    for key in ["tls_certificate", "tls_key", "bearer_token_file"] {
        ensure!(!text(&metrics[key]).is_empty(), "{key}: {metrics}");
    }
    Ok(())
}

fn without(lab: &Lab) -> Result<()> {
    let values = json!({
        "metrics": {"enabled": false}, "rules": {"enabled": false}, "dashboard": {"enabled": false},
        "handlers": {"berth": {"runtimeClass": ""}}, "tolerations": [], "nodeSelector": null,
        "imagePullSecrets": [{"name": "pull"}],
    });
    let objects = render(lab, "berth", &values)?;
    let left = kinds(&objects);
    for kind in ["RuntimeClass", "ConfigMap berth-rules", "ConfigMap berth-dashboard"] {
        ensure!(!left.iter().any(|object| object.starts_with(kind)), "{left:?}");
    }
    let pod = &find(&objects, "DaemonSet", "berth")?["spec"]["template"]["spec"];
    ensure!(pod["containers"][0]["ports"].is_null(), "{pod}");
    ensure!(pod["imagePullSecrets"] == json!([{"name": "pull"}]), "{pod}");
    let config = configuration(lab, &objects, "berth-config")?;
    ensure!(config["metrics"]["address"] == "", "{}", config["metrics"]);
    Ok(())
}

fn bad_values(_: &Lab) -> Result<()> {
    for (value, what) in [
        ("nothing=1", "additional properties 'nothing' not allowed"),
        ("image.tag=a b", "/image/tag"),
        ("drain.enabled=1", "/drain/enabled"),
        ("drain.options={-x}", "/drain/options/0"),
        ("previous.unit=containerd", "/previous/unit"),
        ("previous.endpoint=tcp://x", "/previous/endpoint"),
        ("host.binDir=usr/bin", "/host/binDir"),
        ("kubelet.config=/a'b", "/kubelet/config"),
        ("waitSeconds=1", "/waitSeconds"),
        ("metrics.port=0", "/metrics/port"),
        ("metrics.address=localhost", "/metrics/address"),
        ("metrics.secret.token=true", "/metrics/secret/name"),
        ("cgroupDriver=none", "/cgroupDriver"),
        ("handlers.A.settings.type=built-in", "propertyName 'A'"),
        ("handlers.a.runtimeClass=a", "missing property 'settings'"),
        ("config.state=/x", "config.state: the units decide this"),
        ("config.metrics.address=x", "config.metrics: use the value metrics"),
        ("config.runtimes.x.type=built-in", "config.runtimes: use the value handlers"),
        ("config.cri.socket=/x", "config.cri.socket: kubelet is pointed at the default one"),
        ("config.cgroups.driver=systemd", "config.cgroups.driver: use the value cgroupDriver"),
        ("config.log.level=null", "config: level has a value that config.toml cannot hold"),
    ] {
        let error = match helm(&["template", "berth", ".", "--set", value]) {
            Ok(_) => anyhow::bail!("{value} is rendered"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(error.contains(what), "{value}: {error}");
    }
    Ok(())
}

/// However long the release's name is, what is named for it can be created.
fn names(lab: &Lab) -> Result<()> {
    let long = "a".repeat(53);
    for object in render(lab, &long, &json!({}))? {
        let name = text(&object["metadata"]["name"]);
        ensure!(name.len() <= 63 && !name.ends_with('-'), "{name}");
        let labels = object["metadata"]["labels"].as_object().context("no labels")?;
        ensure!(labels.values().all(|value| text(value).len() <= 63), "{labels:?}");
        ensure!(labels["app.kubernetes.io/managed-by"] == "Helm", "{labels:?}");
    }
    Ok(())
}
