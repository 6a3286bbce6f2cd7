//! A log file: opened with care, appended to, rotated; bytes that do not fit are dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::protocol::{Log, LogFormat};

/// How often a log that loses bytes is complained about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Flags of open(2) that std has no name for; the values are the same on every Linux architecture we build
/// for except where `O_NOFOLLOW` differs, which std's `custom_flags` is given by the kernel's headers below.
const NONBLOCK: i32 = 0o4000;
#[cfg(any(target_arch = "x86_64", target_arch = "riscv64"))]
const NOFOLLOW: i32 = 0o400_000;
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
const NOFOLLOW: i32 = 0o100_000;

/// An open log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    log: Log,
    file: File,
    bytes: u64,
    lost: Lost,
}

#[derive(Debug, Default)]
struct Lost {
    bytes: u64,
    complained: Option<Instant>,
}

impl LogFile {
    /// Opens the file for appending, making it if it is not there. Refuses symbolic links and everything
    /// that is not a regular file. May block for as long as the file system likes.
    pub(crate) fn open(log: Log) -> io::Result<LogFile> {
        let (file, bytes) = open_regular(&log.path)?;
        Ok(LogFile { log, file, bytes, lost: Lost::default() })
    }

    /// A file that is open already, for the keeper's next incarnation.
    pub(crate) fn adopt(log: Log, fd: OwnedFd) -> io::Result<LogFile> {
        let file = File::from(fd);
        let bytes = file.metadata()?.len();
        Ok(LogFile { log, file, bytes, lost: Lost::default() })
    }

    /// The settings and the descriptor, the opposite of [`LogFile::adopt`].
    pub(crate) fn into_parts(self) -> (Log, OwnedFd) {
        (self.log, self.file.into())
    }

    /// Its format.
    pub(crate) fn format(&self) -> LogFormat {
        self.log.format
    }

    /// The device it is on.
    pub(crate) fn device(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.dev())
    }

    /// Opens the path anew. On failure the old file stays in use.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let (file, bytes) = open_regular(&self.log.path)?;
        self.file = file;
        self.bytes = bytes;
        Ok(())
    }

    /// Bytes that may be appended before it is time to rotate.
    pub(crate) fn room(&self) -> usize {
        let left = self.log.max_bytes.map(|max| max.saturating_sub(self.bytes).max(1));
        left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX)
    }

    /// Appends whole entries, rotating first if the file is full. Blocks while the disk is slow. What cannot
    /// be written is dropped as a whole, so that no entry is torn; the return value is what to tell about it.
    pub(crate) fn append(&mut self, entries: &[u8]) -> Option<String> {
        let rotated = self.rotate_if_full();
        let appended = self.try_append(entries);
        match appended {
            Ok(()) if self.lost.bytes > 0 => {
                let lost = std::mem::take(&mut self.lost);
                Some(format!(
                    "writing {} works again; {} bytes were lost",
                    self.log.path.display(),
                    lost.bytes
                ))
            }
            Ok(()) => rotated.err().map(|error| format!("rotate {}: {error}", self.log.path.display())),
            Err(error) => self.drop_entries(entries.len(), &error),
        }
    }

    fn try_append(&mut self, entries: &[u8]) -> io::Result<()> {
        let mut left = entries;
        while !left.is_empty() {
            match self.file.write(left) {
                Ok(n) => left = &left[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.cut_back(entries.len() - left.len());
                    return Err(error);
                }
            }
        }
        self.bytes += entries.len() as u64;
        Ok(())
    }

    /// Takes back the last `written` bytes. The keeper is the only writer; if someone truncated the file
    /// meanwhile there is nothing to take back.
    fn cut_back(&mut self, written: usize) {
        let length = self.file.metadata().map(|data| data.len()).unwrap_or(0);
        if let Some(before) = length.checked_sub(written as u64).filter(|_| written > 0) {
            let _ = self.file.set_len(before);
        }
    }

    fn drop_entries(&mut self, bytes: usize, error: &io::Error) -> Option<String> {
        self.lost.bytes += bytes as u64;
        let now = Instant::now();
        if self.lost.complained.is_some_and(|last| now.duration_since(last) < COMPLAIN_EVERY) {
            return None;
        }
        self.lost.complained = Some(now);
        let (path, lost) = (self.log.path.display(), self.lost.bytes);
        Some(format!("write {path}: {error}; {lost} bytes lost so far, the container goes on"))
    }

    fn rotate_if_full(&mut self) -> io::Result<()> {
        let Some(max) = self.log.max_bytes else { return Ok(()) };
        if self.bytes < max {
            return Ok(());
        }
        let keep = self.log.max_files.unwrap_or(1);
        if keep <= 1 {
            self.file.set_len(0)?;
            self.bytes = 0;
            return Ok(());
        }
        for n in (1..keep - 1).rev() {
            rename_if_there(&numbered(&self.log.path, n), &numbered(&self.log.path, n + 1))?;
        }
        rename_if_there(&self.log.path, &numbered(&self.log.path, 1))?;
        self.reopen()
    }
}

fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(NOFOLLOW | NONBLOCK)
        .open(path)?;
    let data = file.metadata()?;
    if !data.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, data.len()))
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(path: PathBuf) -> Log {
        Log { path, format: LogFormat::Cri, max_bytes: None, max_files: None }
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_made_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(LogFile::open(log(link)).is_err());
        assert!(!target.try_exists().unwrap());
        assert!(LogFile::open(log(dir.path().to_owned())).is_err());
        assert!(LogFile::open(log(dir.path().join("missing/file"))).is_err());
        assert!(LogFile::open(log("/dev/null".into())).is_err());
        let opened = LogFile::open(log(target.clone())).unwrap();
        assert_eq!(opened.file.metadata().unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_failed_reopen_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut opened = LogFile::open(log(path.clone())).unwrap();
        std::fs::rename(&path, &moved).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(opened.reopen().is_err());
        assert_eq!(opened.append(b"one\n"), None);
        std::fs::remove_file(&path).unwrap();
        opened.reopen().unwrap();
        assert_eq!(opened.append(b"two\n"), None);
        assert_eq!(std::fs::read(&moved).unwrap(), b"one\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"two\n");
    }

    #[test]
    fn rotation_keeps_so_many_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut opened =
            LogFile::open(Log { max_bytes: Some(4), max_files: Some(3), ..log(path.clone()) }).unwrap();
        for entry in [b"one\n", b"two\n", b"thr\n", b"fou\n"] {
            assert_eq!(opened.append(entry), None);
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            (read("log").as_str(), read("log.1").as_str(), read("log.2").as_str()),
            ("fou\n", "thr\n", "two\n")
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_full_disk_loses_whole_entries_and_says_so_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut opened = LogFile::open(log(path.clone())).unwrap();
        opened.append(b"before\n");
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let good = std::mem::replace(&mut opened.file, full);
        assert!(opened.append(b"lost\n").unwrap().contains("5 bytes lost"));
        assert_eq!(opened.append(b"lost too\n"), None);
        opened.file = good;
        assert!(opened.append(b"after\n").unwrap().contains("14 bytes were lost"));
        assert_eq!(std::fs::read(&path).unwrap(), b"before\nafter\n");
    }
}
