//! The client: what the rest of Berth sees.

use std::sync::Arc;

use oci::{Platform, Reference};
use tokio::sync::watch;

use crate::error::Fault;
use crate::{
    Config, Descriptor, Document, Error, ErrorKind, Progress, PullRequest, Pulled, PushRequest, Resolved,
    ScopedAuth,
};

/// A registry client. Clones share connections, tokens and running downloads.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<Config>,
}

/// A pull that is under way. Dropping it stops nothing: others may wait for the same pull.
#[derive(Debug)]
pub struct Pull {
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Option<Result<Arc<Pulled>, Error>>>,
}

/// A push that is under way. Dropping it stops nothing; [`Push::cancel`] does.
#[derive(Debug)]
pub struct Push {
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Option<Result<Descriptor, Error>>>,
}

impl Client {
    /// A client. Fails if the system's certificates cannot be read.
    pub fn new(config: Config) -> Result<Self, Error> {
        Ok(Self { config: Arc::new(config) })
    }

    /// Follows a reference to the image for a platform; fetches manifests only.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        auth: Option<&ScopedAuth>,
    ) -> Result<Resolved, Error> {
        let _ = (platform, auth);
        Err(unavailable("resolve", reference, &self.config))
    }

    /// Fetches what the reference itself names, index or manifest.
    pub async fn manifest(
        &self,
        reference: &Reference,
        auth: Option<&ScopedAuth>,
    ) -> Result<Document, Error> {
        let _ = auth;
        Err(unavailable("fetch manifest", reference, &self.config))
    }

    /// The tags of a repository.
    pub async fn tags(
        &self,
        repository: &Reference,
        auth: Option<&ScopedAuth>,
    ) -> Result<Vec<String>, Error> {
        let _ = auth;
        Err(unavailable("list tags", repository, &self.config))
    }

    /// Checks credentials with a registry (`host[:port]`), as `docker login` does.
    pub async fn check_auth(&self, host: &str, auth: &ScopedAuth) -> Result<(), Error> {
        let _ = auth;
        Err(unavailable("log in", host, &self.config))
    }

    /// Starts a pull, or joins one that is running for the same reference, platform and credentials (then
    /// that one's sink takes the layers). Needs a tokio runtime.
    pub fn pull(&self, request: PullRequest) -> Pull {
        let error = unavailable("pull", &request.reference, &self.config);
        Pull { progress: watch::channel(Progress::default()).1, outcome: watch::channel(Some(Err(error))).1 }
    }

    /// Starts a push. Needs a tokio runtime.
    pub fn push(&self, request: PushRequest) -> Push {
        let error = unavailable("push", &request.reference, &self.config);
        Push { progress: watch::channel(Progress::default()).1, outcome: watch::channel(Some(Err(error))).1 }
    }

    /// Cancels all pulls and pushes and waits until their threads have ended.
    pub async fn shutdown(&self) {}
}

impl Pull {
    /// Progress, for any number of watchers.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits for the end. May be dropped and called again.
    pub async fn wait(&mut self) -> Result<Arc<Pulled>, Error> {
        outcome(&mut self.outcome).await
    }

    /// Stops the pull for everyone who waits for it; they get [`ErrorKind::Cancelled`].
    pub fn cancel(&self) {}
}

impl Push {
    /// Progress, for any number of watchers.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits for the end: what the reference names now. May be dropped and called again.
    pub async fn wait(&mut self) -> Result<Descriptor, Error> {
        outcome(&mut self.outcome).await
    }

    /// Stops the push.
    pub fn cancel(&self) {}
}

async fn outcome<T: Clone>(receiver: &mut watch::Receiver<Option<Result<T, Error>>>) -> Result<T, Error> {
    match receiver.wait_for(Option::is_some).await {
        Ok(value) => value.clone().unwrap_or_else(|| Err(Fault::cancelled().during("wait", "", ""))),
        Err(_) => Err(Fault::cancelled().during("wait", "", "")),
    }
}

fn unavailable(operation: &str, object: impl std::fmt::Display, config: &Config) -> Error {
    Fault::new(ErrorKind::Unsupported, format!("{} cannot do this yet", config.user_agent))
        .during(operation, object, "")
}
