//! Writing archives: trees as tar, with what does not fit its headers in PAX records.
//!
//! A tree may change while it is read: files are cut or filled up to the size that their header says, and what
//! vanishes is left out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use sys::tree::{self, Kind, Stat};

use super::header::BLOCK;
use super::{is_opaque, is_wanted};
use crate::IdMaps;

/// Directories below each other: each is an open descriptor.
const MAX_DEPTH: usize = 512;
const BUFFER: usize = 128 << 10;

/// How a tree becomes an archive.
#[derive(Debug, Clone, Copy, Default)]
pub struct PackOptions<'a> {
    /// Whether it is the upper directory of an overlay: what it hides becomes whiteouts, as layers have them.
    pub layer: bool,
    /// Maps of a user namespace: owners are written as they are inside.
    pub maps: Option<&'a IdMaps>,
    /// Whether directories on other file systems are left empty.
    pub one_file_system: bool,
}

/// Writes an archive.
#[derive(Debug)]
pub struct TarWriter<W: Write> {
    out: W,
    buffer: Vec<u8>,
    /// First names of files with several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> TarWriter<W> {
    /// An archive without entries.
    pub fn new(out: W) -> Self {
        Self { out, buffer: vec![0; BUFFER], links: HashMap::new() }
    }

    /// Writes the end, and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Gives the writer back in the middle of it all.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Adds a file of these bytes.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.reader(name, bytes.len() as u64, &mut &*bytes)
    }

    /// Adds a file of what a reader gives: `size` bytes.
    pub fn reader(&mut self, name: &str, size: u64, reader: &mut dyn Read) -> io::Result<()> {
        let stat = plain(Kind::File, 0o644, size);
        self.header(&Head { name: name.as_bytes(), link: b"", flag: b'0', size, stat: &stat, xattrs: &[] })?;
        self.data(reader, size)
    }

    /// Adds a directory.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        let stat = plain(Kind::Directory, 0o755, 0);
        let name = format!("{name}/");
        self.header(&Head { name: name.as_bytes(), link: b"", flag: b'5', size: 0, stat: &stat, xattrs: &[] })
    }

    /// Adds the entry `name` of a directory, with all that is in it, under the name `as_name`.
    pub fn tree(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        as_name: &[u8],
        options: PackOptions<'_>,
    ) -> io::Result<()> {
        self.entry(directory, name, as_name, options, 0)
    }

    /// Adds a directory that is open, with all that is in it, under the name `as_name`; an empty one adds what is in
    /// it alone.
    pub fn contents(
        &mut self,
        directory: BorrowedFd<'_>,
        as_name: &[u8],
        options: PackOptions<'_>,
    ) -> io::Result<()> {
        if !as_name.is_empty() {
            self.directory_header(directory, as_name, options)?;
        }
        self.children(directory, as_name, options, 0)
    }

    fn children(
        &mut self,
        directory: BorrowedFd<'_>,
        as_name: &[u8],
        options: PackOptions<'_>,
        depth: usize,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "directories lie too deep to be archived",
            ));
        }
        let mut names = tree::list(directory)?;
        names.sort();
        for name in names {
            self.entry(directory, &name, &joined(as_name, &name), options, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        as_name: &[u8],
        options: PackOptions<'_>,
        depth: usize,
    ) -> io::Result<()> {
        let Some(stat) = tree::stat_optional(directory, name)? else { return Ok(()) };
        if options.layer && stat.is_whiteout() {
            return self.whiteout(as_name);
        }
        match stat.kind {
            Kind::Directory => {
                let Some(inner) = vanished(tree::open_directory(directory, name))? else { return Ok(()) };
                self.directory_header(inner.as_fd(), as_name, options)?;
                let other = tree::stat_fd(inner.as_fd())?.device != tree::stat_fd(directory)?.device;
                if options.one_file_system && other {
                    return Ok(());
                }
                self.children(inner.as_fd(), as_name, options, depth + 1)
            }
            Kind::Socket => Ok(()),
            _ => self.leaf(directory, name, as_name, stat, options),
        }
    }

    fn leaf(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        as_name: &[u8],
        stat: Stat,
        options: PackOptions<'_>,
    ) -> io::Result<()> {
        if stat.links > 1 {
            if let Some(first) = self.links.get(&(stat.device, stat.inode)).cloned() {
                let stat = inside(stat, options);
                return self.header(&Head {
                    name: as_name,
                    link: &first,
                    flag: b'1',
                    size: 0,
                    stat: &stat,
                    xattrs: &[],
                });
            }
            self.links.insert((stat.device, stat.inode), as_name.to_owned());
        }
        let shown = inside(stat, options);
        let (flag, link) = match stat.kind {
            Kind::File => {
                let Some(file) = vanished(tree::open_file(directory, name))? else { return Ok(()) };
                let file = File::from(file);
                let size = tree::stat_fd(file.as_fd())?.size;
                let xattrs = attributes(file.as_fd())?;
                let shown = Stat { size, ..shown };
                self.header(&Head {
                    name: as_name,
                    link: b"",
                    flag: b'0',
                    size,
                    stat: &shown,
                    xattrs: &xattrs,
                })?;
                return self.data(&mut &file, size);
            }
            Kind::Symlink => {
                let Some(target) = vanished(tree::read_link(directory, name))? else { return Ok(()) };
                (b'2', target)
            }
            Kind::CharDevice => (b'3', Vec::new()),
            Kind::BlockDevice => (b'4', Vec::new()),
            Kind::Fifo => (b'6', Vec::new()),
            Kind::Directory | Kind::Socket => return Ok(()),
        };
        self.header(&Head { name: as_name, link: &link, flag, size: 0, stat: &shown, xattrs: &[] })
    }

    fn directory_header(
        &mut self,
        directory: BorrowedFd<'_>,
        as_name: &[u8],
        options: PackOptions<'_>,
    ) -> io::Result<()> {
        let stat = inside(tree::stat_fd(directory)?, options);
        let xattrs = attributes(directory)?;
        let mut name = as_name.to_owned();
        if !name.ends_with(b"/") {
            name.push(b'/');
        }
        self.header(&Head { name: &name, link: b"", flag: b'5', size: 0, stat: &stat, xattrs: &xattrs })?;
        if options.layer && is_opaque(directory)? {
            self.empty(&joined(as_name, b".wh..wh..opq"))?;
        }
        Ok(())
    }

    fn whiteout(&mut self, as_name: &[u8]) -> io::Result<()> {
        let at = as_name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = as_name.split_at(at);
        self.empty(&[parent, b".wh.", name].concat())
    }

    fn empty(&mut self, name: &[u8]) -> io::Result<()> {
        let stat = plain(Kind::File, 0o600, 0);
        self.header(&Head { name, link: b"", flag: b'0', size: 0, stat: &stat, xattrs: &[] })
    }

    fn data(&mut self, reader: &mut dyn Read, size: u64) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER);
            let mut count = match reader.read(&mut self.buffer[..part]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if count == 0 {
                // It became shorter meanwhile.
                self.buffer[..part].fill(0);
                count = part;
            }
            self.out.write_all(&self.buffer[..count])?;
            left -= count as u64;
        }
        let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.out.write_all(&[0; BLOCK][..padding])
    }

    fn header(&mut self, head: &Head<'_>) -> io::Result<()> {
        let pax = head.records();
        if !pax.is_empty() {
            let stat = plain(Kind::File, 0o644, pax.len() as u64);
            let extra = Head {
                name: b"PaxHeader",
                link: b"",
                flag: b'x',
                size: pax.len() as u64,
                stat: &stat,
                xattrs: &[],
            };
            self.out.write_all(&extra.block())?;
            let size = pax.len() as u64;
            self.data(&mut &*pax, size)?;
        }
        self.out.write_all(&head.block())
    }
}

/// What an entry's header says.
struct Head<'a> {
    name: &'a [u8],
    link: &'a [u8],
    flag: u8,
    size: u64,
    stat: &'a Stat,
    xattrs: &'a [(String, Vec<u8>)],
}

impl Head<'_> {
    /// What does not fit the header itself.
    fn records(&self) -> Vec<u8> {
        let mut pax = Vec::new();
        if self.name.len() > 100 {
            record(&mut pax, "path", self.name);
        }
        if self.link.len() > 100 {
            record(&mut pax, "linkpath", self.link);
        }
        for (key, value, most) in [
            ("uid", u64::from(self.stat.uid), 0o777_7777),
            ("gid", u64::from(self.stat.gid), 0o777_7777),
            ("size", self.size, 0o777_7777_7777),
        ] {
            if value > most {
                record(&mut pax, key, value.to_string().as_bytes());
            }
        }
        let mtime = self.stat.mtime;
        if mtime.nanoseconds != 0 && mtime.seconds >= 0 {
            record(&mut pax, "mtime", format!("{}.{:09}", mtime.seconds, mtime.nanoseconds).as_bytes());
        } else if mtime.seconds < 0 {
            record(&mut pax, "mtime", mtime.seconds.to_string().as_bytes());
        }
        for (name, value) in self.xattrs {
            record(&mut pax, &format!("SCHILY.xattr.{name}"), value);
        }
        pax
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8], most: usize| {
            let length = bytes.len().min(most);
            block[at..at + length].copy_from_slice(&bytes[..length]);
        };
        let octal = |value: u64, width: usize| format!("{value:0width$o}").into_bytes();
        put(0, self.name, 100);
        put(100, &octal(u64::from(self.stat.mode & 0o7777), 7), 7);
        put(108, &octal(u64::from(self.stat.uid).min(0o777_7777), 7), 7);
        put(116, &octal(u64::from(self.stat.gid).min(0o777_7777), 7), 7);
        put(124, &octal(self.size.min(0o777_7777_7777), 11), 11);
        let mtime = u64::try_from(self.stat.mtime.seconds).unwrap_or(0).min(0o777_7777_7777);
        put(136, &octal(mtime, 11), 11);
        put(148, b"        ", 8);
        put(156, &[self.flag], 1);
        put(157, self.link, 100);
        put(257, b"ustar\x0000", 8);
        if matches!(self.flag, b'3' | b'4') {
            put(329, &octal(u64::from(self.stat.major), 7), 7);
            put(337, &octal(u64::from(self.stat.minor), 7), 7);
        }
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// A PAX record says its own length, the digits of the length included.
fn record(pax: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length += 1;
    }
    pax.extend_from_slice(format!("{length} {key}=").as_bytes());
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

fn plain(kind: Kind, mode: u32, size: u64) -> Stat {
    let mtime = tree::Mtime { seconds: sys::fs::now_ns() / 1_000_000_000, nanoseconds: 0 };
    Stat {
        kind,
        mode,
        uid: 0,
        gid: 0,
        size,
        blocks: 0,
        links: 1,
        inode: 0,
        device: 0,
        major: 0,
        minor: 0,
        mtime,
    }
}

fn inside(stat: Stat, options: PackOptions<'_>) -> Stat {
    match options.maps {
        None => stat,
        Some(maps) => {
            let (uid, gid) = maps.inside(stat.uid, stat.gid);
            Stat { uid, gid, ..stat }
        }
    }
}

fn attributes(fd: BorrowedFd<'_>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let names = match tree::list_xattrs_fd(fd) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for name in names.into_iter().filter(|name| is_wanted(name)) {
        if let Some(value) = tree::xattr_fd(fd, &name)? {
            all.push((name, value));
        }
    }
    Ok(all)
}

/// `None` for what was there a moment ago, or was something else.
fn vanished<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent.last() {
        None | Some(b'/') => [parent, name].concat(),
        Some(_) => [parent, b"/", name].concat(),
    }
}
