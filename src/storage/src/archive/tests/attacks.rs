//! Archives that try to get out, to lie, or to fill the machine.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use oci::Compression;

use super::build::{Builder, Item, directory, file, hard_link, pax, symlink};
use super::{Scratch, gzip, zstandard};
use crate::archive::{ArchiveError, Limit};
use crate::{ErrorKind, Limits};

fn refused(items: Vec<Item>) -> ArchiveError {
    let error = Scratch::new().unpack(&Builder::of(items)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    error
}

fn limited(archive: &[u8], compression: Compression, limits: Limits, expected: Limit) {
    let scratch = Scratch::new();
    let started = Instant::now();
    match scratch.unpack_with(archive, compression, limits) {
        Err(ArchiveError::Limit { limit }) => assert_eq!(limit, expected),
        other => panic!("{other:?}"),
    }
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn names_stay_inside() {
    refused(vec![file("../canary/file", b"x")]);
    refused(vec![file("a/../../canary/file", b"x")]);
    refused(vec![directory("..")]);
    refused(vec![file(".", b"x")]);
    let scratch = Scratch::new();
    let absolute = format!("{}/file", scratch.canary());
    let archive =
        Builder::of([file("/etc/passwd", b"x"), pax(&[("path", absolute.as_bytes())]), file("x", b"y")]);
    scratch.unpack(&archive).unwrap();
    assert!(scratch.layer().join("etc/passwd").is_file());
    assert!(scratch.layer().join(absolute.trim_start_matches('/')).is_file());
}

#[test]
fn links_are_followed_only_inside() {
    let scratch = Scratch::new();
    let archive = Builder::of([
        symlink("out", "../canary"),
        file("out/file", b"1"),
        symlink("abs", &scratch.canary()),
        file("abs/file", b"2"),
        symlink("up", "/../../../canary/sub"),
        file("up/deep/file", b"3"),
        directory("up/deep/dir").mode(0o700),
    ]);
    scratch.unpack(&archive).unwrap();
    let tree = scratch.tree();
    assert!(tree.contains_key("canary/file"), "{tree:?}");
    assert!(tree.contains_key("canary/sub/deep/dir"));
}

#[test]
fn a_directory_replaces_a_link_instead_of_changing_its_target() {
    let scratch = Scratch::new();
    let archive = Builder::of([
        symlink("d", &scratch.canary()),
        directory("d").mode(0o777).owner(7, 7),
        symlink("e", "../canary/file"),
        file("e", b"new").mode(0o4777),
        symlink("f", "../canary/file"),
        Item::new("f", b'6').mode(0o777),
    ]);
    scratch.unpack(&archive).unwrap();
    let metadata = std::fs::symlink_metadata(scratch.layer().join("d")).unwrap();
    assert!(metadata.is_dir());
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o777, 7));
}

#[test]
fn link_loops_end() {
    refused(vec![symlink("a", "b"), symlink("b", "a"), file("a/x", b"")]);
    refused(vec![symlink("a", "a/a/a/a"), file("a/x", b"")]);
    refused(vec![file("f", b""), file("f/x", b"")]);
}

#[test]
fn hard_links_stay_inside() {
    let scratch = Scratch::new();
    for items in [
        vec![hard_link("x", "../canary/file")],
        vec![hard_link("x", "/etc/passwd")],
        vec![symlink("out", &scratch.canary()), hard_link("x", "out/file")],
        vec![hard_link("x", "later"), file("later", b"")],
        vec![hard_link("x", "")],
        vec![directory("d"), hard_link("x", "d")],
        vec![hard_link("x", "x")],
    ] {
        Scratch::new().unpack(&Builder::of(items)).unwrap_err();
    }
    // A link to a symbolic link is another name of the link, not of what it points to.
    let archive = Builder::of([symlink("s", "/etc/passwd"), hard_link("x", "s"), file("x", b"own")]);
    scratch.unpack(&archive).unwrap();
    assert_eq!(std::fs::read(scratch.layer().join("x")).unwrap(), b"own");
}

#[test]
fn the_last_of_several_entries_counts() {
    let scratch = Scratch::new();
    let archive = Builder::of([
        file("a", b"first"),
        file("a", b"second"),
        directory("b"),
        file("b/x", b"gone"),
        file("b", b"file now"),
        file("c", b"file"),
        directory("c"),
        file("c/x", b"in"),
        file("case", b"1"),
        file("CASE", b"2"),
        file("h", b"h"),
        hard_link("h", "h"),
    ]);
    let unpacked = scratch.unpack(&archive).unwrap();
    let tree = scratch.tree();
    assert_eq!(unpacked.inodes, tree.len() as u64 - 1);
    assert_eq!(std::fs::read(scratch.layer().join("a")).unwrap(), b"second");
    assert_eq!(std::fs::read(scratch.layer().join("b")).unwrap(), b"file now");
    assert_eq!(std::fs::read(scratch.layer().join("h")).unwrap(), b"h");
    assert!(tree.contains_key("c/x") && tree.contains_key("case") && tree.contains_key("CASE"));
}

#[test]
fn numbers_are_checked() {
    refused(vec![file("x", b"").size(&[0xff; 12])]);
    refused(vec![file("x", b"").size(b"0000000008\0\0")]);
    refused(vec![file("x", b"").size(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])]);
    refused(vec![pax(&[("size", b"-1")]), file("x", b"")]);
    refused(vec![pax(&[("size", b"1e3")]), file("x", b"")]);
    refused(vec![pax(&[("size", b"99999999999999999999")]), file("x", b"")]);
    refused(vec![file("x", b"").owner(1 << 32, 0)]);
    refused(vec![file("x", b"").owner(0, u64::from(u32::MAX))]);
    refused(vec![pax(&[("uid", b"-1")]), file("x", b"")]);
    refused(vec![Item::new("x", b'3').device(1 << 13, 0)]);
    let mut bad_sum = Builder::of([file("x", b"")]);
    bad_sum[0] = b'y';
    assert_eq!(Scratch::new().unpack(&bad_sum).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn names_are_bounded() {
    let name = |length: usize| pax(&[("path", &vec![b'a'; length]), ("mtime", b"1")]);
    limited(
        &Builder::of([name(300), file("x", b"")]),
        Compression::None,
        Limits::STANDARD,
        Limit::NameLength,
    );
    limited(
        &Builder::of([name(5000), file("x", b"")]),
        Compression::None,
        Limits::STANDARD,
        Limit::NameLength,
    );
    limited(
        &Builder::of([name(1 << 20), file("x", b"")]),
        Compression::None,
        Limits::STANDARD,
        Limit::Headers,
    );
    let long = Item::new("././@LongLink", b'L').gnu().data(&vec![b'a'; 2 << 20]);
    limited(&Builder::of([long, file("x", b"")]), Compression::None, Limits::STANDARD, Limit::Headers);
    let deep = "d/".repeat(10_000);
    limited(
        &Builder::of([pax(&[("path", deep.as_bytes())]), file("x", b"")]),
        Compression::None,
        Limits { name_length: 1 << 20, ..Limits::STANDARD },
        Limit::Depth,
    );
    refused(vec![pax(&[("path", b"a\0b")]), file("x", b"")]);
    let scratch = Scratch::new();
    scratch.unpack(&Builder::of([pax(&[("path", b"\xff\xfe\n")]), file("x", b"")])).unwrap();
    assert_eq!(scratch.tree().len(), 2);
}

#[test]
fn depth_through_links_is_bounded() {
    let archive = Builder::of([
        symlink("l", "m/200"),
        symlink("m", "d"),
        pax(&[("linkpath", "d/".repeat(200).as_bytes())]),
        symlink("d/200", ""),
        pax(&[("path", format!("l/{}x", "e/".repeat(100)).as_bytes())]),
        file("x", b""),
    ]);
    limited(&archive, Compression::None, Limits::STANDARD, Limit::Depth);
}

#[test]
fn entries_and_content_are_bounded() {
    let many: Vec<Item> = (0..200).map(|n| file(&format!("f{n}"), b"")).collect();
    let limits = Limits { entries: 100, ..Limits::STANDARD };
    limited(&Builder::of(many), Compression::None, limits, Limit::Entries);
    let nested: Vec<Item> = (0..60).map(|n| file(&format!("d{n}/e{n}/f"), b"")).collect();
    limited(&Builder::of(nested), Compression::None, limits, Limit::Entries);
    let tebibyte = file("x", b"").size(&[0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    limited(&Builder::of([tebibyte]), Compression::None, Limits::STANDARD, Limit::Content);
    let hole = pax(&[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.size", b"1099511627776"),
        ("GNU.sparse.map", b"0,1"),
    ]);
    limited(&Builder::of([hole, file("x", b"1")]), Compression::None, Limits::STANDARD, Limit::Content);
}

#[test]
fn bombs_are_noticed() {
    let limits = Limits { ratio: 100, ratio_free_bytes: 1 << 20, ..Limits::STANDARD };
    let zeros = vec![0; 64 << 20];
    let archive = Builder::of([file("zeros", &zeros)]);
    limited(&gzip(&archive), Compression::Gzip, limits, Limit::Ratio);
    limited(&zstandard(&archive), Compression::Zstd, limits, Limit::Ratio);
    // A bomb behind the end of the archive, where nobody looks.
    let mut trailing = Builder::of([file("x", b"")]);
    trailing.extend_from_slice(&zeros);
    limited(&gzip(&trailing), Compression::Gzip, limits, Limit::Ratio);
    // The same within bounds is fine.
    Scratch::new().unpack_with(&gzip(&archive), Compression::Gzip, Limits::STANDARD).unwrap();
}

#[test]
fn truncated_streams_are_refused() {
    let archive = Builder::of([file("x", &[7; 2000])]);
    for length in [1, 511, 513, 1500, 2500] {
        let error = Scratch::new().unpack(&archive[..length]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{length}: {error:?}");
    }
    for compressed in [gzip(&archive), zstandard(&archive)] {
        let compression = if compressed[0] == 0x1f { Compression::Gzip } else { Compression::Zstd };
        for length in [0, 1, compressed.len() / 2, compressed.len() - 1] {
            let outcome = Scratch::new().unpack_with(&compressed[..length], compression, Limits::STANDARD);
            // An empty zstd stream is an empty archive, which has another diff id than the image says.
            if length > 0 || compression == Compression::Gzip {
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Invalid, "{compression:?} {length}");
            }
        }
    }
}

#[test]
fn members_and_frames_are_joined_and_garbage_is_refused() {
    let archive = Builder::of([file("x", &[7; 2000])]);
    let (first, second) = archive.split_at(700);
    let whole = Scratch::new().unpack(&archive).unwrap().diff_id;
    let joined = |one: fn(&[u8]) -> Vec<u8>| [one(first), one(second)].concat();
    let gz = Scratch::new().unpack_with(&joined(gzip), Compression::Gzip, Limits::STANDARD).unwrap();
    assert_eq!(gz.diff_id, whole);
    let mut frames = joined(zstandard);
    frames.splice(0..0, [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    let zst = Scratch::new().unpack_with(&frames, Compression::Zstd, Limits::STANDARD).unwrap();
    assert_eq!(zst.diff_id, whole);
    for (mut bytes, compression) in
        [(gzip(&archive), Compression::Gzip), (zstandard(&archive), Compression::Zstd)]
    {
        bytes.extend_from_slice(b"garbage after the end");
        let error = Scratch::new().unpack_with(&bytes, compression, Limits::STANDARD).unwrap_err();
        assert!(matches!(error, ArchiveError::Read(_)), "{error:?}");
    }
    // Behind the end of the archive anything goes, but it is part of what is hashed.
    let mut padded = archive.clone();
    padded.extend_from_slice(&[1; 5000]);
    assert_ne!(Scratch::new().unpack(&padded).unwrap().diff_id, whole);
}

#[test]
fn large_zstd_windows_are_refused() {
    // A frame header that asks for a window of 2 GiB: magic, descriptor, window exponent 21 (2^31).
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    Scratch::new().unpack_with(&frame, Compression::Zstd, Limits::STANDARD).unwrap_err();
}

#[test]
fn other_types_are_refused() {
    for flag in [b'V', b'M', b'D', b'N', b'A', b'I', 0xff] {
        refused(vec![Item::new("x", flag)]);
    }
    Scratch::new().unpack(&Builder::of([symlink("x", "")])).unwrap_err();
}

#[test]
fn an_error_comes_with_the_offending_byte() {
    // A reader that never ends: the error must not wait for it.
    struct Endless(Vec<u8>, usize);
    impl std::io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let rest = &self.0[self.1.min(self.0.len())..];
            let count = rest.len().min(buffer.len());
            if count == 0 {
                buffer.fill(0);
                return Ok(buffer.len());
            }
            buffer[..count].copy_from_slice(&rest[..count]);
            self.1 += count;
            Ok(count)
        }
    }
    let mut archive = Builder::default();
    archive.add(&file("../out", b""));
    let scratch = Scratch::new();
    let started = Instant::now();
    let reader = Box::new(Endless(archive.0, 0));
    scratch.unpack_from(reader, Compression::None, Limits::STANDARD).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2));
}
