//! What a registry's refusals say, made safe to show.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use crate::error::{ErrorKind, Fault};

const MAX_MESSAGE: usize = 300;

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The fault for a status and the body that came with it.
pub(crate) fn fault_of_status(status: StatusCode, body: &[u8], wait: Option<Duration>) -> Fault {
    let parsed: Option<ErrorBody> = serde_json::from_slice(body).ok();
    let entry = parsed.as_ref().and_then(|body| body.errors.first());
    let code = entry.map_or("", |entry| entry.code.as_str());
    let kind = match status.as_u16() {
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Denied,
        404 | 410 => ErrorKind::NotFound,
        405 | 501 => ErrorKind::Unsupported,
        408 => ErrorKind::Timeout,
        429 => ErrorKind::RateLimited { retry_after: wait },
        500..=599 => ErrorKind::Unavailable,
        _ if code == "TOOMANYREQUESTS" => ErrorKind::RateLimited { retry_after: wait },
        _ => ErrorKind::Invalid,
    };
    let words = status.canonical_reason().unwrap_or("unknown status").to_ascii_lowercase();
    let mut detail = format!("{words} (status {})", status.as_u16());
    let said = entry.map(|entry| if entry.message.is_empty() { &entry.code } else { &entry.message });
    if let Some(said) = said.filter(|said| !said.is_empty()) {
        detail = format!("{} (status {})", sanitize(said), status.as_u16());
    } else if status == StatusCode::BAD_REQUEST
        && body.starts_with(b"Client sent an HTTP request to an HTTPS")
    {
        detail = "the host speaks TLS only; say https:// in hosts.toml".into();
    }
    let mut fault = Fault::new(kind, detail);
    fault.retry_after = wait;
    fault
}

/// Cuts text from outside to one line of moderate length; URLs lose user and query.
pub(crate) fn sanitize(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let clean: Vec<String> = words.map(strip_url).collect();
    let text = clean.join(" ");
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn strip_url(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// `Retry-After`: seconds or a date.
pub(crate) fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = time::PrimitiveDateTime::parse(text, format).ok()?.assume_utc();
    let wait = date - time::OffsetDateTime::now_utc();
    Some(wait.try_into().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statuses_have_kinds_and_the_registrys_words() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown\nreally"}]}"#;
        let fault = fault_of_status(StatusCode::NOT_FOUND, body, None);
        assert_eq!(
            (fault.kind, fault.detail.as_str()),
            (ErrorKind::NotFound, "manifest unknown really (status 404)")
        );
        let wait = Some(Duration::from_secs(7));
        let fault = fault_of_status(StatusCode::TOO_MANY_REQUESTS, b"<html>", wait);
        assert_eq!(fault.kind, ErrorKind::RateLimited { retry_after: wait });
        assert_eq!(fault_of_status(StatusCode::FORBIDDEN, b"", None).detail, "forbidden (status 403)");
    }

    #[test]
    fn urls_lose_what_may_be_secret() {
        assert_eq!(
            sanitize("see https://u:p@blob.example/a?sig=SECRET#x and\x1b[31m http://h?t=SECRET"),
            "see https://blob.example/a and [31m http://h"
        );
        assert_eq!(sanitize(&"x".repeat(900)).chars().count(), MAX_MESSAGE + 1);
    }

    #[test]
    fn waits_in_seconds_or_until_a_date() {
        let parse = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(parse("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(parse("Fri, 31 Dec 2999 23:59:59 GMT").unwrap() > Duration::from_secs(1_000_000));
        assert_eq!(parse("soon"), None);
    }

    proptest! {
        #[test]
        fn nothing_after_a_question_mark_survives(path in "[a-z/]{0,10}", secret in "SECRET[a-z]{3}") {
            let text = format!("error at https://user:{secret}@h/{path}?token={secret}");
            prop_assert!(!sanitize(&text).contains(&secret));
        }

        #[test]
        fn any_bytes_make_a_fault(body in proptest::collection::vec(any::<u8>(), 0..200), code in 400u16..600) {
            let _ = fault_of_status(StatusCode::from_u16(code).unwrap(), &body, None);
        }
    }
}
