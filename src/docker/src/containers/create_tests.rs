use serde_json::json;

use super::*;

fn image() -> Value {
    json!({
        "Entrypoint": ["/entry"], "Cmd": ["serve"], "Env": ["PATH=/bin", "A=1"], "Labels": {"from": "image"},
        "Healthcheck": {"Test": ["CMD-SHELL", "curl x"], "Interval": 5_000_000_000_i64}, "WorkingDir": "/srv",
    })
}

fn of(body: Value) -> Result<DurableConfig> {
    let node = NodeInfo { cpus: 2, handlers: vec!["berth".into()], ..NodeInfo::default() };
    let image = image();
    let around = Surroundings { node: &node, image: &image, version: ApiVersion::MAX };
    convert(&serde_json::from_value(body).unwrap(), &around, &mut Vec::new())
}

#[test]
fn commands_replace_those_of_the_image() {
    let command = |body: Value| {
        let container = of(body).unwrap().container;
        [container.command, container.args].concat().join(" ")
    };
    assert_eq!(command(json!({})), "/entry serve");
    assert_eq!(command(json!({"Cmd": ["x"]})), "/entry x");
    assert_eq!(command(json!({"Cmd": "x"})), "/entry x");
    assert_eq!(command(json!({"Entrypoint": ["/other"]})), "/other");
    assert_eq!(command(json!({"Entrypoint": [""], "Cmd": ["sh", "-c"]})), "sh -c");
    assert_eq!(of(json!({"Entrypoint": [""]})).unwrap_err().message(), "no command specified");
}

#[test]
fn environments_are_merged() {
    let env = |body: Value| {
        let env = of(body).unwrap().container.env;
        env.into_iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8(value).unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(env(json!({"Env": ["A=2", "B=", "C"]})), ["PATH=/bin", "A=2", "B="]);
    assert!(of(json!({"Env": ["A"]})).unwrap_err().message().contains("A="));
    assert!(of(json!({"Env": ["=x"]})).is_err());
}

#[test]
fn health_checks_are_inherited() {
    let health = of(json!({})).unwrap().health.unwrap();
    assert_eq!(health.test, HealthTest::Shell("curl x".into()));
    assert_eq!(
        (health.interval, health.timeout, health.retries),
        (Duration::from_secs(5), Duration::from_secs(30), 3)
    );
    assert!(of(json!({"Healthcheck": {"Test": ["NONE"]}})).unwrap().health.is_none());
    let own = of(json!({"Healthcheck": {"Test": ["CMD", "true"], "Retries": 7}, "Shell": ["bash"]})).unwrap();
    assert_eq!(own.health.unwrap().retries, 7);
    assert!(of(json!({"Healthcheck": {"Test": ["CMD", "x"], "Interval": 5}})).is_err());
    assert!(of(json!({"Healthcheck": {"Test": ["CMD"]}})).is_err());
}

#[test]
fn policies_and_logs_are_read() {
    let policy =
        |body: Value| of(json!({"HostConfig": {"RestartPolicy": body}})).map(|config| config.restart);
    assert_eq!(policy(json!({"Name": "always"})).unwrap(), RestartPolicy::Always);
    let on_failure = json!({"Name": "on-failure", "MaximumRetryCount": 3});
    assert_eq!(policy(on_failure).unwrap(), RestartPolicy::OnFailure { max: 3 });
    assert!(
        policy(json!({"Name": "sometimes"})).is_err()
            && policy(json!({"Name": "no", "MaximumRetryCount": 1})).is_err()
    );
    let auto = json!({"HostConfig": {"AutoRemove": true, "RestartPolicy": {"Name": "always"}}});
    assert!(of(auto).is_err());
    let log = |body: Value| of(json!({"HostConfig": {"LogConfig": body}})).map(|config| config.log);
    let small = json!({"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}});
    assert_eq!(log(small).unwrap(), LogConfig::JsonFile { max_bytes: Some(1 << 20), max_files: 2 });
    assert_eq!(log(json!({"Type": "none"})).unwrap(), LogConfig::None);
    assert!(log(json!({"Type": "gelf"})).is_err() && log(json!({"Config": {"tag": "x"}})).is_err());
}

#[test]
fn namespaces_are_own_the_hosts_or_anothers() {
    let config = of(json!({"HostConfig": {"PidMode": "host", "IpcMode": "container:db"}})).unwrap();
    assert_eq!(config.sandbox.namespaces.pid, NamespaceMode::Host);
    assert_eq!(config.join.ipc.as_deref(), Some("db"));
    for modes in [
        json!({"UTSMode": "host"}),
        json!({"UsernsMode": "private"}),
        json!({"IpcMode": "x"}),
        json!({"CgroupnsMode": "host"}),
        json!({"PidMode": "x"}),
    ] {
        assert_eq!(of(json!({"HostConfig": modes})).unwrap_err().status().as_u16(), 400);
    }
}

#[test]
fn inspect_gives_back_what_was_sent() {
    let raw = json!({
        "Image": "x", "Tty": true, "Labels": {"own": "1"}, "Entrypoint": ["/other"],
        "HostConfig": {"Memory": 104_857_600, "NetworkMode": "default", "SecurityOpt": ["label=disable"]},
    });
    let words = words(&raw, &image(), &of(raw.clone()).unwrap());
    let (config, host) = (&words["Config"], &words["HostConfig"]);
    assert_eq!(
        (&config["Tty"], &config["Image"], &config["WorkingDir"]),
        (&json!(true), &json!("x"), &json!("/srv"))
    );
    assert_eq!((&config["Entrypoint"], &config["Cmd"]), (&json!(["/other"]), &Value::Null));
    assert_eq!(config["Labels"], json!({"from": "image", "own": "1"}));
    assert_eq!((&host["Memory"], &host["NetworkMode"]), (&json!(104_857_600), &json!("bridge")));
    assert_eq!((&host["LogConfig"]["Type"], &host["ShmSize"]), (&json!("json-file"), &json!(67_108_864)));
    assert!(config.get("HostConfig").is_none());
}

/// Every key that is honoured has a place in the types that read the body: a value of the wrong type is an error.
#[test]
fn honoured_keys_are_read() {
    let wrong = json!(["wrong", 1, {"type": null}]);
    let check = |place: &str, table: &[(&str, keys::Fate)]| {
        for (key, fate) in table {
            let body = match place {
                "" => json!({*key: wrong}),
                "HostConfig" => json!({"HostConfig": {*key: wrong}}),
                "Endpoint" => json!({"NetworkingConfig": {"EndpointsConfig": {"n": {*key: wrong}}}}),
                _ => json!({"NetworkingConfig": {*key: wrong}}),
            };
            let read = serde_json::from_value::<Body>(body).is_ok();
            assert_eq!(read, *fate != keys::Fate::Honoured, "{place} {key}");
        }
    };
    check("", keys::CONFIG);
    check("HostConfig", keys::HOST);
    check("Networking", keys::NETWORKING);
    check("Endpoint", keys::ENDPOINT);
}
