//! Rows 18 to 22: images from a registry on the loopback device, into a store that has nothing of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cri_api::v1 as cri;

use crate::bench::engine::Engine;
use crate::bench::images::{FILES, FILES_ZSTD, LARGE, SIBLING};
use crate::bench::machine::{self, ms};
use crate::bench::turn::Turn;

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let engine = turn.engine()?;
    // What an earlier turn that was broken off left.
    for image in [FILES, FILES_ZSTD, SIBLING, LARGE] {
        remove(&engine, image)?;
    }
    calm(&engine)?;
    if [18, 21, 22].into_iter().any(|row| turn.wants(row)) {
        turn.sample("18", pull(&engine, FILES)?.as_secs_f64());
        if turn.wants(22) {
            let before = machine::loopback_bytes()?;
            turn.sample("22", pull(&engine, SIBLING)?.as_secs_f64());
            let received = machine::loopback_bytes()? - before;
            turn.sample("22b", (received - missing_layer_bytes(turn)?).max(0.0) / 1024.0);
            remove(&engine, SIBLING)?;
        }
        calm(&engine)?;
        removal(turn, &engine)?;
    }
    if turn.wants(20) {
        calm(&engine)?;
        turn.sample("20", pull(&engine, FILES_ZSTD)?.as_secs_f64());
        remove(&engine, FILES_ZSTD)?;
    }
    if turn.wants(19) {
        calm(&engine)?;
        turn.sample("19", pull(&engine, LARGE)?.as_secs_f64());
        remove(&engine, LARGE)?;
    }
    calm(&engine)
}

/// How long an image takes to be usable.
fn pull(engine: &Engine, image: &str) -> Result<Duration> {
    let start = Instant::now();
    engine.client.pull(image)?;
    Ok(start.elapsed())
}

fn remove(engine: &Engine, image: &str) -> Result<()> {
    let spec = cri::ImageSpec { image: image.to_owned(), ..Default::default() };
    engine
        .client
        .remove_image(cri::RemoveImageRequest { image: Some(spec) })
        .with_context(|| format!("remove {image}"))?;
    Ok(())
}

/// Lets the disk finish what was written and deleted: neither belongs to the next figure.
fn calm(engine: &Engine) -> Result<()> {
    crate::run(std::process::Command::new("sync").arg("--file-system").arg(engine.dir()))?;
    let mut last = machine::free_bytes(engine.dir())?;
    crate::wait_until("the disk to be calm", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_millis(500));
        let now = machine::free_bytes(engine.dir()).unwrap_or_default();
        let calm = (now - last).abs() < 1e6;
        last = now;
        calm
    });
    Ok(())
}

/// Row 21.
fn removal(turn: &mut Turn, engine: &Engine) -> Result<()> {
    let before = machine::free_bytes(engine.dir())?;
    let start = Instant::now();
    remove(engine, FILES)?;
    turn.sample("21", ms(start.elapsed()));
    // The unpacked files alone are 686 MiB.
    let wanted = before + f64::from(600 << 20);
    crate::wait_until("the space to be free", Duration::from_secs(120), || {
        machine::free_bytes(engine.dir()).is_ok_and(|free| free > wanted)
    });
    turn.sample("21b", start.elapsed().as_secs_f64());
    Ok(())
}

/// Size of the only layer that the sibling does not share.
fn missing_layer_bytes(turn: &Turn) -> Result<f64> {
    let url = format!("http://{}/v2/berth/files/manifests/sibling", turn.registry.address());
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    let answer = crate::http::request("GET", &url, &accept, b"")?;
    let manifest: serde_json::Value =
        serde_json::from_slice(answer.text().as_bytes()).context("parse the manifest")?;
    manifest["layers"][3]["size"].as_f64().context("a manifest without a fourth layer")
}
