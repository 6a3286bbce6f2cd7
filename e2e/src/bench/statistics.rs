//! Percentiles, and how sure a ratio of medians is.

use serde::Serialize;

/// Samples in one line.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Summary {
    pub count: usize,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Summary {
    /// Of at least one sample.
    pub(super) fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Summary {
            count: sorted.len(),
            min: *sorted.first()?,
            p50: percentile(&sorted, 50),
            p90: percentile(&sorted, 90),
            p99: percentile(&sorted, 99),
            max: *sorted.last()?,
        })
    }
}

/// The smallest sample that `percent` of all do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

/// The median, or zero of nothing.
pub(super) fn median(samples: &[f64]) -> f64 {
    Summary::of(samples).map_or(0.0, |summary| summary.p50)
}

/// A ratio with its bootstrap interval of 95 %.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Ratio {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

const RESAMPLES: usize = 2000;

/// Ratio of the medians of two sets of samples.
pub(super) fn ratio(over: &[f64], under: &[f64]) -> Option<Ratio> {
    let value = quotient(median(over), median(under))?;
    // The same interval for the same samples: the generator starts from a constant.
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut ratios: Vec<f64> = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let (over, under) = (random.resample(over), random.resample(under));
        ratios.extend(quotient(median(&over), median(&under)));
    }
    ratios.sort_by(f64::total_cmp);
    let last = ratios.len().checked_sub(1)?;
    Some(Ratio { value, low: ratios[last * 25 / 1000], high: ratios[last * 975 / 1000] })
}

fn quotient(over: f64, under: f64) -> Option<f64> {
    (under > 0.0).then(|| over / under)
}

/// A small generator of numbers that look random (xorshift64*).
#[derive(Debug)]
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below a bound that is not zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or_default() % bound
    }

    fn resample(&mut self, samples: &[f64]) -> Vec<f64> {
        samples.iter().map(|_| samples[self.below(samples.len())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!((summary.min, summary.p50, summary.p90, summary.p99), (1.0, 100.0, 180.0, 198.0));
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!((one.min, one.p50, one.p99, one.count), (7.0, 7.0, 7.0, 1));
        assert!(Summary::of(&[]).is_none());
    }

    #[test]
    fn an_interval_holds_its_ratio() {
        let peer: Vec<f64> = (0..50).map(|n| 200.0 + f64::from(n)).collect();
        let ours: Vec<f64> = (0..50).map(|n| 10.0 + f64::from(n) / 50.0).collect();
        let ratio = ratio(&peer, &ours).unwrap();
        assert!(ratio.low < ratio.value && ratio.value < ratio.high, "{ratio:?}");
        assert!((20.0..24.0).contains(&ratio.value), "{ratio:?}");
        assert!(super::ratio(&peer, &[0.0]).is_none());
    }
}
