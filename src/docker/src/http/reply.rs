//! What handlers answer.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::ApiError;
use super::stream::{Out, Streamed};

/// Body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A connection without HTTP, both ways.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What goes on with a connection after its upgrade.
pub(crate) type Session = Box<dyn FnOnce(Box<dyn Io>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// An answer.
pub(crate) enum Reply {
    /// A response.
    Response(Response<Body>),
    /// The connection is handed to a session, which may read and write as it likes.
    Hijack {
        /// What the bytes are.
        content_type: &'static str,
        /// The request's body, which a session reads from when the client did not ask for an upgrade.
        input: Option<Incoming>,
        /// The session.
        session: Session,
    },
}

impl Reply {
    /// A document.
    pub(crate) fn json(document: &impl Serialize) -> Self {
        Self::json_with(StatusCode::OK, document)
    }

    /// A document with another status than 200.
    pub(crate) fn json_with(status: StatusCode, document: &impl Serialize) -> Self {
        let mut bytes = match serde_json::to_vec(document) {
            Ok(bytes) => bytes,
            Err(error) => {
                return Self::error(&ApiError::internal(format!("write the answer as JSON: {error}")));
            }
        };
        bytes.push(b'\n');
        Self::bytes(status, "application/json", bytes)
    }

    /// Bytes of some type.
    pub(crate) fn bytes(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let mut response = Response::new(Full::new(bytes.into()).boxed_unsync());
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self::Response(response)
    }

    /// A status and nothing else.
    pub(crate) fn empty(status: StatusCode) -> Self {
        let mut response = Response::new(Full::default().boxed_unsync());
        *response.status_mut() = status;
        Self::Response(response)
    }

    /// 204.
    pub(crate) fn no_content() -> Self {
        Self::empty(StatusCode::NO_CONTENT)
    }

    /// A body that is sent while it comes into being. Headers go out at once.
    pub(crate) fn stream<F>(content_type: &'static str, produce: impl FnOnce(Out) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut response = Response::new(Streamed::new(produce).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self::Response(response)
    }

    /// An error.
    pub(crate) fn error(error: &ApiError) -> Self {
        if error.is_plain_text() {
            let text = format!("{}\n", error.message());
            return Self::bytes(error.status(), "text/plain; charset=utf-8", text);
        }
        let mut bytes = serde_json::json!({ "message": error.message() }).to_string().into_bytes();
        bytes.push(b'\n');
        Self::bytes(error.status(), "application/json", bytes)
    }

    /// Adds a header, whose name is in lower case, unless the reply is a session.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        // Values come from constants and base64.
        if let (Self::Response(response), Ok(value)) = (&mut self, HeaderValue::from_str(value)) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
        self
    }
}
