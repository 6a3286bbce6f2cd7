//! Unix sockets: who may use them, and whether somebody else does.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use tokio::net::UnixListener;

/// The daemon makes namespaces, mounts and cgroups.
pub(super) fn require_root() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    if effective != Some("0") {
        bail!("the daemon needs root: start it with sudo or as a system service");
    }
    Ok(())
}

/// Listens at `path`. A socket that nobody listens at any more is replaced; one that somebody does is an
/// error, and so is anything that is not a socket.
pub(super) fn bind(path: &Path, mode: u32, group: Option<u32>) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(parent)
            .with_context(|| format!("make {}", parent.display()))?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("{} is in the way and is not a socket; remove it or choose another path", path.display());
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            bail!("another process serves {}; stop it first or choose another path", path.display());
        }
        Ok(_) => {
            std::fs::remove_file(path).with_context(|| format!("remove the stale {}", path.display()))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("examine {}", path.display())),
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {}", path.display()))?;
    // The directory lets nobody but root make files, so nobody can come between bind and chmod.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)
            .with_context(|| format!("set the group of {}", path.display()))?;
    }
    Ok(listener)
}

/// Removes a socket of ours.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "a socket could not be removed");
    }
}
