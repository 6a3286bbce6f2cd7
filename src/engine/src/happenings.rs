//! What happens to containers of all kinds, images, networks and volumes: one order, the newest kept for those
//! who ask later.
//!
//! [`crate::events`] tells a sandbox' owner of its sandboxes, with their state. This tells everybody of
//! everything, in words, and of things that have no state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use oci::ContainerId;
use tokio::sync::broadcast;

use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::model::HealthState;

/// How many are kept for those who ask what was.
const KEPT: usize = 2048;

/// How many a slow subscriber may be behind.
const CAPACITY: usize = 4096;

/// Whom it happened to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// A container of a pod, or a durable one.
    Container {
        /// Its id.
        id: ContainerId,
        /// Its name; that of a pod's container is its name in the pod.
        name: String,
        /// Its image as the user wrote it.
        image: String,
        /// Its labels.
        labels: Arc<BTreeMap<String, String>>,
    },
    /// An image.
    Image {
        /// Its id.
        id: String,
        /// The name it happened to; empty if it has none.
        name: String,
        /// Labels of its configuration.
        labels: Arc<BTreeMap<String, String>>,
    },
    /// A user network.
    Network {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// What makes it.
        driver: String,
    },
    /// A volume.
    Volume {
        /// Its name.
        name: String,
        /// What makes it.
        driver: String,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// It was made.
    Create,
    /// Its process runs.
    Start,
    /// Its process ended.
    Die {
        /// Exit code, 128 + signal if a signal ended it.
        exit_code: i32,
    },
    /// A signal was sent.
    Kill {
        /// Its number.
        signal: i32,
    },
    /// It was stopped by hand.
    Stop,
    /// It was stopped and started by hand.
    Restart,
    /// It gets no CPU any more.
    Pause,
    /// It goes on.
    Unpause,
    /// It has another name.
    Rename {
        /// The name it had.
        old_name: String,
    },
    /// Its limits or its policy were changed.
    Update,
    /// It is gone.
    Destroy,
    /// The kernel killed a process of it for want of memory.
    Oom,
    /// A client is connected to its streams.
    Attach,
    /// A client left it running.
    Detach,
    /// Its terminal has another size.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// A command to run in it was made.
    ExecCreate {
        /// Id of the session.
        exec: String,
        /// The command line.
        command: String,
    },
    /// The command runs.
    ExecStart {
        /// Id of the session.
        exec: String,
        /// The command line.
        command: String,
    },
    /// A client left the command running.
    ExecDetach {
        /// Id of the session.
        exec: String,
    },
    /// The command ended.
    ExecDie {
        /// Id of the session.
        exec: String,
        /// Its exit code.
        exit_code: i32,
    },
    /// The verdict on its health changed.
    Health(HealthState),
    /// Its processes were listed.
    Top,
    /// Something was copied out of it.
    ArchivePath,
    /// Something was copied into it.
    ExtractToDir,
    /// Its file system was read as a whole.
    Export,
    /// An image was made of it.
    Commit {
        /// Id of the image.
        image: String,
    },
    /// A container was attached to this network.
    Connect {
        /// Its id.
        container: String,
    },
    /// A container left this network.
    Disconnect {
        /// Its id.
        container: String,
    },
    /// This volume was mounted in a container.
    Mount {
        /// Its id.
        container: String,
        /// Where.
        destination: String,
        /// Whether it may write.
        writable: bool,
    },
    /// This volume is not mounted in a container any more.
    Unmount {
        /// Its id.
        container: String,
    },
    /// This image was pulled.
    Pull,
    /// This image was pushed.
    Push,
    /// This image got a name.
    Tag,
    /// This image lost a name.
    Untag,
    /// This image was deleted.
    Delete,
    /// This image came from an archive.
    Load,
    /// This image was made of a file system.
    Import,
    /// This image was written to an archive.
    Save,
    /// Unused objects of this kind were removed.
    Prune {
        /// Bytes that became free.
        reclaimed_bytes: u64,
    },
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// Grows by one with each.
    pub sequence: u64,
    /// Nanoseconds since the Unix epoch; never less than that of the one before.
    pub at_ns: i64,
    /// To whom.
    pub subject: Subject,
    /// What.
    pub action: Action,
}

/// Receives what happens.
#[derive(Debug)]
pub struct Happenings {
    receiver: broadcast::Receiver<Arc<Happening>>,
    metrics: Arc<Metrics>,
}

impl Happenings {
    /// The next; `Err(n)` says that `n` were missed; `None` that the engine ends.
    pub async fn next(&mut self) -> Option<std::result::Result<Arc<Happening>, u64>> {
        match self.receiver.recv().await {
            Ok(happening) => Some(Ok(happening)),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                self.metrics.events_missed.inc_by(missed);
                Some(Err(missed))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct HappeningBus {
    sender: broadcast::Sender<Arc<Happening>>,
    kept: Mutex<VecDeque<Arc<Happening>>>,
    metrics: Arc<Metrics>,
}

impl HappeningBus {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let sender = broadcast::channel(CAPACITY).0;
        Self { sender, kept: Mutex::default(), metrics }
    }

    /// Tells everybody. Call it after the change is visible.
    pub(crate) fn publish(&self, subject: Subject, action: Action) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (sequence, before_ns) = kept.back().map_or((1, 0), |last| (last.sequence + 1, last.at_ns));
        let at_ns = sys::fs::now_ns().max(before_ns);
        let happening = Arc::new(Happening { sequence, at_ns, subject, action });
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&happening));
        // Still locked: whoever subscribes gets each happening once. No subscriber is no error.
        drop(self.sender.send(happening));
    }

    /// What happened at `since_ns` or later and is kept, and all that happens from now on.
    pub(crate) fn subscribe(&self, since_ns: Option<i64>) -> (Vec<Arc<Happening>>, Happenings) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let was = match since_ns {
            Some(since_ns) => kept.iter().filter(|h| h.at_ns >= since_ns).cloned().collect(),
            None => Vec::new(),
        };
        let receiver = self.sender.subscribe();
        (was, Happenings { receiver, metrics: Arc::clone(&self.metrics) })
    }
}

impl Engine {
    /// What happened at `since_ns` or later, as far as it is kept, and all that happens from now on: nothing twice,
    /// nothing left out.
    pub fn happenings(&self, since_ns: Option<i64>) -> (Vec<Arc<Happening>>, Happenings) {
        self.shared().happenings.subscribe(since_ns)
    }

    /// Tells of something that a front end did.
    pub fn tell(&self, subject: Subject, action: Action) {
        self.shared().happenings.publish(subject, action);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(n: usize) -> Subject {
        Subject::Volume { name: n.to_string(), driver: "local".into() }
    }

    #[tokio::test]
    async fn the_newest_are_kept_and_nothing_comes_twice() {
        let bus = HappeningBus::new(Arc::new(Metrics::register(&crate::metrics::Registry::new())));
        for n in 0..KEPT + 3 {
            bus.publish(volume(n), Action::Create);
        }
        let (was, mut next) = bus.subscribe(Some(0));
        assert_eq!((was.len(), was[0].sequence), (KEPT, 4));
        bus.publish(volume(7), Action::Destroy);
        let told = next.next().await.unwrap().unwrap();
        assert_eq!((told.sequence, &told.action), (KEPT as u64 + 4, &Action::Destroy));
        let (was, _) = bus.subscribe(Some(told.at_ns));
        assert_eq!(was.last().unwrap().sequence, told.sequence);
        assert!(bus.subscribe(None).0.is_empty());
    }
}
