//! The database of layers and images.
//!
//! Everything is read once, when the store is opened; after that the database is only written. Each call is
//! one durable transaction.

use std::path::Path;

use oci::Digest;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::persist::v1::{ImageRecord, LayerRecord, VERSION};
use crate::{Error, Image, Layer, fail};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const LAYERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("layers");
const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");

/// The open database.
#[derive(Debug)]
pub(crate) struct Records {
    database: Database,
}

/// What the database held.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) layers: Vec<Layer>,
    pub(crate) images: Vec<Image>,
    /// Records that cannot be read, by key.
    pub(crate) unreadable: Vec<String>,
}

impl Records {
    /// Opens or creates the database. The second value says that a damaged one was put aside.
    pub(crate) fn open(path: &Path) -> Result<(Self, bool), Error> {
        match open_database(path) {
            Ok(database) => Ok((Self { database }, false)),
            Err(error) if is_damage(&error) => {
                let aside = path.with_extension("damaged");
                std::fs::rename(path, &aside).map_err(Error::io("put aside", path))?;
                let database = open_database(path).map_err(Error::database("create"))?;
                Ok((Self { database }, true))
            }
            Err(error) => Err(Error::database("open")(error)),
        }
    }

    /// Reads all records.
    pub(crate) fn load(&self) -> Result<Loaded, Error> {
        self.read().map_err(Error::database("read"))
    }

    fn read(&self) -> Result<Loaded, redb::Error> {
        let mut loaded = Loaded::default();
        let transaction = self.database.begin_read()?;
        for entry in transaction.open_table(LAYERS)?.iter()? {
            let (key, value) = entry?;
            let record = serde_json::from_slice::<LayerRecord>(value.value());
            match (key.value().parse::<Digest>(), record) {
                (Ok(diff_id), Ok(record)) => loaded.layers.push(record.into_layer(diff_id)),
                _ => loaded.unreadable.push(format!("layer {}", key.value())),
            }
        }
        for entry in transaction.open_table(IMAGES)?.iter()? {
            let (key, value) = entry?;
            let record = serde_json::from_slice::<ImageRecord>(value.value());
            match (key.value().parse::<Digest>(), record) {
                (Ok(id), Ok(record)) => loaded.images.push(record.into_image(id)),
                _ => loaded.unreadable.push(format!("image {}", key.value())),
            }
        }
        Ok(loaded)
    }

    /// Records a layer.
    pub(crate) fn put_layer(&self, layer: &Layer) -> Result<(), Error> {
        let value = encode(&LayerRecord::new(layer), || layer.diff_id.to_string())?;
        self.write(|transaction| {
            transaction.open_table(LAYERS)?.insert(layer.diff_id.as_str(), &*value)?;
            Ok(())
        })
    }

    /// Forgets layers.
    pub(crate) fn remove_layers(&self, diff_ids: &[Digest]) -> Result<(), Error> {
        if diff_ids.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut table = transaction.open_table(LAYERS)?;
            for diff_id in diff_ids {
                table.remove(diff_id.as_str())?;
            }
            Ok(())
        })
    }

    /// Records some images and forgets others, all at once.
    pub(crate) fn put_images(&self, images: &[Image], removed: &[Digest]) -> Result<(), Error> {
        let mut values = Vec::with_capacity(images.len());
        for image in images {
            values.push((&image.id, encode(&ImageRecord::new(image), || image.id.to_string())?));
        }
        self.write(|transaction| {
            let mut table = transaction.open_table(IMAGES)?;
            for (id, value) in &values {
                table.insert(id.as_str(), &**value)?;
            }
            for id in removed {
                table.remove(id.as_str())?;
            }
            Ok(())
        })
    }

    /// Forgets records that cannot be read; `keys` are as in [`Loaded::unreadable`].
    pub(crate) fn remove_unreadable(&self, keys: &[String]) -> Result<(), Error> {
        self.write(|transaction| {
            let (mut layers, mut images) = (transaction.open_table(LAYERS)?, transaction.open_table(IMAGES)?);
            for key in keys {
                if let Some(diff_id) = key.strip_prefix("layer ") {
                    layers.remove(diff_id)?;
                } else if let Some(id) = key.strip_prefix("image ") {
                    images.remove(id)?;
                }
            }
            Ok(())
        })
    }

    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Error> {
        let run = || -> Result<(), redb::Error> {
            fail::point()?;
            let transaction = self.database.begin_write()?;
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        run().map_err(Error::database("write"))
    }
}

fn encode(record: &impl serde::Serialize, what: impl FnOnce() -> String) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(record).map_err(|source| Error::Record { what: what(), source })
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    let database = Database::create(path)?;
    let transaction = database.begin_write()?;
    let version = transaction.open_table(META)?.get("version")?.map(|version| version.value());
    match version {
        // Nothing to write: an open that changes nothing costs no sync.
        Some(VERSION) => transaction.abort()?,
        Some(other) => return Err(redb::Error::UpgradeRequired(u8::try_from(other).unwrap_or(u8::MAX))),
        None => {
            transaction.open_table(META)?.insert("version", VERSION)?;
            transaction.open_table(LAYERS)?;
            transaction.open_table(IMAGES)?;
            transaction.commit()?;
        }
    }
    Ok(database)
}

fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) => true,
        redb::Error::Io(error) => {
            matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}
