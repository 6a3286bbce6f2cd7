//! Row 9: an engine that was started, ran one pod, and has nothing to do.

use std::time::Duration;

use anyhow::Result;

use crate::bench::machine;
use crate::bench::turn::{Turn, container, pod, start_pod};

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let engine = turn.engine()?;
    let (pod, _) = start_pod(&engine.client, &pod(&engine, "first")?, &container(&["idle"]))?;
    engine.client.remove_pod(&pod)?;
    std::thread::sleep(Duration::from_secs(turn.either(60, 10)));
    turn.sample("9", machine::pss_mib(&engine.pids())?);
    Ok(())
}
