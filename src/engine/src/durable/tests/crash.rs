//! What a daemon that starts finds, and what it makes of it: each state that a crash can leave is made by hand.

use std::path::PathBuf;

use super::*;
use crate::testing::in_world;

#[test]
fn containers_outlive_the_daemon() {
    in_world("durable::tests::crash::containers_outlive_the_daemon", |dir| async move {
        let engine = open(&dir).await;
        import_box(&engine, &dir).await;
        let engine = restart(engine, &dir).await;
        while_away(engine, &dir).await;
    });
}

#[test]
fn each_step_can_be_the_last() {
    in_world("durable::tests::crash::each_step_can_be_the_last", |dir| async move {
        let engine = open(&dir).await;
        import_box(&engine, &dir).await;
        let engine = cut_off(engine, &dir).await;
        let engine = reboot(engine, &dir).await;
        engine.shutdown().await;
    });
}

const LOOP: &str = "echo ready; while :; do sleep 0.05; test -e /go && exit 9; done";

async fn restart(engine: Engine, dir: &Path) -> Engine {
    create(&engine, shell("stays", LOOP)).await;
    start(&engine, "stays").await;
    let before = status(&engine, "stays");
    let wait = engine.wait_durable("stays", WaitFor::NextExit).unwrap();
    engine.shutdown().await;
    drop(engine);
    assert!(wait.await.error.is_some(), "the daemon's end is no exit");

    let engine = open(dir).await;
    let after = status(&engine, "stays");
    assert_eq!(after.phase, DurablePhase::Running);
    assert_eq!(after.run, before.run, "the same process, with the same attachments");
    let wait = engine.wait_durable("stays", WaitFor::NotRunning).unwrap();
    engine.kill_durable("stays", 9).await.unwrap();
    assert_eq!(wait.await.code, 137);
    assert_eq!(run_and_stop(&engine, "stays").await, 143);
    engine
}

async fn run_and_stop(engine: &Engine, name: &str) -> i32 {
    start(engine, name).await;
    engine.stop_durable(name, Some(15), Some(std::time::Duration::from_secs(1))).await.unwrap();
    let code = status(engine, name).last_exit.as_ref().unwrap().code;
    // A first process ignores SIGTERM unless it asks for it.
    if code == 137 { 143 } else { code }
}

/// Containers end while no daemon is there: their exits are recorded, and their policies go on.
async fn while_away(engine: Engine, dir: &Path) {
    let restart = RestartPolicy::OnFailure { max: 0 };
    create(&engine, shell("ends", LOOP)).await;
    create(&engine, DurableConfig { restart, ..shell("again", LOOP) }).await;
    create(&engine, DurableConfig { auto_remove: true, ..shell("goes", LOOP) }).await;
    let mut go = Vec::new();
    for name in ["ends", "again", "goes"] {
        start(&engine, name).await;
        let pid = status(&engine, name).run.as_ref().unwrap().pid;
        go.push((format!("/proc/{pid}/root/go"), pid));
    }
    engine.shutdown().await;
    drop(engine);
    for (path, pid) in go {
        std::fs::write(path, "").unwrap();
        until("the process to end", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        })
        .await;
    }
    let engine = open(dir).await;
    until_gone(&engine, "goes").await;
    until_phase(&engine, "ends", DurablePhase::Exited).await;
    assert_eq!(status(&engine, "ends").last_exit.as_ref().unwrap().code, 9);
    until("the policy to go on", || status(&engine, "again").restart_count > 0).await;
    for name in ["ends", "again", "stays"] {
        engine.remove_durable(name, RemoveDurable { force: true, volumes: false }).await.unwrap();
    }
    engine.shutdown().await;
}

fn record_path(dir: &Path, id: &ContainerId) -> PathBuf {
    dir.join("root/containers").join(id).join("record.json")
}

fn edit(dir: &Path, id: &ContainerId, change: impl FnOnce(&mut serde_json::Value)) {
    let path = record_path(dir, id);
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    std::fs::write(&path, record.to_string()).unwrap();
}

fn intent(boot_id: &str) -> serde_json::Value {
    serde_json::json!({"sandbox": "never-made", "boot_id": boot_id, "asked_at_ns": 1})
}

/// The daemon is killed between two steps.
async fn cut_off(engine: Engine, dir: &Path) -> Engine {
    let boot_id = engine.shared().boot_id.clone();
    let always = |name: &str| DurableConfig { restart: RestartPolicy::Always, ..shell(name, LOOP) };
    let no_record = create(&engine, shell("no-record", LOOP)).await;
    let no_snapshot = create(&engine, shell("no-snapshot", "exit 2")).await;
    let intent_only = create(&engine, shell("intent-only", LOOP)).await;
    let intent_always = create(&engine, always("intent-always")).await;
    let intent_removed =
        create(&engine, DurableConfig { auto_remove: true, ..shell("intent-removed", LOOP) }).await;
    let recorded = create(&engine, shell("recorded", LOOP)).await;
    let removing = create(&engine, shell("removing", LOOP)).await;
    let unrecorded = create(&engine, shell("unrecorded", LOOP)).await;
    for name in ["recorded", "removing", "unrecorded", "no-record"] {
        start(&engine, name).await;
    }
    let later = create(&engine, shell("later", LOOP)).await;
    engine.shutdown().await;
    let trash = engine.shared().storage.remove(&no_snapshot).unwrap();
    trash.empty().unwrap();
    drop(engine);

    // Its directory is there and its record is not: it was not made to the end, or its removal is almost done.
    std::fs::remove_file(record_path(dir, &no_record)).unwrap();
    for id in [&intent_only, &intent_always, &intent_removed] {
        edit(dir, id, |record| record["run"] = intent(&boot_id));
    }
    // Its exit is on record, and its sandbox is still there.
    edit(dir, &recorded, |record| {
        record["run"] = serde_json::Value::Null;
        let exit = serde_json::json!({"code": 4, "reason": "Error", "started_at_ns": 1, "finished_at_ns": 2});
        record["last_exit"] = exit;
    });
    edit(dir, &removing, |record| record["removing"] = serde_json::json!({"volumes": false}));
    // Its run is there, and the intent never reached the disk.
    edit(dir, &unrecorded, |record| record["run"] = serde_json::Value::Null);
    edit(dir, &later, |record| record["version"] = 99.into());

    let engine = open(dir).await;
    for name in ["no-record", "intent-removed", "removing"] {
        until_gone(&engine, name).await;
    }
    until_phase(&engine, "intent-always", DurablePhase::Running).await;
    let unstarted = status(&engine, "intent-only");
    assert_eq!((unstarted.phase, unstarted.error.is_empty()), (DurablePhase::Created, false));
    assert_eq!(status(&engine, "recorded").last_exit.as_ref().unwrap().code, 4);
    until("runs that are none to be taken down", || engine.shared().handles().len() == 1).await;
    assert_eq!(status(&engine, "unrecorded").phase, DurablePhase::Created);
    assert_eq!(run(&engine, "no-snapshot").await, 2);
    assert!(engine.durable("later").is_err(), "a record of a later release is not served");
    assert!(engine.shared().storage.snapshot(&later).is_some(), "and what is its own stays");
    let gone = [&no_record, &removing, &intent_removed];
    until("the snapshots of what is gone to go", || {
        gone.iter().all(|id| engine.shared().storage.snapshot(id).is_none())
    })
    .await;
    for name in ["recorded", "unrecorded", "no-snapshot", "intent-only"] {
        engine.remove_durable(name, RemoveDurable::default()).await.unwrap();
    }
    engine
}

/// Everything that dies with the boot is gone.
async fn reboot(engine: Engine, dir: &Path) -> Engine {
    let with = |name: &str, restart| DurableConfig { restart, ..shell(name, LOOP) };
    let policies = [
        ("none", RestartPolicy::No),
        ("always", RestartPolicy::Always),
        ("unless", RestartPolicy::UnlessStopped),
        ("stopped", RestartPolicy::UnlessStopped),
        ("failure", RestartPolicy::OnFailure { max: 0 }),
    ];
    let mut ids = Vec::new();
    for (name, policy) in policies {
        ids.push(create(&engine, with(name, policy)).await);
        start(&engine, name).await;
        engine.kill_durable(name, 9).await.unwrap();
        until_phase(&engine, name, DurablePhase::Exited).await;
    }
    create(&engine, with("fresh", RestartPolicy::Always)).await;
    engine.remove_durable("intent-always", RemoveDurable { force: true, volumes: false }).await.unwrap();
    engine.shutdown().await;
    drop(engine);
    for (id, (name, _)) in ids.iter().zip(policies) {
        edit(dir, id, |record| {
            record["manually_stopped"] = (name == "stopped").into();
            if name != "stopped" {
                record["run"] = intent("another boot");
            }
        });
    }
    std::fs::remove_dir_all(dir.join("state")).unwrap();

    let engine = open(dir).await;
    for name in ["always", "unless", "failure"] {
        until_phase(&engine, name, DurablePhase::Running).await;
    }
    assert_eq!(status(&engine, "none").phase, DurablePhase::Exited);
    assert_eq!(status(&engine, "none").last_exit.as_ref().unwrap().reason, ExitReason::Unknown);
    assert_eq!(status(&engine, "stopped").last_exit.as_ref().unwrap().code, 137);
    assert_eq!(status(&engine, "fresh").phase, DurablePhase::Created, "one that never ran is left alone");
    for (name, _) in policies.into_iter().chain([("fresh", RestartPolicy::No)]) {
        engine.remove_durable(name, RemoveDurable { force: true, volumes: false }).await.unwrap();
    }
    engine
}
