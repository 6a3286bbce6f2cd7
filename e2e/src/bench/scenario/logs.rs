//! Rows 15 to 17: containers that write much. Time runs from a container's first byte until the last line is
//! in the log, not until the last byte was taken: a large buffer is not speed.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;

use crate::bench::engine::Engine;
use crate::bench::machine;
use crate::bench::turn::{Turn, container, pod};
use crate::wait::wait_until;

/// Of lines of 100 bytes.
const LONG_BYTES: u64 = 200_000_000;
/// Of lines of 2 bytes.
const SHORT_BYTES: u64 = 8_000_000;

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let engine = turn.engine()?;
    for number in 0..3 {
        let long = flood(&engine, 100, LONG_BYTES)?;
        let short = flood(&engine, 2, SHORT_BYTES)?;
        if number > 0 {
            turn.sample("15", long.bytes_per_second / 1e6);
            turn.sample("17", long.cpu_seconds_per_byte * 1e9);
            turn.sample("16", short.bytes_per_second / 2.0 / 1e6);
        }
    }
    Ok(())
}

struct Flood {
    bytes_per_second: f64,
    cpu_seconds_per_byte: f64,
}

/// Runs a container that writes, and checks that every line is in the log.
fn flood(engine: &Engine, length: u64, bytes: u64) -> Result<Flood> {
    let config = pod(engine, "flood")?;
    let results = engine.dir().join("results");
    std::fs::create_dir_all(&results)?;
    let mut main = container(&["lines", &length.to_string(), &bytes.to_string(), "/results/flood"]);
    main.mounts.push(cri::Mount {
        container_path: "/results".to_owned(),
        host_path: results.display().to_string(),
        ..Default::default()
    });
    let pod = engine.client.run_pod(&config)?;
    let id = engine.client.create(&pod, &config, &main)?;
    // A helper per pod is among them already.
    let pids = engine.pids();
    let before = machine::process_cpu_seconds(&pids)?;
    engine.client.start_container(cri::StartContainerRequest { container_id: id.clone() })?;
    wait_until("the writer to end", Duration::from_secs(120), || {
        engine.client.state(&id).is_ok_and(|status| status.state() == cri::ContainerState::ContainerExited)
    });
    let log = Path::new(&config.log_directory).join("main.log");
    let lines = bytes.div_ceil(length);
    wait_for_size(&log, bytes)?;
    let cpu = machine::process_cpu_seconds(&pids)? - before;
    let text = std::fs::read_to_string(results.join("flood")).context("the writer left no result")?;
    let mut words = text.split_whitespace().map(str::parse::<f64>);
    let (Some(Ok(written)), Some(Ok(began_ns))) = (words.next(), words.next()) else {
        anyhow::bail!("the writer's result is {text:?}");
    };
    let ended = std::fs::metadata(&log).and_then(|about| about.modified()).context("stat the log")?;
    let took = ended.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64() - began_ns / 1e9;
    check_lines(&log, lines, length)?;
    std::fs::remove_file(&log)?;
    engine.client.remove_pod(&pod)?;
    Ok(Flood { bytes_per_second: written / took, cpu_seconds_per_byte: cpu / written })
}

/// Waits until the log does not grow any more.
fn wait_for_size(log: &Path, least: u64) -> Result<()> {
    let size = || std::fs::metadata(log).map_or(0, |about| about.len());
    let mut last = 0;
    wait_until("the log to be whole", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_millis(20));
        let now = size();
        let whole = now == last && now > least;
        last = now;
        whole
    });
    Ok(())
}

/// Nobody is fast by dropping lines.
fn check_lines(log: &Path, least: u64, length: u64) -> Result<()> {
    let file = std::fs::File::open(log).with_context(|| format!("open {}", log.display()))?;
    let mut reader = std::io::BufReader::with_capacity(1 << 20, file);
    let mut count = 0;
    loop {
        let block = std::io::BufRead::fill_buf(&mut reader)?;
        if block.is_empty() {
            break;
        }
        count += block.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let length = block.len();
        std::io::BufRead::consume(&mut reader, length);
    }
    ensure!(count >= least, "{count} of {least} lines of {length} bytes are in the log");
    Ok(())
}
