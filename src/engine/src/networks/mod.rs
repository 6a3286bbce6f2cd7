//! User networks: bridges and the like that containers share by name.

mod problem;

pub use problem::NetworkProblem;
