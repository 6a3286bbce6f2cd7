//! Adapters: what layers that were unpacked apart need to look as if unpacked one on top of the other.
//!
//! An archive need not have entries for the directories its names lead through. Extracted on top of the
//! layers below, such an implied directory is the one that is there, or the one that a link there leads to.
//! Extracted apart it is a new one, which as part of an overlay would change what a lower layer says about
//! the directory, or hide the link. An adapter belongs to one list of layers and has what makes up for that:
//!
//! ```text
//! adapters/<hex>/adapter.json   which of these there are
//! adapters/<hex>/top/           directories as lower layers describe them, stacked on top of all layers
//! adapters/<hex>/<n>/           takes the place of the n-th layer, counted from below
//! ```
//!
//! The name is the digest of the list. An adapter is derived: lost, it is made again from the layers. Lists
//! without implied directories above their lowest layer have none and are not even looked at.

mod make;
mod rebase;
mod top;
mod view;

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use oci::{Algorithm, Digest};

use self::rebase::Rebase;
use self::view::View;
use crate::persist::v1::AdapterRecord;
use crate::store::{State, Store};
use crate::{Error, Problem, Trash, fail, trash};

/// The adapter of one list of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Adapter {
    /// The layers that are seen, the lowest first.
    pub(crate) layers: Vec<Digest>,
    /// Places in that list of layers that are replaced.
    pub(crate) replaced: Vec<usize>,
    /// Whether there is a directory for the top.
    pub(crate) top: bool,
    /// Directories made for it; its files are those of the layers.
    pub(crate) directories: u64,
    /// Inodes below its directory.
    pub(crate) inodes: u64,
}

impl Adapter {
    /// Its name.
    pub(crate) fn key(&self) -> Digest {
        key(&self.layers)
    }
}

/// The name of the adapter of layers, the lowest first.
fn key(layers: &[Digest]) -> Digest {
    let text: String = layers.iter().map(|layer| format!("{layer}\n")).collect();
    content::Hasher::digest(Algorithm::Sha256, text.as_bytes())
}

impl State {
    /// The layers of a list that are seen, the lowest first: down to one that hides everything below it.
    pub(crate) fn visible(&self, layers: &[Digest]) -> Result<Vec<Digest>, Error> {
        let mut visible = Vec::with_capacity(layers.len());
        for diff_id in layers.iter().rev() {
            let layer = self.layers.get(diff_id);
            let layer = layer.ok_or_else(|| Error::LayerNotFound { diff_id: diff_id.clone() })?;
            // The same layer twice would change nothing, and the kernel refuses it.
            if !visible.contains(diff_id) {
                visible.push(diff_id.clone());
            }
            if layer.opaque {
                break;
            }
        }
        visible.reverse();
        Ok(visible)
    }

    /// Whether layers, the lowest first, could need an adapter.
    fn may_need_adapter(&self, layers: &[Digest]) -> bool {
        layers.iter().skip(1).any(|layer| self.is_implied(layer))
    }

    fn is_implied(&self, layer: &Digest) -> bool {
        self.layers.get(layer).is_some_and(|layer| layer.implied)
    }

    /// The adapters that images and snapshots use.
    fn live_adapters(&self) -> HashSet<Digest> {
        let images = self.images.values().map(|image| image.diff_ids().cloned().collect());
        let snapshots = self.snapshots.values().map(|snapshot| snapshot.layers.clone());
        let lists = images.chain(snapshots).filter_map(|list: Vec<Digest>| self.visible(&list).ok());
        lists.filter(|list| self.may_need_adapter(list)).map(|list| key(&list)).collect()
    }
}

impl Store {
    /// The directories that make up an image of these layers, the topmost first. Makes the adapter that they
    /// need if there is none.
    pub(crate) fn stack(&self, layers: &[Digest]) -> Result<Vec<PathBuf>, Error> {
        let visible = self.state().visible(layers)?;
        let adapter = self.ensure_adapter(&visible)?;
        let directory = self.adapter_path(&key(&visible));
        let replaced = |index| adapter.as_ref().is_some_and(|adapter| adapter.replaced.contains(&index));
        let mut paths = Vec::with_capacity(visible.len() + 1);
        if adapter.as_ref().is_some_and(|adapter| adapter.top) {
            paths.push(directory.join("top"));
        }
        for (index, layer) in visible.iter().enumerate().rev() {
            let path =
                if replaced(index) { directory.join(index.to_string()) } else { self.layer_path(layer) };
            paths.push(path);
        }
        Ok(paths)
    }

    /// Makes the adapter of an image of these layers, if it needs one and has none. It is durable when this
    /// returns.
    pub(crate) fn adapt(&self, layers: &[Digest]) -> Result<(), Error> {
        let visible = self.state().visible(layers)?;
        self.ensure_adapter(&visible).map(drop)
    }

    fn ensure_adapter(&self, visible: &[Digest]) -> Result<Option<Adapter>, Error> {
        if !self.state().may_need_adapter(visible) {
            return Ok(None);
        }
        let known = || self.state().adapters.get(&key(visible)).cloned();
        if let Some(adapter) = known() {
            return Ok(Some(adapter));
        }
        let _turn = self.adapting().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(adapter) = known() {
            return Ok(Some(adapter));
        }
        let temporary = self.temporary_directory()?;
        let build = self.build_adapter(visible, &temporary.path);
        let adapter = build.map_err(|source| Error::Adapt { layers: visible.len(), source })?;
        let path = self.adapter_path(&adapter.key());
        let record = serde_json::to_vec(&AdapterRecord::new(&adapter))
            .map_err(|source| Error::Record { what: path.display().to_string(), source })?;
        let file = temporary.path.join("adapter.json");
        sys::fs::write_atomic(&file, &record, 0o600).map_err(Error::io("write", &file))?;
        // What the kernel has not written yet must not be found after a crash.
        let sync = || {
            fail::point()?;
            sys::tree::sync_file_system(sys::tree::open_root(&temporary.path)?.as_fd())
        };
        sync().map_err(Error::io("sync", &temporary.path))?;
        trash::discard(&path, &self.trash_path())?.empty()?;
        fail::point()
            .and_then(|()| std::fs::rename(&temporary.path, &path))
            .map_err(Error::io("move the adapter to", &path))?;
        let parent = self.root().join("adapters");
        fail::point()
            .and_then(|()| sys::fs::sync_directory(&parent))
            .map_err(Error::io("sync directory", &parent))?;
        self.state().adapters.insert(adapter.key(), adapter.clone());
        Ok(Some(adapter))
    }

    /// Fills an empty directory.
    fn build_adapter(&self, visible: &[Digest], path: &Path) -> io::Result<Adapter> {
        let limits = self.options().limits;
        let mut view = View::default();
        let mut adapter =
            Adapter { layers: visible.to_vec(), replaced: Vec::new(), top: false, directories: 0, inodes: 0 };
        for (index, diff_id) in visible.iter().enumerate() {
            let implied = self.state().is_implied(diff_id);
            let mut layer = sys::tree::open_root(&self.layer_path(diff_id))?;
            if implied && !view.is_empty() && rebase::is_needed(&view, layer.as_fd())? {
                let place = make_place(path, &index.to_string())?;
                view.push(place.try_clone()?, true);
                let rebase = Rebase { view: &view, layer: layer.as_fd(), place: place.as_fd(), limits };
                adapter.directories += 1 + rebase.run()?;
                adapter.replaced.push(index);
                view.pop();
                layer = place;
            }
            view.push(layer, implied);
        }
        let top = make_place(path, "top")?;
        let made = top::build(&view, top.as_fd(), limits.entries)?;
        adapter.top = made > 0;
        if adapter.top {
            adapter.directories += 1 + made;
        } else {
            std::fs::remove_dir(path.join("top"))?;
        }
        // And its record.
        adapter.inodes = count(path)?.unwrap_or(0) + 1;
        Ok(adapter)
    }

    /// Moves adapters that nothing uses to the trash.
    pub(crate) fn collect_adapters(&self) -> Result<Trash, Error> {
        let _turn = self.adapting().lock().unwrap_or_else(PoisonError::into_inner);
        let unused: Vec<Digest> = {
            let mut state = self.state();
            let live = state.live_adapters();
            let unused = state.adapters.keys().filter(|key| !live.contains(*key)).cloned().collect();
            state.adapters.retain(|key, _| live.contains(key));
            unused
        };
        self.discard_adapters(&unused)
    }

    /// Adapters with more or fewer files than were made. With `repair` they are forgotten, and made again
    /// when they are needed; who has one mounted keeps its files, which are only renamed away.
    pub(crate) fn check_adapters(&self, repair: bool) -> Result<Vec<Problem>, Error> {
        let _turn = self.adapting().lock().unwrap_or_else(PoisonError::into_inner);
        let adapters: Vec<Adapter> = self.state().adapters.values().cloned().collect();
        let mut problems = Vec::new();
        for adapter in adapters {
            let path = self.adapter_path(&adapter.key());
            let found = match count(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Some(0),
                counted => counted.map_err(Error::io("count the files of", &path))?,
            };
            if found.is_none_or(|found| found == adapter.inodes) {
                continue;
            }
            problems.push(Problem::AdapterChanged { key: adapter.key() });
            if repair {
                self.state().adapters.remove(&adapter.key());
                let _trash = self.discard_adapters(&[adapter.key()])?;
            }
        }
        Ok(problems)
    }

    /// Forgets the adapters that have one of these layers in them.
    pub(crate) fn forget_adapters_of(&self, layers: &[Digest]) -> Result<(), Error> {
        let _turn = self.adapting().lock().unwrap_or_else(PoisonError::into_inner);
        let of = |adapter: &Adapter| adapter.layers.iter().any(|layer| layers.contains(layer));
        let removed: Vec<Digest> = {
            let mut state = self.state();
            let removed = state.adapters.values().filter(|adapter| of(adapter)).map(Adapter::key).collect();
            state.adapters.retain(|_, adapter| !of(adapter));
            removed
        };
        self.discard_adapters(&removed).map(drop)
    }

    fn discard_adapters(&self, keys: &[Digest]) -> Result<Trash, Error> {
        let mut trash = Trash::default();
        for key in keys {
            trash.append(trash::discard(&self.adapter_path(key), &self.trash_path())?);
        }
        Ok(trash)
    }

    fn adapter_path(&self, key: &Digest) -> PathBuf {
        self.root().join("adapters").join(key.hex())
    }
}

/// Reads the adapter in a directory, if it is whole and its layers are there.
pub(crate) fn load(path: &Path, state: &State) -> Option<Adapter> {
    let bytes = std::fs::read(path.join("adapter.json")).ok()?;
    let adapter = serde_json::from_slice::<AdapterRecord>(&bytes).ok()?.into_adapter()?;
    let named = path.file_name()?.to_str()? == adapter.key().hex();
    let known = adapter.layers.iter().all(|layer| state.layers.contains_key(layer));
    (named && known).then_some(adapter)
}

fn make_place(parent: &Path, name: &str) -> io::Result<OwnedFd> {
    let parent = sys::tree::open_root(parent)?;
    make::make_directory(parent.as_fd(), name.as_bytes())
}

/// The inodes below a directory; nothing if they are too many to count.
fn count(path: &Path) -> io::Result<Option<u64>> {
    let directory = sys::tree::open_root(path)?;
    let usage = sys::tree::usage(directory.as_fd(), Instant::now() + Duration::from_secs(600))?;
    Ok(usage.complete.then_some(usage.inodes))
}
