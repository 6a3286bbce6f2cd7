//! The tar format: from a stream of bytes to entries and their data.
//!
//! Where dialects disagree, this reads what Go's `archive/tar` reads: in particular, an extended `size`
//! replaces the header's, and links, devices and directories have no data whatever their size says. A layer
//! must not mean one thing to a scanner and another thing here.

use oci::Digest;
use sys::tree::Mtime;

use super::header::{BLOCK, Block, Dialect, Header, text};
use super::pax::{Pax, decimal};
use super::sparse::{self, Part, PaxForm};
use super::{ArchiveError, Limit, Stream};
use crate::Limits;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// Something that cannot be extracted.
    Other,
}

impl EntryKind {
    fn of(type_flag: u8, name: &[u8]) -> Self {
        match type_flag {
            0 if name.ends_with(b"/") => Self::Directory,
            0 | b'0' | b'7' | b'S' => Self::File,
            b'1' => Self::HardLink,
            b'2' => Self::Symlink,
            b'3' => Self::CharDevice,
            b'4' => Self::BlockDevice,
            b'5' => Self::Directory,
            b'6' => Self::Fifo,
            _ => Self::Other,
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    /// Length of the file, holes included.
    pub(crate) size: u64,
    pub(crate) mtime: Mtime,
    pub(crate) device: (i64, i64),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The parts that are stored, if there are holes.
    pub(crate) parts: Option<Vec<Part>>,
}

/// Reads an archive.
#[derive(Debug)]
pub(crate) struct Tar {
    stream: Stream,
    limits: Limits,
    /// Data of the current entry that was not read yet, and the padding after it.
    remaining: u64,
    padding: u64,
}

/// What stands before an entry's own header.
#[derive(Default)]
struct Prelude {
    pax: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Tar {
    pub(crate) fn new(stream: Stream, limits: Limits) -> Self {
        Self { stream, limits, remaining: 0, padding: 0 }
    }

    /// The next entry; what was not read of the last one's data is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut prelude = Prelude::default();
        let mut headers: u64 = 0;
        loop {
            self.skip_data()?;
            let Some((block, offset)) = self.block()? else { return Ok(None) };
            let header = Header::parse(&block).map_err(malformed(offset))?;
            match header.type_flag {
                b'x' | b'g' | b'L' | b'K' => {
                    headers += BLOCK as u64 + u64::try_from(header.size).unwrap_or(u64::MAX / 2);
                    if headers > self.limits.header_bytes {
                        return Err(ArchiveError::Limit { limit: Limit::Headers });
                    }
                    let data = self.special(&header, offset)?;
                    match header.type_flag {
                        b'x' => prelude.pax = Pax::parse(&data).map_err(malformed(offset))?,
                        b'L' => prelude.long_name = Some(text(&data).to_vec()),
                        b'K' => prelude.long_link = Some(text(&data).to_vec()),
                        // A header for all entries: nothing in it is for layers.
                        _ => {}
                    }
                }
                _ => return self.entry(&header, &block, prelude, offset).map(Some),
            }
        }
    }

    /// Data of the current entry that is at hand; none at its end.
    pub(crate) fn data(&mut self) -> Result<&[u8], ArchiveError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let remaining = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let available = self.stream.fill()?;
        if available.is_empty() {
            return Err(ArchiveError::Truncated { what: "a file" });
        }
        Ok(&available[..available.len().min(remaining)])
    }

    /// Takes data that [`Tar::data`] showed.
    pub(crate) fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.remaining -= count as u64;
    }

    /// Reads all that is left of the current entry's data, at most `limit` bytes.
    pub(crate) fn read_all(&mut self, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if self.remaining > limit {
            return Err(ArchiveError::Limit { limit: Limit::Content });
        }
        let mut bytes = Vec::new();
        loop {
            let data = self.data()?;
            if data.is_empty() {
                return Ok(bytes);
            }
            let count = data.len();
            bytes.extend_from_slice(data);
            self.consume(count);
        }
    }

    /// Reads to the end of the stream, whatever follows the archive, and returns the digest of it all.
    pub(crate) fn finish(self) -> Result<Digest, ArchiveError> {
        self.stream.finish()
    }

    fn entry(
        &mut self,
        header: &Header,
        block: &Block,
        prelude: Prelude,
        offset: u64,
    ) -> Result<Entry, ArchiveError> {
        let pax = prelude.pax;
        let name = prelude.long_name.or(pax.path).unwrap_or_else(|| header.name.clone());
        let link = prelude.long_link.or(pax.link).unwrap_or_else(|| header.link.clone());
        let stored = u64::try_from(pax.size.unwrap_or(header.size))
            .map_err(|_| malformed(offset)("its size is negative"))?;
        let kind = EntryKind::of(header.type_flag, &name);
        self.begin_data(if matches!(kind, EntryKind::File | EntryKind::Other) { stored } else { 0 });
        let mtime = pax.mtime.unwrap_or(Mtime { seconds: header.mtime, nanoseconds: 0 });
        let mut entry = Entry {
            name,
            link,
            kind,
            mode: u32::try_from(header.mode & 0o7777).unwrap_or(0),
            uid: pax.uid.unwrap_or(header.uid),
            gid: pax.gid.unwrap_or(header.gid),
            size: self.remaining,
            mtime,
            device: (header.major, header.minor),
            xattrs: pax.xattrs,
            parts: None,
        };
        if kind != EntryKind::File {
            return Ok(entry);
        }
        if header.type_flag == b'S' {
            self.old_sparse(header, block, &mut entry, offset)?;
        } else {
            let real_size = pax.sparse.size.or(pax.sparse.real_size);
            let form = sparse::pax_form(&pax.sparse).map_err(malformed(offset))?;
            let parts = match form {
                PaxForm::None => return Ok(entry),
                PaxForm::InHeader(parts) => parts,
                PaxForm::InData => self.map_in_data(offset)?,
            };
            if let Some(name) = pax.sparse.name {
                entry.name = name;
            }
            if let Some(real_size) = real_size {
                entry.size =
                    u64::try_from(real_size).map_err(|_| malformed(offset)("its size is negative"))?;
            }
            entry.parts = Some(parts);
        }
        let parts = entry.parts.as_deref().unwrap_or_default();
        sparse::validate(parts, entry.size, self.remaining).map_err(malformed(offset))?;
        Ok(entry)
    }

    /// GNU's own form: the map is in the header and in blocks right after it.
    fn old_sparse(
        &mut self,
        header: &Header,
        block: &Block,
        entry: &mut Entry,
        offset: u64,
    ) -> Result<(), ArchiveError> {
        if header.dialect != Dialect::Gnu {
            return Err(malformed(offset)("a sparse file is not in GNU's dialect"));
        }
        let real_size = super::header::number(&block[483..495]).map_err(malformed(offset))?;
        entry.size = u64::try_from(real_size).map_err(|_| malformed(offset)("its size is negative"))?;
        let mut parts = sparse::old_parts(block, 386, 4).map_err(malformed(offset))?;
        let mut extended = block[482] != 0;
        let mut blocks = 0;
        while extended {
            blocks += BLOCK as u64;
            if blocks > self.limits.header_bytes {
                return Err(ArchiveError::Limit { limit: Limit::Headers });
            }
            let mut block = [0; BLOCK];
            if self.stream.read_full(&mut block)? < BLOCK {
                return Err(ArchiveError::Truncated { what: "a sparse map" });
            }
            parts.extend(sparse::old_parts(&block, 0, 21).map_err(malformed(offset))?);
            extended = block[504] != 0;
        }
        entry.parts = Some(parts);
        Ok(())
    }

    /// Version 1.0: decimal numbers, a line each, in blocks at the start of the data.
    fn map_in_data(&mut self, offset: u64) -> Result<Vec<Part>, ArchiveError> {
        let mut numbers = Vec::new();
        let mut expected: Option<usize> = None;
        let mut line = Vec::new();
        let mut used: u64 = 0;
        while expected.is_none_or(|expected| numbers.len() < expected) {
            used += BLOCK as u64;
            if used > self.limits.header_bytes {
                return Err(ArchiveError::Limit { limit: Limit::Headers });
            }
            let mut block = [0; BLOCK];
            if self.remaining < BLOCK as u64 || self.stream.read_full(&mut block)? < BLOCK {
                return Err(ArchiveError::Truncated { what: "a sparse map" });
            }
            self.remaining -= BLOCK as u64;
            for byte in block {
                if expected.is_some_and(|expected| numbers.len() == expected) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let number = decimal(&line).map_err(malformed(offset))?.unwrap_or(-1);
                line.clear();
                match expected {
                    None => {
                        let count = usize::try_from(number).ok().and_then(|count| count.checked_mul(2));
                        expected =
                            Some(count.ok_or_else(|| malformed(offset)("its sparse map is malformed"))?);
                    }
                    Some(_) => numbers.push(number),
                }
            }
        }
        sparse::pairs(&numbers).map_err(malformed(offset))
    }

    /// The data of an entry that describes another one.
    fn special(&mut self, header: &Header, offset: u64) -> Result<Vec<u8>, ArchiveError> {
        let size = u64::try_from(header.size).map_err(|_| malformed(offset)("its size is negative"))?;
        self.begin_data(size);
        self.read_all(self.limits.header_bytes)
    }

    fn begin_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_data(&mut self) -> Result<(), ArchiveError> {
        while self.remaining > 0 {
            let count = self.data()?.len();
            self.consume(count);
        }
        while self.padding > 0 {
            let available = self.stream.fill()?.len();
            if available == 0 {
                // Some writers leave out the padding of the last file, and the end.
                self.padding = 0;
                break;
            }
            let count = available.min(usize::try_from(self.padding).unwrap_or(BLOCK));
            self.stream.consume(count);
            self.padding -= count as u64;
        }
        Ok(())
    }

    /// The next header block and its offset; none at the end, which is two zero blocks or that of the stream.
    fn block(&mut self) -> Result<Option<(Block, u64)>, ArchiveError> {
        let offset = self.stream.offset();
        let mut block = [0; BLOCK];
        match self.stream.read_full(&mut block)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(ArchiveError::Truncated { what: "a header" }),
        }
        if block.iter().any(|byte| *byte != 0) {
            return Ok(Some((block, offset)));
        }
        match self.stream.read_full(&mut block)? {
            0 => Ok(None),
            BLOCK if block.iter().all(|byte| *byte == 0) => Ok(None),
            BLOCK => Err(malformed(offset)("only one zero block stands before it")),
            _ => Err(ArchiveError::Truncated { what: "the end" }),
        }
    }
}

fn malformed(offset: u64) -> impl Fn(&'static str) -> ArchiveError {
    move |reason| ArchiveError::Header { offset, reason }
}
