//! A blob on its way in.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use oci::{Algorithm, Digest};

use crate::store::Store;
use crate::{Error, Hasher, fail};

/// Writes one blob. Dropping it keeps what was written, for a later [`Store::ingest`] with the same key to
/// go on from; [`Ingest::abort`] throws it away.
#[derive(Debug)]
pub struct Ingest {
    store: Store,
    key: String,
    directory: PathBuf,
    file: File,
    hasher: Hasher,
    offset: u64,
    expected: Option<Digest>,
    size: Option<u64>,
    poisoned: bool,
    /// Held for its lock, which ends with it.
    _lock: File,
}

/// What [`Store::ingest`] found and locked.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) key: String,
    pub(crate) directory: PathBuf,
    pub(crate) file: File,
    pub(crate) lock: File,
}

impl Ingest {
    /// Hashes what an earlier attempt left and goes on after it.
    pub(crate) fn resume(
        opened: Opened,
        expected: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<Self, Error> {
        let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        let mut ingest = Self {
            store: opened.store,
            key: opened.key,
            directory: opened.directory,
            file: opened.file,
            hasher: Hasher::new(algorithm),
            offset: 0,
            expected: expected.cloned(),
            size,
            poisoned: false,
            _lock: opened.lock,
        };
        ingest.rehash()?;
        if size.is_some_and(|size| ingest.offset > size) {
            ingest.truncate(0)?;
        }
        Ok(ingest)
    }

    /// How many bytes are here: where the next ones belong.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The promised size, if there is one.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Appends bytes. Fails as soon as there are more than promised.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let actual = self.offset + bytes.len() as u64;
        if let Some(expected) = self.size
            && actual > expected
        {
            return Err(Error::WrongSize { expected, actual });
        }
        let written = fail::point().and_then(|()| self.file.write_all(bytes));
        if let Err(error) = written {
            // The file may hold a part of `bytes`; the hash does not.
            self.rewind_to(self.offset)?;
            return Err(Error::io("write", &self.directory)(error));
        }
        self.hasher.update(bytes);
        self.offset = actual;
        Ok(())
    }

    /// Goes back to `length` bytes, for a server that cannot continue where the last attempt ended.
    pub fn truncate(&mut self, length: u64) -> Result<(), Error> {
        self.rewind_to(length.min(self.offset))?;
        self.rehash()
    }

    /// The digest of the bytes so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// A second handle on the bytes so far, positioned at the start, for a reader that follows the writer.
    pub fn reader(&self) -> Result<File, Error> {
        let path = self.directory.join("data");
        File::open(&path).map_err(Error::io("open", &path))
    }

    /// Verifies size and digest, makes the bytes durable and the blob visible. On a mismatch everything
    /// written is thrown away.
    pub fn commit(self) -> Result<Digest, Error> {
        if self.poisoned {
            return Err(Error::Poisoned { key: self.key });
        }
        let actual = self.hasher.clone().finish();
        let mismatch = match (self.size, &self.expected) {
            (Some(expected), _) if expected != self.offset => {
                Some(Error::WrongSize { expected, actual: self.offset })
            }
            (_, Some(expected)) if *expected != actual => {
                Some(Error::WrongDigest { expected: expected.clone(), actual: actual.clone() })
            }
            _ => None,
        };
        if let Some(error) = mismatch {
            self.discard()?;
            return Err(error);
        }
        if self.store.stat(&actual).is_none() {
            let synced = fail::point().and_then(|()| self.file.sync_all());
            if let Err(source) = synced {
                // Pages of a failed sync may be clean and wrong: nothing of this file can be trusted.
                let error = Error::io("sync", &self.directory)(source);
                self.discard()?;
                return Err(error);
            }
            self.store.publish(&self.directory.join("data"), &actual)?;
        }
        self.discard()?;
        Ok(actual)
    }

    /// Throws away what was written.
    pub fn abort(self) -> Result<(), Error> {
        self.discard()
    }

    fn discard(&self) -> Result<(), Error> {
        self.store.discard_ingest(&self.directory)
    }

    fn rewind_to(&mut self, length: u64) -> Result<(), Error> {
        let rewound = self.file.set_len(length).and_then(|()| self.file.seek(SeekFrom::Start(length)));
        rewound.map(drop).map_err(|source| {
            self.poisoned = true;
            Error::io("truncate", &self.directory)(source)
        })
    }

    fn rehash(&mut self) -> Result<(), Error> {
        let failed = Error::io("read back", &self.directory);
        let algorithm = self.expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let mut hasher = Hasher::new(algorithm);
        let mut offset = 0;
        let mut read = || -> std::io::Result<()> {
            self.file.seek(SeekFrom::Start(0))?;
            let mut buffer = vec![0; 128 << 10];
            loop {
                let count = self.file.read(&mut buffer)?;
                if count == 0 {
                    return Ok(());
                }
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
        };
        read().map_err(failed)?;
        self.hasher = hasher;
        self.offset = offset;
        Ok(())
    }
}
