//! What the registry answers, and how it goes wrong.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use super::http::{Answer, Request, pairs, read};
use super::{Access, Misdeed, Shared, State, digest_of};

const STALL: Duration = Duration::from_secs(120);

pub(crate) fn accept(listener: &TcpListener, shared: &Arc<Shared>, tls: Option<&Arc<ServerConfig>>) {
    for connection in listener.incoming() {
        if shared.is_over() {
            return;
        }
        let Ok(connection) = connection else { continue };
        let _ = connection.set_nodelay(true);
        if let Ok(copy) = connection.try_clone() {
            shared.state().connections.push(copy);
        }
        let (shared, tls) = (shared.clone(), tls.cloned());
        // A client that goes away in the middle is none of our business.
        std::thread::spawn(move || drop(talk(connection, &shared, tls)));
    }
}

fn talk(connection: TcpStream, shared: &Shared, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
    match tls {
        None => converse(connection, shared),
        Some(config) => {
            let session = ServerConnection::new(config).map_err(io::Error::other)?;
            converse(StreamOwned::new(session, connection), shared)
        }
    }
}

fn converse(stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let request = match read(&mut stream) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                let answer = Answer::new(400, "that is not plain HTTP");
                answer.write_head(stream.get_mut(), None)?;
                return Err(error);
            }
        };
        let misdeeds = {
            let mut state = shared.state();
            state.requests.push(request.clone());
            state.misdeeds(&request)
        };
        let answer = match misdeeds.iter().find_map(|misdeed| instead(misdeed, &request)) {
            Some(answer) => answer,
            None => respond(shared, &request, &misdeeds),
        };
        if !deliver(stream.get_mut(), shared, &request, answer, &misdeeds)? {
            return Ok(());
        }
    }
}

impl State {
    /// The misdeeds that hit a request, used up by one.
    fn misdeeds(&mut self, request: &Request) -> Vec<Misdeed> {
        let mut hits = Vec::new();
        for fault in &mut self.faults {
            let is_hit = (fault.method.is_empty() || fault.method == request.method)
                && request.target.contains(&fault.path)
                && fault.times != Some(0);
            if is_hit {
                fault.times = fault.times.map(|times| times - 1);
                hits.push(fault.misdeed.clone());
            }
        }
        hits
    }
}

/// Misdeeds that take the place of the answer.
fn instead(misdeed: &Misdeed, request: &Request) -> Option<Answer> {
    match misdeed {
        Misdeed::Status(status, headers, body) => {
            Some(Answer { status: *status, headers: headers.clone(), body: body.clone().into_bytes() })
        }
        Misdeed::Redirect(url) => {
            Some(Answer::new(307, "").with("Location", url.replace("{path}", &request.target)))
        }
        _ => None,
    }
}

/// Sends an answer, more or less. False if the connection is of no more use.
fn deliver(
    stream: &mut impl Write,
    shared: &Shared,
    request: &Request,
    mut answer: Answer,
    misdeeds: &[Misdeed],
) -> io::Result<bool> {
    let has_body = request.method != "HEAD";
    let length = answer.body.len();
    for misdeed in misdeeds {
        match misdeed {
            Misdeed::Delay(time) => rest(shared, *time),
            Misdeed::ContentType(kind) => {
                answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
                answer = answer.with("Content-Type", kind.clone());
            }
            Misdeed::OmitHeader(omitted) => {
                answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(omitted));
            }
            Misdeed::Corrupt => answer.body.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1),
            Misdeed::Replace(bytes) => answer.body.clone_from(bytes),
            Misdeed::Endless => {
                answer.write_head(stream, None)?;
                while !shared.is_over() {
                    stream.write_all(&[b' '; 4096])?;
                }
                return Ok(false);
            }
            Misdeed::CloseAfter(count) | Misdeed::StallAfter(count) if has_body => {
                answer.write_head(stream, Some(length))?;
                stream.write_all(&answer.body[..length.min(*count)])?;
                stream.flush()?;
                if matches!(misdeed, Misdeed::StallAfter(_)) {
                    rest(shared, STALL);
                }
                return Ok(false);
            }
            Misdeed::Drip(size, pause) if has_body => {
                answer.write_head(stream, Some(length))?;
                for piece in answer.body.chunks((*size).max(1)) {
                    stream.write_all(piece)?;
                    stream.flush()?;
                    rest(shared, *pause);
                }
                return Ok(true);
            }
            _ => {}
        }
    }
    let length =
        if misdeeds.iter().any(|m| matches!(m, Misdeed::Replace(_))) { answer.body.len() } else { length };
    answer.write_head(stream, Some(length))?;
    if has_body {
        stream.write_all(&answer.body)?;
    }
    stream.flush()?;
    Ok(true)
}

fn rest(shared: &Shared, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end && !shared.is_over() {
        std::thread::sleep(Duration::from_millis(5).min(end - Instant::now()));
    }
}

fn respond(shared: &Shared, request: &Request, misdeeds: &[Misdeed]) -> Answer {
    let mut state = shared.state();
    if request.path() == "/token" {
        return state.token(request);
    }
    if let Err(answer) = state.admit(request) {
        return answer;
    }
    let Some(rest) = request.path().strip_prefix("/v2/") else { return Answer::new(404, "no such page") };
    if rest.is_empty() {
        return Answer::new(200, "{}");
    }
    for (part, handler) in [
        ("/manifests/", State::manifests as fn(&mut State, &Request, &str, &str) -> Answer),
        ("/blobs/uploads/", State::uploads),
        ("/tags/list", State::tags),
    ] {
        if let Some((repository, name)) = rest.split_once(part) {
            return handler(&mut state, request, repository, name);
        }
    }
    match rest.split_once("/blobs/") {
        Some((_, digest)) => {
            let ranges = !misdeeds.iter().any(|misdeed| matches!(misdeed, Misdeed::IgnoreRange));
            state.serve_blob(request, digest, ranges)
        }
        None => Answer::error(404, "NAME_UNKNOWN"),
    }
}

impl State {
    fn admit(&self, request: &Request) -> Result<(), Answer> {
        let shown = request.header("authorization").unwrap_or_default();
        let challenge = match &self.access {
            Access::Open => return Ok(()),
            Access::Basic(user, password) => {
                let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                if shown == format!("Basic {pair}") {
                    return Ok(());
                }
                "Basic realm=\"test\"".to_owned()
            }
            Access::Token { realm } => {
                if shown.starts_with(&format!("Bearer token-{}-", self.generation)) {
                    return Ok(());
                }
                let scope = match request.path().strip_prefix("/v2/").and_then(repository_of) {
                    Some(repository) => format!(",scope=\"repository:{repository}:pull\""),
                    None => String::new(),
                };
                format!("Bearer realm=\"{realm}\",service=\"test\"{scope}")
            }
        };
        Err(Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge))
    }

    fn token(&mut self, request: &Request) -> Answer {
        let is_known = if request.method == "POST" {
            let form = String::from_utf8_lossy(&request.body).into_owned();
            let shown = pairs(&form).into_iter().find(|(name, _)| name == "refresh_token");
            shown.is_some_and(|(_, token)| self.refresh_tokens.contains(&token))
        } else {
            let shown = request.header("authorization").and_then(|value| value.strip_prefix("Basic "));
            let known = self.users.iter().map(|(user, password)| format!("{user}:{password}"));
            let mut known = known.map(|pair| base64::engine::general_purpose::STANDARD.encode(pair));
            self.users.is_empty() || known.any(|pair| shown == Some(pair.as_str()))
        };
        if !is_known {
            return Answer::error(401, "UNAUTHORIZED");
        }
        self.tokens_issued += 1;
        let token = format!("token-{}-{}", self.generation, self.tokens_issued);
        Answer::new(200, json!({"token": token, "expires_in": 300}).to_string())
    }

    fn manifests(&mut self, request: &Request, repository: &str, name: &str) -> Answer {
        let key = (repository.to_owned(), name.to_owned());
        if request.method == "PUT" {
            let digest = digest_of(&request.body);
            let kind = request.header("content-type").unwrap_or_default().to_owned();
            self.manifests.insert(key, (kind.clone(), request.body.clone()));
            self.manifests.insert((repository.to_owned(), digest.clone()), (kind, request.body.clone()));
            return Answer::new(201, "").with("Docker-Content-Digest", digest);
        }
        match self.manifests.get(&key) {
            None => Answer::error(404, "MANIFEST_UNKNOWN"),
            Some((kind, bytes)) => Answer::new(200, bytes.clone())
                .with("Content-Type", kind.clone())
                .with("Docker-Content-Digest", digest_of(bytes)),
        }
    }

    fn uploads(&mut self, request: &Request, repository: &str, _name: &str) -> Answer {
        let digest = request.query("digest");
        if request.method == "PUT" {
            let actual = digest_of(&request.body);
            if digest.as_deref() != Some(actual.as_str()) {
                return Answer::error(400, "DIGEST_INVALID");
            }
            self.blobs.insert(actual.clone(), request.body.clone());
            self.owners.insert((repository.to_owned(), actual), ());
            return Answer::new(201, "");
        }
        if let (Some(digest), Some(from)) = (request.query("mount"), request.query("from"))
            && self.owners.contains_key(&(from, digest.clone()))
        {
            self.owners.insert((repository.to_owned(), digest), ());
            return Answer::new(201, "");
        }
        self.uploads += 1;
        let location = format!("/v2/{repository}/blobs/uploads/{}?state=x", self.uploads);
        Answer::new(202, "").with("Location", location)
    }

    fn tags(&mut self, request: &Request, repository: &str, _name: &str) -> Answer {
        let tags = self.manifests.keys().filter(|(owner, name)| owner == repository && !name.contains(':'));
        let last = request.query("last").unwrap_or_default();
        let mut tags: Vec<&str> =
            tags.map(|(_, name)| name.as_str()).filter(|name| *name > last.as_str()).collect();
        let more = self.page_size.filter(|size| tags.len() > *size);
        tags.truncate(more.unwrap_or(tags.len()));
        let answer = Answer::new(200, json!({"name": repository, "tags": tags}).to_string());
        match (more, tags.last()) {
            (Some(size), Some(last)) => {
                let next = format!("</v2/{repository}/tags/list?last={last}&n={size}>; rel=\"next\"");
                answer.with("Link", next)
            }
            _ => answer,
        }
    }

    fn serve_blob(&mut self, request: &Request, digest: &str, ranges: bool) -> Answer {
        let repository = request.path().strip_prefix("/v2/").and_then(repository_of).unwrap_or_default();
        let is_owned = self.owners.contains_key(&(repository.to_owned(), digest.to_owned()));
        let Some(bytes) = self.blobs.get(digest).filter(|_| is_owned || request.method == "GET") else {
            return Answer::error(404, "BLOB_UNKNOWN");
        };
        let range = request.header("range").filter(|_| ranges);
        let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match start {
            Some(start) if start < bytes.len() => {
                let content_range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                Answer::new(206, &bytes[start..]).with("Content-Range", content_range)
            }
            Some(_) => Answer::error(416, "RANGE_INVALID"),
            None => Answer::new(200, bytes.clone()),
        }
    }
}

/// The repository in what follows `/v2/`.
fn repository_of(rest: &str) -> Option<&str> {
    ["/manifests/", "/blobs/", "/tags/"].iter().find_map(|part| rest.split_once(part)).map(|(name, _)| name)
}
