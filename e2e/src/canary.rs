//! A tree on the host that no image, registry or container may touch.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The tree, and how it was.
#[derive(Debug)]
pub struct Canary {
    root: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    /// Plants the tree at `/canary`, where `hack/isolate` mounts an empty file system for each suite.
    pub fn plant() -> Result<Canary> {
        let root = PathBuf::from("/canary");
        for dir in ["", "dir", "dir/deep", "private"] {
            let dir = root.join(dir);
            std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        for (name, text) in [("file", "host"), ("dir/file", "host"), ("private/secret", "CANARY-SECRET")] {
            std::fs::write(root.join(name), text).with_context(|| format!("write {name}"))?;
        }
        std::fs::set_permissions(root.join("private"), PermissionsExt::from_mode(0o700))?;
        std::fs::set_permissions(root.join("private/secret"), PermissionsExt::from_mode(0o600))?;
        let before = inventory(&root)?;
        Ok(Canary { root, before })
    }

    /// # Panics
    ///
    /// When anything in the tree, or about it, has changed.
    #[track_caller]
    pub fn assert_unharmed(&self, attack: &str) {
        let now = inventory(&self.root).expect("look at the canary");
        assert_eq!(now, self.before, "{attack} changed the host");
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        // The mount point itself stays.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Every file with its kind, mode, owner, size, times and content.
fn inventory(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let about = std::fs::symlink_metadata(&path).with_context(|| format!("stat {}", path.display()))?;
        let mut text = format!(
            "{:o} {}:{} {} links {} inode {} mtime {}.{}",
            about.mode(),
            about.uid(),
            about.gid(),
            about.size(),
            about.nlink(),
            about.ino(),
            about.mtime(),
            about.mtime_nsec()
        );
        if about.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        } else if about.is_file() {
            text.push_str(&format!(" {:?}", std::fs::read(&path)?));
        }
        found.insert(path, text);
    }
    Ok(found)
}
