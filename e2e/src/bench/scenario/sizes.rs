//! Row 34: what has to be installed.

use anyhow::{Context, Result};

use crate::bench::turn::Turn;

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let mut bytes = 0.0;
    for program in turn.kind.programs()? {
        let about = std::fs::metadata(&program).with_context(|| format!("stat {}", program.display()))?;
        bytes += about.len() as f64;
    }
    turn.sample("34", bytes / 1e6);
    Ok(())
}
