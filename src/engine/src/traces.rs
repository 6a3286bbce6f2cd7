//! Spans for traces of requests: where the time of a command goes, step by step.
//!
//! They have a target of their own. Unless the program around the engine wants that target nothing is built for
//! them; see [`TRACE_TARGET`]. A span must end with the work it names: one that outlives its request would keep the
//! whole trace from being told.

/// The target of spans that belong to traces of requests and not to the log.
pub const TRACE_TARGET: &str = "berth_trace";

/// A span of a step, below the current one.
macro_rules! step {
    ($name:literal $($fields:tt)*) => {
        tracing::info_span!(target: $crate::traces::TRACE_TARGET, $name $($fields)*)
    };
}

pub(crate) use step;
