//! One entry of a log, in either form.

use serde::Deserialize;

use super::LogQuery;
use crate::model::LogFormat;

/// Which of a container's streams a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogSource {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it was written to.
    pub source: LogSource,
    /// When, nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// Its bytes, with the line break; without one it is a part of a longer line.
    pub bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow, default)]
    log: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    stream: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    time: std::borrow::Cow<'a, str>,
}

/// Reads an entry, without its line break. What is none is skipped: a file that was cut must stay readable.
pub(super) fn parse(format: LogFormat, entry: &[u8]) -> Option<LogLine> {
    match format {
        LogFormat::JsonFile => {
            let json: Json<'_> = serde_json::from_slice(entry).ok()?;
            let at_ns = parse_time(json.time.as_bytes())?;
            Some(LogLine {
                source: source(json.stream.as_bytes())?,
                at_ns,
                bytes: json.log.into_owned().into(),
            })
        }
        LogFormat::Cri => {
            let mut parts = entry.splitn(4, |byte| *byte == b' ');
            let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
            let mut bytes = parts.next().unwrap_or_default().to_vec();
            if tag != b"P" {
                bytes.push(b'\n');
            }
            Some(LogLine { source: source(stream)?, at_ns: parse_time(time)?, bytes })
        }
    }
}

fn source(name: &[u8]) -> Option<LogSource> {
    match name {
        b"stdout" => Some(LogSource::Stdout),
        b"stderr" => Some(LogSource::Stderr),
        _ => None,
    }
}

/// What a query says of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Wanted,
    Skipped,
    /// This line and all after it are too young.
    Over,
}

pub(super) fn judge(query: &LogQuery, line: &LogLine) -> Verdict {
    if query.until_ns.is_some_and(|until| line.at_ns > until) {
        return Verdict::Over;
    }
    let is_wanted = match line.source {
        LogSource::Stdout => query.stdout,
        LogSource::Stderr => query.stderr,
    };
    match query.since_ns.is_some_and(|since| line.at_ns < since) {
        false if is_wanted => Verdict::Wanted,
        _ => Verdict::Skipped,
    }
}

/// RFC 3339 in UTC or with an offset, up to nine digits of a second.
fn parse_time(text: &[u8]) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = std::str::from_utf8(text.get(from..to)?).ok()?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let mut at = 19;
    let mut nanos = 0;
    if text.get(at) == Some(&b'.') {
        let digits = text.get(at + 1..)?.iter().take_while(|b| b.is_ascii_digit()).count();
        let kept = digits.min(9);
        let scale = 10_i64.pow(u32::try_from(9 - kept).ok()?);
        nanos = number(at + 1, at + 1 + kept)? * scale;
        at += 1 + digits;
    }
    let offset = match text.get(at)? {
        b'Z' | b'z' => 0,
        sign @ (b'+' | b'-') => {
            let seconds = number(at + 1, at + 3)? * 3600 + number(at + 4, at + 6)? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let days = days_since_epoch(year, month, day)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar; years begin in March here, so that the day that comes and
/// goes is the last one.
fn days_since_epoch(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:34:56.5Z", Some(951_827_696_500_000_000)),
            ("2026-12-01T03:15:00.123456789Z", Some(1_796_094_900_123_456_789)),
            ("2026-12-01T04:15:00.123456789+01:00", Some(1_796_094_900_123_456_789)),
            ("1969-12-31T23:59:59Z", Some(-1_000_000_000)),
            ("2026-13-01T03:15:00Z", None),
            ("2026-12-01 ", None),
            ("2026-12-01T03:15:00", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn entries_of_both_forms_are_read() {
        let json = br#"{"log":"a\u003cb\n","stream":"stderr","time":"1970-01-01T00:00:01Z"}"#;
        let cri = b"1970-01-01T00:00:01Z stderr F a<b";
        let expected = LogLine { source: LogSource::Stderr, at_ns: 1_000_000_000, bytes: b"a<b\n".to_vec() };
        assert_eq!(parse(LogFormat::JsonFile, json), Some(expected.clone()));
        assert_eq!(parse(LogFormat::Cri, cri), Some(expected));
        let part = parse(LogFormat::Cri, b"1970-01-01T00:00:01Z stdout P \xff ").unwrap();
        assert_eq!(part.bytes, b"\xff ");
        assert_eq!(parse(LogFormat::Cri, b"1970-01-01T00:00:01Z stdout F").unwrap().bytes, b"\n");
        for cut in [&json[..20], b"", b"{}", b"null"] {
            assert_eq!(parse(LogFormat::JsonFile, cut), None);
            assert_eq!(parse(LogFormat::Cri, cut), None);
        }
    }
}
