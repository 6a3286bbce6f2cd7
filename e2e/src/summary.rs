//! One line per suite, on the terminal and in the file that `hack/test` prints at its end.

use std::fmt;
use std::io::Write;
use std::time::Duration;

/// Says what came of a suite, as `NAME: N passed, N failed, N skipped` or with figures of its own.
#[allow(clippy::print_stdout, reason = "a suite's result is what it prints")]
pub fn summarize(line: &str) {
    println!("{line}");
    let Some(path) = std::env::var_os("E2E_SUMMARY") else { return };
    let file = std::fs::File::options().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
        eprintln!("cannot write the summary to {}: {error}", path.display());
    }
}

/// Figures of many measurements of one thing.
#[derive(Debug, Clone, Copy)]
pub struct Percentiles {
    /// The smallest.
    pub min: Duration,
    /// The median.
    pub p50: Duration,
    /// Nine of ten are not above it.
    pub p90: Duration,
    /// Ninety-nine of a hundred are not above it.
    pub p99: Duration,
}

impl Percentiles {
    /// Of at least one measurement.
    pub fn of(mut samples: Vec<Duration>) -> Percentiles {
        samples.sort();
        let last = samples.len() - 1;
        let at = |percent: usize| samples[(last * percent).div_ceil(100)];
        Percentiles { min: samples[0], p50: at(50), p90: at(90), p99: at(99) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |value: Duration| value.as_secs_f64() * 1000.0;
        let Percentiles { min, p50, p90, p99 } = *self;
        write!(f, "min {:.2} p50 {:.2} p90 {:.2} p99 {:.2} ms", ms(min), ms(p50), ms(p90), ms(p99))
    }
}
