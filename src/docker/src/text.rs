//! Times and sizes in the words that Docker's clients show or parse.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A time that never was.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// RFC 3339 with as many digits as it needs, in UTC; [`NEVER`] for 0.
pub(crate) fn rfc3339(at_ns: i64) -> String {
    if at_ns == 0 {
        return NEVER.to_owned();
    }
    let at =
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ns)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(&Rfc3339).unwrap_or_else(|_| NEVER.to_owned())
}

/// RFC 3339 with nine digits behind the second, as lines of logs have it.
pub(crate) fn rfc3339_nanos(at_ns: i64) -> String {
    let whole = rfc3339(at_ns - at_ns.rem_euclid(1_000_000_000));
    format!("{}.{:09}Z", whole.trim_end_matches('Z'), at_ns.rem_euclid(1_000_000_000))
}

/// Seconds since the epoch of a time as images write it; 0 if it is none.
pub(crate) fn unix_seconds(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp)
}

/// A point in time as clients send it: seconds with a fraction, RFC 3339, or a duration before now. Nanoseconds
/// since the epoch.
pub(crate) fn moment(text: &str, now_ns: i64) -> Option<i64> {
    if let Some(ns) = seconds(text) {
        return Some(ns);
    }
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return i64::try_from(at.unix_timestamp_nanos()).ok();
    }
    duration(text).and_then(|ago| now_ns.checked_sub(ago))
}

/// `1700000000.123456789`.
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let whole: i64 = whole.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
    whole.checked_mul(1_000_000_000)?.checked_add(if negative { -nanos } else { nanos })
}

/// Nanoseconds of a duration as Go writes it: `1h30m`, `10ms`.
pub(crate) fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let scale: i64 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let mut part = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()? }.checked_mul(scale)?;
        if !fraction.is_empty() {
            let digits = fraction.get(..9.min(fraction.len()))?;
            let parts: i64 = digits.parse().ok()?;
            part = part.checked_add(parts * scale / 10_i64.pow(u32::try_from(digits.len()).ok()?))?;
        }
        total = total.checked_add(part)?;
        rest = behind;
    }
    Some(total)
}

/// A number of bytes as progress bars show it, in powers of 1000 with four digits: `1.234MB`.
pub(crate) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    // For display alone.
    #[allow(clippy::cast_precision_loss)]
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let digits: usize = if size >= 1000.0 {
        0
    } else if size >= 100.0 {
        1
    } else if size >= 10.0 {
        2
    } else {
        3
    };
    let text = format!("{size:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS.get(unit).unwrap_or(&"B"))
}

/// How long something lasts, as Docker says it: `About a minute`, `5 hours`.
pub(crate) fn human_duration(ns: i64) -> String {
    let seconds = ns.max(0) / 1_000_000_000;
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_digits_they_need() {
        assert_eq!(rfc3339(0), NEVER);
        assert_eq!(rfc3339(1_700_000_000_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339(1_700_000_000_120_000_000), "2023-11-14T22:13:20.12Z");
        assert_eq!(rfc3339_nanos(1_700_000_000_120_000_000), "2023-11-14T22:13:20.120000000Z");
        assert_eq!(unix_seconds("2023-11-14T22:13:20.5Z"), 1_700_000_000);
        assert_eq!(unix_seconds("yesterday"), 0);
    }

    #[test]
    fn moments_come_in_three_forms() {
        let now = 1_700_000_000_000_000_000;
        assert_eq!(moment("1700000000.25", now), Some(1_700_000_000_250_000_000));
        assert_eq!(moment("2023-11-14T22:13:20Z", now), Some(now));
        assert_eq!(moment("1m30s", now), Some(now - 90_000_000_000));
        assert_eq!(moment("soon", now), None);
        assert_eq!(moment("1.2.3", now), None);
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1h2m3.5s"), Some(3_723_500_000_000));
        assert_eq!(duration("10ms"), Some(10_000_000));
        assert_eq!((duration("10"), duration(""), duration("1y")), (None, None, None));
    }

    #[test]
    fn sizes_have_four_digits() {
        assert_eq!(human_size(999), "999B");
        assert_eq!(human_size(1_000), "1kB");
        assert_eq!(human_size(2_213_000), "2.213MB");
        assert_eq!(human_size(123_456_789), "123.5MB");
    }

    #[test]
    fn durations_are_told_in_words() {
        let s = 1_000_000_000;
        let words: Vec<_> =
            [0, s, 30 * s, 60 * s, 119 * s, 120 * s, 3000 * s, 3600 * s, 5 * 3600 * s, 72 * 3600 * s]
                .map(human_duration)
                .into();
        assert_eq!(
            words,
            [
                "Less than a second",
                "1 second",
                "30 seconds",
                "About a minute",
                "About a minute",
                "2 minutes",
                "50 minutes",
                "About an hour",
                "5 hours",
                "3 days"
            ]
        );
    }
}
