//! The client: what the rest of Berth sees.

use std::path::PathBuf;
use std::sync::Arc;

use oci::{Platform, Reference};
use reqwest::Method;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Fault;
use crate::fallback::{Attempts, named};
use crate::flight::{Boarding, Flights, Landing};
use crate::progress::Stage;
use crate::pull::Puller;
use crate::push::Pusher;
use crate::registry::{Purpose, Registry};
use crate::report::Reporter;
use crate::{
    Config, Descriptor, Document, Error, Progress, PullRequest, Pulled, PushRequest, Resolved, ScopedAuth,
    tags,
};

/// A registry client. Clones share connections, tokens and running downloads.
#[derive(Debug, Clone)]
pub struct Client {
    registry: Arc<Registry>,
    puller: Arc<Puller>,
    pusher: Arc<Pusher>,
    pulls: Flights<PullKey, Run<Arc<Pulled>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Pulls that are the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PullKey {
    reference: Reference,
    platform: Platform,
    auth: Option<ScopedAuth>,
    store: PathBuf,
    want_blobs: bool,
}

/// Work that is under way, as those who wait for it see it.
#[derive(Debug, Clone)]
struct Run<T> {
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Option<Result<T, Error>>>,
    cancel: CancellationToken,
}

/// A pull that is under way. Dropping it stops nothing: others may wait for the same pull.
#[derive(Debug)]
pub struct Pull(Run<Arc<Pulled>>);

/// A push that is under way. Dropping it stops nothing; [`Push::cancel`] does.
#[derive(Debug)]
pub struct Push(Run<Descriptor>);

impl Client {
    /// A client.
    pub fn new(config: Config) -> Result<Self, Error> {
        let registry = Arc::new(Registry::new(config));
        let tasks = TaskTracker::new();
        Ok(Self {
            puller: Arc::new(Puller::new(registry.clone(), tasks.clone())),
            pusher: Arc::new(Pusher::new(registry.clone())),
            registry,
            pulls: Flights::default(),
            tasks,
            cancel: CancellationToken::new(),
        })
    }

    /// Follows a reference to the image for a platform; fetches manifests only.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        auth: Option<&ScopedAuth>,
    ) -> Result<Resolved, Error> {
        let remotes = self.registry.remotes(reference, auth, Purpose::Pull).await?;
        self.registry.resolve(&remotes, reference, platform, None).await
    }

    /// Fetches what the reference itself names, index or manifest.
    pub async fn manifest(
        &self,
        reference: &Reference,
        auth: Option<&ScopedAuth>,
    ) -> Result<Document, Error> {
        let remotes = self.registry.remotes(reference, auth, Purpose::Pull).await?;
        let fetched = self.registry.fetch_named(&remotes, reference, None).await?;
        Ok(fetched.document)
    }

    /// The tags of a repository, in the registry's order.
    pub async fn tags(
        &self,
        repository: &Reference,
        auth: Option<&ScopedAuth>,
    ) -> Result<Vec<String>, Error> {
        tags::list(&self.registry, repository, auth).await
    }

    /// Checks credentials with a registry (`host[:port]`), as `docker login` does.
    pub async fn check_auth(&self, host: &str, auth: &ScopedAuth) -> Result<(), Error> {
        let failed = |fault: Fault| fault.during("log in to", host, "");
        let mut remotes = self.registry.endpoints(host, "", "", Some(auth)).await.map_err(failed)?;
        remotes.retain(|remote| remote.endpoint.is_origin);
        let mut attempts = Attempts::new(&remotes, &self.registry.config);
        loop {
            let remote = attempts.next().await.map_err(named("log in to", host))?;
            let transport = &self.registry.transport;
            let call = transport.call(Method::GET, remote.url_below("/"));
            match transport.send_ok(remote, &call).await {
                Ok(_) => return Ok(()),
                Err(fault) => attempts.failed(fault),
            }
        }
    }

    /// Starts a pull, or joins one that is running for the same reference, platform and credentials (then
    /// that one's sink takes the layers). Needs a tokio runtime.
    pub fn pull(&self, request: PullRequest) -> Pull {
        let key = PullKey {
            reference: request.reference.clone(),
            platform: request.platform.clone(),
            auth: request.auth.clone(),
            store: request.store.root().to_owned(),
            want_blobs: request.want_blobs,
        };
        let (report, outcome) = (Reporter::new(), watch::channel(None));
        let cancel = self.cancel.child_token();
        let start = || Run { progress: report.watch(), outcome: outcome.1.clone(), cancel: cancel.clone() };
        match self.pulls.board(&key, start) {
            Boarding::Joined(run) => Pull(run),
            Boarding::Leads(run, landing) => {
                let puller = self.puller.clone();
                let work = async move {
                    let pulled = tokio::select! {
                        pulled = puller.pull(&request, &report) => pulled.map(Arc::new),
                        // Threads that write or unpack notice it at their next chunk and keep what they have.
                        () = cancel.cancelled() => Err(Fault::cancelled().during("pull", &request.reference, "")),
                    };
                    finish(pulled, &report, &outcome.0, Some(landing));
                };
                self.tasks.spawn(work);
                Pull(run)
            }
        }
    }

    /// Starts a push. Needs a tokio runtime.
    pub fn push(&self, request: PushRequest) -> Push {
        let (report, outcome) = (Reporter::new(), watch::channel(None));
        let cancel = self.cancel.child_token();
        let run = Run { progress: report.watch(), outcome: outcome.1, cancel: cancel.clone() };
        let pusher = self.pusher.clone();
        let sender = outcome.0;
        let work = async move {
            let pushed = tokio::select! {
                pushed = pusher.push(&request, &report) => pushed,
                // The registry forgets unfinished uploads by itself.
                () = cancel.cancelled() => Err(Fault::cancelled().during("push", &request.reference, "")),
            };
            finish(pushed, &report, &sender, None::<Landing<PullKey, Run<Arc<Pulled>>>>);
        };
        self.tasks.spawn(work);
        Push(run)
    }

    /// Cancels all pulls and pushes and waits until their threads have ended. The client is of no use after.
    pub async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Ends a run: whoever asks from now on starts a new one, whoever waits gets the outcome.
fn finish<T>(
    result: Result<T, Error>,
    report: &Reporter,
    outcome: &watch::Sender<Option<Result<T, Error>>>,
    landing: Option<Landing<PullKey, Run<Arc<Pulled>>>>,
) {
    report.stage(if result.is_ok() { Stage::Done } else { Stage::Failed });
    drop(landing);
    outcome.send_replace(Some(result));
}

impl Pull {
    /// Progress, for any number of watchers.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.clone()
    }

    /// Waits for the end. May be dropped and called again.
    pub async fn wait(&mut self) -> Result<Arc<Pulled>, Error> {
        self.0.wait().await
    }

    /// Stops the pull for everyone who waits for it; they get [`crate::ErrorKind::Cancelled`].
    pub fn cancel(&self) {
        self.0.cancel.cancel();
    }
}

impl Push {
    /// Progress, for any number of watchers.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.clone()
    }

    /// Waits for the end: what the reference names now. May be dropped and called again.
    pub async fn wait(&mut self) -> Result<Descriptor, Error> {
        self.0.wait().await
    }

    /// Stops the push.
    pub fn cancel(&self) {
        self.0.cancel.cancel();
    }
}

impl<T: Clone> Run<T> {
    async fn wait(&mut self) -> Result<T, Error> {
        // An error means that the task has gone without a word: the runtime is being shut down.
        let ended = self.outcome.wait_for(Option::is_some).await.ok().and_then(|value| value.clone());
        ended.unwrap_or_else(|| Err(Fault::cancelled().during("transfer", "", "")))
    }
}
