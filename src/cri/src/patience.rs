//! How long a client will wait for an answer.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// What is kept back of the client's deadline for the answer to reach it.
const MARGIN: Duration = Duration::from_millis(250);

/// The time to answer in, from the deadline that the client sends along; `None` without one. Answering
/// just before the deadline lets the client learn what its request waits for, instead of nothing.
pub(crate) fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let deadline = parse(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    Some(deadline.saturating_sub(MARGIN.min(deadline / 10)))
}

/// At most eight digits and a unit, as gRPC over HTTP/2 writes it.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_parsed() {
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse("150m"), Some(Duration::from_millis(150)));
        for text in ["", "S", "5", "1x", "123456789S", "-1S", "1ä"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        let mut metadata = MetadataMap::new();
        assert_eq!(patience(&metadata), None);
        metadata.insert("grpc-timeout", "10S".parse().unwrap());
        assert_eq!(patience(&metadata), Some(Duration::from_millis(9750)));
        metadata.insert("grpc-timeout", "1m".parse().unwrap());
        assert_eq!(patience(&metadata), Some(Duration::from_micros(900)));
    }
}
