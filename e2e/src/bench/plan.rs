//! Which turns are taken, in which order.

use std::fmt;
use std::path::{Path, PathBuf};

use super::engine::Kind;
use super::scenario::Scenario;
use super::sheet;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything that was asked for.
    Full,
    /// A look at the main rows in three minutes.
    Quick,
}

impl Mode {
    /// Its name, and that of the directory of its results.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Full => "full",
            Mode::Quick => "quick",
        }
    }

    /// The mode of a name.
    pub fn from_name(name: &str) -> Option<Mode> {
        [Mode::Full, Mode::Quick].into_iter().find(|mode| mode.name() == name)
    }

    /// Rows that are measured when none are named.
    pub fn rows(self) -> Vec<u32> {
        match self {
            Mode::Full => Scenario::ALL.iter().flat_map(|scenario| scenario.rows()).copied().collect(),
            Mode::Quick => vec![1, 4, 6, 9, 10, 13],
        }
    }
}

/// One turn to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// What is done.
    pub scenario: Scenario,
    /// Who does it.
    pub kind: Kind,
    /// For the how manieth time, from zero.
    pub round: u32,
}

impl Planned {
    /// The file of its results in a directory.
    pub fn file(&self, results: &Path) -> PathBuf {
        results.join(format!("{}-{}-{}.json", self.scenario.name(), self.round, self.kind.name()))
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.scenario.name(), self.kind.name(), self.round)
    }
}

/// The turns that `rows` need and whose files are not in `results` yet.
pub fn plan(mode: Mode, rows: &[u32], kinds: &[Kind], results: &Path) -> Vec<Planned> {
    let mut turns = Vec::new();
    for scenario in Scenario::ALL {
        let wanted: Vec<u32> = scenario.rows().iter().copied().filter(|row| rows.contains(row)).collect();
        if wanted.is_empty() {
            continue;
        }
        let concerned: Vec<Kind> = kinds.iter().copied().filter(|&kind| scenario.concerns(kind)).collect();
        for round in 0..scenario.rounds(mode) {
            let mut order = concerned.clone();
            // A B, then B A: a drift of the machine meets both alike.
            if round % 2 == 1 {
                order.reverse();
            }
            let planned = order.into_iter().map(|kind| Planned { scenario, kind, round });
            turns.extend(planned.filter(|turn| !sheet::holds(&turn.file(results), &wanted)));
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_alternate() {
        let kinds = [Kind::Berth, Kind::ContainerdRunc];
        let turns = plan(Mode::Quick, &[1], &kinds, Path::new("/nonexistent"));
        let text: Vec<String> = turns.iter().map(ToString::to_string).collect();
        let expected = ["lifecycle berth 0", "lifecycle containerd-runc 0", "lifecycle containerd-runc 1"];
        assert_eq!(text[..3], expected);
        assert_eq!(text.len(), 4);
    }

    #[test]
    fn every_metric_is_measured_by_a_scenario() {
        let rows = Mode::Full.rows();
        for metric in super::super::metric::METRICS {
            assert!(rows.contains(&metric.row()), "row {}", metric.key);
        }
        assert!(Mode::Quick.rows().iter().all(|row| rows.contains(row)));
    }
}
