//! What GNU tar makes, and what it makes of it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::{Scratch, picture};

/// Something in a tree.
#[derive(Debug, Clone)]
enum Node {
    File { mode: u32, size: usize, hole: bool },
    Directory { mode: u32 },
    Symlink { target: String },
    HardLink,
    Pipe,
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        4 => (prop::sample::select(vec![0o644, 0o600, 0o755, 0o4755, 0o2711, 0o000]), 0..20_000_usize, any::<bool>())
            .prop_map(|(mode, size, hole)| Node::File { mode, size, hole }),
        3 => prop::sample::select(vec![0o755, 0o700, 0o1777, 0o2775]).prop_map(|mode| Node::Directory { mode }),
        1 => "[a-z./]{1,150}".prop_map(|target| Node::Symlink { target }),
        1 => Just(Node::HardLink),
        1 => Just(Node::Pipe),
    ]
}

/// Names short and long, plain and not.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-c]{1,2}", 1 => "[ -.0-~]{1,40}", 1 => "[a-z]{120,200}", 1 => "[à-ü]{1,30}"]
        .prop_filter("not special", |name| name != "." && name != ".." && !name.starts_with(".wh."))
}

fn plant(root: &Path, nodes: &[(Vec<String>, Node, u32, i64)]) {
    let mut last_file = None;
    for (path, node, owner, time) in nodes {
        let path = root.join(path.join("/"));
        let Some(parent) = path.parent() else { continue };
        if std::fs::create_dir_all(parent).is_err() || std::fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match node {
            Node::File { mode, size, hole } => {
                let mut bytes = vec![b'x'; *size];
                if *hole {
                    bytes[..size / 2].fill(0);
                }
                std::fs::write(&path, bytes).unwrap();
                std::os::unix::fs::chown(&path, Some(*owner), Some(*owner)).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
                last_file = Some(path.clone());
            }
            Node::Directory { mode } => {
                std::fs::create_dir(&path).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
            }
            Node::Symlink { target } => symlink(target, &path).unwrap(),
            Node::HardLink => {
                if let Some(file) = &last_file {
                    std::fs::hard_link(file, &path).unwrap();
                }
            }
            Node::Pipe => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
        }
        let date = format!("@{time}.5");
        Command::new("touch").args(["-h", "-d", &date]).arg(&path).status().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn gnu_tar_agrees(
        nodes in prop::collection::vec((prop::collection::vec(name(), 1..4), node(), 0..70_000_u32, 0..4_000_000_000_i64), 1..20),
        format in prop::sample::select(vec!["gnu", "posix", "oldgnu"]),
        sparse in any::<bool>(),
    ) {
        let source = tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap();
        plant(source.path(), &nodes);
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(source.path()).args(["--numeric-owner", &format!("--format={format}")]);
        if sparse {
            tar.arg("--sparse");
        }
        let archive = tar.args(["-cf", "-", "."]).output().unwrap();
        prop_assert!(archive.status.success(), "{}", String::from_utf8_lossy(&archive.stderr));

        let theirs = tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap();
        let file = source.path().with_extension("tar");
        std::fs::write(&file, &archive.stdout).unwrap();
        let extracted = Command::new("tar")
            .arg("-C").arg(theirs.path()).args(["--numeric-owner", "-xpf"]).arg(&file).output().unwrap();
        std::fs::remove_file(&file).unwrap();
        prop_assert!(extracted.status.success(), "{}", String::from_utf8_lossy(&extracted.stderr));

        let ours = Scratch::new();
        let unpacked = ours.unpack(&archive.stdout);
        prop_assert!(unpacked.is_ok(), "{unpacked:?}");
        prop_assert_eq!(picture(theirs.path()), ours.tree());
        let inodes: std::collections::HashSet<u64> = inodes(&ours.layer());
        prop_assert_eq!(unpacked.unwrap().inodes, inodes.len() as u64);
    }
}

fn inodes(root: &Path) -> std::collections::HashSet<u64> {
    let mut all = std::collections::HashSet::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        all.insert(metadata.ino());
        if metadata.is_dir() {
            all.extend(inodes(&path));
        }
    }
    all
}
