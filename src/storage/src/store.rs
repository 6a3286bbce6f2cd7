//! The store: opening it, its state in memory, its locks.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use oci::{ContainerId, Digest, Reference};
use sys::tree::Usage;

use crate::adapter::{self, Adapter};
use crate::records::{Loaded, Records};
use crate::writeback::Writeback;
use crate::{Error, Image, Layer, Options, Problem, Snapshot, Trash, snapshot, trash};

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    options: Options,
    content: Arc<content::Store>,
    records: Records,
    boot_id: String,
    /// Problems found while opening.
    found: Vec<Problem>,
    /// Taken for the whole of an operation that changes images or collects garbage; before `state`.
    writing: Mutex<()>,
    /// Taken for moments, never while anything is synced.
    state: Mutex<State>,
    unpacking: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    writeback: Arc<Writeback>,
    /// Taken while an adapter is made or removed; after `writing`, before `state`.
    adapting: Mutex<()>,
    usages: Mutex<HashMap<ContainerId, (Instant, Usage)>>,
    /// Held for its lock.
    _lock: OwnedFd,
}

/// What the store knows, in memory.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) layers: HashMap<Digest, Layer>,
    pub(crate) images: BTreeMap<Digest, Image>,
    pub(crate) names: HashMap<Reference, Digest>,
    pub(crate) snapshots: HashMap<ContainerId, Snapshot>,
    /// By the digest of their list of layers.
    pub(crate) adapters: HashMap<Digest, Adapter>,
}

const DIRECTORIES: [&str; 8] =
    ["layers/sha256", "layers/sha512", "adapters", "snapshots", "tmp", "trash", "empty/a", "empty/b"];

impl Store {
    /// Opens the store at `root`, creating it if there is none. Refused at once while another process has it
    /// open. What a crash left behind is moved to the trash; [`Store::empty_trash`] deletes it.
    pub fn open(root: &Path, content: Arc<content::Store>, options: Options) -> Result<Self, Error> {
        sys::fs::ensure_directories(root, 0o700).map_err(Error::io("create directory", root))?;
        let lock_path = root.join("lock");
        let lock = sys::fs::lock_exclusive(&lock_path).map_err(Error::io("lock", &lock_path))?;
        let lock = lock.ok_or_else(|| Error::Locked { path: root.to_owned() })?;
        for directory in DIRECTORIES {
            let path = root.join(directory);
            sys::fs::ensure_directories(&path, 0o700).map_err(Error::io("create directory", &path))?;
        }
        for empty in ["empty/a", "empty/b"] {
            // The root directory of an image without layers.
            set_mode(&root.join(empty), 0o755)?;
        }
        let (records, put_aside) = Records::open(&root.join("images.redb"))?;
        let boot_id = sys::fs::boot_id().map_err(Error::io("read boot id for", root))?;
        let loaded = records.load()?;
        let mut found = Vec::new();
        if put_aside {
            found.push(Problem::DatabaseDamaged { put_aside: root.join("images.damaged") });
        }
        found.extend(loaded.unreadable.iter().map(|what| Problem::RecordUnreadable { what: what.clone() }));
        let state = recover(root, loaded, &boot_id, &mut found)?;
        Ok(Self(Arc::new(Inner {
            root: root.to_owned(),
            options,
            content,
            records,
            boot_id,
            found,
            writing: Mutex::new(()),
            state: Mutex::new(state),
            unpacking: Mutex::default(),
            writeback: Arc::default(),
            adapting: Mutex::default(),
            usages: Mutex::default(),
            _lock: lock,
        })))
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The content store it works with.
    pub fn content(&self) -> &Arc<content::Store> {
        &self.0.content
    }

    /// Everything in the trash, for deletion in the background.
    pub fn empty_trash(&self) -> Result<Trash, Error> {
        let path = self.trash_path();
        let entries = std::fs::read_dir(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(Error::io("list", &path))?;
        Ok(Trash { paths: entries.into_iter().map(|entry| entry.path()).collect() })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.0.options
    }

    pub(crate) fn records(&self) -> &Records {
        &self.0.records
    }

    pub(crate) fn writeback(&self) -> &Arc<Writeback> {
        &self.0.writeback
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.0.boot_id
    }

    pub(crate) fn found_on_open(&self) -> &[Problem] {
        &self.0.found
    }

    pub(crate) fn trash_path(&self) -> PathBuf {
        self.0.root.join("trash")
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn unpacking(&self) -> &Mutex<HashMap<Digest, Arc<Mutex<()>>>> {
        &self.0.unpacking
    }

    pub(crate) fn adapting(&self) -> &Mutex<()> {
        &self.0.adapting
    }

    pub(crate) fn usages(&self) -> MutexGuard<'_, HashMap<ContainerId, (Instant, Usage)>> {
        self.0.usages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings records and directories together: directories without a record go to the trash, records without a
/// directory are left out and reported.
fn recover(root: &Path, loaded: Loaded, boot_id: &str, found: &mut Vec<Problem>) -> Result<State, Error> {
    let mut state = State::default();
    let trash = root.join("trash");
    for entry in list(&root.join("tmp"))? {
        let _swept = trash::discard(&entry, &trash)?;
    }
    for layer in loaded.layers {
        state.layers.insert(layer.diff_id.clone(), layer);
    }
    let mut present = std::collections::HashSet::new();
    for algorithm in ["sha256", "sha512"] {
        for path in list(&root.join("layers").join(algorithm))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match format!("{algorithm}:{name}").parse::<Digest>() {
                Ok(diff_id) if state.layers.contains_key(&diff_id) => {
                    present.insert(diff_id);
                }
                _ => drop(trash::discard(&path, &trash)?),
            }
        }
    }
    state.layers.retain(|diff_id, _| {
        let kept = present.contains(diff_id);
        if !kept {
            found.push(Problem::LayerMissing { diff_id: diff_id.clone() });
        }
        kept
    });
    for image in loaded.images {
        state.set_image(image);
    }
    for path in list(&root.join("adapters"))? {
        match adapter::load(&path, &state) {
            Some(adapter) => drop(state.adapters.insert(adapter.key(), adapter)),
            // It is made again when it is needed.
            None => drop(trash::discard(&path, &trash)?),
        }
    }
    for path in list(&root.join("snapshots"))? {
        match snapshot::load(&path, boot_id) {
            Some(snapshot) => drop(state.snapshots.insert(snapshot.key.clone(), snapshot)),
            // Made without its record: nobody was told that it exists.
            None => drop(trash::discard(&path, &trash)?),
        }
    }
    Ok(state)
}

fn list(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    Ok(entries.map_err(Error::io("list", path))?.into_iter().map(|entry| entry.path()).collect())
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, permissions).map_err(Error::io("set the mode of", path))
}
