//! All durable containers, by id and by name.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use oci::ContainerId;

use super::{Durable, DurableProblem, not_found};
use crate::error::Result;

/// All durable containers.
#[derive(Debug, Default)]
pub(crate) struct Durables(RwLock<Registry>);

#[derive(Debug, Default)]
struct Registry {
    by_id: HashMap<ContainerId, Durable>,
    /// Names that are taken, those of containers that are being made included.
    names: HashMap<String, ContainerId>,
    /// Containers whose record cannot be read: what is theirs stays for a release that can.
    unreadable: HashSet<ContainerId>,
}

impl Durables {
    /// Takes a name for a container.
    pub(super) fn reserve(&self, name: &str, id: &ContainerId) -> Result<()> {
        check_name(name)?;
        let mut registry = self.write();
        match registry.names.get(name) {
            Some(owner) if owner != id => {
                let problem = DurableProblem::NameTaken { name: name.to_owned(), id: owner.clone() };
                Err(problem.error("name the container"))
            }
            _ => {
                registry.names.insert(name.to_owned(), id.clone());
                Ok(())
            }
        }
    }

    /// Gives a name back, if it is that container's.
    pub(super) fn release(&self, name: &str, id: &ContainerId) {
        let mut registry = self.write();
        if registry.names.get(name) == Some(id) {
            registry.names.remove(name);
        }
    }

    pub(super) fn insert(&self, durable: Durable) {
        self.write().by_id.insert(durable.id.clone(), durable);
    }

    pub(super) fn remove(&self, id: &ContainerId) {
        let mut registry = self.write();
        registry.by_id.remove(id);
        registry.names.retain(|_, owner| owner != id);
    }

    pub(super) fn keep_unreadable(&self, id: ContainerId) {
        self.write().unreadable.insert(id);
    }

    /// The container of this id or name, or the only one whose id begins so.
    pub(crate) fn find(&self, reference: &str) -> Result<Durable> {
        let registry = self.read();
        let bare = reference.strip_prefix('/').unwrap_or(reference);
        let by_name = || registry.by_id.get(registry.names.get(bare)?);
        if let Some(found) = registry.by_id.get(bare).or_else(by_name) {
            return Ok(found.clone());
        }
        if bare.is_empty() {
            return Err(not_found(reference));
        }
        let mut matches = registry.by_id.iter().filter(|(id, _)| id.as_str().starts_with(bare));
        match (matches.next(), matches.next()) {
            (Some((_, found)), None) => Ok(found.clone()),
            (None, _) => Err(not_found(reference)),
            (Some(_), Some(_)) => {
                Err(DurableProblem::Ambiguous(reference.to_owned()).error("find the container"))
            }
        }
    }

    pub(super) fn all(&self) -> Vec<Durable> {
        self.read().by_id.values().cloned().collect()
    }

    /// Containers whose snapshots must stay.
    pub(crate) fn in_use(&self) -> HashSet<ContainerId> {
        let registry = self.read();
        let made = registry.by_id.keys().chain(registry.names.values());
        made.chain(&registry.unreadable).cloned().collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Registry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Registry> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest && (2..=255).contains(&name.len()) {
        return Ok(());
    }
    Err(DurableProblem::BadName(name.chars().take(160).collect()).error("name the container"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_unique() {
        let durables = Durables::default();
        let (a, b): (ContainerId, ContainerId) = ("a1".parse().unwrap(), "b1".parse().unwrap());
        durables.reserve("web", &a).unwrap();
        durables.reserve("web", &a).unwrap();
        let taken = durables.reserve("web", &b).unwrap_err();
        assert_eq!(taken.cause(), Some(&DurableProblem::NameTaken { name: "web".into(), id: a.clone() }));
        durables.release("web", &b);
        assert!(durables.reserve("web", &b).is_err(), "only its owner gives it back");
        durables.release("web", &a);
        durables.reserve("web", &b).unwrap();
        for bad in ["", "a", "-ab", "a/b", "a b", &"x".repeat(256)] {
            assert!(durables.reserve(bad, &a).is_err(), "{bad:?}");
        }
        assert!(durables.in_use().contains(&b), "one that is being made is in use");
    }
}
