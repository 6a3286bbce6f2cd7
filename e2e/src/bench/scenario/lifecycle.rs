//! Rows 1 to 5: pods, containers and programs in them, one after another.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;

use crate::bench::engine::Engine;
use crate::bench::images::PROGRAM;
use crate::bench::machine::ms;
use crate::bench::turn::{Turn, container, pod, start_pod};

/// Pods in the background of row 2.
const BACKGROUND: usize = 50;

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let engine = turn.engine()?;
    for _ in 0..3 {
        pod_up_and_down(&engine)?;
    }
    let pods = turn.either(40, 15);
    for _ in 0..pods {
        let (up, down) = pod_up_and_down(&engine)?;
        turn.sample("1", up);
        turn.sample("5", down);
    }
    ready_pod(turn, &engine)?;
    if turn.wants(2) {
        let mut background = Vec::new();
        for _ in 0..BACKGROUND {
            background
                .push(start_pod(&engine.client, &pod(&engine, "background")?, &container(&["idle"]))?.0);
        }
        for _ in 0..pods {
            turn.sample("2", pod_up_and_down(&engine)?.0);
        }
        for pod in background {
            engine.client.remove_pod(&pod)?;
        }
    }
    Ok(())
}

/// How long a pod takes to start and to be gone, in milliseconds.
fn pod_up_and_down(engine: &Engine) -> Result<(f64, f64)> {
    let config = pod(engine, "lifecycle")?;
    let main = container(&["idle"]);
    let start = Instant::now();
    let (pod, id) = start_pod(&engine.client, &config, &main)?;
    let up = ms(start.elapsed());
    let start = Instant::now();
    engine
        .client
        .stop_container(cri::StopContainerRequest { container_id: id, timeout: 0 })
        .context("stop container")?;
    engine.client.remove_pod(&pod)?;
    Ok((up, ms(start.elapsed())))
}

/// Rows 3 and 4: containers and programs in one pod.
fn ready_pod(turn: &mut Turn, engine: &Engine) -> Result<()> {
    let config = pod(engine, "ready")?;
    let (pod, host) = start_pod(&engine.client, &config, &container(&["idle"]))?;
    if turn.wants(3) {
        for number in 0..turn.either(40, 10) {
            let mut main = container(&["idle"]);
            let name = format!("more-{number}");
            main.log_path = format!("{name}.log");
            main.metadata = Some(cri::ContainerMetadata { name, attempt: 0 });
            let start = Instant::now();
            let id = engine.client.run(&pod, &config, &main)?;
            let took = ms(start.elapsed());
            if number >= 2 {
                turn.sample("3", took);
            }
            engine
                .client
                .stop_container(cri::StopContainerRequest { container_id: id.clone(), timeout: 0 })?;
            engine.client.remove_container(cri::RemoveContainerRequest { container_id: id })?;
        }
    }
    for number in 0..turn.either(102, 42) {
        let request = cri::ExecSyncRequest {
            container_id: host.clone(),
            cmd: vec![PROGRAM.to_owned(), "true".to_owned()],
            timeout: 10,
        };
        let start = Instant::now();
        let answer = engine.client.exec_sync(request).context("exec")?;
        let took = ms(start.elapsed());
        ensure!(answer.exit_code == 0, "the program ended with {}", answer.exit_code);
        if number >= 2 {
            turn.sample("4", took);
        }
    }
    engine.client.remove_pod(&pod)
}
