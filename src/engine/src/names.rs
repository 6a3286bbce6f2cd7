//! One piece of work per name, however often it is asked for.
//!
//! A client that gave up asks again with the same name. While the work runs the second request joins it;
//! once it is done and nobody took the result, the second request gets it. A result that somebody took
//! makes the name taken.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::{Error, Result};

/// How far a piece of work is.
#[derive(Debug, Clone)]
pub(crate) struct Progress<T> {
    /// Since when.
    pub(crate) since: Instant,
    /// At what.
    pub(crate) stage: &'static str,
    /// Its end.
    pub(crate) outcome: Option<Result<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    progress: watch::Receiver<Progress<T>>,
    taken: bool,
}

/// Names in use, each with the work that made them.
#[derive(Debug)]
pub(crate) struct Names<K, T> {
    entries: Mutex<HashMap<K, Entry<T>>>,
}

/// What to do about a name.
pub(crate) enum Claim<T> {
    /// The name was free: do the work and report here.
    Mine(watch::Sender<Progress<T>>, watch::Receiver<Progress<T>>),
    /// The work is under way, or done and nobody has its result.
    Join(watch::Receiver<Progress<T>>),
    /// The result was handed out before.
    Taken(T),
}

impl<K: Hash + Eq + Clone, T: Clone> Names<K, T> {
    pub(crate) fn new() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, Entry<T>>> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Claims a name, joins its work, or learns that it is taken. Failed work frees its name.
    pub(crate) fn claim(&self, key: &K) -> Claim<T> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get(key) {
            match (&entry.progress.borrow().outcome, entry.taken) {
                (Some(Ok(result)), true) => return Claim::Taken(result.clone()),
                (Some(Err(_)), _) => {}
                // Whoever did the work is gone without a word.
                (None, _) if entry.progress.has_changed().is_err() => {}
                (Some(Ok(_)), false) | (None, _) => return Claim::Join(entry.progress.clone()),
            }
        }
        let first = Progress { since: Instant::now(), stage: "queued", outcome: None };
        let (sender, receiver) = watch::channel(first);
        entries.insert(key.clone(), Entry { progress: receiver.clone(), taken: false });
        Claim::Mine(sender, receiver)
    }

    /// Registers a name whose work was done before the daemon started.
    pub(crate) fn adopt(&self, key: K, result: T) {
        let progress = Progress { since: Instant::now(), stage: "done", outcome: Some(Ok(result)) };
        let (_, receiver) = watch::channel(progress);
        self.lock().insert(key, Entry { progress: receiver, taken: true });
    }

    /// Notes that somebody took the result.
    pub(crate) fn took(&self, key: &K) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.taken = true;
        }
    }

    /// Frees a name.
    pub(crate) fn release(&self, key: &K) {
        self.lock().remove(key);
    }
}

/// Moves to the next stage; everybody who waits can name it.
pub(crate) fn enter<T>(progress: &watch::Sender<Progress<T>>, stage: &'static str) {
    progress.send_modify(|p| p.stage = stage);
}

/// Waits for the end of a piece of work, at most until `patience` runs out; then says where the work is.
pub(crate) async fn wait<T: Clone>(
    mut progress: watch::Receiver<Progress<T>>,
    what: &str,
    patience: Option<Duration>,
) -> Result<T> {
    let ended = async {
        // The sender reports an end before it goes, unless its task panicked.
        let _ = progress.wait_for(|p| p.outcome.is_some()).await;
    };
    match patience {
        None => ended.await,
        Some(patience) => drop(tokio::time::timeout(patience, ended).await),
    }
    let gone = progress.has_changed().is_err();
    let now = progress.borrow();
    match &now.outcome {
        Some(outcome) => outcome.clone(),
        None if gone => Err(Error::internal(format!("{what} broke off at stage {:?}", now.stage))),
        None => Err(Error::still_running(what, now.stage, now.since.elapsed())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_gets_what_nobody_took() {
        let names: Names<&str, u32> = Names::new();
        let Claim::Mine(sender, _) = names.claim(&"a") else { panic!("free") };
        assert!(matches!(names.claim(&"a"), Claim::Join(_)));
        sender.send_modify(|p| p.outcome = Some(Ok(7)));
        assert!(matches!(names.claim(&"a"), Claim::Join(_)));
        names.took(&"a");
        assert!(matches!(names.claim(&"a"), Claim::Taken(7)));
        names.release(&"a");
        assert!(matches!(names.claim(&"a"), Claim::Mine(..)));
    }

    #[test]
    fn failed_work_frees_its_name() {
        let names: Names<&str, u32> = Names::new();
        let Claim::Mine(sender, _) = names.claim(&"a") else { panic!("free") };
        sender.send_modify(|p| p.outcome = Some(Err(Error::internal("no"))));
        assert!(matches!(names.claim(&"a"), Claim::Mine(..)));
    }

    #[tokio::test]
    async fn work_that_broke_off_frees_its_name() {
        let names: Names<&str, u32> = Names::new();
        let Claim::Mine(sender, receiver) = names.claim(&"a") else { panic!("free") };
        drop(sender);
        assert!(wait(receiver, "sandbox a", None).await.is_err());
        assert!(matches!(names.claim(&"a"), Claim::Mine(..)));
    }

    #[tokio::test(start_paused = true)]
    async fn impatience_names_the_stage() {
        let names: Names<&str, u32> = Names::new();
        let Claim::Mine(sender, receiver) = names.claim(&"a") else { panic!("free") };
        enter(&sender, "network");
        let error = wait(receiver.clone(), "sandbox a", Some(Duration::from_secs(1))).await.unwrap_err();
        assert!(error.to_string().contains("\"network\""), "{error}");
        sender.send_modify(|p| p.outcome = Some(Ok(1)));
        assert_eq!(wait(receiver, "sandbox a", None).await.unwrap(), 1);
    }
}
