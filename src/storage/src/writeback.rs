//! Writing to disk what is unpacked while it is being unpacked, so that the sync at the end, which a pull waits
//! for, finds little left to do.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a layer is unpacked before anything is written early, and the pause after each time.
const PAUSE: Duration = Duration::from_millis(150);

/// Counts the layers that are being unpacked. While there are any, one thread for all of them writes.
#[derive(Debug, Default)]
pub(crate) struct Writeback {
    unpacking: Mutex<usize>,
    ended: Condvar,
}

/// A layer that is being unpacked.
#[derive(Debug)]
pub(crate) struct Unpacking(Arc<Writeback>);

impl Writeback {
    /// Writes the file system of `root` early until what it returns is dropped. That is a matter of time, not of
    /// durability: whoever needs that syncs, so a failure to write early is no error.
    pub(crate) fn enter(self: &Arc<Self>, root: &Path) -> Unpacking {
        let mut unpacking = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        *unpacking += 1;
        if *unpacking == 1
            && let Ok(root) = sys::tree::open_root(root)
        {
            let shared = Arc::clone(self);
            let spawned =
                std::thread::Builder::new().name("writeback".to_owned()).spawn(move || shared.run(&root));
            if let Err(error) = spawned {
                tracing::debug!(%error, "layers are not written early");
            }
        }
        drop(unpacking);
        Unpacking(Arc::clone(self))
    }

    fn run(&self, root: &OwnedFd) {
        let mut unpacking = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        while *unpacking > 0 {
            let waited = self.ended.wait_timeout(unpacking, PAUSE).unwrap_or_else(PoisonError::into_inner);
            unpacking = waited.0;
            if *unpacking > 0 && waited.1.timed_out() {
                drop(unpacking);
                // A sync that reports an error here reports it to the layer's own descriptor, too.
                let _ = sys::tree::sync_file_system(root.as_fd());
                unpacking = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        let mut unpacking = self.0.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        *unpacking = unpacking.saturating_sub(1);
        if *unpacking == 0 {
            self.0.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until so many, a thread among them, hold on to it.
    fn wait_for(writeback: &Arc<Writeback>, holders: usize) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(writeback) != 1 + holders {
            assert!(std::time::Instant::now() < deadline, "{} hold it", Arc::strong_count(writeback) - 1);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_thread_serves_all_layers_and_ends_with_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let writeback = Arc::new(Writeback::default());
        let first = writeback.enter(dir.path());
        let second = writeback.enter(dir.path());
        wait_for(&writeback, 3);
        drop(first);
        std::thread::sleep(PAUSE * 2);
        wait_for(&writeback, 2);
        drop(second);
        wait_for(&writeback, 0);
        drop(writeback.enter(dir.path()));
        wait_for(&writeback, 0);
    }
}
