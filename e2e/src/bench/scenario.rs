//! What an engine does in a turn, and which rows come of it.

mod churn;
mod critest;
mod density;
mod exits;
mod hostports;
mod idle;
mod lifecycle;
mod logs;
mod pulls;
mod sizes;
mod starts;
mod structure;
mod traffic;

use anyhow::Result;

use super::engine::Kind;
use super::plan::Mode;
use super::turn::Turn;

/// A group of rows that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Pods and containers one after another.
    Lifecycle,
    /// A hundred pods at once.
    Density,
    /// An engine that has nothing to do.
    Idle,
    /// Host ports beside many others.
    HostPorts,
    /// Much output.
    Logs,
    /// Images of some hundred MiB.
    Pulls,
    /// Starting the daemon.
    Starts,
    /// How soon an exit is told.
    Exits,
    /// System calls.
    Structure,
    /// What many pods leave.
    Churn,
    /// Sizes of the programs.
    Sizes,
    /// The benchmark of cri-tools.
    Critest,
    /// Bytes between pods.
    Traffic,
}

impl Scenario {
    /// In the order they are run: the short ones that most people look at first.
    pub const ALL: [Scenario; 13] = [
        Scenario::Lifecycle,
        Scenario::Density,
        Scenario::Idle,
        Scenario::Sizes,
        Scenario::Starts,
        Scenario::Exits,
        Scenario::Structure,
        Scenario::Logs,
        Scenario::Traffic,
        Scenario::Pulls,
        Scenario::HostPorts,
        Scenario::Critest,
        Scenario::Churn,
    ];

    /// Its name in plans and files.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Lifecycle => "lifecycle",
            Scenario::Density => "density",
            Scenario::Idle => "idle",
            Scenario::HostPorts => "hostports",
            Scenario::Logs => "logs",
            Scenario::Pulls => "pulls",
            Scenario::Starts => "starts",
            Scenario::Exits => "exits",
            Scenario::Structure => "structure",
            Scenario::Churn => "churn",
            Scenario::Sizes => "sizes",
            Scenario::Critest => "critest",
            Scenario::Traffic => "traffic",
        }
    }

    /// The scenario of a name.
    pub fn from_name(name: &str) -> Option<Scenario> {
        Scenario::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// The rows that it measures.
    pub fn rows(self) -> &'static [u32] {
        match self {
            Scenario::Lifecycle => &[1, 2, 3, 4, 5],
            Scenario::Density => &[6, 7, 10, 11, 12, 13, 14, 28],
            Scenario::Idle => &[9],
            Scenario::HostPorts => &[8],
            Scenario::Logs => &[15, 16, 17],
            Scenario::Pulls => &[18, 19, 20, 21, 22],
            Scenario::Starts => &[28],
            Scenario::Exits => &[29],
            Scenario::Structure => &[30],
            Scenario::Churn => &[32],
            Scenario::Sizes => &[34],
            Scenario::Critest => &[35],
            Scenario::Traffic => &[36],
        }
    }

    /// How often each engine does it.
    pub fn rounds(self, mode: Mode) -> u32 {
        match (mode, self) {
            (Mode::Quick, Scenario::Lifecycle) => 2,
            (Mode::Quick, _) => 1,
            // Exact, or so long that its samples are many.
            (_, Scenario::Structure | Scenario::Sizes | Scenario::Churn | Scenario::Critest) => 1,
            (_, Scenario::Idle | Scenario::HostPorts) => 2,
            (_, Scenario::Starts | Scenario::Exits) => 4,
            _ => 5,
        }
    }

    /// Whether it says something of an engine that differs from another in its OCI runtime alone.
    pub fn concerns(self, kind: Kind) -> bool {
        match self {
            Scenario::Pulls
            | Scenario::Idle
            | Scenario::Starts
            | Scenario::Traffic
            | Scenario::Logs
            | Scenario::HostPorts
            | Scenario::Churn => kind != Kind::ContainerdCrun,
            _ => true,
        }
    }

    /// Does it once.
    pub(super) fn run(self, turn: &mut Turn) -> Result<()> {
        match self {
            Scenario::Lifecycle => lifecycle::run(turn),
            Scenario::Density => density::run(turn),
            Scenario::Idle => idle::run(turn),
            Scenario::HostPorts => hostports::run(turn),
            Scenario::Logs => logs::run(turn),
            Scenario::Pulls => pulls::run(turn),
            Scenario::Starts => starts::run(turn),
            Scenario::Exits => exits::run(turn),
            Scenario::Structure => structure::run(turn),
            Scenario::Churn => churn::run(turn),
            Scenario::Sizes => sizes::run(turn),
            Scenario::Critest => critest::run(turn),
            Scenario::Traffic => traffic::run(turn),
        }
    }
}
