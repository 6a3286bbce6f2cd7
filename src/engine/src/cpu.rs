//! CPU use as a rate: how much more than at the last reading, over the time since.

use std::collections::HashMap;
use std::sync::Mutex;

/// Readings closer together than this are measured against the one before, or the rate would be noise.
const MIN_WINDOW_NS: i64 = 100_000_000;

#[derive(Debug, Clone, Copy)]
struct Reading {
    at_ns: i64,
    usage_ns: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Rates {
    last: Mutex<HashMap<String, (Reading, Option<u64>)>>,
}

impl Rates {
    /// Billionths of a CPU used since the last reading of `key`; `None` on the first one.
    pub(crate) fn observe(&self, key: &str, at_ns: i64, usage_ns: u64) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((before, rate)) = last.get_mut(key) else {
            last.insert(key.to_owned(), (Reading { at_ns, usage_ns }, None));
            return None;
        };
        let window = at_ns - before.at_ns;
        if window < MIN_WINDOW_NS && rate.is_some() {
            return *rate;
        }
        if window <= 0 {
            return *rate;
        }
        let used = u128::from(usage_ns.saturating_sub(before.usage_ns));
        let now = u64::try_from(used * 1_000_000_000 / u128::from(window.unsigned_abs())).ok();
        *rate = now;
        *before = Reading { at_ns, usage_ns };
        now
    }

    /// Forgets what is gone.
    pub(crate) fn forget(&self, key: &str) {
        self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_use_over_time() {
        let rates = Rates::default();
        assert_eq!(rates.observe("a", 0, 0), None);
        assert_eq!(rates.observe("a", 1_000_000_000, 500_000_000), Some(500_000_000));
        assert_eq!(rates.observe("a", 1_000_000_001, 900_000_000), Some(500_000_000), "too close");
        assert_eq!(rates.observe("a", 2_000_000_000, 500_000_000), Some(0));
    }
}
