//! The benchmark: Berth beside its peers, row by row of one table.
//!
//! A *turn* is one engine doing one [`Scenario`] once, in namespaces of its own, with an engine that was
//! started for it. `hack/bench` asks [`plan`] for the turns, runs each with [`take_turn`], and lets
//! [`report`] put their files together. Turns alternate between the engines in ABBA order, so that what the
//! machine does meanwhile meets all of them; a turn whose file is there is not taken again.

mod engine;
mod images;
mod machine;
mod metric;
mod peers;
mod plan;
mod report;
mod scenario;
mod sheet;
mod statistics;
mod svg;
mod turn;

pub use engine::{Engine, Kind};
pub use images::prepare;
pub use plan::{Mode, Planned, plan};
pub use report::report;
pub use scenario::Scenario;
pub use turn::{Place, take_turn};
