//! RFC 3339 in UTC with nanoseconds, of constant width, without allocation.

/// Length of a formatted timestamp.
pub(crate) const LENGTH: usize = 30;

/// `ns` since the Unix epoch as `2016-10-06T00:17:09.669794202Z`. Times before the epoch count as the epoch.
pub(crate) fn format(ns: i64) -> [u8; LENGTH] {
    let ns = u64::try_from(ns).unwrap_or(0);
    let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut out[0..4], year);
    digits(&mut out[5..7], month);
    digits(&mut out[8..10], day);
    digits(&mut out[11..13], second / 3600);
    digits(&mut out[14..16], second / 60 % 60);
    digits(&mut out[17..19], second % 60);
    digits(&mut out[20..29], nanos);
    out
}

fn digits(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// Year, month and day of a day since the epoch. Counts in years that begin in March, so that the leap day is
/// the last one, and in eras of 400 years, which all have 146 097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ns: i64, expected: &str) {
        assert_eq!(std::str::from_utf8(&format(ns)).unwrap(), expected);
    }

    #[test]
    fn known_times() {
        check(0, "1970-01-01T00:00:00.000000000Z");
        check(-1, "1970-01-01T00:00:00.000000000Z");
        check(1_475_713_029_669_794_202, "2016-10-06T00:17:09.669794202Z");
        check(951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z");
        check(4_107_542_399_999_999_999, "2100-02-28T23:59:59.999999999Z");
        check(4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z");
        check(1_735_689_599_000_000_000, "2024-12-31T23:59:59.000000000Z");
    }
}
