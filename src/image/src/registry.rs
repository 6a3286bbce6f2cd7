//! Documents and small blobs of a repository, over all its endpoints.

use std::sync::Arc;

use bytes::Bytes;
use content::Hasher;
use oci::{Digest, MediaKind, Platform, Reference};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};

use crate::auth::ScopedAuth;
use crate::config::Config;
use crate::credentials;
use crate::document::{self, Parsed};
use crate::error::{Error, ErrorKind, Fault};
use crate::fallback::{Attempts, named};
use crate::hosts::{self, Capabilities};
use crate::transport::{Remote, Transport};
use crate::types::{Descriptor, Document, MANIFEST_LIMIT, Resolved};

/// Indexes within indexes beyond this are no image but an attack.
const MAX_DEPTH: usize = 4;
const DIGEST_HEADER: &str = "docker-content-digest";

/// Everything operations share.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) config: Config,
    pub(crate) transport: Transport,
}

/// What is to be done in a repository; decides about endpoints and scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Pull,
    Push,
}

/// A document, what it is, and who served it.
pub(crate) struct Fetched {
    pub(crate) document: Document,
    pub(crate) parsed: Parsed,
    pub(crate) host: String,
}

impl Registry {
    pub(crate) fn new(config: Config) -> Self {
        let transport = Transport::new(&config);
        Self { config, transport }
    }

    /// The endpoints of a reference's registry, each with its credentials.
    pub(crate) async fn remotes(
        &self,
        reference: &Reference,
        auth: Option<&ScopedAuth>,
        purpose: Purpose,
    ) -> Result<Vec<Remote>, Error> {
        let domain = reference.domain().to_owned();
        let actions = match purpose {
            Purpose::Pull => "pull",
            Purpose::Push => "pull,push",
        };
        let scope = format!("repository:{}:{actions}", reference.path());
        self.endpoints(&domain, reference.path(), &scope, auth)
            .await
            .map_err(|fault| fault.during("look up hosts of", reference, domain))
    }

    pub(crate) async fn endpoints(
        &self,
        domain: &str,
        repository: &str,
        scope: &str,
        auth: Option<&ScopedAuth>,
    ) -> Result<Vec<Remote>, Fault> {
        let (root, name) = (self.config.config_path.clone(), domain.to_owned());
        let endpoints = blocking(move || hosts::load(root.as_deref(), &name)).await??;
        let mut remotes = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let auth = credentials::for_endpoint(&self.config, domain, &endpoint, auth).await?;
            let namespace = (!endpoint.is_origin).then(|| domain.to_owned());
            remotes.push(Remote {
                endpoint,
                auth,
                scope: scope.to_owned(),
                repository: repository.to_owned(),
                namespace,
            });
        }
        Ok(remotes)
    }

    /// Fetches what a tag or digest names. With a store, what is in it already is not fetched again, but the
    /// registry is asked all the same: it knows what the tag means now and who may read it.
    pub(crate) async fn fetch_named(
        &self,
        remotes: &[Remote],
        reference: &Reference,
        store: Option<&Arc<content::Store>>,
    ) -> Result<Fetched, Error> {
        let name = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        };
        let usable = with_capability(remotes, |capabilities| match reference.digest() {
            Some(_) => capabilities.pull,
            None => capabilities.resolve,
        });
        let mut attempts = Attempts::new(&usable, &self.config);
        loop {
            let remote = attempts.next().await.map_err(named("fetch manifest of", reference))?;
            let fetched = match self.known(remote, name, reference.digest(), store).await {
                Ok(Some(fetched)) => Ok(fetched),
                Ok(None) => self.fetch_document(remote, name, reference.digest(), None).await,
                Err(fault) => Err(fault),
            };
            match fetched {
                Ok(fetched) => return Ok(fetched),
                Err(fault) => attempts.failed(fault),
            }
        }
    }

    /// Asks what a name stands for, and takes the document from the store if it is there.
    async fn known(
        &self,
        remote: &Remote,
        name: &str,
        expected: Option<&Digest>,
        store: Option<&Arc<content::Store>>,
    ) -> Result<Option<Fetched>, Fault> {
        let Some(store) = store else { return Ok(None) };
        let mut call = self.transport.call(Method::HEAD, remote.url(&format!("manifests/{name}")));
        call.headers = accept_manifests();
        let response = self.transport.send(remote, &call).await?;
        if response.status() != StatusCode::OK {
            // The GET that follows fails in the same way, and says why.
            return Ok(None);
        }
        let Some(digest) = header_digest(&response) else { return Ok(None) };
        if expected.is_some_and(|expected| *expected != digest) {
            return Ok(None);
        }
        let served_as = content_type(&response);
        let (store, wanted) = (store.clone(), digest.clone());
        let read = blocking(move || store.read_small(&wanted, MANIFEST_LIMIT)).await?;
        let Ok(bytes) = read else { return Ok(None) };
        fetched(bytes.into(), digest, served_as.as_deref(), remote).map(Some)
    }

    /// Fetches a document from one endpoint and checks it.
    async fn fetch_document(
        &self,
        remote: &Remote,
        name: &str,
        expected: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<Fetched, Fault> {
        let mut call = self.transport.call(Method::GET, remote.url(&format!("manifests/{name}")));
        call.headers = accept_manifests();
        let response = self.transport.send_ok(remote, &call).await?;
        let served_as = content_type(&response);
        let promised = header_digest(&response);
        let bytes = self.transport.read(response, MANIFEST_LIMIT).await?;
        if size.is_some_and(|size| size != bytes.len() as u64) {
            return Err(mismatch(format!("the manifest has {} bytes, not those promised", bytes.len())));
        }
        // Without a digest of ours, the header's counts: a broken body shows even for a tag.
        let digest = verify(&bytes, expected.or(promised.as_ref()))?;
        fetched(bytes, digest, served_as.as_deref(), remote)
    }

    /// Fetches a document that another one names.
    async fn fetch_child(
        &self,
        remotes: &[Remote],
        descriptor: &Descriptor,
        reference: &Reference,
        store: Option<&Arc<content::Store>>,
    ) -> Result<Fetched, Error> {
        let object = reference.at_digest(&descriptor.digest);
        if descriptor.size > MANIFEST_LIMIT {
            let fault =
                Fault::invalid(format!("the manifest is larger than the {MANIFEST_LIMIT} bytes allowed"));
            return Err(fault.during("fetch manifest of", object, ""));
        }
        if let Some(bytes) = stored(store, &descriptor.digest, MANIFEST_LIMIT).await {
            let parsed = document::parse(&bytes, Some(&descriptor.media_type));
            let parsed = parsed.map_err(|fault| fault.during("read manifest of", &object, ""))?;
            let document = Document { descriptor: descriptor.clone(), bytes };
            return Ok(Fetched { document, parsed, host: String::new() });
        }
        let usable = with_capability(remotes, |capabilities| capabilities.pull);
        let mut attempts = Attempts::new(&usable, &self.config);
        loop {
            let remote = attempts.next().await.map_err(named("fetch manifest of", &object))?;
            let (digest, size) = (&descriptor.digest, Some(descriptor.size));
            let fetched = self.fetch_document(remote, digest.as_str(), Some(digest), size).await;
            let agreed = fetched.and_then(|fetched| {
                let parsed = document::parse(&fetched.document.bytes, Some(&descriptor.media_type))?;
                Ok(Fetched { parsed, ..fetched })
            });
            match agreed {
                Ok(fetched) => return Ok(fetched),
                Err(fault) => attempts.failed(fault),
            }
        }
    }

    /// Follows a reference to the manifest for a platform.
    pub(crate) async fn resolve(
        &self,
        remotes: &[Remote],
        reference: &Reference,
        platform: &Platform,
        store: Option<&Arc<content::Store>>,
    ) -> Result<Resolved, Error> {
        let mut fetched = self.fetch_named(remotes, reference, store).await?;
        let target = fetched.document.descriptor.clone();
        let mut host = fetched.host.clone();
        let mut indexes = Vec::new();
        loop {
            match fetched.parsed {
                Parsed::Manifest { config, layers, .. } => {
                    let manifest = fetched.document;
                    return Ok(Resolved {
                        reference: reference.clone(),
                        target,
                        indexes,
                        manifest,
                        config,
                        layers,
                        host,
                    });
                }
                Parsed::Index { entries, .. } => {
                    let failed = |fault: Fault| fault.during("resolve", reference, host.clone());
                    if indexes.len() == MAX_DEPTH {
                        return Err(failed(Fault::invalid("indexes are nested too deeply")));
                    }
                    let chosen = document::choose(&entries, platform).map_err(failed)?.clone();
                    indexes.push(fetched.document);
                    fetched = self.fetch_child(remotes, &chosen, reference, store).await?;
                    if !fetched.host.is_empty() {
                        host.clone_from(&fetched.host);
                    }
                }
            }
        }
    }

    /// Fetches a whole blob of at most `limit` bytes into memory, verified.
    pub(crate) async fn fetch_small_blob(
        &self,
        remotes: &[Remote],
        descriptor: &Descriptor,
        reference: &Reference,
        limit: u64,
    ) -> Result<Bytes, Error> {
        let object = reference.at_digest(&descriptor.digest);
        if descriptor.size > limit {
            let fault = Fault::invalid(format!("the blob is larger than the {limit} bytes allowed"));
            return Err(fault.during("fetch blob", object, ""));
        }
        let usable = with_capability(remotes, |capabilities| capabilities.pull);
        let mut attempts = Attempts::new(&usable, &self.config);
        loop {
            let remote = attempts.next().await.map_err(named("fetch blob", &object))?;
            match self.small_blob(remote, descriptor).await {
                Ok(bytes) => return Ok(bytes),
                Err(fault) => attempts.failed(fault),
            }
        }
    }

    async fn small_blob(&self, remote: &Remote, descriptor: &Descriptor) -> Result<Bytes, Fault> {
        let call = self.transport.call(Method::GET, remote.url(&format!("blobs/{}", descriptor.digest)));
        let response = self.transport.send_ok(remote, &call).await?;
        let bytes = self.transport.read(response, descriptor.size).await?;
        if bytes.len() as u64 != descriptor.size {
            return Err(mismatch(format!("the blob has {} bytes, not {}", bytes.len(), descriptor.size)));
        }
        verify(&bytes, Some(&descriptor.digest))?;
        Ok(bytes)
    }
}

/// Runs a closure that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(job).await.map_err(|_| Fault::cancelled())
}

/// A blob of the store, if it is there and sound.
pub(crate) async fn stored(
    store: Option<&Arc<content::Store>>,
    digest: &Digest,
    limit: u64,
) -> Option<Bytes> {
    let (store, digest) = (store?.clone(), digest.clone());
    blocking(move || store.read_small(&digest, limit)).await.ok()?.ok().map(Bytes::from)
}

pub(crate) fn with_capability(remotes: &[Remote], has: impl Fn(Capabilities) -> bool) -> Vec<Remote> {
    remotes.iter().filter(|remote| has(remote.endpoint.capabilities)).cloned().collect()
}

pub(crate) fn mismatch(detail: String) -> Fault {
    Fault::new(ErrorKind::DigestMismatch, detail)
}

fn fetched(bytes: Bytes, digest: Digest, served_as: Option<&str>, remote: &Remote) -> Result<Fetched, Fault> {
    let parsed = document::parse(&bytes, served_as)?;
    let media_type = parsed.media_type().to_owned();
    let descriptor = Descriptor { media_type, digest, size: bytes.len() as u64 };
    Ok(Fetched { document: Document { descriptor, bytes }, parsed, host: remote.endpoint.host.clone() })
}

fn verify(bytes: &[u8], expected: Option<&Digest>) -> Result<Digest, Fault> {
    let algorithm = expected.map_or(oci::Algorithm::Sha256, Digest::algorithm);
    let actual = Hasher::digest(algorithm, bytes);
    match expected {
        Some(expected) if *expected != actual => {
            Err(mismatch(format!("content has digest {actual}, expected {expected}")))
        }
        _ => Ok(actual),
    }
}

fn accept_manifests() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for media_type in MediaKind::MANIFEST_TYPES {
        headers.append(ACCEPT, HeaderValue::from_static(media_type));
    }
    headers
}

fn content_type(response: &Response) -> Option<String> {
    response.headers().get(CONTENT_TYPE)?.to_str().ok().map(str::to_owned)
}

pub(crate) fn header_digest(response: &Response) -> Option<Digest> {
    response.headers().get(DIGEST_HEADER)?.to_str().ok()?.parse().ok()
}
