//! Reading and writing the kernel's one-value files.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::Error;

/// The text of a file without the white space around it.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    read_io(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// As [`read`], with the plain error.
pub(super) fn read_io(path: &Path) -> io::Result<String> {
    let mut text = std::fs::read_to_string(path)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// As [`read`]; `None` where there is no such file, or nothing to read from it.
pub(super) fn read_optional(path: &Path) -> Option<String> {
    read_io(path).ok()
}

/// Writes `value` by one system call to a file that must exist.
pub(super) fn write(path: &Path, value: &str) -> Result<(), Error> {
    write_io(path, value).map_err(|source| Error::Write {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// As [`write`], with the plain error.
pub(super) fn write_io(path: &Path, value: &str) -> io::Result<()> {
    let mut file = open_for_write(path)?;
    let written = file.write(value.as_bytes())?;
    if written == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn open_for_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).truncate(true).open(path)
}

/// Whether the file is there.
pub(super) fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(false)
}

/// The number after `key` in a file of `key number` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
