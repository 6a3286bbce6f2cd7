//! Plugins that misbehave, and failures half way.

use std::time::{Duration, Instant};

use network::{Conflist, Error, ErrorKind, Network, Options, PluginFailure};

use crate::host::*;

fn chain_with(name: &str) -> Conflist {
    Conflist::parse(&format!(
        r#"{{"cniVersion":"1.1.0","name":"faulty","plugins":[
          {{"type":"bridge","bridge":"faulty0","isGateway":true,"ipMasq":true,
            "ipam":{{"type":"host-local","subnet":"10.66.0.0/29"}}}},
          {{"type":"{name}"}}]}}"#
    ))
    .unwrap()
}

fn failure_of(network: &Network, name: &str) -> Box<network::PluginError> {
    match try_attach(network, "victim", &chain_with(name), &[]).err() {
        Some(Error::Plugin(error)) => error,
        other => panic!("{name}: expected a plugin failure, got {other:?}"),
    }
}

#[test]
fn whatever_a_plugin_does_the_attachment_fails_and_leaves_nothing() {
    on_host(|host| {
        let log = host.dir.path().join("log");
        let note = format!("echo $CNI_COMMAND >> {}\n[ $CNI_COMMAND = DEL ] && exit 0\n", log.display());
        let scripts = [
            ("hangs", "sleep 1000 & wait"),
            ("floods", "exec head -c 1073741824 /dev/zero"),
            ("garbage", "echo 'not json'"),
            ("dies", "kill -9 $$"),
            ("fails", "echo why >&2; exit 3"),
            (
                "reports",
                r#"echo '{"cniVersion":"1.1.0","code":11,"msg":"not yet","details":"soon"}'; exit 1"#,
            ),
        ];
        for (name, script) in scripts {
            host.plugin(name, &format!("{note}{script}"));
        }
        let network =
            Network::open(Options { plugin_timeout: Duration::from_millis(500), ..host.options() }).unwrap();
        let started = Instant::now();
        let hangs = failure_of(&network, "hangs");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert!(matches!(hangs.failure, PluginFailure::TimedOut { .. }));
        assert_eq!(Error::Plugin(hangs).kind(), ErrorKind::Timeout);
        assert!(matches!(failure_of(&network, "floods").failure, PluginFailure::TooMuchOutput { .. }));
        assert!(matches!(failure_of(&network, "garbage").failure, PluginFailure::BadOutput { .. }));
        assert_eq!(failure_of(&network, "dies").failure.to_string(), "ended with signal 9");
        let fails = failure_of(&network, "fails").to_string();
        assert_eq!(fails, "plugin fails ADD on network faulty: ended with exit code 3; stderr: why");
        assert_eq!(failure_of(&network, "reports").failure.to_string(), "not yet (code 11): soon");
        let missing = failure_of(&network, "missing").to_string();
        assert!(missing.contains("no program of this name in "), "{missing}");
        let commands = std::fs::read_to_string(&log).unwrap();
        let expected = "ADD\nDEL\n".repeat(scripts.len());
        assert_eq!(commands, expected, "DEL follows every failed ADD");
        // A program that never was has done nothing, so that its record does not wait for it either.
        let report = network.gc(&[]);
        assert_eq!((report.attachments, report.errors.len()), (0, 0), "{report:?}");
        assert!(!links().iter().any(|l| l.starts_with("bp")), "{:?}", links());
        let kept = std::fs::read_dir(host.dir.path().join("state/attachments")).unwrap().count();
        assert_eq!(kept, 0);
    });
}

#[test]
fn a_plugin_that_leaves_a_daemon_behind_does_not_hold_us() {
    on_host(|host| {
        host.plugin("daemonizes", "sleep 5 &\ncat >/dev/null\necho '{\"cniVersion\":\"1.1.0\"}'");
        let network = host.network();
        let started = Instant::now();
        try_attach(&network, "pod", &chain_with("daemonizes"), &[]).unwrap();
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    });
}

#[test]
fn a_failing_delete_is_kept_for_a_retry() {
    on_host(|host| {
        host.plugin(
            "stubborn",
            "[ $CNI_COMMAND = ADD ] && exec echo '{\"cniVersion\":\"1.1.0\"}'\n[ -e /nonexistent ]",
        );
        let network = host.network();
        let pod = try_attach(&network, "pod", &chain_with("stubborn"), &[]).unwrap();
        let errors = network.detach(&pod.detachment()).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            !command("nft", &["list", "table", "inet", "berth"]).contains("pod@eth0"),
            "its rules are gone"
        );
        host.plugin("stubborn", "exit 0");
        network.detach(&pod.detachment()).unwrap();
        assert!(network.gc(&[]).errors.is_empty());
    });
}

#[test]
fn plugins_are_told_what_the_specification_says() {
    on_host(|host| {
        let seen = host.dir.path().join("seen");
        host.plugin(
            "spy",
            &format!(
                "env | grep ^CNI_ | sort > {0}.$CNI_COMMAND.env; cat > {0}.$CNI_COMMAND\n\
                 [ $CNI_COMMAND = ADD ] && echo '{{\"cniVersion\":\"1.1.0\",\"ips\":[{{\"address\":\"10.1.1.1/24\"}}],\"extra\":1}}'\nexit 0",
                seen.display()
            ),
        );
        host.conflist(
            "1.conflist",
            r#"{"cniVersion":"1.1.0","name":"spied","plugins":[{"type":"spy","mine":true,
                "capabilities":{"portMappings":true,"ips":true}},{"type":"spy"}]}"#,
        );
        let network = host.network();
        let conflist = network.default_conflist().unwrap();
        network.status(&conflist).unwrap();
        let ports = [port(network::Protocol::Tcp, 8080, 80, Some("127.0.0.1"))];
        let arguments = [("K8S_POD_NAME".to_owned(), "web".to_owned())];
        let pod = try_attach_with(
            &network,
            "told",
            &conflist,
            &ports,
            &arguments,
            &network::Capabilities::default(),
        )
        .unwrap();
        let env = std::fs::read_to_string(format!("{}.ADD.env", seen.display())).unwrap();
        for line in
            ["CNI_ARGS=K8S_POD_NAME=web", "CNI_CONTAINERID=told", "CNI_IFNAME=eth0", "CNI_NETNS=/proc/"]
        {
            assert!(env.contains(line), "{line} in {env}");
        }
        let read = |verb: &str| -> serde_json::Value {
            serde_json::from_str(&std::fs::read_to_string(format!("{}.{verb}", seen.display())).unwrap())
                .unwrap()
        };
        let add = read("ADD");
        assert_eq!(add["prevResult"]["extra"], 1, "unknown fields reach the next plugin");
        network.check(&pod.id, "eth0", std::os::fd::AsFd::as_fd(&pod.netns), None).unwrap();
        assert_eq!(read("CHECK")["prevResult"]["ips"][0]["address"], "10.1.1.1/24");
        // A new process, after the conflist is gone, still knows what to tell.
        std::fs::remove_file(host.dir.path().join("net.d/1.conflist")).unwrap();
        let again = host.network();
        again.detach(&network::Detachment { netns: None, ..pod.detachment() }).unwrap();
        let del = read("DEL");
        assert_eq!(del["runtimeConfig"]["portMappings"][0]["hostIP"], "127.0.0.1");
        assert_eq!(del["mine"], true, "DEL goes backwards, so the first plugin was last");
        assert_eq!(del["prevResult"]["extra"], 1);
        let env = std::fs::read_to_string(format!("{}.DEL.env", seen.display())).unwrap();
        assert!(env.contains("CNI_NETNS=\n"), "{env}");
        let report = network.gc(&[]);
        assert!(report.errors.is_empty(), "{report:?}");
        assert_eq!(read("GC")["cni.dev/valid-attachments"], serde_json::json!([]));
    });
}
