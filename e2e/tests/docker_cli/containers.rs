//! Containers that outlive their runs.

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use serde_json::Value;

use crate::Script;

/// A container that runs until it is told to end.
const SLEEPER: [&str; 3] = ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"];

pub(crate) fn steps(script: &mut Script) {
    life(script);
    body(script);
    exits(script);
    lists(script);
    script.step("container prune", |script| {
        script.docker(&["create", "--name", "idle", BUSYBOX, "true"])?;
        let gone = script.docker(&["container", "prune", "-f"])?;
        ensure!(gone.contains("Deleted Containers"), "{gone}");
        let left = script.docker(&["ps", "-aq"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    });
}

fn state(script: &Script, name: &str) -> Result<Value> {
    Ok(script.json(&["inspect", name])?[0]["State"].clone())
}

fn life(script: &mut Script) {
    script.step("create and start", |script| {
        let mut create = vec!["create", "--name", "web", "--label", "app=web", BUSYBOX];
        create.extend(SLEEPER);
        let id = script.docker(&create)?;
        ensure!(id.len() == 64, "{id}");
        let made = state(script, "web")?;
        ensure!(made["Status"] == "created" && made["StartedAt"] == "0001-01-01T00:00:00Z", "{made}");
        ensure!(script.docker(&["start", "web"])? == "web");
        let running = state(script, &id[..12])?;
        ensure!(running["Running"] == true && running["Pid"].as_u64() > Some(1), "{running}");
        let taken = "Conflict. The container name \"/web\" is already in use by container";
        script.fails(&["create", "--name", "web", BUSYBOX, "true"], taken)?;
        script.fails(
            &["rm", "web"],
            "container is running: stop the container before removing or force remove",
        )?;
        Ok(())
    });
    script.step("stop, start, restart and kill", |script| {
        script.docker(&["stop", "web"])?;
        let stopped = state(script, "web")?;
        ensure!(stopped["Status"] == "exited" && stopped["ExitCode"] == 7, "{stopped}");
        script.docker(&["start", "web"])?;
        script.docker(&["restart", "-t", "5", "web"])?;
        ensure!(state(script, "web")?["Running"] == true);
        script.docker(&["kill", "-s", "KILL", "web"])?;
        ensure!(script.docker(&["wait", "web"])? == "137");
        script.fails(&["kill", "web"], "is not running")?;
        script.fails(&["start", "nobody"], "No such container: nobody")?;
        Ok(())
    });
    script.step("events of a life", |script| {
        // The command line cuts times to whole seconds.
        let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 1;
        let (soon, form) = (soon.to_string(), "{{.Action}}");
        let ask =
            ["events", "--since", "10m", "--until", &soon, "--filter", "container=web", "--format", form];
        let text = script.docker(&ask)?;
        let actions: Vec<&str> = text.lines().collect();
        for action in ["create", "start", "kill", "die", "stop", "restart"] {
            ensure!(actions.contains(&action), "no {action} in {actions:?}");
        }
        script.docker(&["rm", "web"])?;
        script.fails(&["inspect", "web"], "o such object: web")
    });
}

fn body(script: &mut Script) {
    script.step("what is asked for comes back", |script| {
        let create = [
            "create",
            "--name",
            "full",
            "--hostname",
            "box",
            "-e",
            "A=1",
            "-w",
            "/tmp",
            "--user",
            "1:1",
            "--memory",
            "64m",
            "--cpus",
            "0.5",
            "--pids-limit",
            "50",
            "--ulimit",
            "nofile=64:128",
            "--shm-size",
            "8m",
            "--cap-drop",
            "ALL",
            "--restart",
            "on-failure:3",
            "--log-opt",
            "max-size=1m",
            "--stop-timeout",
            "3",
            "-p",
            "127.0.0.1::80",
            "--add-host",
            "db:10.0.0.5",
            "--security-opt",
            "no-new-privileges",
            BUSYBOX,
            "sh",
            "-c",
            "ulimit -n; sleep 60",
        ];
        script.docker(&create)?;
        let full = script.json(&["inspect", "full"])?;
        let (config, host) = (&full[0]["Config"], &full[0]["HostConfig"]);
        ensure!(
            config["Hostname"] == "box" && config["WorkingDir"] == "/tmp" && config["User"] == "1:1",
            "{config}"
        );
        ensure!(
            host["Memory"] == 64 << 20 && host["NanoCpus"] == 500_000_000 && host["ShmSize"] == 8 << 20,
            "{host}"
        );
        ensure!(
            host["RestartPolicy"]["Name"] == "on-failure" && host["RestartPolicy"]["MaximumRetryCount"] == 3,
            "{host}"
        );
        ensure!(
            host["Ulimits"][0]["Hard"] == 128 && host["LogConfig"]["Config"]["max-size"] == "1m",
            "{host}"
        );
        script.docker(&["start", "full"])?;
        let full = script.json(&["inspect", "full"])?;
        let port = &full[0]["NetworkSettings"]["Ports"]["80/tcp"][0];
        ensure!(
            port["HostIp"] == "127.0.0.1" && port["HostPort"].as_str().is_some_and(|port| port != "0"),
            "{full}"
        );
        let address = &full[0]["NetworkSettings"]["Networks"]["bridge"]["IPAddress"];
        ensure!(address.as_str().is_some_and(|address| !address.is_empty()), "{full}");
        ensure!(script.docker(&["port", "full", "80"])?.starts_with("127.0.0.1:"));
        script.docker(&["rm", "-f", "full"])
    });
    script.step("what cannot be had is refused", |script| {
        script.fails(
            &["create", "--blkio-weight", "300", BUSYBOX, "true"],
            "HostConfig.BlkioWeight is not supported",
        )?;
        script.fails(
            &["create", "--log-driver", "gelf", BUSYBOX, "true"],
            "logging driver \"gelf\" is not supported",
        )?;
        script.fails(
            &["create", "--runtime", "nope", BUSYBOX, "true"],
            "unknown or invalid runtime name: nope",
        )?;
        script.fails(&["create", "--memory", "1m", BUSYBOX, "true"], "Minimum memory limit allowed is 6MB")
    });
}

fn exits(script: &mut Script) {
    script.step("exit codes and removal", |script| {
        script.docker(&["run", "-d", "--name", "seven", BUSYBOX, "sh", "-c", "exit 7"])?;
        ensure!(script.docker(&["wait", "seven"])? == "7");
        ensure!(state(script, "seven")?["ExitCode"] == 7);
        let output = script.command(&["start", "seven"]).output()?;
        ensure!(output.status.success());
        script.docker(&["rm", "-f", "seven"])?;
        let output =
            script.command(&["run", "-d", "--name", "none", BUSYBOX, "/no/such/program"]).output()?;
        ensure!(output.status.code() == Some(127), "{output:?}");
        ensure!(state(script, "none")?["ExitCode"] == 127);
        script.docker(&["rm", "none"])
    });
    script.step("one network, two containers", |script| {
        script.docker(&["network", "create", "pair"])?;
        let mut server =
            vec!["run", "-d", "--name", "server", "--network", "pair", "--network-alias", "db", BUSYBOX];
        server.extend(SLEEPER);
        script.docker(&server)?;
        let ask = ["run", "-d", "--name", "client", "--network", "pair", BUSYBOX, "nslookup", "db"];
        script.docker(&ask)?;
        ensure!(script.docker(&["wait", "client"])? == "0", "the name was not found");
        let network = script.json(&["network", "inspect", "pair"])?;
        ensure!(network[0]["Containers"].as_object().is_some_and(|all| all.len() == 1), "{network}");
        script.fails(&["network", "rm", "pair"], "has active endpoints")?;
        script.docker(&["rm", "-f", "server", "client"])?;
        script.docker(&["network", "rm", "pair"])
    });
}

fn lists(script: &mut Script) {
    script.step("ps", |script| {
        let mut run = vec!["run", "-d", "--name", "listed", "--label", "app=x", BUSYBOX];
        run.extend(SLEEPER);
        script.docker(&run)?;
        let table = script.docker(&["ps"])?;
        ensure!(table.contains("listed") && table.contains("Up "), "{table}");
        let named = |filter: &str| script.docker(&["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]);
        for filter in
            ["label=app=x", "name=list", "status=running", &format!("ancestor={BUSYBOX}"), "network=bridge"]
        {
            ensure!(named(filter)?.contains("listed"), "not found by {filter}");
        }
        ensure!(named("label=app=y")?.is_empty() && named("status=exited")?.is_empty());
        script.fails(&["rmi", BUSYBOX], "is using its referenced image")?;
        script.docker(&["rm", "-f", "listed"])
    });
}
