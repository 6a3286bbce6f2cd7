//! One run of something, however many ask for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// What is being run now, by key.
#[derive(Debug)]
pub(crate) struct Flights<K: Eq + Hash, V>(Arc<Mutex<HashMap<K, V>>>);

impl<K: Eq + Hash, V> Clone for Flights<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Takes the key off when the run ends, however it ends.
#[derive(Debug)]
pub(crate) struct Landing<K: Eq + Hash, V> {
    flights: Flights<K, V>,
    key: K,
}

/// Whether a run was joined or is to be made.
pub(crate) enum Boarding<K: Eq + Hash, V> {
    Joined(V),
    Leads(V, Landing<K, V>),
}

impl<K: Eq + Hash + Clone, V: Clone> Flights<K, V> {
    /// Joins the run for a key, or makes the caller its leader with what `start` gives the others to share.
    pub(crate) fn board(&self, key: &K, start: impl FnOnce() -> V) -> Boarding<K, V> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = flights.get(key) {
            return Boarding::Joined(value.clone());
        }
        let value = start();
        flights.insert(key.clone(), value.clone());
        Boarding::Leads(value, Landing { flights: self.clone(), key: key.clone() })
    }
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// A signal for followers that want to know no more than that the leader has ended: it is given when the
/// last sender is dropped.
pub(crate) type Ended = watch::Receiver<()>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_leads_and_the_next_join_until_it_lands() {
        let flights: Flights<&str, u8> = Flights::default();
        let Boarding::Leads(1, landing) = flights.board(&"a", || 1) else { panic!("not the leader") };
        assert!(matches!(flights.board(&"a", || 2), Boarding::Joined(1)));
        assert!(matches!(flights.board(&"b", || 3), Boarding::Leads(3, _)));
        drop(landing);
        assert!(matches!(flights.board(&"a", || 4), Boarding::Leads(4, _)));
    }
}
