//! One request to one endpoint: redirects, credentials, tokens.
//!
//! The rule about credentials: they go to the endpoint they were looked up for and to the token server it
//! names, if that is reached over TLS or is the same host; to no one else. A redirect that leaves the
//! endpoint's scheme, host or port loses them, the configured headers and the client certificate, for good.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Body, Method, Response, StatusCode, Url};

use crate::auth::Auth;
use crate::challenge::{self, Challenge};
use crate::config::Config;
use crate::error::{ErrorKind, Fault};
use crate::hosts::{Endpoint, TlsSettings, host_of, is_loopback};
use crate::http::{ConnectionKey, Connections, transport_fault};
use crate::message::{fault_of_status, retry_after};
use crate::token::{self, Grant, GrantKey, Grants};
use crate::types::TOKEN_LIMIT;

const MAX_REDIRECTS: usize = 10;
const ERROR_BODY_LIMIT: u64 = 64 << 10;

/// An endpoint together with what is needed to talk to it about one repository.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) endpoint: Endpoint,
    pub(crate) auth: Option<Auth>,
    /// What a token is asked for: `repository:library/busybox:pull`, or several, separated by spaces.
    pub(crate) scope: String,
    /// The repository's path.
    pub(crate) repository: String,
    /// The registry a mirror stands in for.
    pub(crate) namespace: Option<String>,
}

/// Makes a request's body, once per attempt.
pub(crate) type MakeBody = Arc<dyn Fn() -> Body + Send + Sync>;

/// A request.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<MakeBody>,
    /// How long to wait for the head of the answer; `None`: the caller watches progress itself.
    pub(crate) timeout: Option<Duration>,
}

/// The way to all endpoints.
#[derive(Debug)]
pub(crate) struct Transport {
    connections: Connections,
    grants: Grants,
    stall_timeout: Duration,
}

impl Remote {
    /// The URL of something below the repository, such as `manifests/latest`.
    pub(crate) fn url(&self, rest: &str) -> Url {
        self.url_below(&format!("/{}/{rest}", self.repository))
    }

    /// The URL of something below `/v2`.
    pub(crate) fn url_below(&self, rest: &str) -> Url {
        let mut url = self.endpoint.base.clone();
        url.set_path(&format!("{}{rest}", self.endpoint.base.path().trim_end_matches('/')));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    fn is_same_origin(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.base.origin()
    }

    fn brings_own_authorization(&self) -> bool {
        self.endpoint.headers.contains_key(AUTHORIZATION)
    }

    fn connection_key(&self) -> ConnectionKey {
        ConnectionKey {
            tls: self.endpoint.tls.clone(),
            connect_timeout: self.endpoint.connect_timeout,
            bypass_proxy: is_loopback(&self.endpoint.host),
        }
    }

    /// For hosts the endpoint sends us to: its authorities still count, nothing else does.
    fn foreign_connection_key(&self, url: &Url) -> ConnectionKey {
        let tls = TlsSettings { ca: self.endpoint.tls.ca.clone(), client: Vec::new(), skip_verify: false };
        ConnectionKey {
            tls: Arc::new(tls),
            connect_timeout: self.endpoint.connect_timeout,
            bypass_proxy: is_loopback(&host_of(url)),
        }
    }
}

impl Call {
    pub(crate) fn new(method: Method, url: Url, timeout: Duration) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: None, timeout: Some(timeout) }
    }
}

impl Transport {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            connections: Connections::new(config),
            grants: Grants::default(),
            stall_timeout: config.stall_timeout,
        }
    }

    pub(crate) fn stall_timeout(&self) -> Duration {
        self.stall_timeout
    }

    pub(crate) fn call(&self, method: Method, url: Url) -> Call {
        Call::new(method, url, self.stall_timeout)
    }

    /// Sends a request with whatever credentials it takes. Any final status but 401 is the caller's to judge.
    pub(crate) async fn send(&self, remote: &Remote, call: &Call) -> Result<Response, Fault> {
        let key = GrantKey {
            endpoint: remote.endpoint.base.to_string(),
            auth: remote.auth.clone(),
            scope: remote.scope.clone(),
        };
        let slot = self.grants.slot(&key);
        let mut grant = slot.lock().await.clone().filter(Grant::is_fresh);
        for attempt in 0.. {
            let header = grant.as_ref().map(|grant| &grant.header);
            let response = self.follow(remote, call, header).await?;
            let is_refused = response.status() == StatusCode::UNAUTHORIZED;
            if !is_refused || !remote.is_same_origin(response.url()) || remote.brings_own_authorization() {
                return Ok(response);
            }
            let challenges = challenges(response.headers());
            if attempt == 2 || (attempt == 1 && !has_new_scope(&challenges, &grant)) {
                return Err(self.refusal(remote, response).await);
            }
            let mut held = slot.lock().await;
            let is_news = match (&*held, &grant) {
                (Some(held), Some(used)) => held.is_fresh() && held.header != used.header,
                (Some(held), None) => held.is_fresh(),
                (None, _) => false,
            };
            if !is_news {
                *held = None;
                *held = match self.authorize(remote, &challenges).await? {
                    Some(grant) => Some(grant),
                    None => return Err(self.refusal(remote, response).await),
                };
            }
            grant = held.clone();
        }
        unreachable!("the loop above ends at its third turn")
    }

    /// A request whose answer must be a success.
    pub(crate) async fn send_ok(&self, remote: &Remote, call: &Call) -> Result<Response, Fault> {
        let response = self.send(remote, call).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(remote, response).await) }
    }

    /// What an answer that is no success says. Bodies of other hosts than the endpoint are not quoted.
    pub(crate) async fn refusal(&self, remote: &Remote, response: Response) -> Fault {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let is_ours = remote.is_same_origin(response.url());
        let body = if is_ours { self.read_start(response).await } else { Bytes::new() };
        let mut fault = fault_of_status(status, &body, retry_after);
        if let Some(auth) = &remote.auth {
            fault.detail = scrub(fault.detail, auth);
        }
        if status == StatusCode::UNAUTHORIZED && remote.auth.is_none() {
            fault.detail.push_str(" (no credentials are configured for this host)");
        }
        fault
    }

    /// Reads a whole body of at most `limit` bytes.
    pub(crate) async fn read(&self, mut response: Response, limit: u64) -> Result<Bytes, Fault> {
        let too_large = || Fault::invalid(format!("the answer is larger than the {limit} bytes allowed"));
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let deadline = tokio::time::Instant::now() + self.stall_timeout;
        let mut body = BytesMut::new();
        loop {
            let chunk = tokio::time::timeout_at(deadline, response.chunk()).await;
            let chunk =
                chunk.map_err(|_| Fault::new(ErrorKind::Timeout, "the answer did not end in time"))?;
            let Some(chunk) = chunk.map_err(transport_fault)? else { return Ok(body.freeze()) };
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// The start of an error's body, best effort.
    async fn read_start(&self, mut response: Response) -> Bytes {
        let mut body = BytesMut::new();
        let read = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                body.extend_from_slice(&chunk);
                if body.len() as u64 >= ERROR_BODY_LIMIT {
                    break;
                }
            }
        };
        // What came until then is enough for a message.
        let _ = tokio::time::timeout(Duration::from_secs(5).min(self.stall_timeout), read).await;
        body.freeze()
    }

    async fn follow(
        &self,
        remote: &Remote,
        call: &Call,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Fault> {
        let mut url = call.url.clone();
        let mut is_trusted = remote.is_same_origin(&url);
        for _ in 0..=MAX_REDIRECTS {
            let key = if is_trusted { remote.connection_key() } else { remote.foreign_connection_key(&url) };
            let mut request = self.connections.client(&key)?.request(call.method.clone(), url.clone());
            if is_trusted {
                request = request.headers(remote.endpoint.headers.clone());
                if let (Some(value), false) = (authorization, remote.brings_own_authorization()) {
                    request = request.header(AUTHORIZATION, value.clone());
                }
            }
            request = request.headers(call.headers.clone());
            if let Some(body) = &call.body {
                request = request.body(body());
            }
            let response = match call.timeout {
                Some(limit) => tokio::time::timeout(limit, request.send())
                    .await
                    .map_err(|_| Fault::new(ErrorKind::Timeout, format!("no answer within {limit:?}")))?,
                None => request.send().await,
            };
            let response = response.map_err(transport_fault)?;
            let Some(next) = redirect_target(&response, &url)? else { return Ok(response) };
            if call.body.is_some() && !remote.is_same_origin(&next) {
                return Err(Fault::invalid("an upload is redirected to another host"));
            }
            is_trusted &= remote.is_same_origin(&next);
            url = next;
        }
        Err(Fault::invalid(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Meets a challenge. `None`: it cannot be met with the credentials at hand.
    async fn authorize(&self, remote: &Remote, challenges: &[Challenge]) -> Result<Option<Grant>, Fault> {
        if let Some(Auth::RegistryToken(registry_token)) = &remote.auth {
            return Ok(Some(Grant { header: token::bearer(registry_token)?, ends: None }));
        }
        if let Some(challenge) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
            return self.fetch_token(remote, challenge).await.map(Some);
        }
        let takes_basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
        match &remote.auth {
            Some(Auth::Basic { username, password }) if takes_basic => {
                Ok(Some(Grant { header: token::basic(username, password)?, ends: None }))
            }
            _ => Ok(None),
        }
    }

    async fn fetch_token(&self, remote: &Remote, challenge: &Challenge) -> Result<Grant, Fault> {
        let realm = challenge.get("realm").ok_or_else(|| Fault::invalid("the challenge names no realm"))?;
        let realm = token_server(remote, realm)?;
        let host = host_of(&realm);
        let scope = wanted_scope(&remote.scope, challenge.get("scope"));
        let call = token_call(remote, realm, challenge.get("service"), &scope, self.stall_timeout)?;
        let key = if remote.is_same_origin(&call.url) {
            remote.connection_key()
        } else {
            remote.foreign_connection_key(&call.url)
        };
        let mut request = self.connections.client(&key)?.request(call.method, call.url).headers(call.headers);
        if let Some(body) = &call.body {
            request = request.body(body());
        }
        let response = tokio::time::timeout(self.stall_timeout, request.send()).await;
        let response = response
            .map_err(|_| Fault::new(ErrorKind::Timeout, format!("no answer from token server {host}")))?
            .map_err(transport_fault)?;
        let status = response.status();
        if !status.is_success() {
            let wait = response.headers().get(RETRY_AFTER).and_then(retry_after);
            let mut fault = fault_of_status(status, b"", wait);
            if !fault.is_transient() {
                fault.kind = ErrorKind::Unauthorized;
            }
            fault.detail = format!("token server {host} gave no token: {}", fault.detail);
            return Err(fault);
        }
        let body = self.read(response, TOKEN_LIMIT).await?;
        token::parse_answer(&body)
    }
}

/// Checks that credentials may go where a challenge points.
fn token_server(remote: &Remote, realm: &str) -> Result<Url, Fault> {
    let mut url = remote
        .endpoint
        .base
        .join(realm)
        .map_err(|_| Fault::invalid("the challenge's realm is not an URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Fault::invalid("the challenge's realm is neither http nor https"));
    }
    strip_userinfo(&mut url);
    url.set_fragment(None);
    let is_safe = url.scheme() == "https" || remote.is_same_origin(&url);
    if is_safe {
        return Ok(url);
    }
    let host = host_of(&url);
    if remote.auth.is_some() || remote.endpoint.base.scheme() == "https" {
        return Err(Fault::new(
            ErrorKind::Unauthorized,
            format!("the registry wants its credentials sent to {host} without encryption, which is refused"),
        ));
    }
    Ok(url)
}

/// The request to a token server: GET with a password or nothing, POST with a refresh token.
fn token_call(
    remote: &Remote,
    mut realm: Url,
    service: Option<&str>,
    scope: &str,
    timeout: Duration,
) -> Result<Call, Fault> {
    if let Some(Auth::IdentityToken(refresh_token)) = &remote.auth {
        let mut form = reqwest::Url::parse("form:").map_err(|_| Fault::invalid("form"))?;
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", refresh_token.expose())
            .append_pair("client_id", "berth")
            .append_pair("service", service.unwrap_or_default())
            .append_pair("scope", scope);
        let body = Bytes::from(form.query().unwrap_or_default().to_owned());
        let mut call = Call::new(Method::POST, realm, timeout);
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        call.headers.insert(reqwest::header::CONTENT_TYPE, kind);
        call.body = Some(Arc::new(move || Body::from(body.clone())));
        return Ok(call);
    }
    {
        let mut query = realm.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for one in scope.split(' ').filter(|one| !one.is_empty()) {
            query.append_pair("scope", one);
        }
        if let Some(Auth::Basic { username, .. }) = &remote.auth {
            query.append_pair("account", username);
        }
    }
    let mut call = Call::new(Method::GET, realm, timeout);
    if let Some(Auth::Basic { username, password }) = &remote.auth {
        call.headers.insert(AUTHORIZATION, token::basic(username, password)?);
    }
    Ok(call)
}

/// The registry knows best what it calls the repository; what it does not mention (other repositories to
/// mount from) is added.
fn wanted_scope(ours: &str, theirs: Option<&str>) -> String {
    let Some(theirs) = theirs.filter(|scope| !scope.trim().is_empty()) else { return ours.to_owned() };
    let mut scopes: Vec<&str> = theirs.split_whitespace().collect();
    for extra in ours.split(' ').skip(1) {
        if !scopes.contains(&extra) {
            scopes.push(extra);
        }
    }
    scopes.join(" ")
}

/// After a token was refused, a second one makes sense only if the registry says it lacked a scope.
fn has_new_scope(challenges: &[Challenge], grant: &Option<Grant>) -> bool {
    grant.is_some() && challenges.iter().any(|challenge| challenge.get("error") == Some("insufficient_scope"))
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().take(8);
    values.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect()
}

fn redirect_target(response: &Response, from: &Url) -> Result<Option<Url>, Fault> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| Fault::invalid("a redirect names no location"))?;
    let mut url = from.join(location).map_err(|_| Fault::invalid("a redirect's location is not an URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(Fault::invalid("a redirect's location is neither http nor https"));
    }
    if from.scheme() == "https" && url.scheme() == "http" {
        return Err(Fault::invalid(format!("a redirect to {} would give up encryption", host_of(&url))));
    }
    strip_userinfo(&mut url);
    Ok(Some(url))
}

/// A host chosen by the other side brings no credentials along either.
fn strip_userinfo(url: &mut Url) {
    // Both fail only for URLs without a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

/// A registry may repeat what we sent it.
fn scrub(mut text: String, auth: &Auth) -> String {
    let secret = match auth {
        Auth::Basic { password, .. } => password,
        Auth::IdentityToken(token) | Auth::RegistryToken(token) => token,
    };
    if secret.expose().len() >= 3 {
        text = text.replace(secret.expose().as_str(), "…");
    }
    text
}
