//! Copying out of containers and into them.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use storage::{PackOptions, PlaceOptions, TarWriter};
use sys::path::OFlags;
use sys::tree::Kind;

use super::stream::{Sink, pair};
use super::view::{Subject, View};
use super::{ArchiveProblem, ArchiveStream};
use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::sandbox::storage_error;
use crate::user;

/// Links that one path may lead through.
const MAX_LINKS: usize = 40;

/// What is known of a path in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last name of the path.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id and sticky bits.
    pub mode: u32,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Where a symbolic link leads in the end, absolute in the container; empty for anything else.
    pub link_target: String,
}

/// How an archive is extracted into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchivePut {
    /// Whether a directory is not replaced by something else, nor something else by a directory.
    pub keep_kinds: bool,
    /// Whether all belongs to the container's user, and not to whom the archive says.
    pub own: bool,
}

impl Engine {
    /// What is at a path of a container: a durable one by id or name, or one of a pod by id. A link in the last place
    /// is not followed, unless the path ends with a slash or `/.`.
    pub async fn archive_stat(&self, container: &str, path: &str) -> Result<PathStat> {
        let subject = Subject::find(self, container)?;
        let path = path.to_owned();
        let work = move || {
            let view = subject.view()?;
            Ok(found(&subject, &view, &path)?.stat)
        };
        self.shared().blocking.run(Purpose::Lifecycle, work).await?
    }

    /// A path of a container as an archive, under its last name.
    pub async fn archive_get(&self, container: &str, path: &str) -> Result<(PathStat, ArchiveStream)> {
        let subject = Subject::find(self, container)?;
        let path = path.to_owned();
        let (told, stat) = tokio::sync::oneshot::channel();
        let (sink, stream) = pair();
        // A slow reader holds a place of its own kind, not one that starts and stops wait for.
        let shared = Arc::clone(self.shared());
        let work = move || {
            let view = subject.view();
            let outcome = view.and_then(|view| found(&subject, &view, &path).map(|found| (view, found)));
            match outcome {
                Ok((_view, found)) => {
                    drop(told.send(Ok(found.stat.clone())));
                    send(sink, &subject, &path, &found);
                }
                Err(error) => drop(told.send(Err(error))),
            }
        };
        self.shared().tracker.spawn(async move { drop(shared.blocking.run(Purpose::Archives, work).await) });
        let stat = stat.await.map_err(|_| Error::internal("reading the archive broke off"))??;
        Ok((stat, stream))
    }

    /// Extracts an archive, compressed or not, into a directory of a container.
    pub async fn archive_put(
        &self,
        container: &str,
        path: &str,
        how: ArchivePut,
        archive: impl Read + Send + 'static,
    ) -> Result<()> {
        let subject = Subject::find(self, container)?;
        let path = path.to_owned();
        let work = move || put(&subject, &path, how, Box::new(archive));
        self.shared().blocking.run(Purpose::Archives, work).await?
    }
}

/// What a path stands for.
struct Found {
    stat: PathStat,
    /// Its directory, and its name there; no name if it is the directory itself.
    directory: OwnedFd,
    name: Option<Vec<u8>>,
}

fn found(subject: &Subject, view: &View, path: &str) -> Result<Found> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
            ArchiveProblem::NoPath { container: subject.id.clone(), path: path.into() }.error("find a path")
        }
        _ => Error::io(format!("find {path} in container {}", subject.id.short()), error),
    };
    let whole = Path::new("/").join(path);
    let follow = path.is_empty() || path.ends_with('/') || path.ends_with("/.") || path == ".";
    let last = match whole.components().next_back() {
        Some(Component::Normal(name)) if !follow => Some(name.as_bytes().to_owned()),
        _ => None,
    };
    let parent = if last.is_some() { whole.parent().unwrap_or(&whole) } else { &whole };
    let directory = sys::path::open_in_root(view.root.as_fd(), parent, OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(failed)?;
    let stat = match &last {
        Some(name) => sys::tree::stat(directory.as_fd(), name),
        None => sys::tree::stat_fd(directory.as_fd()),
    };
    let stat = stat.map_err(failed)?;
    let link_target = match (&last, stat.kind) {
        (Some(_), Kind::Symlink) => resolve(view, &whole).map_err(failed)?.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    let shown = whole.file_name().unwrap_or(OsStr::new("/"));
    Ok(Found {
        stat: PathStat {
            name: shown.to_string_lossy().into_owned(),
            size: stat.size,
            kind: stat.kind,
            mode: stat.mode,
            mtime_ns: stat.mtime.seconds.saturating_mul(1_000_000_000) + i64::from(stat.mtime.nanoseconds),
            link_target,
        },
        directory,
        name: last,
    })
}

/// Where a path leads when all its links are followed; what is not there is taken as it stands. This is told, and
/// nothing is done with it.
fn resolve(view: &View, path: &Path) -> std::io::Result<PathBuf> {
    let mut rest: Vec<Vec<u8>> = parts(path.as_os_str().as_bytes());
    let mut at: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == b".." {
            at.pop();
            continue;
        }
        let here: PathBuf =
            std::iter::once(OsStr::new("/")).chain(at.iter().map(|p| OsStr::from_bytes(p))).collect();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let target = sys::path::open_in_root(view.root.as_fd(), &here, flags).and_then(|directory| {
            let stat = sys::tree::stat(directory.as_fd(), &part)?;
            (stat.kind == Kind::Symlink).then(|| sys::tree::read_link(directory.as_fd(), &part)).transpose()
        });
        match target {
            Ok(Some(target)) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "too many links"));
                }
                if target.starts_with(b"/") {
                    at.clear();
                }
                rest.extend(parts(&target));
            }
            _ => at.push(part),
        }
    }
    Ok(std::iter::once(OsStr::new("/")).chain(at.iter().map(|p| OsStr::from_bytes(p))).collect())
}

/// The names in a path, the last one first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}

/// Writes a path as an archive. Nobody waits for how it ends but who reads it.
fn send(sink: Sink, subject: &Subject, path: &str, found: &Found) {
    let options = PackOptions { maps: subject.maps.as_ref(), ..PackOptions::default() };
    let mut writer = TarWriter::new(sink);
    let written = match &found.name {
        Some(name) => writer.tree(found.directory.as_fd(), name, name, options),
        None => writer.contents(found.directory.as_fd(), rebased(path), options),
    };
    let what = || format!("read {path} of container {}", subject.id.short());
    super::end(writer, written, what);
}

/// The name of a directory that is archived as what is in it.
fn rebased(path: &str) -> &[u8] {
    let bare = path.trim_end_matches('/');
    if bare.is_empty() {
        return b"/";
    }
    bare.rsplit('/').next().unwrap_or(".").as_bytes()
}

fn put(subject: &Subject, path: &str, how: ArchivePut, archive: Box<dyn Read + Send>) -> Result<()> {
    let what = || format!("extract to {path} of container {}", subject.id.short());
    let view = subject.view()?;
    let whole = Path::new("/").join(path);
    match sys::path::open_in_root(view.root.as_fd(), &whole, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(_) => {}
        Err(error) => {
            return Err(match error.kind() {
                std::io::ErrorKind::NotFound => {
                    ArchiveProblem::NoPath { container: subject.id.clone(), path: path.into() }.error(what())
                }
                std::io::ErrorKind::NotADirectory => ArchiveProblem::NotADirectory(path.into()).error(what()),
                _ => Error::io(what(), error),
            });
        }
    }
    let owner = match how.own {
        true => {
            let image = subject.shared.images.stored(&subject.image)?;
            let user = user::resolve(view.root.as_fd(), &subject.config.security, &image.user)?.user;
            Some((user.uid, user.gid))
        }
        false => None,
    };
    let options = PlaceOptions {
        keep_kinds: how.keep_kinds,
        owner,
        maps: subject.maps.as_ref(),
        ..PlaceOptions::default()
    };
    let placed = storage::place(view.root.as_fd(), &whole, archive, options);
    placed.map_err(|error| match read_only(&error) {
        true => ArchiveProblem::ReadOnly(path.into()).error(what()),
        false => {
            storage_error(what(), storage::Error::Unpack { what: "the archive".to_owned(), source: error })
        }
    })
}

fn read_only(error: &storage::ArchiveError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
}
