//! Removal in two steps: a rename now, the deletion whenever there is time.

use std::path::{Path, PathBuf};

use sys::fs::remove_tree;

use crate::Error;

/// Files and directories that are out of sight and wait for deletion. Dropping it is fine: the next
/// [`crate::Store::empty_trash`] or open finds them.
#[derive(Debug, Default)]
#[must_use = "what is in the trash takes space until it is emptied"]
pub struct Trash {
    pub(crate) paths: Vec<PathBuf>,
}

impl Trash {
    /// Whether there is nothing to delete.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Adds what another one holds.
    pub fn append(&mut self, mut other: Self) {
        self.paths.append(&mut other.paths);
    }

    /// Deletes; takes as long as it takes. Goes on after a failure and returns the first one.
    pub fn empty(self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for path in self.paths {
            let removed = remove_tree(&path).map_err(Error::io("delete", &path));
            outcome = outcome.and(removed);
        }
        outcome
    }
}

/// A name in the trash directory that nothing has.
pub(crate) fn grave(trash: &Path) -> std::io::Result<PathBuf> {
    let name: String = sys::fs::random_bytes::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(trash.join(name))
}

/// Moves a directory into the trash directory under a fresh name. Nothing there is fine.
pub(crate) fn discard(path: &Path, trash: &Path) -> Result<Trash, Error> {
    let failed = Error::io("move to the trash", path);
    let name = match grave(trash) {
        Ok(name) => name,
        Err(error) => return Err(failed(error)),
    };
    match crate::fail::point().and_then(|()| std::fs::rename(path, &name)) {
        Ok(()) => Ok(Trash { paths: vec![name] }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Trash::default()),
        Err(error) => Err(failed(error)),
    }
}
