//! Leases: digests that must not be collected while someone works with them.
//!
//! Whoever is about to rely on content takes a lease on its digest *first* and looks whether it is there
//! *afterwards*. Removal happens under the same lock ([`Leases::remove_unless_held`]), so content that was
//! seen under a lease cannot vanish. Leases live in memory: after a crash nobody works with anything.
//!
//! A digest may name a blob or an unpacked layer; both are held alike.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use oci::Digest;

/// The digests that are held, with how many leases hold each.
#[derive(Debug, Default, Clone)]
pub struct Leases(Arc<Mutex<HashMap<Digest, usize>>>);

impl Leases {
    /// An empty lease.
    pub fn lease(&self) -> Lease {
        Lease { leases: self.clone(), held: Mutex::new(Vec::new()) }
    }

    /// Whether any lease holds the digest.
    pub fn is_held(&self, digest: &Digest) -> bool {
        self.lock().contains_key(digest)
    }

    /// Runs `remove` unless a lease holds the digest; no lease on it can start meanwhile, so `remove` must
    /// be quick. `None` if it is held.
    pub fn remove_unless_held<T>(&self, digest: &Digest, remove: impl FnOnce() -> T) -> Option<T> {
        let held = self.lock();
        (!held.contains_key(digest)).then(remove)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds digests against removal until dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Leases,
    held: Mutex<Vec<Digest>>,
}

impl Lease {
    /// Holds one more digest, whether or not its content is there yet.
    pub fn add(&self, digest: &Digest) {
        *self.leases.lock().entry(digest.clone()).or_default() += 1;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(digest.clone());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut counts = self.leases.lock();
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        for digest in held.drain(..) {
            if let Some(count) = counts.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&digest);
                }
            }
        }
    }
}
