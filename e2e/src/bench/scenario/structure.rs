//! Row 30: system calls of one pod's start, exact on any machine.

use anyhow::Result;

use crate::bench::turn::{Turn, container, pod, start_pod};
use crate::trace::Tracer;

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let engine = turn.engine()?;
    // The first pods make what all share.
    for _ in 0..3 {
        let (pod, _) = start_pod(&engine.client, &pod(&engine, "warm")?, &container(&["idle"]))?;
        engine.client.remove_pod(&pod)?;
    }
    let config = pod(&engine, "traced")?;
    let tracer = Tracer::attach(&engine.roots(), &engine.dir().join("trace"))?;
    let started = start_pod(&engine.client, &config, &container(&["idle"]));
    let (counts, _) = tracer.finish()?;
    turn.sample("30", counts.execs().into());
    turn.sample("30b", counts.clones().into());
    turn.sample("30c", counts.syncs().into());
    engine.client.remove_pod(&started?.0)
}
