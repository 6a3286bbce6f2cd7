//! What is written about volumes: a record for each below the root, and for each durable container what it is given,
//! in the container's own directory, so that it goes with it. Both are replaced as a whole, and synced.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use oci::ContainerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{ResolvedMount, VolumeScope};

/// Version of the forms below.
const VERSION: u32 = 1;
/// Largest record that is read.
const MAX_BYTES: u64 = 4 << 20;
/// Name of a volume's record in its directory.
const RECORD: &str = "volume.json";
/// Name of the record of what a container is given, in the container's directory.
const MOUNTS: &str = "mounts.json";

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) version: u32,
    pub(crate) name: String,
    pub(crate) driver: String,
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) created_at_ns: i64,
    #[serde(default)]
    pub(crate) anonymous: bool,
    #[serde(default)]
    pub(crate) scope: VolumeScope,
}

/// What a container is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct MountsRecord {
    version: u32,
    mounts: Vec<ResolvedMount>,
}

impl VolumeRecord {
    pub(crate) fn new(name: String, driver: String) -> Self {
        Self {
            version: VERSION,
            name,
            driver,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            created_at_ns: sys::fs::now_ns(),
            anonymous: false,
            scope: VolumeScope::Local,
        }
    }

    /// Makes the directory of a volume with its record; what is in it when this returns survives a power loss.
    pub(crate) fn create(&self, root: &Path) -> io::Result<()> {
        let dir = root.join(&self.name);
        sys::fs::ensure_directory(&dir, 0o711)?;
        if self.driver == crate::model::LOCAL_DRIVER {
            sys::fs::ensure_directory(&data(root, &self.name), 0o755)?;
        }
        sys::fs::write_atomic(&dir.join(RECORD), &serde_json::to_vec(self)?, 0o600)?;
        sys::fs::sync_directory(root)
    }

    /// The record in a directory; `None` if the volume was not made to the end, or is removed to its record.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let Some(record) = read::<Self>(&dir.join(RECORD))? else { return Ok(None) };
        if dir.file_name() != Some(std::ffi::OsStr::new(&record.name)) {
            return Err(invalid(format!("the record is that of volume {}", record.name)));
        }
        Ok(Some(record))
    }

    /// Removes a volume's directory. The record goes first: half a volume is none, and the next start sweeps it.
    pub(crate) fn remove(root: &Path, name: &str) -> io::Result<()> {
        let dir = root.join(name);
        sys::fs::remove_tree(&dir.join(RECORD))?;
        sys::fs::sync_directory(&dir)?;
        sys::fs::remove_tree(&dir)?;
        sys::fs::sync_directory(root)
    }
}

/// Where the files of a volume of the local driver are.
pub(crate) fn data(root: &Path, name: &str) -> PathBuf {
    root.join(name).join("_data")
}

/// Writes down what a container is given.
pub(crate) fn write_mounts(containers: &Path, id: &ContainerId, mounts: &[ResolvedMount]) -> io::Result<()> {
    let dir = containers.join(id);
    sys::fs::ensure_directory(&dir, 0o700)?;
    let record = MountsRecord { version: VERSION, mounts: mounts.to_vec() };
    sys::fs::write_atomic(&dir.join(MOUNTS), &serde_json::to_vec(&record)?, 0o600)
}

/// Reads what a container is given; `None` if nothing was written.
pub(crate) fn read_mounts(dir: &Path) -> io::Result<Option<Vec<ResolvedMount>>> {
    Ok(read::<MountsRecord>(&dir.join(MOUNTS))?.map(|record| record.mounts))
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if size > MAX_BYTES {
        return Err(invalid("the record is larger than any Berth writes".into()));
    }
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let bytes = std::fs::read(path)?;
    let Versioned { version } = serde_json::from_slice(&bytes)?;
    if version != VERSION {
        return Err(invalid(format!("the record has version {version}, this release reads {VERSION}")));
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the first release with volumes; every later one must read it.
    const V1: &str = r#"{"version":1,"name":"data","driver":"local","options":{"type":"tmpfs"},"labels":{"a":"b"},"created_at_ns":5,"anonymous":false,"scope":"Local"}"#;

    #[test]
    fn records_of_the_first_release_are_read_and_written_alike() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(RECORD), V1).unwrap();
        let record = VolumeRecord::read(&dir).unwrap().unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), V1);
        record.create(root.path()).unwrap();
        assert!(data(root.path(), "data").is_dir());
        std::fs::write(dir.join(RECORD), V1.replace("\"version\":1", "\"version\":2")).unwrap();
        assert!(VolumeRecord::read(&dir).unwrap_err().to_string().contains("version 2"));
        std::fs::write(dir.join(RECORD), V1.replace("data", "other")).unwrap();
        assert!(VolumeRecord::read(&dir).unwrap_err().to_string().contains("volume other"));
        VolumeRecord::remove(root.path(), "data").unwrap();
        assert!(!dir.try_exists().unwrap());
    }
}
