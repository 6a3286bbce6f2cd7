//! The store: finding, publishing and removing blobs.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use oci::{Algorithm, Digest};

use crate::ingest::{Ingest, Opened};
use crate::lease::{Lease, Leases};
use crate::{Error, Hasher, fail};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const EMPTY_INDEX: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// A blob that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// When it was written.
    pub modified: SystemTime,
}

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<Path>,
    leases: Leases,
}

impl Store {
    /// Opens the store at `root`, creating it if there is none.
    pub fn open(root: &Path) -> Result<Self, Error> {
        for directory in ["blobs/sha256", "blobs/sha512", "ingest"] {
            let path = root.join(directory);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(Error::io("create directory", &path))?;
        }
        let store = Self { root: root.into(), leases: Leases::default() };
        for (name, bytes) in [("oci-layout", LAYOUT), ("index.json", EMPTY_INDEX)] {
            let path = root.join(name);
            if !path.try_exists().map_err(Error::io("look for", &path))? {
                store.write_file(name, bytes)?;
            }
        }
        Ok(store)
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The size of a blob, if it is in the store.
    pub fn stat(&self, digest: &Digest) -> Option<u64> {
        let metadata = fs::symlink_metadata(self.blob_path(digest)).ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    /// Where a blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// Opens a blob for reading. Its bytes were verified when they came in, not now.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, Error> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { digest: digest.clone() },
            _ => Error::Io { operation: "open", path, source },
        })
    }

    /// Reads a whole blob of at most `limit` bytes and verifies it.
    pub fn read_small(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let file = self.open_blob(digest)?;
        let path = self.blob_path(digest);
        let size = file.metadata().map_err(Error::io("stat", &path))?.len();
        if size > limit {
            return Err(Error::TooLarge { digest: digest.clone(), size, limit });
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        let actual = Hasher::digest(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(Error::WrongDigest { expected: digest.clone(), actual });
        }
        Ok(bytes)
    }

    /// Whether a blob's bytes still hash to its name.
    pub fn verify(&self, digest: &Digest) -> Result<bool, Error> {
        let mut file = self.open_blob(digest)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = file.read(&mut buffer).map_err(Error::io("read", &self.blob_path(digest)))?;
            if count == 0 {
                return Ok(hasher.finish() == *digest);
            }
            hasher.update(&buffer[..count]);
        }
    }

    /// Starts or resumes writing a blob. `key` names the attempt to resume; the digest's text is a good one.
    /// One writer at a time: a second gets [`Error::Busy`].
    pub fn ingest(&self, key: &str, expected: Option<&Digest>, size: Option<u64>) -> Result<Ingest, Error> {
        let name = Hasher::digest(Algorithm::Sha256, key.as_bytes());
        let directory = self.root.join("ingest").join(name.hex());
        let (lock, file) = self.lock_ingest(&directory, key)?;
        let opened = Opened { store: self.clone(), key: key.to_owned(), directory, file, lock };
        Ingest::resume(opened, expected, size)
    }

    /// Stores bytes that are at hand, such as a manifest.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        self.put_as(&Hasher::digest(Algorithm::Sha256, bytes), bytes)
    }

    /// Stores bytes that are at hand if they have the digest.
    pub fn put_as(&self, digest: &Digest, bytes: &[u8]) -> Result<Digest, Error> {
        static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
        if self.stat(digest).is_some() {
            return Ok(digest.clone());
        }
        // Two writers of the same bytes must not wait for each other, so each has a key of its own. Only a sweep
        // can hold it, for a moment, before there is anything in it that looks young: then another key will do.
        let mut ingest = loop {
            let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
            let key = format!("put {attempt} of {} {digest}", std::process::id());
            match self.ingest(&key, Some(digest), Some(bytes.len() as u64)) {
                Err(Error::Busy { .. }) => std::thread::yield_now(),
                other => break other?,
            }
        };
        ingest.truncate(0)?;
        ingest.write_all(bytes)?;
        ingest.commit()
    }

    /// Removes a blob unless a lease holds it. True if it is gone, or was not there.
    pub fn remove(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.blob_path(digest);
        let removed = self.leases.remove_unless_held(digest, || fs::remove_file(&path));
        match removed {
            None => Ok(false),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path)(error))
            }
            Some(_) => Ok(true),
        }
    }

    /// Takes a blob out of the store as [`Store::remove`] does, but leaves deleting it to the caller: the file
    /// becomes `grave`. Deleting takes as long as a file is large, moving does not. On another file system
    /// than the store's it is deleted here and now. Returns whether there is a file to delete.
    pub fn bury(&self, digest: &Digest, grave: &Path) -> Result<bool, Error> {
        let path = self.blob_path(digest);
        let moved = self.leases.remove_unless_held(digest, || match fs::rename(&path, grave) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                fs::remove_file(&path).map(|()| false)
            }
            outcome => outcome.map(|()| true),
        });
        match moved {
            None => Ok(false),
            Some(Ok(buried)) => Ok(buried),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Some(Err(error)) => Err(Error::io("remove", &path)(error)),
        }
    }

    /// Every blob in the store; files that are not named like blobs are passed over.
    pub fn list(&self) -> Result<Vec<BlobInfo>, Error> {
        let mut blobs = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let directory = self.root.join("blobs").join(algorithm.name());
            let entries = fs::read_dir(&directory).map_err(Error::io("list", &directory))?;
            for entry in entries {
                let entry = entry.map_err(Error::io("list", &directory))?;
                let name = entry.file_name();
                let Some(digest) =
                    name.to_str().and_then(|hex| format!("{}:{hex}", algorithm.name()).parse().ok())
                else {
                    continue;
                };
                // A blob removed since the directory was read is simply not listed.
                let Ok(metadata) = entry.metadata() else { continue };
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                blobs.push(BlobInfo { digest, size: metadata.len(), modified });
            }
        }
        Ok(blobs)
    }

    /// An empty lease.
    pub fn lease(&self) -> Lease {
        self.leases.lease()
    }

    /// The leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Throws away partial blobs that nobody writes and nobody wrote for `age`. Returns how many bytes.
    pub fn sweep_ingests(&self, age: Duration) -> Result<u64, Error> {
        let root = self.root.join("ingest");
        let mut freed = 0;
        for entry in fs::read_dir(&root).map_err(Error::io("list", &root))? {
            let path = entry.map_err(Error::io("list", &root))?.path();
            let data = fs::metadata(path.join("data"));
            // One that is just being begun has no data yet; then the directory tells its age.
            let dated = data.as_ref().map_or_else(|_| fs::metadata(&path).ok(), |data| Some(data.clone()));
            let modified = dated.and_then(|dated| dated.modified().ok());
            let young = modified.is_some_and(|modified| {
                SystemTime::now().duration_since(modified).is_ok_and(|old| old < age)
            });
            if young {
                continue;
            }
            match self.lock_ingest(&path, "") {
                Ok(_locked) => self.discard_ingest(&path)?,
                Err(Error::Busy { .. }) => continue,
                Err(error) => return Err(error),
            }
            freed += data.map_or(0, |data| data.len());
        }
        Ok(freed)
    }

    /// Replaces `index.json`, the list of images by name that other tools read.
    pub fn write_index(&self, json: &[u8]) -> Result<(), Error> {
        self.write_file("index.json", json)
    }

    /// Moves a synced file to where its digest says and makes that durable.
    pub(crate) fn publish(&self, data: &Path, digest: &Digest) -> Result<(), Error> {
        let path = self.blob_path(digest);
        fail::point().and_then(|()| fs::rename(data, &path)).map_err(Error::io("publish", &path))?;
        let parent = path.parent().unwrap_or(&self.root);
        fail::point().and_then(|()| sync_directory(parent)).map_err(Error::io("sync directory", parent))
    }

    pub(crate) fn discard_ingest(&self, directory: &Path) -> Result<(), Error> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", directory)(error))
            }
            _ => Ok(()),
        }
    }

    /// Opens the files of an ingest under its lock: the lock file and the data, for appending.
    fn lock_ingest(&self, directory: &Path, key: &str) -> Result<(File, File), Error> {
        // The holder of the lock may remove the directory between our open and our lock; then start over.
        for _ in 0..16 {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(Error::io("create directory", directory))?;
            let lock = match private_file(&directory.join("lock")) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("open lock of", directory)(error)),
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Err(Error::Busy { key: key.to_owned() }),
                Err(fs::TryLockError::Error(error)) => return Err(Error::io("lock", directory)(error)),
            }
            if directory.join("lock").try_exists().map_err(Error::io("look for lock of", directory))? {
                let data = private_file(&directory.join("data"));
                return Ok((lock, data.map_err(Error::io("open data of", directory))?));
            }
        }
        Err(Error::Busy { key: key.to_owned() })
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.root.join(name);
        let temporary = self.root.join(format!(".{name}.new"));
        let write = || -> io::Result<()> {
            fail::point()?;
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            io::Write::write_all(&mut file, bytes)?;
            file.sync_all()?;
            fail::point()?;
            fs::rename(&temporary, &path)?;
            sync_directory(&self.root)
        };
        write().map_err(Error::io("write", &path))
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
