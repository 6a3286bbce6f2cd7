//! Snapshots: the writable part of a container's file system.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci::{ContainerId, Digest};
use serde::{Deserialize, Serialize};

use crate::archive::is_implied;
use crate::persist::v1::SnapshotRecord;
use crate::store::{Store, set_mode};
use crate::{Error, Trash, trash};

/// A range of ids of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// The first id inside.
    pub container: u32,
    /// The first id outside.
    pub host: u32,
    /// How many ids.
    pub length: u32,
}

/// The maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Users.
    pub uids: Vec<IdMap>,
    /// Groups.
    pub gids: Vec<IdMap>,
}

impl IdMaps {
    /// The user and group outside that are 0 inside; 65534 if there are none.
    pub fn root(&self) -> (u32, u32) {
        let map = |maps: &[IdMap]| {
            let zero = maps.iter().find(|map| map.container == 0 && map.length > 0);
            zero.map_or(65534, |map| map.host)
        };
        (map(&self.uids), map(&self.gids))
    }

    /// The user and group inside that these are outside; 65534 if there are none.
    pub fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        let map = |maps: &[IdMap], id: u32| {
            let within = |map: &&IdMap| id >= map.host && id - map.host < map.length;
            maps.iter().find(within).map_or(65534, |map| map.container + (id - map.host))
        };
        (map(&self.uids, uid), map(&self.gids, gid))
    }

    /// The user and group outside that these are inside; 65534 if there are none.
    pub fn outside(&self, uid: u32, gid: u32) -> (u32, u32) {
        let map = |maps: &[IdMap], id: u32| {
            let within = |map: &&IdMap| id >= map.container && id - map.container < map.length;
            maps.iter().find(within).map_or(65534, |map| map.host + (id - map.container))
        };
        (map(&self.uids, uid), map(&self.gids, gid))
    }
}

/// How a snapshot is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotOptions {
    /// The maps of the user namespace the container runs in, if it runs in one of its own.
    pub idmap: Option<IdMaps>,
    /// Whether what the container writes, and the snapshot itself, must survive a reboot. If not, nothing is
    /// ever synced, and after a reboot the snapshot is stale.
    pub durable: bool,
}

/// The writable part of a container's file system, on top of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The container.
    pub key: ContainerId,
    /// The image it was made from.
    pub image: Digest,
    /// The diff ids of the image's layers, lowest first.
    pub layers: Vec<Digest>,
    /// The maps of the container's user namespace.
    pub idmap: Option<IdMaps>,
    /// Whether it survives a reboot.
    pub durable: bool,
    /// Whether it had to survive a reboot and could not. It can only be removed.
    pub stale: bool,
}

impl Store {
    /// Makes the snapshot of a container: two directories and a record, no mount. Done already with the same
    /// image and options, it is returned as it is.
    pub fn prepare(
        &self,
        key: &ContainerId,
        image: &Digest,
        options: SnapshotOptions,
    ) -> Result<Snapshot, Error> {
        let snapshot = {
            let mut state = self.state();
            let layers: Vec<Digest> = match state.images.get(image) {
                Some(image) => image.diff_ids().cloned().collect(),
                None => return Err(Error::ImageNotFound { name: image.as_str().to_owned() }),
            };
            if let Some(missing) = layers.iter().find(|layer| !state.layers.contains_key(*layer)) {
                return Err(Error::LayerNotFound { diff_id: missing.clone() });
            }
            let snapshot = Snapshot {
                key: key.clone(),
                image: image.clone(),
                layers,
                idmap: options.idmap,
                durable: options.durable,
                stale: false,
            };
            match state.snapshots.get(key) {
                Some(existing) if *existing == snapshot => return Ok(snapshot),
                Some(_) => return Err(Error::SnapshotExists { key: key.clone() }),
                // From here on the layers are pinned.
                None => drop(state.snapshots.insert(key.clone(), snapshot.clone())),
            }
            snapshot
        };
        let made = self.make_directories(&snapshot);
        if made.is_err() {
            self.state().snapshots.remove(key);
            let _swept = trash::discard(&self.snapshot_path(key), &self.trash_path());
        }
        made.map(|()| snapshot)
    }

    fn make_directories(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let path = self.snapshot_path(&snapshot.key);
        let make = |name: &str| {
            let path = path.join(name);
            std::fs::create_dir(&path).map_err(Error::io("create directory", &path)).map(|()| path)
        };
        let _left_over = trash::discard(&path, &self.trash_path())?;
        make("")?;
        set_mode(&path, 0o700)?;
        let upper = make("upper")?;
        set_mode(&upper, 0o755)?;
        make("work")?;
        if let Some(idmap) = &snapshot.idmap {
            let (uid, gid) = idmap.root();
            for name in ["upper", "work"] {
                let path = path.join(name);
                std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(Error::io("chown", &path))?;
            }
        }
        self.copy_root_mode(snapshot, &upper)?;
        let record = serde_json::to_vec(&SnapshotRecord::new(snapshot, self.boot_id()))
            .map_err(|source| Error::Record { what: snapshot.key.to_string(), source })?;
        let file = path.join("snapshot.json");
        let write = if snapshot.durable { sys::fs::write_atomic } else { sys::fs::write_volatile };
        write(&file, &record, 0o600).map_err(Error::io("write", &file))?;
        if snapshot.durable {
            let parent = self.root().join("snapshots");
            sys::fs::sync_directory(&parent).map_err(Error::io("sync directory", &parent))?;
        }
        Ok(())
    }

    /// The upper directory is the container's root directory, so it gets the mode of the image's: what the
    /// topmost layer says that says anything.
    fn copy_root_mode(&self, snapshot: &Snapshot, upper: &Path) -> Result<(), Error> {
        let visible = self.state().visible(&snapshot.layers)?;
        for layer in visible.iter().rev() {
            let path = self.layer_path(layer);
            let look = || {
                let directory = sys::tree::open_root(&path)?;
                let implied = is_implied(directory.as_fd())?;
                Ok((implied, sys::tree::stat_fd(directory.as_fd())?.mode))
            };
            let (implied, mode) = look().map_err(Error::io("stat", &path))?;
            if implied {
                continue;
            }
            return if mode == 0o755 { Ok(()) } else { set_mode(upper, mode) };
        }
        Ok(())
    }

    /// A snapshot.
    pub fn snapshot(&self, key: &ContainerId) -> Option<Snapshot> {
        self.state().snapshots.get(key).cloned()
    }

    /// All snapshots, in no order.
    pub fn list_snapshots(&self) -> Vec<Snapshot> {
        self.state().snapshots.values().cloned().collect()
    }

    /// The directory with what the container wrote, or where it would be.
    pub fn upper_path(&self, key: &ContainerId) -> PathBuf {
        self.snapshot_path(key).join("upper")
    }

    /// Removes a snapshot, which must not be mounted any more. Its not being there is fine.
    pub fn remove(&self, key: &ContainerId) -> Result<Trash, Error> {
        let trash = trash::discard(&self.snapshot_path(key), &self.trash_path())?;
        self.usages().remove(key);
        self.state().snapshots.remove(key);
        Ok(trash)
    }

    pub(crate) fn snapshot_path(&self, key: &ContainerId) -> PathBuf {
        self.root().join("snapshots").join(key)
    }
}

/// Reads the snapshot in a directory, if there is a whole one.
pub(crate) fn load(path: &Path, boot_id: &str) -> Option<Snapshot> {
    let key: ContainerId = path.file_name()?.to_str()?.parse().ok()?;
    let bytes = std::fs::read(path.join("snapshot.json")).ok()?;
    let record: SnapshotRecord = serde_json::from_slice(&bytes).ok()?;
    Some(record.into_snapshot(key, boot_id))
}
