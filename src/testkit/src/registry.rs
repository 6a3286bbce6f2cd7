//! A registry in a thread, which does what it is told: serve images, ask for credentials, and misbehave.
//!
//! Every request it gets is written down ([`Registry::requests`]), so that a test can say what must never
//! arrive here, for example somebody else's credentials.

mod http;
mod serve;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use http::Request;
use tls::Identity;

/// What a client must show.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Nothing.
    #[default]
    Open,
    /// A user and a password, by `Basic`.
    Basic(String, String),
    /// An access token, to be had from a realm (an URL; [`Registry::token_url`] of this or another registry).
    Token {
        /// Where tokens are to be had.
        realm: String,
    },
}

/// Something a registry does wrong.
#[derive(Debug, Clone)]
pub enum Misdeed {
    /// Answers with a status, headers and a body.
    Status(u16, Vec<(String, String)>, String),
    /// Redirects to an URL; `{path}` in it stands for the path and query of the request.
    Redirect(String),
    /// Changes the body's last byte.
    Corrupt,
    /// Closes the connection after so many bytes of the body.
    CloseAfter(usize),
    /// Sends so many bytes of the body, then nothing more for a long time.
    StallAfter(usize),
    /// Waits before it answers.
    Delay(Duration),
    /// Sends the body in pieces of so many bytes with a pause between them.
    Drip(usize, Duration),
    /// Serves the body with another content type.
    ContentType(String),
    /// Sends the whole body where a range was asked for.
    IgnoreRange,
    /// A body without end.
    Endless,
    /// Leaves a header out of the answer.
    OmitHeader(String),
    /// Serves other bytes, under the headers of the right ones.
    Replace(Vec<u8>),
}

/// A misdeed, and when it is done.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The method; empty for any.
    pub method: String,
    /// A part of the path.
    pub path: String,
    /// How many requests it hits; `None`: all.
    pub times: Option<usize>,
    /// What is done.
    pub misdeed: Misdeed,
}

/// A layer of an image that was made up.
#[derive(Debug, Clone)]
pub struct LayerBlob {
    /// The blob's digest.
    pub digest: String,
    /// The diff id that the configuration gives.
    pub diff_id: String,
    /// The blob.
    pub bytes: Vec<u8>,
}

/// An image that was made up.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest's digest.
    pub digest: String,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// The configuration's digest.
    pub config_digest: String,
    /// The layers.
    pub layers: Vec<LayerBlob>,
}

/// The registry. It ends when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    identity: Option<Identity>,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    /// Media type and bytes by repository and tag or digest.
    pub(crate) manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    /// Which repositories a blob was put into; a mount needs it there.
    pub(crate) owners: BTreeMap<(String, String), ()>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) requests: Vec<Request>,
    pub(crate) access: Access,
    pub(crate) users: HashMap<String, String>,
    pub(crate) refresh_tokens: Vec<String>,
    pub(crate) tokens_issued: usize,
    /// Tokens of earlier generations are not taken any more.
    pub(crate) generation: usize,
    pub(crate) page_size: Option<usize>,
    pub(crate) uploads: usize,
    pub(crate) connections: Vec<TcpStream>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

/// `sha256:…` of bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    oci::Digest::sha256(hash).to_string()
}

impl Registry {
    /// Starts one over plain HTTP.
    pub fn start() -> Self {
        Self::run(None)
    }

    /// Starts one over TLS, with an authority of its own: [`Registry::ca_pem`].
    pub fn start_tls() -> Self {
        Self::run(Some(Identity::new(false)))
    }

    /// Starts one over TLS that wants a client certificate: [`Registry::client_pem`].
    pub fn start_mutual_tls() -> Self {
        Self::run(Some(Identity::new(true)))
    }

    fn run(identity: Option<Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port on 127.0.0.1");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let (for_thread, tls) = (shared.clone(), identity.as_ref().map(|identity| identity.server.clone()));
        std::thread::spawn(move || serve::accept(&listener, &for_thread, tls.as_ref()));
        Self { address, shared, identity }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:port` or the like with `https`.
    pub fn url(&self) -> String {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Where this registry hands out tokens.
    pub fn token_url(&self) -> String {
        format!("{}/token", self.url())
    }

    /// The authority that signed this registry's certificate.
    pub fn ca_pem(&self) -> &str {
        self.identity.as_ref().map_or("", |identity| &identity.ca_pem)
    }

    /// A client's certificate and key.
    pub fn client_pem(&self) -> (&str, &str) {
        self.identity.as_ref().map_or(("", ""), |identity| (&identity.client_pem, &identity.client_key_pem))
    }

    /// Says what a client must show.
    pub fn set_access(&self, access: Access) {
        self.shared.state().access = access;
    }

    /// A user that the token server knows. While it knows none, anyone gets a token.
    pub fn add_user(&self, user: &str, password: &str) {
        self.shared.state().users.insert(user.into(), password.into());
    }

    /// A refresh token that the token server takes.
    pub fn add_refresh_token(&self, token: &str) {
        self.shared.state().refresh_tokens.push(token.into());
    }

    /// Makes all tokens handed out so far worthless.
    pub fn revoke_tokens(&self) {
        self.shared.state().generation += 1;
    }

    /// Lists tags in pages of this size.
    pub fn set_page_size(&self, size: usize) {
        self.shared.state().page_size = Some(size);
    }

    /// Adds a misdeed.
    pub fn misbehave(&self, method: &str, path: &str, times: Option<usize>, misdeed: Misdeed) {
        let fault = Fault { method: method.into(), path: path.into(), times, misdeed };
        self.shared.state().faults.push(fault);
    }

    /// Ends all misdeeds.
    pub fn behave(&self) {
        self.shared.state().faults.clear();
    }

    /// What came in so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// How many requests had this method and a path with this in it.
    pub fn count(&self, method: &str, path: &str) -> usize {
        let state = self.shared.state();
        state.requests.iter().filter(|r| r.method == method && r.target.contains(path)).count()
    }

    /// Forgets what came in.
    pub fn forget_requests(&self) {
        self.shared.state().requests.clear();
    }

    /// Adds a blob to a repository; its digest.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        let mut state = self.shared.state();
        state.blobs.insert(digest.clone(), bytes.to_vec());
        state.owners.insert((repository.into(), digest.clone()), ());
        digest
    }

    /// A blob, if it is there.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.shared.state().blobs.get(digest).cloned()
    }

    /// Adds a manifest under a tag (unless empty) and its digest, which is returned.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        let mut state = self.shared.state();
        for name in [tag, &digest].into_iter().filter(|name| !name.is_empty()) {
            state.manifests.insert((repository.into(), name.into()), (media_type.into(), bytes.to_vec()));
        }
        digest
    }

    /// A manifest, if it is there.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let key = (repository.to_owned(), name.to_owned());
        self.shared.state().manifests.get(&key).map(|(_, bytes)| bytes.clone())
    }

    /// Makes up an image for `linux/amd64` whose layers have the given bytes (said to be uncompressed tars).
    pub fn put_image(&self, repository: &str, tag: &str, layers: &[&[u8]]) -> Image {
        let layers: Vec<LayerBlob> = layers
            .iter()
            .map(|bytes| {
                let digest = self.put_blob(repository, bytes);
                LayerBlob { diff_id: digest.clone(), digest, bytes: bytes.to_vec() }
            })
            .collect();
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": layer.digest,
                    "size": layer.bytes.len(),
                })
            })
            .collect();
        self.put_image_with(repository, tag, layers, &json!(descriptors))
    }

    /// Makes up an image from layers that are there already, with the manifest's `layers` as given.
    pub fn put_image_with(
        &self,
        repository: &str,
        tag: &str,
        layers: Vec<LayerBlob>,
        descriptors: &Value,
    ) -> Image {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "os": "linux",
            "architecture": "amd64",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string();
        let config_digest = self.put_blob(repository, config.as_bytes());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest,
                "size": config.len(),
            },
            "layers": descriptors,
        })
        .to_string()
        .into_bytes();
        let digest = self.put_manifest(repository, tag, media_type, &manifest);
        Image { digest, manifest, config_digest, layers }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees the flag.
        let _ = TcpStream::connect(self.address);
        for connection in self.shared.state().connections.drain(..) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}
