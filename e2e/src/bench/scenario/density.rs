//! Rows 6, 7, 10 to 14 and a part of 28: a hundred pods.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use cri_api::v1 as cri;

use crate::bench::engine::Engine;
use crate::bench::machine::{self, ms};
use crate::bench::turn::{Turn, container, pod, start_pod};
use crate::client::Client;

/// Pods before the slope of memory is taken.
const FIRST: usize = 10;
/// Pods that start at the same time.
const CONCURRENCY: usize = 8;

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let mut engine = turn.engine()?;
    let more = 100;
    start_many(&engine, FIRST)?;
    settle();
    let (pss, available) = (machine::pss_mib(&engine.pids())?, machine::available_mib()?);

    let busy = machine::busy_seconds()?;
    let took = start_many(&engine, more)?;
    let busy = machine::busy_seconds()? - busy;
    let pods = f64::from(u32::try_from(more)?);
    turn.sample("6", pods / took.as_secs_f64());
    turn.sample("7", busy * 1000.0 / pods);
    settle();
    turn.sample("10", (machine::pss_mib(&engine.pids())? - pss) / pods);
    turn.sample("11", (available - machine::available_mib()?) / pods);

    statistics(turn, &engine, FIRST + more)?;
    if turn.wants(12) {
        idle(turn, &engine)?;
    }
    if turn.wants(28) {
        for _ in 0..5 {
            engine.kill_daemon();
            turn.sample("28b", ms(engine.start_daemon()?));
            engine.wait_ready()?;
        }
        let list = engine.client.list_containers(cri::ListContainersRequest::default())?;
        ensure!(list.containers.len() == FIRST + more, "{} containers after restarts", list.containers.len());
    }
    remove_all(&engine)
}

/// Lets what a start leaves to be done later be done.
fn settle() {
    std::thread::sleep(Duration::from_secs(3));
}

/// Starts pods from several clients until all of them run.
fn start_many(engine: &Engine, count: usize) -> Result<Duration> {
    let mut work = Vec::new();
    for _ in 0..count {
        work.push(pod(engine, "density")?);
    }
    let clients: Vec<Client> = (0..CONCURRENCY).map(|_| engine.connect()).collect::<Result<_>>()?;
    for client in &clients {
        client.version(cri::VersionRequest::default()).context("connect")?;
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let (work, next) = (&work, &next);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(move || -> Result<()> {
                    let main = container(&["idle"]);
                    while let Some(config) = work.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        let (_, id) = start_pod(client, config, &main)?;
                        let state = client.state(&id)?.state();
                        ensure!(state == cri::ContainerState::ContainerRunning, "{id} is {state:?}");
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    Ok(start.elapsed())
}

/// Rows 13 and 14.
fn statistics(turn: &mut Turn, engine: &Engine, pods: usize) -> Result<()> {
    let client = &engine.client;
    let some = client.list_containers(cri::ListContainersRequest::default())?.containers;
    let id = some.first().context("no containers")?.id.clone();
    // The first of each fills caches.
    for number in 0..turn.either(42, 22) {
        let mut figures = Vec::new();
        let mut timed = |key: &'static str, count: &mut dyn FnMut() -> Result<usize>| -> Result<()> {
            let start = Instant::now();
            let count = count()?;
            figures.push((key, ms(start.elapsed())));
            ensure!(count == pods, "{count} of {pods} in the answer of row {key}");
            Ok(())
        };
        timed("13", &mut || {
            Ok(client.list_container_stats(cri::ListContainerStatsRequest::default())?.stats.len())
        })?;
        timed("13b", &mut || {
            Ok(client.list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default())?.stats.len())
        })?;
        timed("14", &mut || Ok(client.list_pod_sandbox(cri::ListPodSandboxRequest::default())?.items.len()))?;
        timed("14b", &mut || {
            Ok(client.list_containers(cri::ListContainersRequest::default())?.containers.len())
        })?;
        timed("14c", &mut || client.state(&id).map(|_| pods))?;
        if number >= 2 {
            for (key, took) in figures {
                turn.sample(key, took);
            }
        }
    }
    Ok(())
}

/// Row 12.
fn idle(turn: &mut Turn, engine: &Engine) -> Result<()> {
    settle();
    let span = Duration::from_secs(15);
    let pids = engine.pids();
    let before = machine::cpu_seconds(&pids)?;
    std::thread::sleep(span);
    let used = machine::cpu_seconds(&pids)? - before;
    turn.sample("12", used * 1000.0 * 10.0 / span.as_secs_f64());
    Ok(())
}

/// Several at a time, for peers take half a second for each.
fn remove_all(engine: &Engine) -> Result<()> {
    let pods = engine.client.list_pod_sandbox(cri::ListPodSandboxRequest::default())?.items;
    let ids: Vec<String> = pods.into_iter().map(|pod| pod.id).collect();
    let clients: Vec<Client> = (0..4).map(|_| engine.connect()).collect::<Result<_>>()?;
    std::thread::scope(|scope| {
        let workers: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let mine = ids.iter().skip(number).step_by(clients.len());
                scope.spawn(move || mine.into_iter().try_for_each(|id| client.remove_pod(id)))
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a client panicked"))?)
    })
}
