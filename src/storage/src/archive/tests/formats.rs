//! Dialects, extended headers, sparse files, attributes.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use super::Scratch;
use super::build::{Builder, Item, directory, file, hard_link, pax, records, symlink};
use crate::ErrorKind;

fn read(scratch: &Scratch, name: &str) -> Vec<u8> {
    std::fs::read(scratch.layer().join(name)).unwrap()
}

#[test]
fn metadata_lands() {
    let scratch = Scratch::new();
    let archive = Builder::of([
        directory("./").mode(0o700),
        directory("d").mode(0o1777).owner(3, 4),
        file("d/f", b"data").mode(0o4755).owner(1000, 2_000_000_000),
        symlink("d/s", "f").owner(5, 6),
        hard_link("d/h", "d/f"),
        Item::new("d/null", b'3').device(1, 3).mode(0o666),
        Item::new("d/disk", b'4').device(8, 0).mode(0o660),
        Item::new("d/pipe", b'6').mode(0o622),
        pax(&[("mtime", b"-1.25")]),
        file("d/old", b""),
        file("d/plain", b"").mode(0o600),
    ]);
    let unpacked = scratch.unpack(&archive).unwrap();
    let metadata = |name: &str| std::fs::symlink_metadata(scratch.layer().join(name)).unwrap();
    let f = metadata("d/f");
    assert_eq!((f.mode() & 0o7777, f.uid(), f.gid(), f.nlink()), (0o4755, 1000, 2_000_000_000, 2));
    assert_eq!((f.mtime(), f.mtime_nsec()), (1_000_000_000, 0));
    let d = metadata("d");
    assert_eq!((d.mode() & 0o7777, d.uid(), d.gid(), d.mtime()), (0o1777, 3, 4, 1_000_000_000));
    assert_eq!((metadata("d/s").uid(), metadata("d/s").mtime()), (5, 1_000_000_000));
    assert_eq!((metadata("d/null").rdev(), metadata("d/null").mode() & 0o7777), (0x103, 0o666));
    assert_eq!(metadata("d/disk").rdev(), 0x800);
    assert_eq!(metadata("d/pipe").mode() & 0o7777, 0o622);
    assert_eq!((metadata("d/old").mtime(), metadata("d/old").mtime_nsec()), (-2, 750_000_000));
    assert_eq!(metadata("").mode() & 0o7777, 0o700);
    assert_eq!(unpacked.inodes, scratch.tree().len() as u64 - 2, "a hard link is no inode");
}

#[test]
fn attributes_are_filtered() {
    let scratch = Scratch::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = Builder::of([
        pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"kept"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.other", b"x"),
            ("SCHILY.xattr.security.selinux", b"system_u:object_r:shadow_t:s0"),
            ("SCHILY.xattr.security.ima", b"x"),
        ]),
        file("ping", b"elf").mode(0o755).owner(1, 1),
        pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y"), ("SCHILY.xattr.user.d", b"1")]),
        directory("d"),
    ]);
    scratch.unpack(&archive).unwrap();
    let names = |name: &str| {
        let file = std::fs::File::open(scratch.layer().join(name)).unwrap();
        let mut names = sys::tree::list_xattrs_fd(file.as_fd()).unwrap();
        names.sort();
        names
    };
    assert_eq!(names("ping"), ["security.capability", "user.note"]);
    assert_eq!(names("d"), ["user.d"]);
}

#[test]
fn access_lists_are_kept() {
    let scratch = Scratch::new();
    // Version 2; user::rw-, user:1000:r--, group::r--, mask::r--, other::r--.
    let entry = |tag: u16, perm: u16, id: u32| {
        [tag.to_le_bytes().to_vec(), perm.to_le_bytes().to_vec(), id.to_le_bytes().to_vec()].concat()
    };
    let list = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 6, u32::MAX),
        entry(2, 4, 1000),
        entry(4, 4, u32::MAX),
        entry(16, 4, u32::MAX),
        entry(32, 4, u32::MAX),
    ]
    .concat();
    let archive = Builder::of([pax(&[("SCHILY.xattr.system.posix_acl_access", &list)]), file("f", b"")]);
    scratch.unpack(&archive).unwrap();
    let file = std::fs::File::open(scratch.layer().join("f")).unwrap();
    assert_eq!(sys::tree::xattr_fd(file.as_fd(), "system.posix_acl_access").unwrap(), Some(list));
}

/// Whoever trusts the header's size where an extended one is given sees other entries than Go does.
#[test]
fn an_extended_size_replaces_the_headers() {
    let scratch = Scratch::new();
    let mut smuggled = Builder::default();
    smuggled.add(&file("smuggled", b"evil"));
    let carrier = [vec![b'c'; 512], smuggled.0].concat();
    let size = carrier.len().to_string();
    let archive = Builder::of([
        pax(&[("size", size.as_bytes())]),
        file("carrier", &carrier).size(b"00000001000\0"),
        file("next", b"n"),
    ]);
    scratch.unpack(&archive).unwrap();
    assert_eq!(scratch.tree().len(), 3, "{:?}", scratch.tree());
    assert_eq!(read(&scratch, "carrier"), carrier);
}

/// The extended size is of the file, not of the long-name header in between.
#[test]
fn an_extended_size_does_not_reach_a_long_name() {
    let scratch = Scratch::new();
    let name = format!("{}/{}", "n".repeat(120), "m".repeat(120));
    let archive = Builder::of([
        pax(&[("size", b"4")]),
        Item::new("././@LongLink", b'L').gnu().data(format!("{name}\0").as_bytes()),
        file("short", b"data"),
        file("next", b"n"),
    ]);
    scratch.unpack(&archive).unwrap();
    assert_eq!(read(&scratch, &name), b"data");
    assert_eq!(read(&scratch, "next"), b"n");
}

/// Links and directories have no data, whatever their size says.
#[test]
fn sizes_of_links_and_directories_are_ignored() {
    let scratch = Scratch::new();
    let archive = Builder::of([
        directory("d").size(b"00000001000\0"),
        file("d/a", b"1"),
        symlink("s", "d").size(b"00000001000\0"),
        hard_link("h", "d/a").size(b"00000000001\0"),
        file("z", b"2"),
        Item::new("old/", 0),
        file("old/x", b""),
    ]);
    scratch.unpack(&archive).unwrap();
    let names: Vec<_> = scratch.tree().into_keys().collect();
    assert_eq!(names, ["", "d", "d/a", "h", "old", "old/x", "s", "z"]);
}

#[test]
fn long_names_come_in_three_ways() {
    let scratch = Scratch::new();
    let long = format!("{}/{}", "p".repeat(90), "q".repeat(90));
    let prefixed = file(&"q".repeat(90), b"1").patch(345, "p".repeat(90).as_bytes());
    let gnu_link = Item::new("././@LongLink", b'K').gnu().data(format!("{long}\0").as_bytes());
    let archive = Builder::of([
        prefixed,
        gnu_link,
        symlink("s", "x").gnu(),
        pax(&[("path", format!("dir/{long}").as_bytes()), ("linkpath", b"target")]),
        symlink("short", "short"),
        Item::new("g", b'g').data(&records(&[("path", b"everything")])),
        file("after-global", b""),
    ]);
    scratch.unpack(&archive).unwrap();
    assert_eq!(read(&scratch, &long), b"1");
    assert_eq!(std::fs::read_link(scratch.layer().join("s")).unwrap().to_str(), Some(&*long));
    let link = scratch.layer().join("dir").join(&long);
    assert_eq!(std::fs::read_link(link).unwrap().to_str(), Some("target"));
    assert!(scratch.layer().join("after-global").is_file());
}

#[test]
fn sparse_files_have_holes() {
    let expected: Vec<u8> = [&[0; 4096][..], b"head", &[0; 8188], b"tail"].concat();
    let stored = b"headtail";
    let old = file("old", stored)
        .gnu()
        .patch(156, b"S")
        .patch(386, b"00000010000\x0000000000004\0")
        .patch(410, b"00000030000\x0000000000004\0")
        .patch(483, format!("{:011o}\0", expected.len()).as_bytes());
    let in_header = pax(&[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.name", b"v01"),
        ("GNU.sparse.size", b"12292"),
        ("GNU.sparse.map", b"4096,4,12288,4"),
    ]);
    let apart = pax(&[
        ("GNU.sparse.size", b"12292"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"4096"),
        ("GNU.sparse.numbytes", b"4"),
        ("GNU.sparse.offset", b"12288"),
        ("GNU.sparse.numbytes", b"4"),
    ]);
    let mut with_map = b"2\n4096\n4\n12288\n4\n".to_vec();
    with_map.resize(512, 0);
    with_map.extend_from_slice(stored);
    let in_data = pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"v10"),
        ("GNU.sparse.realsize", b"12292"),
    ]);
    let scratch = Scratch::new();
    let archive = Builder::of([
        old,
        in_header,
        file("GNUSparseFile.0/v01", stored),
        apart,
        file("v00", stored),
        in_data,
        file("GNUSparseFile.0/v10", &with_map),
        file("end", b"end"),
    ]);
    scratch.unpack(&archive).unwrap();
    for name in ["old", "v00", "v01", "v10"] {
        assert!(read(&scratch, name) == expected, "{name}");
    }
    assert_eq!(read(&scratch, "end"), b"end");
}

#[test]
fn sparse_maps_are_checked() {
    let sparse = |map: &str, size: &str, data: &[u8]| {
        Builder::of([
            pax(&[
                ("GNU.sparse.major", b"0"),
                ("GNU.sparse.minor", b"1"),
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.map", map.as_bytes()),
            ]),
            file("x", data),
        ])
    };
    for (map, size, data) in [
        ("4,4,0,4", "100", &b"12345678"[..]),
        ("0,4,2,4", "100", b"12345678"),
        ("0,8", "4", b"12345678"),
        ("0,4", "100", b"12345678"),
        ("0,12", "100", b"12345678"),
        ("0", "100", b""),
        ("-4,8", "100", b"12345678"),
        ("9223372036854775807,9223372036854775807", "100", b"12345678"),
        ("0,8", "-1", b"12345678"),
    ] {
        let error = Scratch::new().unpack(&sparse(map, size, data)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{map} {size}: {error:?}");
    }
    let endless =
        pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1")]);
    let map = [b"999999999\n".to_vec(), b"1\n".repeat(251)].concat();
    Scratch::new().unpack(&Builder::of([endless, file("x", &map)])).unwrap_err();
}

#[test]
fn malformed_records_are_refused() {
    for data in [
        &b"garbage"[..],
        b"5 a=\n",
        b"100 a=b\n",
        b"7 =ab\n\n",
        b"0 a=b\n",
        b"-1 a=b\n",
        b"99999999999999999999999 a=b\n",
        b"6 a=b\nx",
        b"6 a=bX",
    ] {
        let archive = Builder::of([Item::new("x", b'x').data(data), file("f", b"")]);
        let outcome = Scratch::new().unpack(&archive);
        // "5 a=" is an empty value, which is fine; everything else is not.
        assert_eq!(outcome.is_ok(), data == b"5 a=\n", "{:?}", String::from_utf8_lossy(data));
    }
}

#[test]
fn an_archive_may_lack_its_end() {
    let scratch = Scratch::new();
    let mut archive = Builder::default();
    archive.add(&file("x", &[1; 100]));
    archive.0.truncate(512 + 100);
    scratch.unpack(&archive.0).unwrap();
    assert_eq!(read(&scratch, "x"), [1; 100]);
    let mut half = Builder::of([file("x", b"")]);
    half.splice(512..1024, std::iter::repeat_n(0, 512));
    half.extend_from_slice(&Builder::of([file("y", b"")]));
    let scratch = Scratch::new();
    scratch.unpack(&half).unwrap();
    assert_eq!(scratch.tree().len(), 2, "what follows the end is not read");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    /// Rubbish never panics, hangs or gets out.
    #[test]
    fn rubbish_is_survived(
        seed in proptest::collection::vec((0..3000_usize, proptest::num::u8::ANY), 0..12),
        fix_sums in proptest::bool::ANY,
    ) {
        let mut archive = Builder::of([
            directory("a"),
            pax(&[("path", b"a/b"), ("size", b"5")]),
            file("x", b"12345"),
            symlink("a/s", "../../canary"),
            hard_link("a/h", "a/b"),
        ]);
        for (at, byte) in seed {
            let at = at % archive.len();
            archive[at] = byte;
        }
        if fix_sums {
            for block in archive.chunks_exact_mut(512) {
                if block[257..262] == *b"ustar" {
                    block[148..156].fill(b' ');
                    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
        }
        let _outcome = Scratch::new().unpack(&archive);
    }
}
