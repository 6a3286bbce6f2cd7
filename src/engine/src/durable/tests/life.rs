//! A container's life while the daemon lives.

use std::time::Duration;

use super::*;
use crate::durable::DurableProblem;
use crate::testing::in_world;

#[test]
fn containers_live() {
    in_world("durable::tests::life::containers_live", |dir| async move {
        let engine = open(&dir).await;
        import_box(&engine, &dir).await;
        runs_keep_what_was_written(&engine, &dir).await;
        refusals(&engine).await;
        stops(&engine).await;
        removals(&engine).await;
        failed_starts(&engine).await;
        policies(&engine).await;
        an_image_may_go(&engine).await;
        assert!(engine.durables().is_empty() && engine.shared().handles().is_empty());
        assert!(engine.shared().storage.list_snapshots().is_empty());
        assert_eq!(std::fs::read_dir(dir.join("root/containers")).unwrap().count(), 0);
        engine.shutdown().await;
    });
}

async fn runs_keep_what_was_written(engine: &Engine, dir: &Path) {
    let (_, mut happenings) = engine.happenings(None);
    let id = create(engine, shell("count", "echo hi; echo x >> /f; exit $(wc -l < /f)")).await;
    let made = status(engine, "count");
    assert_eq!((made.phase, &made.last_exit), (DurablePhase::Created, &None));
    assert_eq!(engine.wait_durable("count", WaitFor::NotRunning).unwrap().await.code, 0);
    assert_eq!(run(engine, id.as_str()).await, 1);
    assert_eq!(run(engine, &id.as_str()[..20]).await, 2);
    let ended = status(engine, "/count");
    assert_eq!(ended.phase, DurablePhase::Exited);
    assert_eq!(ended.last_exit.as_ref().unwrap().code, 2);
    assert!(ended.run.is_none() && !ended.manually_stopped);
    let log = log(engine, "count");
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(log.starts_with(r#"{"log":"hi\n","stream":"stdout","time":""#), "{log}");
    assert!(ended.log_path.starts_with(dir.join("root/containers").join(&id).to_str().unwrap()));
    let ids = engine.sandboxes();
    assert!(ids.is_empty(), "runs are not listed as sandboxes");
    engine.remove_durable("count", RemoveDurable::default()).await.unwrap();
    let actions = told(&mut happenings, "count", &Action::Destroy).await;
    let die = |exit_code| Action::Die { exit_code };
    assert_eq!(actions, [Action::Create, Action::Start, die(1), Action::Start, die(2), Action::Destroy]);
}

async fn refusals(engine: &Engine) {
    let mut config = shell("refused", "true");
    config.container.image = "nowhere".into();
    let error = engine.create_durable(config).await.unwrap_err();
    assert_eq!(error.cause(), Some(&DurableProblem::ImageMissing("nowhere".into())));
    let id = create(engine, shell("taken", "true")).await;
    let error = engine.create_durable(shell("taken", "true")).await.unwrap_err();
    assert_eq!(error.cause(), Some(&DurableProblem::NameTaken { name: "taken".into(), id: id.clone() }));
    let config =
        DurableConfig { auto_remove: true, restart: RestartPolicy::Always, ..shell("refused", "true") };
    assert!(matches!(
        engine.create_durable(config).await.unwrap_err().cause(),
        Some(DurableProblem::AutoRemoved(_))
    ));
    let error = engine.kill_durable("taken", 9).await.unwrap_err();
    assert_eq!(error.cause(), Some(&DurableProblem::NotRunning(id)));
    assert_eq!(engine.stop_durable("taken", None, None).await.unwrap(), Stopped::AlreadyStopped);
    let error = engine.durable("refused").unwrap_err();
    assert_eq!(error.cause(), Some(&DurableProblem::NotFound("refused".into())));
    engine.remove_durable("taken", RemoveDurable::default()).await.unwrap();
}

const PATIENT: &str = "trap 'exit 5' TERM; trap 'exit 6' INT; echo ready; while :; do sleep 0.05; done";

async fn until_ready(engine: &Engine, name: &str) {
    until("the trap", || log(engine, name).contains("ready")).await;
}

async fn stops(engine: &Engine) {
    let (_, mut happenings) = engine.happenings(None);
    create(engine, shell("patient", PATIENT)).await;
    start(engine, "patient").await;
    assert_eq!(engine.start_durable("patient").await.unwrap(), Started::AlreadyRunning);
    until_ready(engine, "patient").await;
    let running = status(engine, "patient");
    let info = running.run.clone().unwrap();
    assert!(running.is_running() && info.pid > 1);
    assert_eq!(engine.container_status(running.id.as_str()).unwrap().sandbox, info.sandbox);
    let output = engine
        .exec_sync(
            &running.id,
            ExecSyncConfig {
                command: ["/bin/cat", "/etc/hostname"].map(str::to_owned).to_vec(),
                timeout: None,
                max_output_bytes: 100,
            },
        )
        .await
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", running.id.short()));
    assert_eq!(engine.stop_durable("patient", None, None).await.unwrap(), Stopped::Now);
    let stopped = status(engine, "patient");
    assert_eq!((stopped.last_exit.as_ref().unwrap().code, stopped.manually_stopped), (5, true));
    start(engine, "patient").await;
    assert!(!status(engine, "patient").manually_stopped);
    engine.restart_durable("patient", Some(9), None).await.unwrap();
    assert_eq!(status(engine, "patient").last_exit.as_ref().unwrap().code, 137);
    let wait = engine.wait_durable("patient", WaitFor::NotRunning).unwrap();
    engine.kill_durable("patient", 9).await.unwrap();
    assert_eq!(wait.await.code, 137);
    engine.remove_durable("patient", RemoveDurable::default()).await.unwrap();
    let (kill, die) = (|signal| Action::Kill { signal }, |exit_code| Action::Die { exit_code });
    assert_eq!(
        told(&mut happenings, "patient", &Action::Destroy).await,
        [
            vec![Action::Create, Action::Start, kill(15), die(5), Action::Stop],
            vec![Action::Start, kill(9), die(137), Action::Stop, Action::Start, Action::Restart],
            vec![kill(9), die(137), Action::Destroy],
        ]
        .concat()
    );
    let grace = Some(Duration::from_millis(50));
    create(engine, shell("stubborn", "trap '' TERM; echo ready; while :; do sleep 0.05; done")).await;
    start(engine, "stubborn").await;
    until_ready(engine, "stubborn").await;
    assert_eq!(engine.stop_durable("stubborn", None, grace).await.unwrap(), Stopped::Now);
    assert_eq!(status(engine, "stubborn").last_exit.as_ref().unwrap().code, 137);
    engine.remove_durable("stubborn", RemoveDurable::default()).await.unwrap();
}

async fn removals(engine: &Engine) {
    let (_, mut happenings) = engine.happenings(None);
    let id = create(engine, shell("runs", "while :; do sleep 1; done")).await;
    start(engine, "runs").await;
    let error = engine.remove_durable("runs", RemoveDurable::default()).await.unwrap_err();
    assert_eq!(error.cause(), Some(&DurableProblem::Running(id)));
    let wait = engine.wait_durable("runs", WaitFor::Removed).unwrap();
    let force = RemoveDurable { force: true, volumes: false };
    engine.remove_durable("runs", force).await.unwrap();
    assert_eq!((wait.await.code, engine.durable("runs").is_err()), (137, true));
    assert_eq!(
        told(&mut happenings, "runs", &Action::Destroy).await,
        [
            Action::Create,
            Action::Start,
            Action::Kill { signal: 9 },
            Action::Die { exit_code: 137 },
            Action::Destroy
        ]
    );
    create(engine, DurableConfig { auto_remove: true, ..shell("short", "exit 7") }).await;
    let wait = engine.wait_durable("short", WaitFor::Removed).unwrap();
    start(engine, "short").await;
    assert_eq!(wait.await.code, 7);
    create(engine, shell("short", "true")).await;
    engine.remove_durable("short", force).await.unwrap();
}

async fn failed_starts(engine: &Engine) {
    let mut config = shell("broken", "");
    config.container.command = vec!["/bin/missing".into()];
    create(engine, config.clone()).await;
    let error = engine.start_durable("broken").await.unwrap_err();
    let failed = status(engine, "broken");
    assert_eq!((failed.phase, failed.last_exit.as_ref().unwrap().code), (DurablePhase::Created, 127));
    assert_eq!(failed.error, error.chain());
    assert!(engine.shared().handles().is_empty(), "nothing of the run is left");
    engine.remove_durable("broken", RemoveDurable::default()).await.unwrap();
    config.container.command = vec!["/etc".into()];
    create(engine, DurableConfig { auto_remove: true, ..config }).await;
    let wait = engine.wait_durable("broken", WaitFor::Removed).unwrap();
    engine.start_durable("broken").await.unwrap_err();
    assert_eq!(wait.await.code, 126);
    until_gone(engine, "broken").await;
}

async fn policies(engine: &Engine) {
    let restart = RestartPolicy::OnFailure { max: 2 };
    create(engine, DurableConfig { restart, ..shell("tries", "echo x >> /f; exit 1") }).await;
    let (_, mut happenings) = engine.happenings(None);
    start(engine, "tries").await;
    until("the last try", || {
        let status = status(engine, "tries");
        status.restart_count == 2 && status.phase == DurablePhase::Exited
    })
    .await;
    let die = Action::Die { exit_code: 1 };
    let expected = [Action::Start, die.clone(), Action::Start, die.clone(), Action::Start, die];
    engine.remove_durable("tries", RemoveDurable::default()).await.unwrap();
    assert_eq!(told(&mut happenings, "tries", &Action::Destroy).await[..6], expected);

    let restart = RestartPolicy::Always;
    create(engine, DurableConfig { restart, ..shell("always", "exit 0") }).await;
    start(engine, "always").await;
    until_phase(engine, "always", DurablePhase::Restarting).await;
    let wait = engine.wait_durable("always", WaitFor::NextExit).unwrap();
    assert_eq!(wait.await.code, 0);
    engine.stop_durable("always", None, None).await.unwrap();
    until_phase(engine, "always", DurablePhase::Exited).await;
    let count = status(engine, "always").restart_count;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(status(engine, "always").restart_count, count, "stopped by hand, it stays so");
    engine.remove_durable("always", RemoveDurable::default()).await.unwrap();
}

async fn an_image_may_go(engine: &Engine) {
    create(engine, shell("orphan", "exit 4")).await;
    engine.remove_image("box").await.unwrap();
    assert_eq!(run(engine, "orphan").await, 4, "its layers are its own");
    engine.remove_durable("orphan", RemoveDurable::default()).await.unwrap();
}
