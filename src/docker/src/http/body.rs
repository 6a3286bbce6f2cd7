//! Bodies of requests: JSON documents and forms, read whole and within bounds.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use serde::de::DeserializeOwned;

use super::error::{ApiError, Result};
use super::params::Params;

/// Longest document or form.
const MAX_BYTES: usize = 4 << 20;

/// What a content type says besides its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether the body is a form, whose parameters stand beside those of the query.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    media_type(headers) == "application/x-www-form-urlencoded"
}

/// Reads the parameters of a form.
pub(super) async fn form(body: Incoming) -> Result<Params> {
    let bytes = collect(body).await?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ApiError::bad("the form is not UTF-8"))?;
    Ok(Params::parse(text))
}

async fn collect(body: Incoming) -> Result<Bytes> {
    match Limited::new(body, MAX_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body is longer than {MAX_BYTES} bytes"),
        )),
        Err(error) => Err(ApiError::bad(format!("reading the request body failed: {error}"))),
    }
}

/// Reads a document that must be there.
pub(super) async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Incoming) -> Result<T> {
    let media = media_type(headers);
    if media != "application/json" && !(media.is_empty() && body.is_end_stream()) {
        return Err(ApiError::bad(format!(
            "unsupported Content-Type header ({media}): must be 'application/json'"
        )));
    }
    parse(&collect(body).await?)
}

/// Reads a document that may be missing.
pub(super) async fn optional_json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Option<T>> {
    if body.is_end_stream() { Ok(None) } else { json(headers, body).await.map(Some) }
}

/// One document and nothing after it.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::bad("invalid JSON: got EOF while reading request body"));
    }
    let mut documents = serde_json::Deserializer::from_slice(bytes);
    let document =
        T::deserialize(&mut documents).map_err(|error| ApiError::bad(format!("invalid JSON: {error}")))?;
    documents.end().map_err(|_| ApiError::bad("unexpected content after JSON"))?;
    Ok(document)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn one_document_and_nothing_else() {
        let read = |text: &str| parse::<Value>(text.as_bytes()).map_err(|error| error.message().to_owned());
        assert_eq!(read("{\"a\":1}\n"), Ok(json!({"a": 1})));
        assert_eq!(read(" \n"), Err("invalid JSON: got EOF while reading request body".into()));
        assert_eq!(read("{} {}"), Err("unexpected content after JSON".into()));
        assert!(read("{").unwrap_err().starts_with("invalid JSON: EOF"));
    }

    #[test]
    fn media_types_lose_their_parameters() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "Application/JSON; charset=utf-8".parse().unwrap());
        assert_eq!(media_type(&headers), "application/json");
        assert!(!is_form(&headers));
    }
}
