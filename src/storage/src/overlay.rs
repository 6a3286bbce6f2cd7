//! Overlay mounts, made detached.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci::Digest;
use sys::mount::{self, Attributes, Change, Detached, FsContext, Value};

use crate::store::Store;
use crate::{Error, Snapshot};

/// Longest string that fsconfig(2) takes, without its terminating zero.
const MAX_OPTION_LENGTH: usize = 255;

/// How a snapshot is mounted.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountOptions<'a> {
    /// Without the possibility to write.
    pub readonly: bool,
    /// The container's user namespace: the layers appear with its ids.
    pub user_namespace: Option<BorrowedFd<'a>>,
}

/// How an image is looked into.
#[derive(Debug, Clone, Copy, Default)]
pub struct ViewOptions<'a> {
    /// Only what lies at this path in the image; its symbolic links stay within the image.
    pub sub_path: Option<&'a Path>,
    /// The container's user namespace: the layers appear with its ids.
    pub user_namespace: Option<BorrowedFd<'a>>,
}

impl Store {
    /// Mounts a snapshot, attached nowhere. At most one mount of a snapshot at a time.
    pub fn mount(&self, snapshot: &Snapshot, options: MountOptions<'_>) -> Result<Detached, Error> {
        if self.snapshot(&snapshot.key).ok_or_else(|| not_found(snapshot))?.stale {
            return Err(Error::Stale { key: snapshot.key.clone() });
        }
        let context = open_context()?;
        let _layers = self.add_layers(&context, &snapshot.layers, options.user_namespace, 0)?;
        let directory = self.snapshot_path(&snapshot.key);
        if !snapshot.durable {
            self.forget_unsynced(&directory)?;
        }
        set_directory(&context, "upperdir", &directory.join("upper"))?;
        set_directory(&context, "workdir", &directory.join("work"))?;
        if !snapshot.durable {
            set(&context, "volatile", Value::Flag)?;
        }
        let attributes = if options.readonly { Attributes::RDONLY } else { Attributes::EMPTY };
        finish(context, attributes)
    }

    /// Mounts a snapshot at a directory, for runtimes that take a path.
    pub fn mount_at(
        &self,
        snapshot: &Snapshot,
        options: MountOptions<'_>,
        target: &Path,
    ) -> Result<(), Error> {
        let mount = self.mount(snapshot, options)?;
        mount::attach_at(mount.as_fd(), target).map_err(Error::io("attach the snapshot at", target))
    }

    /// Mounts an image, or a path in it, read-only and attached nowhere.
    pub fn view(&self, image: &Digest, options: ViewOptions<'_>) -> Result<Detached, Error> {
        let found = self.image(image).ok_or_else(|| Error::ImageNotFound { name: image.as_str().to_owned() });
        let layers: Vec<Digest> = found?.diff_ids().cloned().collect();
        let context = open_context()?;
        let _layers = self.add_layers(&context, &layers, options.user_namespace, 2)?;
        let mount = finish(context, Attributes::RDONLY)?;
        let Some(sub_path) = options.sub_path else { return Ok(mount) };
        let failed = Error::io("look into the image at", sub_path);
        let pinned = sys::tree::pin_in_root(mount.as_fd(), sub_path).map_err(failed)?;
        let part = mount::clone_tree(pinned.as_fd(), Path::new(""), false);
        part.map_err(|source| Error::Mount {
            what: sub_path.display().to_string(),
            messages: String::new(),
            source,
        })
    }

    /// Mounts what a snapshot lies on, read-only and attached nowhere.
    pub fn base(&self, snapshot: &Snapshot) -> Result<Detached, Error> {
        let context = open_context()?;
        let _layers = self.add_layers(&context, &snapshot.layers, None, 2)?;
        finish(context, Attributes::RDONLY)
    }

    /// Adds the layers that can be seen, the topmost first, and empty ones below them if there are fewer than
    /// `least`: the kernel wants one below an upper directory, and two without. Idmapped copies must stay
    /// open until the overlay is mounted: closing one dissolves it.
    fn add_layers(
        &self,
        context: &FsContext,
        layers: &[Digest],
        user_namespace: Option<BorrowedFd<'_>>,
        least: usize,
    ) -> Result<Vec<OwnedFd>, Error> {
        let mut paths = self.stack(layers)?;
        for empty in ["empty/a", "empty/b"] {
            if paths.len() < least.max(1) {
                paths.push(self.root().join(empty));
            }
        }
        let mut copies = Vec::new();
        for path in paths {
            match user_namespace {
                None => set_directory(context, "lowerdir+", &path)?,
                Some(namespace) => {
                    let layer = idmapped(&path, namespace)?;
                    set(context, "lowerdir+", Value::Fd(layer.as_fd()))?;
                    copies.push(layer);
                }
            }
        }
        Ok(copies)
    }

    /// A volatile mount leaves a mark that makes the kernel refuse the next one, in case the machine crashed
    /// in between. It did not: the snapshot is of this boot.
    fn forget_unsynced(&self, directory: &Path) -> Result<(), Error> {
        let mark = directory.join("work/work/incompat");
        sys::fs::remove_tree(&mark).map_err(Error::io("remove", &mark))
    }
}

fn not_found(snapshot: &Snapshot) -> Error {
    Error::SnapshotNotFound { key: snapshot.key.clone() }
}

fn open_context() -> Result<FsContext, Error> {
    let opened = FsContext::open("overlay");
    let context = opened.map_err(|source| Error::Mount {
        what: "overlay: does this kernel have it?".to_owned(),
        messages: String::new(),
        source,
    })?;
    set(&context, "source", Value::Text("berth"))?;
    // Whatever the kernel's defaults are: layers are shared, and uppers are read by more than overlayfs.
    for option in ["index", "metacopy", "redirect_dir"] {
        // Options that were compiled out are off.
        let _refused = context.set(option, Value::Text("off"));
    }
    Ok(context)
}

fn set(context: &FsContext, key: &str, value: Value<'_>) -> Result<(), Error> {
    context.set(key, value).map_err(|source| Error::Mount {
        what: format!("overlay: set {key}"),
        messages: context.messages(),
        source,
    })
}

/// Sets an option to a directory, by descriptor when its path is too long.
fn set_directory(context: &FsContext, key: &str, path: &Path) -> Result<(), Error> {
    match path.to_str().filter(|path| path.len() <= MAX_OPTION_LENGTH) {
        Some(path) => set(context, key, Value::Text(path)),
        None => {
            let directory = sys::tree::open_root(path).map_err(Error::io("open", path))?;
            set(context, key, Value::Fd(directory.as_fd()))
        }
    }
}

fn idmapped(path: &Path, namespace: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let map = || -> std::io::Result<OwnedFd> {
        let directory = sys::tree::open_root(path)?;
        let copy = mount::clone_tree(directory.as_fd(), Path::new(""), false)?;
        mount::set_attributes(copy.as_fd(), Change { idmap: Some(namespace), ..Change::default() })?;
        Ok(copy.into())
    };
    map().map_err(Error::io("idmap the layer at", path))
}

fn finish(context: FsContext, attributes: Attributes) -> Result<Detached, Error> {
    context.mount(attributes).map_err(|source| Error::Mount {
        what: "overlay".to_owned(),
        messages: String::new(),
        source,
    })
}
