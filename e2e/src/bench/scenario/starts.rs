//! Row 28: how soon a daemon answers. With pods it is measured where the pods are.

use anyhow::Result;

use crate::bench::machine::ms;
use crate::bench::turn::Turn;

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let mut engine = turn.engine()?;
    for number in 0..7 {
        engine.kill_daemon();
        let took = ms(engine.start_daemon()?);
        if number >= 2 {
            turn.sample("28", took);
        }
        engine.wait_ready()?;
    }
    Ok(())
}
