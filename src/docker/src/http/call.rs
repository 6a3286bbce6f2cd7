//! A request as handlers see it.

use http::{HeaderMap, Method, Request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use serde::de::DeserializeOwned;

use super::body;
use super::error::Result;
use super::params::{Params, decode};
use super::version::{self, ApiVersion};

/// A request: its version and path taken apart, its body not yet read.
#[derive(Debug)]
pub(crate) struct Call {
    /// How.
    pub(crate) method: Method,
    /// The version the client speaks.
    pub(crate) version: ApiVersion,
    /// The path behind the version, decoded, without slashes at its ends.
    pub(crate) path: String,
    /// Parameters of query and form.
    pub(crate) params: Params,
    /// Headers.
    pub(crate) headers: HeaderMap,
    body: Option<Incoming>,
    /// The connection, if the client asks for one without HTTP.
    pub(super) upgrade: Option<OnUpgrade>,
}

impl Call {
    /// Takes a request apart, and reads its body if that is a form.
    pub(super) async fn new(mut request: Request<Incoming>) -> Result<Self> {
        let (version, path) = version::split(request.uri().path())?;
        let path = decode(path, false).trim_matches('/').to_owned();
        let mut params = Params::parse(request.uri().query().unwrap_or_default());
        let wants_upgrade = request.headers().contains_key(http::header::UPGRADE);
        let upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        if body::is_form(&parts.headers)
            && let Some(form) = body.take()
        {
            params.extend(body::form(form).await?);
        }
        Ok(Self { method: parts.method, version, path, params, headers: parts.headers, body, upgrade })
    }

    /// The document of the body, which must be there.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        match self.body.take() {
            Some(body) => body::json(&self.headers, body).await,
            None => Err(super::error::ApiError::bad("invalid JSON: got EOF while reading request body")),
        }
    }

    /// The document of the body, if there is one.
    pub(crate) async fn optional_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        match self.body.take() {
            Some(body) => body::optional_json(&self.headers, body).await,
            None => Ok(None),
        }
    }

    /// The body itself.
    pub(crate) fn take_body(&mut self) -> Option<Incoming> {
        self.body.take()
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
