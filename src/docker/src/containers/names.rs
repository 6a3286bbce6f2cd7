//! Names for containers that get none.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::app::App;
use crate::http::{ApiError, Result};

const FIRST: [&str; 32] = [
    "amber", "brave", "brisk", "calm", "clever", "coral", "crisp", "daring", "eager", "early", "fair",
    "gentle", "golden", "happy", "honest", "ivory", "jolly", "keen", "lively", "lucky", "mellow", "noble",
    "patient", "polite", "proud", "quick", "quiet", "silver", "steady", "sunny", "swift", "warm",
];
const SECOND: [&str; 32] = [
    "anchor", "barge", "beacon", "bollard", "bosun", "bow", "buoy", "capstan", "cutter", "dock", "ferry",
    "galley", "harbor", "helm", "hull", "jetty", "keel", "lantern", "mast", "mooring", "oar", "pier",
    "pilot", "quay", "rudder", "sail", "schooner", "sextant", "sloop", "spar", "tide", "wharf",
];
/// Names to try before a number is added to one.
const TRIES: usize = 16;

/// A name that no container has right now.
pub(super) fn random(app: &App) -> Result<String> {
    for attempt in 0..2 * TRIES {
        // The hasher's keys are random, which is all that is needed of a name.
        let random = RandomState::new().hash_one(attempt);
        let mut name = pick(random);
        if attempt >= TRIES {
            name = format!("{name}{}", random % 10_000);
        }
        if app.engine.durable(&name).is_err() {
            return Ok(name);
        }
    }
    Err(ApiError::internal("no free name was found for the container: give it one (--name)"))
}

fn pick(random: u64) -> String {
    let word = |list: &[&'static str; 32], bits: u64| list[usize::try_from(bits & 31).unwrap_or_default()];
    format!("{}_{}", word(&FIRST, random), word(&SECOND, random >> 5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_two_words() {
        assert_eq!(pick(0), "amber_anchor");
        assert_eq!(pick(1023), "warm_wharf");
        assert_eq!(pick(u64::MAX), "warm_wharf");
    }
}
