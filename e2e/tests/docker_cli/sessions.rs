//! Streams of containers: run in the foreground, attach, exec, logs; and changing what runs.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;

use crate::Script;

pub(crate) fn steps(script: &mut Script) {
    foreground(script);
    commands(script);
    logs(script);
    changes(script);
}

/// Runs docker with some input; its output, or what it said.
fn with_input(script: &Script, arguments: &[&str], input: &str) -> Result<(Option<i32>, String, String)> {
    let mut command = script.command(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

fn foreground(script: &mut Script) {
    script.step("run", |script| {
        let (code, out, err) =
            with_input(script, &["run", "--rm", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 5"], "")?;
        ensure!(
            (code, out.as_str(), err.as_str()) == (Some(5), "out\n", "err\n"),
            "{code:?} {out:?} {err:?}"
        );
        for _ in 0..5 {
            ensure!(script.docker(&["run", "--rm", BUSYBOX, "echo", "quick"])? == "quick");
        }
        ensure!(script.docker(&["ps", "-aq"])?.is_empty(), "something is left");
        let (code, _, err) = with_input(script, &["run", "--rm", BUSYBOX, "/no/such"], "")?;
        ensure!(code == Some(127), "{code:?} {err}");
        Ok(())
    });
    script.step("run with input", |script| {
        let (code, out, _) =
            with_input(script, &["run", "--rm", "-i", BUSYBOX, "sh", "-c", "cat; echo end"], "one\ntwo\n")?;
        ensure!((code, out.as_str()) == (Some(0), "one\ntwo\nend\n"), "{code:?} {out:?}");
        let big = "0123456789abcdef".repeat(64 * 1024);
        let (_, out, _) = with_input(script, &["run", "--rm", "-i", BUSYBOX, "wc", "-c"], &big)?;
        ensure!(out.trim() == big.len().to_string(), "{out}");
        Ok(())
    });
    script.step("run with a terminal", |script| {
        let out = script.docker(&["run", "--rm", "-t", BUSYBOX, "sh", "-c", "test -t 1 && echo terminal"])?;
        ensure!(out.trim() == "terminal", "{out:?}");
        Ok(())
    });
}

fn commands(script: &mut Script) {
    script.step("exec", |script| {
        script.docker(&["run", "-d", "--name", "box", BUSYBOX, "sleep", "600"])?;
        ensure!(
            script.docker(&["exec", "-e", "A=1", "-w", "/tmp", "box", "sh", "-c", "echo $A $PWD"])?
                == "1 /tmp"
        );
        ensure!(script.docker(&["exec", "-u", "33:33", "box", "id", "-u"])? == "33");
        let (code, _, _) = with_input(script, &["exec", "box", "sh", "-c", "exit 9"], "")?;
        ensure!(code == Some(9), "{code:?}");
        let (_, out, _) = with_input(script, &["exec", "-i", "box", "cat"], "through\n")?;
        ensure!(out == "through\n", "{out}");
        let (code, _, _) = with_input(script, &["exec", "box", "/no/such"], "")?;
        ensure!(code == Some(127), "{code:?}");
        script.docker(&["exec", "-d", "box", "touch", "/tmp/detached"])?;
        let tty = script.docker(&["exec", "-t", "box", "sh", "-c", "test -t 1 && echo terminal"])?;
        ensure!(tty.trim() == "terminal", "{tty:?}");
        Ok(())
    });
    script.step("top and stats", |script| {
        let top = script.docker(&["top", "box"])?;
        ensure!(top.contains("PID") && top.contains("sleep 600"), "{top}");
        ensure!(script.docker(&["top", "box", "-o", "pid,comm"])?.contains("sleep"));
        let stats = script.json(&["stats", "--no-stream", "--format", "json", "box"])?;
        ensure!(stats["Name"] == "box" && stats["MemUsage"] != "0B / 0B", "{stats}");
        Ok(())
    });
}

fn logs(script: &mut Script) {
    script.step("logs", |script| {
        script.docker(&[
            "run",
            "-d",
            "--name",
            "talker",
            BUSYBOX,
            "sh",
            "-c",
            "echo two >&2; sleep 0.3; echo one; echo three",
        ])?;
        ensure!(script.docker(&["wait", "talker"])? == "0");
        let output = script.command(&["logs", "talker"]).output()?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(out == "one\nthree\n" && err == "two\n", "{out:?} {err:?}");
        ensure!(script.docker(&["logs", "--tail", "1", "talker"])? == "three");
        let stamped = script.docker(&["logs", "-t", "--tail", "1", "talker"])?;
        ensure!(stamped.len() == "2026-12-01T00:00:00.000000000Z three".len(), "{stamped}");
        ensure!(script.docker(&["logs", "-f", "--since", "1h", "talker"])?.contains("three"));
        script.docker(&["rm", "talker"])?;
        script.docker(&["run", "-d", "--name", "mute", "--log-driver", "none", BUSYBOX, "echo", "x"])?;
        script.docker(&["wait", "mute"])?;
        script.fails(&["logs", "mute"], "configured logging driver does not support reading")?;
        script.docker(&["rm", "mute"])
    });
}

fn changes(script: &mut Script) {
    script.step("pause, rename, update", |script| {
        script.docker(&["pause", "box"])?;
        ensure!(script.docker(&["ps"])?.contains("(Paused)"));
        script.fails(&["exec", "box", "true"], "is paused")?;
        script.docker(&["unpause", "box"])?;
        script.fails(&["unpause", "box"], "is not paused")?;
        script.docker(&["rename", "box", "crate"])?;
        script.docker(&["update", "--memory", "64m", "--restart", "always", "crate"])?;
        let told = script.json(&["inspect", "crate"])?;
        ensure!(told[0]["HostConfig"]["Memory"] == 64 << 20 && told[0]["Name"] == "/crate", "{told}");
        ensure!(told[0]["HostConfig"]["RestartPolicy"]["Name"] == "always", "{told}");
        Ok(())
    });
    script.step("network connect and disconnect", |script| {
        script.docker(&["network", "create", "side"])?;
        script.docker(&["network", "connect", "--alias", "chest", "side", "crate"])?;
        let told = script.json(&["inspect", "crate"])?;
        ensure!(
            told[0]["NetworkSettings"]["Networks"]["side"]["IPAddress"]
                .as_str()
                .is_some_and(|ip| !ip.is_empty()),
            "{told}"
        );
        ensure!(
            script
                .docker(&["run", "--rm", "--network", "side", BUSYBOX, "nslookup", "chest"])?
                .contains("chest")
        );
        script.docker(&["network", "disconnect", "side", "crate"])?;
        script.docker(&["network", "rm", "side"])?;
        script.docker(&["rm", "-f", "crate"])
    });
}
