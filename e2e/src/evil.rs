//! A registry that does what it is told: redirects, lies, stalls, and remembers every request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};

use crate::image::{Blob, Image};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Value of `Authorization`, if any.
    pub authorization: Option<String>,
}

/// What to answer at a path.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers besides `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Arc<Vec<u8>>,
    /// What `Content-Length` says, if not the truth; the connection is closed after the body.
    pub claimed_length: Option<u64>,
    /// How often the body is sent.
    pub repeat: u64,
}

impl Reply {
    /// An answer with a body.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
            body: Arc::new(body.into()),
            claimed_length: None,
            repeat: 1,
        }
    }

    /// A redirect.
    pub fn redirect(to: &str) -> Reply {
        Reply::new(307, "text/plain", "").header("Location", to)
    }

    /// The same with a header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A reply that depends on the request; `None` falls through to the fixed ones.
type Hook = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// The server: it runs until the process ends.
#[derive(Clone)]
pub struct EvilRegistry {
    address: String,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    requests: Arc<Mutex<Vec<Request>>>,
    hook: Arc<Mutex<Option<Box<Hook>>>>,
}

impl std::fmt::Debug for EvilRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EvilRegistry").field("address", &self.address).finish_non_exhaustive()
    }
}

impl EvilRegistry {
    /// Listens on a loopback port.
    pub fn start() -> Result<EvilRegistry> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let registry = EvilRegistry {
            address: listener.local_addr()?.to_string(),
            replies: Arc::default(),
            requests: Arc::default(),
            hook: Arc::default(),
        };
        let server = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(&stream));
            }
        });
        Ok(registry)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sets the answer at a path.
    pub fn reply(&self, path: &str, reply: Reply) {
        self.replies.lock().expect("no panic holds the lock").insert(path.to_owned(), reply);
    }

    /// Decides answers by code.
    pub fn hook(&self, hook: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) {
        *self.hook.lock().expect("no panic holds the lock") = Some(Box::new(hook));
    }

    /// Serves an image, honestly.
    pub fn image(&self, repository: &str, tag: &str, image: &Image) {
        for blob in image.layers.iter().map(|layer| &layer.blob).chain([&image.config]) {
            self.blob(repository, blob);
        }
        self.manifest(repository, tag, &image.manifest);
    }

    /// Serves a blob under the digest it has or claims.
    pub fn blob(&self, repository: &str, blob: &Blob) {
        let reply = Reply::new(200, "application/octet-stream", blob.bytes.clone());
        self.reply(&format!("/v2/{repository}/blobs/{}", blob.digest), reply);
    }

    /// Serves a manifest by tag and by digest.
    pub fn manifest(&self, repository: &str, tag: &str, manifest: &Blob) {
        let reply = Reply::new(200, &manifest.media_type, manifest.bytes.clone())
            .header("Docker-Content-Digest", &manifest.digest);
        self.reply(&format!("/v2/{repository}/manifests/{tag}"), reply.clone());
        self.reply(&format!("/v2/{repository}/manifests/{}", manifest.digest), reply);
    }

    /// Everything that was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic holds the lock").clone()
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader) {
            self.requests.lock().expect("no panic holds the lock").push(request.clone());
            let reply = self.answer(&request);
            let honest = reply.claimed_length.is_none();
            // A client that has heard enough hangs up: no error.
            if write_reply(stream, &request, &reply).is_err() || !honest {
                return;
            }
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        if let Some(hook) = self.hook.lock().expect("no panic holds the lock").as_ref()
            && let Some(reply) = hook(request)
        {
            return reply;
        }
        let path = request.target.split('?').next().unwrap_or_default();
        if path == "/v2/" {
            return Reply::new(200, "application/json", "{}");
        }
        let replies = self.replies.lock().expect("no panic holds the lock");
        let missing = || Reply::new(404, "application/json", r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
        replies.get(path).cloned().unwrap_or_else(missing)
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&count| count > 0)?;
    let mut words = line.split(' ');
    let mut request =
        Request { method: words.next()?.to_owned(), target: words.next()?.to_owned(), authorization: None };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|&count| count > 0)?;
        let header = header.trim_end();
        if header.is_empty() {
            return Some(request);
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            request.authorization = Some(value.trim().to_owned());
        }
    }
}

fn write_reply(mut stream: &TcpStream, request: &Request, reply: &Reply) -> std::io::Result<()> {
    let length = reply.claimed_length.unwrap_or(reply.body.len() as u64 * reply.repeat);
    let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {length}\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        for _ in 0..reply.repeat {
            stream.write_all(&reply.body)?;
        }
    }
    Ok(())
}
