//! Clients and a container that runs: attaching, commands, changes.

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::*;
use crate::durable::{AttachOptions, DurableProblem, ExecSpec, ExecState};
use crate::testing::in_world;

#[test]
fn clients_use_containers() {
    in_world("durable::tests::session::clients_use_containers", |dir| async move {
        let engine = open(&dir).await;
        import_box(&engine, &dir).await;
        attached_before_the_start(&engine).await;
        terminals(&engine).await;
        commands(&engine).await;
        changes(&engine).await;
        networks(&engine).await;
        logs(&engine).await;
        health(&engine).await;
        joins(&engine).await;
        let engine = pauses(engine, &dir).await;
        assert!(engine.durables().is_empty() && engine.shared().handles().is_empty());
        engine.shutdown().await;
    });
}

const ALL: AttachOptions = AttachOptions { stdin: true, stdout: true, stderr: true };

async fn read_all(stream: Option<pipe::Receiver>) -> String {
    let mut text = String::new();
    stream.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

/// `docker run -i`: nothing of what it writes at first is missed, and what is said before it starts is heard.
async fn attached_before_the_start(engine: &Engine) {
    let mut config = shell("filter", "echo begin; echo trouble >&2; cat; echo end");
    (config.container.stdin, config.container.stdin_once) = (true, true);
    create(engine, config).await;
    let mut attached = engine.attach_durable("filter", ALL).await.unwrap();
    let watcher = engine.attach_durable("filter", AttachOptions { stdin: false, ..ALL }).await.unwrap();
    let mut stdin = attached.stdin.take().unwrap();
    let said = async move {
        stdin.write_all(b"hello\n").await.unwrap();
        stdin.finish().await.unwrap();
    };
    let (_, code) = tokio::join!(said, run(engine, "filter"));
    assert_eq!(code, 0);
    assert_eq!(read_all(attached.stdout).await, "begin\nhello\nend\n");
    assert_eq!(read_all(attached.stderr).await, "trouble\n");
    assert_eq!(read_all(watcher.stdout).await, "begin\nhello\nend\n");
    let attached = engine.attach_durable("filter", ALL).await.unwrap();
    engine.remove_durable("filter", RemoveDurable::default()).await.unwrap();
    assert_eq!(read_all(attached.stdout).await, "", "it will never run again");
}

async fn terminals(engine: &Engine) {
    let mut config = shell("terminal", "read line; echo got $line; stty size; read line");
    config.container.tty = true;
    config.container.terminal_size = Some(TerminalSize { columns: 90, rows: 30 });
    create(engine, config).await;
    let mut attached = engine.attach_durable("terminal", ALL).await.unwrap();
    assert!(attached.tty && attached.stderr.is_none());
    let error = engine.resize_durable("terminal", TerminalSize { columns: 1, rows: 1 }).unwrap_err();
    assert!(matches!(error.cause(), Some(DurableProblem::NotRunning(_))));
    let wait = engine.wait_durable("terminal", WaitFor::NextExit).unwrap();
    start(engine, "terminal").await;
    engine.resize_durable("terminal", TerminalSize { columns: 120, rows: 40 }).unwrap();
    let mut stdin = attached.stdin.take().unwrap();
    stdin.write_all(b"words\n\n").await.unwrap();
    assert_eq!(wait.await.code, 0);
    let text = read_all(attached.stdout).await;
    assert!(text.contains("got words\r\n40 120\r\n"), "{text:?}");
    engine.remove_durable("terminal", RemoveDurable::default()).await.unwrap();
}

fn command(line: &str) -> ExecSpec {
    let command = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
    ExecSpec {
        config: ExecConfig { command, stdin: true, ..ExecConfig::default() },
        extra: serde_json::json!({"Cmd": line}),
    }
}

async fn commands(engine: &Engine) {
    create(engine, shell("host", "sleep 1000")).await;
    let error = engine.create_exec("host", command("true")).unwrap_err();
    assert!(matches!(error.cause(), Some(DurableProblem::NotRunning(_))));
    start(engine, "host").await;
    let (_, mut happenings) = engine.happenings(None);
    let exec = engine.create_exec("host", command("cat; exit 5")).unwrap();
    assert_eq!((exec.len(), engine.exec_status(&exec).unwrap().state), (64, ExecState::Created));
    let mut running = engine.start_exec(&exec, true, None).await.unwrap();
    let error = engine.start_exec(&exec, true, None).await.unwrap_err();
    assert!(matches!(error.cause(), Some(DurableProblem::ExecUsed { running: true, .. })));
    assert!(matches!(engine.exec_status(&exec).unwrap().state, ExecState::Running { pid } if pid > 1));
    assert_eq!(engine.running_execs(&status(engine, "host").id), std::slice::from_ref(&exec));
    let rows = engine.top("host").await.unwrap();
    let lines: Vec<_> = rows.iter().map(|row| row.command.as_str()).collect();
    assert!(lines.contains(&"sleep 1000") && lines.contains(&"/bin/sh -c cat; exit 5"), "{lines:?}");
    let mut stdin = running.streams.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"echoed").await.unwrap();
    drop(stdin);
    assert_eq!(read_all(running.streams.stdout.take()).await, "echoed");
    assert_eq!(running.wait().await, 5);
    assert!(matches!(engine.exec_status(&exec).unwrap().state, ExecState::Ended { exit_code: 5, .. }));
    assert_eq!(engine.exec_status(&exec).unwrap().spec.extra["Cmd"], "cat; exit 5");

    let detached = engine.create_exec("host", command("echo lost; echo kept > /kept; exit 3")).unwrap();
    let mut running = engine.start_exec(&detached, false, None).await.unwrap();
    assert!(running.streams.stdout.is_none());
    assert_eq!(running.wait().await, 3, "its output goes nowhere, and it does not end of it");

    let mut missing = command("");
    missing.config.command = vec!["/bin/missing".into()];
    let missing = engine.create_exec("host", missing).unwrap();
    engine.start_exec(&missing, true, None).await.unwrap_err();
    assert!(matches!(
        engine.exec_status(&missing).unwrap().state,
        ExecState::Ended { exit_code: 127, pid: 0 }
    ));

    let actions = told(&mut happenings, "host", &Action::ExecDie { exec: detached, exit_code: 3 }).await;
    assert!(actions.contains(&Action::ExecDie { exec: exec.clone(), exit_code: 5 }), "{actions:?}");
    engine.remove_durable("host", RemoveDurable { force: true, volumes: false }).await.unwrap();
    let error = engine.exec_status(&exec).unwrap_err();
    assert_eq!(error.cause(), Some(&DurableProblem::NoExec(exec)));
}

async fn changes(engine: &Engine) {
    let id = create(engine, shell("first", "sleep 1000")).await;
    create(engine, shell("second", "true")).await;
    start(engine, "first").await;
    let error = engine.rename_durable("first", "second").await.unwrap_err();
    assert!(matches!(error.cause(), Some(DurableProblem::NameTaken { .. })));
    engine.rename_durable("first", "/third").await.unwrap();
    assert_eq!((status(engine, "third").id.clone(), engine.durable("first").is_err()), (id, true));
    let resources = Resources { pids_limit: Some(77), ..Resources::default() };
    let restart = Some(RestartPolicy::UnlessStopped);
    let update = DurableUpdate { resources, restart, extra: Some("words".into()) };
    engine.update_durable("third", update).await.unwrap();
    let changed = status(engine, "third");
    assert_eq!(
        (changed.config.restart, &changed.config.extra),
        (RestartPolicy::UnlessStopped, &"words".into())
    );
    let cgroup = engine.shared().cgroups.open(&changed.run.as_ref().unwrap().cgroup_path).unwrap();
    let pids = cgroup.dirs().into_iter().find_map(|dir| std::fs::read_to_string(dir.join("pids.max")).ok());
    assert_eq!(pids.unwrap().trim(), "77");
    engine.restart_durable("third", Some(9), None).await.unwrap();
    let pids = cgroup.dirs().into_iter().find_map(|dir| std::fs::read_to_string(dir.join("pids.max")).ok());
    assert_eq!(pids.unwrap().trim(), "77", "the next run has it, too");
    for name in ["third", "second"] {
        engine.remove_durable(name, RemoveDurable { force: true, volumes: false }).await.unwrap();
    }
}

fn on(network: &str) -> NetworkEndpointConfig {
    NetworkEndpointConfig { network: network.into(), ..NetworkEndpointConfig::default() }
}

async fn networks(engine: &Engine) {
    for name in ["front", "back"] {
        let config =
            UserNetworkConfig { name: name.into(), enable_ipv4: true, ..UserNetworkConfig::default() };
        engine.create_user_network(config).await.unwrap();
    }
    let mut config = shell("member", "sleep 1000");
    config.sandbox.user_networking =
        Some(Box::new(UserNetworking { endpoints: vec![on("front")], ..UserNetworking::default() }));
    create(engine, config).await;
    let of = |engine: &Engine| -> Vec<String> {
        let run = status(engine, "member").run.clone().unwrap();
        run.endpoints.iter().map(|e| e.network_name.clone()).collect()
    };
    let begun = std::time::Instant::now();
    start(engine, "member").await;
    println!("a start with a network: {:?}", begun.elapsed());
    assert_eq!(of(engine), ["front"]);
    engine.connect_durable("member", on("back")).await.unwrap();
    assert_eq!(of(engine).len(), 2);
    let error = engine.connect_durable("member", on("back")).await.unwrap_err();
    assert!(matches!(error.cause(), Some(crate::NetworkProblem::AlreadyAttached { .. })));
    engine.disconnect_durable("member", "front").await.unwrap();
    assert_eq!(of(engine), ["back"]);
    engine.stop_durable("member", Some(9), None).await.unwrap();
    assert!(engine.user_network("back").unwrap().members.is_empty());
    engine.connect_durable("member", on("front")).await.unwrap();
    engine.disconnect_durable("member", "back").await.unwrap();
    let error = engine.disconnect_durable("member", "back").await.unwrap_err();
    assert!(matches!(error.cause(), Some(crate::NetworkProblem::NotAttached { .. })));
    start(engine, "member").await;
    assert_eq!(of(engine), ["front"]);
    engine.remove_durable("member", RemoveDurable { force: true, volumes: false }).await.unwrap();
    assert_eq!(engine.prune_user_networks(NetworkPruneFilter::default()).await.unwrap().len(), 2);
}

async fn lines(engine: &Engine, name: &str, query: crate::LogQuery) -> Vec<String> {
    let mut stream = engine.logs(name, query).await.unwrap();
    let mut lines = Vec::new();
    while let Some(line) = stream.next().await {
        lines.push(String::from_utf8(line.unwrap().bytes).unwrap());
    }
    lines
}

/// Following a log ends with the run, over files that are rotated, and misses nothing.
async fn logs(engine: &Engine) {
    let count =
        "n=0; while [ $n -lt 400 ]; do n=$((n + 1)); echo line $n; echo e $n >&2; done; exec sleep 1000";
    let all = crate::LogQuery { stdout: true, follow: true, ..crate::LogQuery::default() };
    for log in [
        LogConfig::JsonFile { max_bytes: Some(30_000), max_files: 4 },
        LogConfig::Local { max_bytes: Some(20_000), max_files: 4 },
    ] {
        create(engine, DurableConfig { log, ..shell("talks", count) }).await;
        start(engine, "talks").await;
        let end = async {
            until("the last line", || log_of(engine, "talks").contains("line 400")).await;
            engine.kill_durable("talks", 9).await.unwrap();
        };
        let (followed, ()) = tokio::join!(lines(engine, "talks", all.clone()), end);
        let expected: Vec<String> = (1..=400).map(|n| format!("line {n}\n")).collect();
        assert_eq!(followed, expected);
        let tail = crate::LogQuery { tail: Some(2), stderr: true, ..all.clone() };
        let last = lines(engine, "talks", tail).await;
        assert!(last.len() == 2 && last.iter().any(|l| l.ends_with(" 400\n")), "{last:?}");
        assert!(std::path::Path::new(&format!("{}.1", status(engine, "talks").log_path)).is_file());
        engine.remove_durable("talks", RemoveDurable { force: true, volumes: false }).await.unwrap();
    }
    create(engine, DurableConfig { log: LogConfig::None, ..shell("mute", "echo lost") }).await;
    assert_eq!(run(engine, "mute").await, 0);
    let error = engine.logs("mute", all).await.unwrap_err();
    assert!(matches!(error.cause(), Some(DurableProblem::NoLog(_))));
    engine.remove_durable("mute", RemoveDurable::default()).await.unwrap();
}

/// The log's two newest files: the last line may have been rotated away already.
fn log_of(engine: &Engine, name: &str) -> String {
    let path = status(engine, name).log_path.clone();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    read(&format!("{path}.1")) + &read(&path)
}

async fn health(engine: &Engine) {
    let config = HealthConfig {
        test: HealthTest::Shell("echo looked; test -e /well".into()),
        interval: std::time::Duration::from_millis(50),
        timeout: std::time::Duration::from_secs(5),
        start_period: std::time::Duration::ZERO,
        start_interval: std::time::Duration::ZERO,
        retries: 2,
    };
    create(engine, DurableConfig { health: Some(config), ..shell("patient", "sleep 1000") }).await;
    let (_, mut happenings) = engine.happenings(None);
    start(engine, "patient").await;
    assert_eq!(status(engine, "patient").health.as_ref().unwrap().state, HealthState::Starting);
    let is = |state| status(engine, "patient").health.as_ref().unwrap().state == state;
    until("a failure to be seen", || is(HealthState::Unhealthy)).await;
    let exec = engine.create_exec("patient", command("echo > /well")).unwrap();
    assert_eq!(engine.start_exec(&exec, false, None).await.unwrap().wait().await, 0);
    until("it to be well", || is(HealthState::Healthy)).await;
    let health = status(engine, "patient").health.clone().unwrap();
    assert!(health.log.len() <= 5 && health.failing_streak == 0);
    let last = health.log.last().unwrap();
    assert_eq!((last.exit_code, last.output.as_str()), (0, "looked\n"));
    let actions = told(&mut happenings, "patient", &Action::Health(HealthState::Healthy)).await;
    let verdicts: Vec<_> = actions.iter().filter(|a| matches!(a, Action::Health(_))).collect();
    assert_eq!(verdicts.len(), 2, "one for each change");
    engine.remove_durable("patient", RemoveDurable { force: true, volumes: false }).await.unwrap();
}

/// `--network container:x` and the like.
async fn joins(engine: &Engine) {
    let look = "cat /etc/hostname; test -e /dev/shm/mark && echo shm; ls -d /proc/1/root/mark; ls /sys/class/net | wc -l";
    let joining =
        JoinModes { network: Some("base".into()), pid: Some("base".into()), ipc: Some("base".into()) };
    let mut config = DurableConfig { join: joining, ..shell("guest", look) };
    config.container.security.capabilities.add = vec!["SYS_PTRACE".into()];
    let error = engine.create_durable(config.clone()).await.unwrap_err();
    assert!(error.to_string().contains("another's network"), "{}", error.chain());
    config.sandbox.user_networking = None;
    create(engine, config).await;
    let error = engine.start_durable("guest").await.unwrap_err();
    assert_eq!(error.cause(), Some(&DurableProblem::NotFound("base".into())));
    let id = create(engine, shell("base", "echo > /dev/shm/mark; echo > /mark; exec sleep 1000")).await;
    let error = engine.start_durable("guest").await.unwrap_err();
    assert_eq!(error.cause(), Some(&DurableProblem::NotRunning(id.clone())));
    start(engine, "base").await;
    let live = engine.live_container(&id).unwrap().pid;
    until("the mark", || std::path::Path::new(&format!("/proc/{live}/root/mark")).is_file()).await;
    assert_eq!(run(engine, "guest").await, 0);
    let wanted = crate::LogQuery { stdout: true, stderr: true, ..crate::LogQuery::default() };
    let seen = lines(engine, "guest", wanted).await.concat();
    assert_eq!(seen, format!("{}\nshm\n/proc/1/root/mark\n1\n", id.short()));
    for name in ["base", "guest"] {
        engine.remove_durable(name, RemoveDurable { force: true, volumes: false }).await.unwrap();
    }
}

async fn pauses(engine: Engine, dir: &Path) -> Engine {
    create(&engine, shell("tired", "sleep 1000")).await;
    start(&engine, "tired").await;
    engine.pause_durable("tired").await.unwrap();
    assert_eq!(status(&engine, "tired").phase, DurablePhase::Paused);
    let error = engine.pause_durable("tired").await.unwrap_err();
    assert!(matches!(error.cause(), Some(DurableProblem::Paused(_))));
    assert!(engine.create_exec("tired", command("true")).is_err());
    engine.shutdown().await;
    drop(engine);
    let engine = open(dir).await;
    assert_eq!(status(&engine, "tired").phase, DurablePhase::Paused, "a restart changes nothing");
    engine.unpause_durable("tired").await.unwrap();
    engine.pause_durable("tired").await.unwrap();
    engine.stop_durable("tired", Some(9), None).await.unwrap();
    assert_eq!(status(&engine, "tired").phase, DurablePhase::Exited, "what is frozen can be stopped");
    engine.remove_durable("tired", RemoveDurable::default()).await.unwrap();
    engine
}
