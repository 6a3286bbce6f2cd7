//! Layers unpacked apart, compared with GNU tar extracting them one on top of the other.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::mounts::inside;
use super::*;
use crate::ViewOptions;
use crate::archive::tests::{Item, directory, file, symlink};

/// Directories by name; some of them are links in some layers.
const DIRECTORIES: [&str; 10] = ["a", "b", "u", "u/a", "u/b", "u/a/c", "a/c", "b/c", "a/c/d", "b/c/d"];
const LINKS: [&str; 4] = ["a", "b", "u/a", "u/b"];
const TARGETS: [&str; 8] = ["u", "u/a", "u/b", "b", "../a", "../b", "b/c", "../u/b"];

#[derive(Debug, Clone)]
enum Op {
    Directory(&'static str, u32, u64),
    File(&'static str, u8),
    Link(&'static str, &'static str),
    Remove(&'static str),
    RemoveFile(&'static str, u8),
    Empty(&'static str),
}

impl Op {
    /// In an archive: what changes where names lead, then directories, then files.
    fn rank(&self) -> (u8, &'static str) {
        match self {
            Self::Empty(path) => (0, path),
            Self::Remove(path) | Self::RemoveFile(path, _) => (1, path),
            Self::Link(path, _) => (2, path),
            Self::Directory(path, ..) => (3, path),
            Self::File(path, _) => (4, path),
        }
    }

    fn item(&self, layer: usize) -> Item {
        let hidden = |path: &str| match path.rsplit_once('/') {
            Some((parent, name)) => format!("{parent}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        match self {
            Self::Directory(path, mode, uid) => directory(path).mode(*mode).owner(*uid, 7),
            Self::File(path, n) => file(&format!("{path}/f{n}"), format!("{layer}{path}").as_bytes()),
            Self::Link(path, target) => symlink(path, target),
            Self::Remove(path) => file(&hidden(path), b""),
            Self::RemoveFile(path, n) => file(&hidden(&format!("{path}/f{n}")), b""),
            Self::Empty(path) => file(&format!("{path}/.wh..wh..opq"), b""),
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let path = || prop::sample::select(&DIRECTORIES[..]);
    let mode = prop::sample::select(vec![0o755, 0o700, 0o1777, 0o1770]);
    prop_oneof![
        3 => (path(), mode, 0..3_u64).prop_map(|(path, mode, uid)| Op::Directory(path, mode, uid)),
        5 => (path(), 0..3_u8).prop_map(|(path, n)| Op::File(path, n)),
        3 => (prop::sample::select(&LINKS[..]), prop::sample::select(&TARGETS[..]))
            .prop_map(|(path, target)| Op::Link(path, target)),
        1 => path().prop_map(Op::Remove),
        2 => (path(), 0..3_u8).prop_map(|(path, n)| Op::RemoveFile(path, n)),
        1 => path().prop_map(Op::Empty),
    ]
}

/// One directory that layers are extracted to, entry by entry. An entry whose meaning depends on the order of
/// entries, or that has none, is left out of its layer: layers do not remember that order.
struct Reference {
    root: PathBuf,
    layer: usize,
    /// What this layer put where, by real path.
    written: HashMap<PathBuf, String>,
    used_link: bool,
    changed_link: bool,
}

impl Reference {
    /// The real path of the directory of an entry, and whether a link was followed.
    fn parent(&self, path: &str) -> Option<(PathBuf, bool)> {
        let (mut real, mut linked) = (self.root.clone(), false);
        for name in path.split('/') {
            let next = real.join(name);
            real = match std::fs::symlink_metadata(&next) {
                Err(_) => next,
                Ok(metadata) => {
                    linked |= metadata.is_symlink();
                    next.canonicalize().ok().filter(|real| real.is_dir())?
                }
            };
        }
        assert!(real.starts_with(&self.root));
        Some((real, linked))
    }

    /// Extracts an entry. Says whether it belongs to the layer.
    fn apply(&mut self, op: &Op, item: &Item) -> bool {
        let name = String::from_utf8(item.name.clone()).unwrap();
        let (parent, last) = name.rsplit_once('/').unwrap_or(("", &name));
        let parent = if parent.is_empty() { Some((self.root.clone(), false)) } else { self.parent(parent) };
        let Some((parent, linked)) = parent else { return false };
        let opaque = last == ".wh..wh..opq";
        let hidden = last.strip_prefix(".wh.").filter(|_| !opaque);
        let real = if opaque { parent.clone() } else { parent.join(hidden.unwrap_or(last)) };
        let changes = matches!(op, Op::Link(..)) || has_link(&real);
        if (linked && self.changed_link) || (changes && (self.used_link || linked)) {
            return false;
        }
        let by_this = format!("{} {name}", op.rank().0);
        let clash = |(path, by): (&PathBuf, &String)| {
            *by != by_this
                && !by.contains(".wh.")
                && (*path == real || (!matches!(op, Op::Directory(..)) && path.starts_with(&real)))
        };
        if self.written.iter().any(clash) {
            return false;
        }
        if (opaque || hidden.is_some()) && self.written.keys().any(|path| path.starts_with(&real)) {
            return false;
        }
        let under_non_directory = |(path, by): (&PathBuf, &String)| {
            !by.contains(".wh.") && real.starts_with(path) && *path != real && !path.is_dir()
        };
        if self.written.iter().any(under_non_directory) {
            return false;
        }
        self.used_link |= linked;
        self.changed_link |= changes;
        self.written.insert(real.clone(), by_this);
        self.extract(op, item, &real, opaque);
        true
    }

    fn extract(&self, op: &Op, item: &Item, real: &Path, opaque: bool) {
        let metadata = std::fs::symlink_metadata(real).ok();
        if opaque {
            std::fs::create_dir_all(real).unwrap();
            std::fs::read_dir(real).unwrap().for_each(|entry| remove(&entry.unwrap().path()));
            return;
        }
        let stays = matches!(op, Op::Directory(..)) && metadata.is_some_and(|metadata| metadata.is_dir());
        if !stays {
            remove(real);
        }
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        if matches!(op, Op::Remove(_) | Op::RemoveFile(..)) {
            return;
        }
        let mut tar = Command::new("tar")
            .args(["--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "-C"])
            .arg(&self.root)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&Builder::of([item.clone()])).unwrap();
        assert!(tar.wait().unwrap().success(), "{op:?} of layer {}", self.layer);
    }
}

fn has_link(path: &Path) -> bool {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            std::fs::read_dir(path).unwrap().any(|entry| has_link(&entry.unwrap().path()))
        }
        Ok(metadata) => metadata.is_symlink(),
        Err(_) => false,
    }
}

fn remove(path: &Path) {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path).unwrap(),
        Ok(_) => std::fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Every path with what it is; times of directories are those of their last change, and left out.
fn picture(root: &Path) -> BTreeMap<String, String> {
    fn add(root: &Path, path: &Path, into: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            // Overlayfs lists a whiteout, but does not find it, in a directory that only one layer has.
            let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
            let what = if metadata.is_dir() {
                add(root, &path, into);
                "directory".to_owned()
            } else if metadata.is_symlink() {
                format!("{} -> {}", metadata.mtime(), std::fs::read_link(&path).unwrap().display())
            } else {
                format!("{} {}", metadata.mtime(), std::fs::read_to_string(&path).unwrap())
            };
            let owner = (metadata.uid(), metadata.gid());
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            into.insert(name, format!("{:o} {owner:?} {what}", metadata.mode()));
        }
    }
    let mut all = BTreeMap::new();
    add(root, root, &mut all);
    all
}

fn check(layers: &[Vec<Op>]) -> Result<(), TestCaseError> {
    // In memory: what is synced here need not survive anything.
    let directory = tempfile::Builder::new().prefix("berth-test-").tempdir_in("/dev/shm").unwrap();
    let store = open(directory.path());
    let fixture = Fixture { directory, store };
    let root = fixture.directory.path().canonicalize().unwrap().join("reference");
    std::fs::create_dir(&root).unwrap();
    let mut archives = Vec::new();
    let mut kept = Vec::new();
    for (layer, ops) in layers.iter().enumerate() {
        let mut ops = ops.clone();
        ops.sort_by_key(Op::rank);
        let mut reference = Reference {
            root: root.clone(),
            layer,
            written: HashMap::new(),
            used_link: false,
            changed_link: false,
        };
        ops.retain(|op| reference.apply(op, &op.item(layer)));
        archives.push(Builder::of(ops.iter().map(|op| op.item(layer))));
        kept.push(ops);
    }
    let image = make_image(&fixture.store, &[], &archives).unwrap();
    let view = fixture.store.view(&image.id, ViewOptions::default()).unwrap();
    prop_assert_eq!(picture(&inside(&view)), picture(&root), "{:#?}", kept);
    drop(view);
    prop_assert_eq!(fixture.store.check(false).unwrap(), []);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_look_as_if_extracted_one_on_top_of_the_other(
        layers in prop::collection::vec(prop::collection::vec(op(), 1..9), 2..5),
    ) {
        check(&layers)?;
    }
}
