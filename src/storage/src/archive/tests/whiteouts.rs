//! Whiteouts, as overlayfs wants them.

use std::os::fd::AsFd;

use super::Scratch;
use super::build::{Builder, Item, directory, file, symlink};

fn is_whiteout(scratch: &Scratch, name: &str) -> bool {
    let directory = sys::tree::open_root(scratch.layer().join(name).parent().unwrap()).unwrap();
    let last = name.rsplit('/').next().unwrap();
    sys::tree::stat(directory.as_fd(), last.as_bytes()).is_ok_and(|stat| stat.is_whiteout())
}

fn is_opaque(scratch: &Scratch, name: &str) -> bool {
    let directory = sys::tree::open_root(&scratch.layer().join(name)).unwrap();
    sys::tree::xattr_fd(directory.as_fd(), "trusted.overlay.opaque").unwrap().as_deref() == Some(b"y")
}

#[test]
fn names_and_directories_are_hidden() {
    let scratch = Scratch::new();
    let archive = Builder::of([
        file(".wh.gone", b""),
        file("dir/.wh.gone", b"data is skipped"),
        file("dir/.wh..wh..opq", b""),
        file("next", b"n"),
    ]);
    let unpacked = scratch.unpack(&archive).unwrap();
    assert!(is_whiteout(&scratch, "gone") && is_whiteout(&scratch, "dir/gone"));
    assert!(is_opaque(&scratch, "dir"));
    assert!(!unpacked.opaque);
    assert_eq!(unpacked.inodes, 4);
    assert_eq!(std::fs::read(scratch.layer().join("next")).unwrap(), b"n");
}

#[test]
fn the_root_can_be_opaque() {
    let scratch = Scratch::new();
    assert!(scratch.unpack(&Builder::of([file(".wh..wh..opq", b""), file("x", b"")])).unwrap().opaque);
}

#[test]
fn a_layers_own_entries_win_in_either_order() {
    let scratch = Scratch::new();
    let archive = Builder::of([
        file("before", b"mine"),
        file(".wh.before", b""),
        file(".wh.after", b""),
        file("after", b"mine"),
        directory("d1"),
        file("d1/x", b""),
        file(".wh.d1", b""),
        file(".wh.d2", b""),
        directory("d2"),
        file("d2/x", b""),
        file(".wh.d3", b""),
        file("d3/implicit", b""),
        file("d4/x", b"mine"),
        file("d4/.wh..wh..opq", b""),
    ]);
    let unpacked = scratch.unpack(&archive).unwrap();
    for name in ["before", "after", "d1/x", "d2/x", "d3/implicit", "d4/x"] {
        assert!(scratch.layer().join(name).is_file(), "{name}");
    }
    for name in ["d1", "d2", "d3", "d4"] {
        assert!(is_opaque(&scratch, name), "{name}");
    }
    assert_eq!(unpacked.inodes, scratch.tree().len() as u64 - 1);
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh...", "../.wh.x", ".wh.x/y"] {
        Scratch::new().unpack(&Builder::of([file(name, b"")])).unwrap_err();
    }
}

#[test]
fn a_whiteout_does_not_lead_out() {
    let scratch = Scratch::new();
    let archive = Builder::of([
        symlink("out", "../canary"),
        file("out/.wh.file", b""),
        file("out/.wh..wh..opq", b""),
        symlink("abs", &scratch.canary()),
        file("abs/.wh.sub", b""),
    ]);
    scratch.unpack(&archive).unwrap();
    assert!(is_whiteout(&scratch, "canary/file") && is_opaque(&scratch, "canary"));
}

#[test]
fn other_drivers_names_are_passed_over() {
    let scratch = Scratch::new();
    let archive = Builder::of([
        file(".wh..wh.aufs", b"x"),
        directory(".wh..wh.plnk"),
        file(".wh..wh.plnk/1.2", b"x"),
        Item::new("x/.wh..wh.orph", b'5'),
    ]);
    scratch.unpack(&archive).unwrap();
    assert_eq!(scratch.tree().len(), 1);
}
