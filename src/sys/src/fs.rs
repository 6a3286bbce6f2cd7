//! Crash-safe files: atomic replacement, locks, directory syncs, recursive removal, file system statistics.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};

mod remove;
#[cfg(test)]
mod tests;

pub use remove::{remove_tree, remove_tree_at};

/// Replaces `path` with `bytes` so that after a power loss it has either the old or the new content.
///
/// The file and its directory are synced. The temporary file lies in the same directory and is removed
/// when something fails.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, Durability::PowerLoss)
}

/// Replaces `path` with `bytes` by a rename, without syncing: for state that dies with the boot.
pub fn write_volatile(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, Durability::ProcessCrash)
}

/// What a replaced file must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    PowerLoss,
    ProcessCrash,
}

fn replace(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory =
        rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}.tmp", u64::from_ne_bytes(random_bytes::<8>()?)));
    let written = write_temporary(&directory, Path::new(&temporary), bytes, mode, durability)
        .and_then(|()| Ok(rustix::fs::renameat(&directory, &temporary, &directory, name)?));
    if let Err(error) = written {
        // Best effort: the caller learns of the first failure.
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
        return Err(error);
    }
    if durability == Durability::PowerLoss {
        rustix::fs::fsync(&directory)?;
    }
    Ok(())
}

fn write_temporary(
    directory: &OwnedFd,
    name: &Path,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(mode))?);
    // The mode given is the mode meant, whatever the umask.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    file.write_all(bytes)?;
    if durability == Durability::PowerLoss {
        file.sync_all()?;
    }
    Ok(())
}

/// Syncs a directory, so that the names made or removed in it survive a power loss.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    let directory =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fsync(directory)?)
}

/// Takes an exclusive lock on `path`, making the file with mode 0600 if need be. `None` means that another
/// open file holds it. The lock lasts as long as the descriptor returned.
pub fn lock_exclusive(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes an exclusive lock on `path`, waiting for whoever holds it.
pub fn lock_exclusive_wait(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
    Ok(file)
}

/// Room and type of a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsStats {
    /// Size in bytes.
    pub total_bytes: u64,
    /// Free bytes, those reserved for root included.
    pub free_bytes: u64,
    /// Free bytes for anybody.
    pub available_bytes: u64,
    /// How many inodes there can be; 0 where the file system has no such bound.
    pub inodes: u64,
    /// How many inodes are free.
    pub inodes_free: u64,
    /// Block size in bytes.
    pub block_size: u64,
    /// File system type, as in statfs(2).
    pub magic: u64,
}

/// Statistics of the file system that `path` lies on.
pub fn statfs(path: &Path) -> io::Result<FsStats> {
    Ok(stats_of(&rustix::io::retry_on_intr(|| rustix::fs::statfs(path))?))
}

/// Statistics of the file system that an open file lies on.
pub fn fstatfs(file: impl AsFd) -> io::Result<FsStats> {
    Ok(stats_of(&rustix::io::retry_on_intr(|| rustix::fs::fstatfs(file.as_fd()))?))
}

#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)] // the fields' types differ between architectures
fn stats_of(raw: &rustix::fs::StatFs) -> FsStats {
    let block_size = raw.f_bsize as u64;
    FsStats {
        total_bytes: raw.f_blocks.saturating_mul(block_size),
        free_bytes: raw.f_bfree.saturating_mul(block_size),
        available_bytes: raw.f_bavail.saturating_mul(block_size),
        inodes: raw.f_files,
        inodes_free: raw.f_ffree,
        block_size,
        magic: raw.f_type as u64,
    }
}

/// Bytes from the kernel's random number generator.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += rustix::io::retry_on_intr(|| {
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
        })?;
    }
    Ok(bytes)
}

/// The id of this boot, as a UUID in lower case.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Nanoseconds since the Unix epoch.
#[must_use]
pub fn now_ns() -> i64 {
    nanoseconds(rustix::time::ClockId::Realtime)
}

/// Nanoseconds on a clock that only goes forward; meaningful until the next boot.
#[must_use]
pub fn monotonic_ns() -> i64 {
    nanoseconds(rustix::time::ClockId::Monotonic)
}

fn nanoseconds(clock: rustix::time::ClockId) -> i64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// Makes a directory with the given mode, whatever the umask; one that is there already is left alone.
pub fn ensure_directory(path: &Path, mode: u32) -> io::Result<()> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) => Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?),
        Err(rustix::io::Errno::EXIST) if std::fs::metadata(path)?.is_dir() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// [`ensure_directory`] for a path and its missing parents; parents get the same mode.
pub fn ensure_directories(path: &Path, mode: u32) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    for ancestor in path.ancestors().filter(|a| !a.as_os_str().is_empty()) {
        if std::fs::metadata(ancestor).is_ok_and(|m| m.is_dir()) {
            break;
        }
        missing.push(ancestor.to_owned());
    }
    missing.iter().rev().try_for_each(|directory| ensure_directory(directory, mode))
}
