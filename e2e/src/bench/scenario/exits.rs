//! Row 29: how soon the end of a process is told.

use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use cri_api::v1 as cri;

use crate::bench::turn::{Turn, container, pod};
use crate::client::Client;

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let engine = turn.engine()?;
    let config = pod(&engine, "exits")?;
    let results = engine.dir().join("results");
    std::fs::create_dir_all(&results)?;
    let sandbox = engine.client.run_pod(&config)?;
    let events = subscribe(engine.connect()?);
    for number in 0..turn.either(52, 22) {
        let name = format!("exit-{number}");
        let mut main = container(&["stamp", "30", &format!("/results/{name}")]);
        main.metadata = Some(cri::ContainerMetadata { name: name.clone(), attempt: 0 });
        main.mounts.push(cri::Mount {
            container_path: "/results".to_owned(),
            host_path: results.display().to_string(),
            ..Default::default()
        });
        let id = engine.client.run(&sandbox, &config, &main)?;
        let told = wait_for_exit(&events, &id)?;
        let text = std::fs::read_to_string(results.join(&name)).context("read the time of the exit")?;
        let ended: f64 = text.trim().parse().with_context(|| format!("the time is {text:?}"))?;
        let told = told.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64() * 1e3;
        // Doubles hold microseconds of today's time, which is enough.
        let took = told - ended / 1e6;
        if number >= 2 {
            turn.sample("29", took.max(0.0));
        }
        engine.client.remove_container(cri::RemoveContainerRequest { container_id: id })?;
        std::fs::remove_file(results.join(&name))?;
    }
    engine.client.remove_pod(&sandbox)
}

/// Containers that stopped, with the time at which that was told.
type Events = mpsc::Receiver<(SystemTime, String)>;

/// Listens in a thread that ends with the daemon.
fn subscribe(client: Client) -> Events {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        client.with_runtime(|mut service| async move {
            let Ok(answer) = service.get_container_events(cri::GetEventsRequest::default()).await else {
                return;
            };
            let mut stream = answer.into_inner();
            while let Ok(Some(event)) = stream.message().await {
                let now = SystemTime::now();
                let stopped = event.container_event_type() == cri::ContainerEventType::ContainerStoppedEvent;
                if stopped && sender.send((now, event.container_id)).is_err() {
                    return;
                }
            }
        });
    });
    receiver
}

fn wait_for_exit(events: &Events, wanted: &str) -> Result<SystemTime> {
    loop {
        match events.recv_timeout(Duration::from_secs(10)) {
            Ok((at, id)) if id == wanted => return Ok(at),
            Ok(_) => {}
            Err(_) => bail!("no event told of the end of {wanted}"),
        }
    }
}
