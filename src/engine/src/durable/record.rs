//! What is written about a durable container: one file in its directory below the root, replaced as a whole by its
//! supervisor, and synced.
//!
//! What it says of a run is what was meant. Whether the run is there says the sandbox' own record, which dies with
//! the boot.

use std::io;
use std::path::{Path, PathBuf};

use oci::image::ImageConfiguration;
use oci::{ContainerId, Digest, SandboxId};
use serde::{Deserialize, Serialize};

use crate::model::{DurableConfig, ExitRecord};

/// Version of the form below.
pub(crate) const VERSION: u32 = 1;

/// Largest record that is read.
const MAX_BYTES: u64 = 16 << 20;

/// A durable container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DurableRecord {
    pub(crate) version: u32,
    pub(crate) id: ContainerId,
    pub(crate) config: DurableConfig,
    pub(crate) created_at_ns: i64,
    pub(crate) image_id: Digest,
    /// The image's configuration, for starts after the image was removed: its layers stay with the snapshot.
    pub(crate) image_config: ImageConfiguration,
    /// A run that is there, or may be.
    #[serde(default)]
    pub(crate) run: Option<RunRecord>,
    #[serde(default)]
    pub(crate) last_exit: Option<ExitRecord>,
    /// Why it could not be started.
    #[serde(default)]
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) restart_count: u32,
    #[serde(default)]
    pub(crate) manually_stopped: bool,
    /// Its removal has begun and goes on, whatever happens.
    #[serde(default)]
    pub(crate) removing: Option<RemovalRecord>,
}

/// A run of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    pub(crate) sandbox: SandboxId,
    pub(crate) boot_id: String,
    /// When it was asked for.
    pub(crate) asked_at_ns: i64,
}

/// A removal that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemovalRecord {
    /// Whether volumes that were made for it alone go, too.
    pub(crate) volumes: bool,
}

/// Where durable containers are, below the root.
pub(crate) fn directory(root: &Path) -> PathBuf {
    root.join("containers")
}

fn path(dir: &Path) -> PathBuf {
    dir.join("record.json")
}

impl DurableRecord {
    /// Makes the directory of a new container and its record. Both survive a power loss when this returns.
    pub(crate) fn create(&self, dir: &Path) -> io::Result<()> {
        sys::fs::ensure_directory(dir, 0o700)?;
        self.write(dir)?;
        sys::fs::sync_directory(dir.parent().unwrap_or(dir))
    }

    /// Writes the record so that it survives a power loss.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        sys::fs::write_atomic(&path(dir), &bytes, 0o600)
    }

    /// Reads the record in a directory; `None` if there is none: it was not made to the end, or is removed to the
    /// last file.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let path = path(dir);
        let size = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        if size > MAX_BYTES {
            return Err(invalid("the record is larger than any Berth writes".into()));
        }
        let bytes = std::fs::read(&path)?;
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(&bytes)?;
        if version != VERSION {
            return Err(invalid(format!("the record has version {version}, this release reads {VERSION}")));
        }
        let record: Self = serde_json::from_slice(&bytes)?;
        if dir.file_name() != Some(std::ffi::OsStr::new(record.id.as_str())) {
            return Err(invalid(format!("the record is that of container {}", record.id)));
        }
        Ok(Some(record))
    }

    /// Removes a container's directory: the record last, so that a removal that is cut off goes on.
    pub(crate) fn remove(dir: &Path) -> io::Result<()> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.path() != path(dir) {
                sys::fs::remove_tree(&entry.path())?;
            }
        }
        sys::fs::remove_tree(dir)?;
        sys::fs::sync_directory(dir.parent().unwrap_or(dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the first release with durable containers; every later one must read it.
    const V1: &str = include_str!("testdata/record-v1.json");

    fn golden(dir: &Path) -> PathBuf {
        let dir = dir.join("c1");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(path(&dir), V1).unwrap();
        dir
    }

    #[test]
    fn records_of_the_first_release_are_read() {
        let root = tempfile::tempdir().unwrap();
        let dir = golden(root.path());
        let record = DurableRecord::read(&dir).unwrap().unwrap();
        assert_eq!(record.config.name, "web");
        assert_eq!(record.run.as_ref().unwrap().sandbox.as_str(), "s1");
        assert_eq!(record.removing, Some(RemovalRecord { volumes: true }));
        record.write(&dir).unwrap();
        let again = DurableRecord::read(&dir).unwrap().unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&record).unwrap());
    }

    #[test]
    fn records_of_a_later_release_and_of_others_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = golden(root.path());
        std::fs::write(path(&dir), V1.replace("\"version\": 1", "\"version\": 2")).unwrap();
        assert!(DurableRecord::read(&dir).unwrap_err().to_string().contains("version 2"));
        std::fs::write(path(&dir), V1.replace("\"id\": \"c1\"", "\"id\": \"c2\"")).unwrap();
        assert!(DurableRecord::read(&dir).unwrap_err().to_string().contains("container c2"));
        std::fs::write(path(&dir), "{").unwrap();
        assert!(DurableRecord::read(&dir).is_err());
    }

    #[test]
    fn the_record_is_the_last_to_go() {
        let root = tempfile::tempdir().unwrap();
        let dir = golden(root.path());
        std::fs::create_dir(dir.join("mounts")).unwrap();
        std::fs::write(dir.join("mounts/x"), "").unwrap();
        DurableRecord::remove(&dir).unwrap();
        assert!(!dir.try_exists().unwrap());
        DurableRecord::remove(&dir).unwrap();
        assert!(DurableRecord::read(&dir).unwrap().is_none());
    }
}
