//! One file of a control group that stays open between readings, and the numbers in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::group::is_gone;
use super::limits::NO_LIMIT;

/// Room for the largest of the files to begin with.
pub(super) const BUFFER_BYTES: usize = 8 << 10;

/// One file; `None` where it could not be opened, which reads as absent.
#[derive(Debug)]
pub(super) struct Source(Option<File>);

impl Source {
    pub(super) fn open(dir: &Path, file: &str) -> Self {
        Source(File::open(dir.join(file)).ok())
    }

    pub(super) fn absent() -> Self {
        Source(None)
    }

    pub(super) fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// The file's bytes now; none when it is absent. The kernel renders a file anew for each read at offset 0, and
    /// one that is not a list comes whole: a short read is its end.
    pub(super) fn bytes<'b>(&self, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
        self.fill(buffer, |filled, room| filled < room)
    }

    /// As [`Source::bytes`] for a list of any length, which comes in pieces.
    pub(super) fn list<'b>(&self, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
        self.fill(buffer, |_, _| false)
    }

    fn fill<'b>(
        &self,
        buffer: &'b mut Vec<u8>,
        is_end: impl Fn(usize, usize) -> bool,
    ) -> io::Result<&'b [u8]> {
        let Some(file) = &self.0 else { return Ok(&[]) };
        let mut filled = 0;
        loop {
            if filled == buffer.len() {
                buffer.resize((buffer.len() * 2).max(BUFFER_BYTES), 0);
            }
            match file.read_at(&mut buffer[filled..], filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if is_gone(&e) => return Err(io::Error::new(io::ErrorKind::NotFound, e)),
                // The kernel was built with this resource, but booted without its pressure.
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(&[]),
                Err(e) => return Err(e),
            }
            if is_end(filled, buffer.len()) {
                break;
            }
        }
        Ok(&buffer[..filled])
    }

    /// As [`Source::bytes`], as text.
    pub(super) fn text<'b>(&self, buffer: &'b mut Vec<u8>) -> io::Result<&'b str> {
        let bytes = self.bytes(buffer)?;
        std::str::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// The one number in the file.
    pub(super) fn number(&self, buffer: &mut Vec<u8>) -> io::Result<Option<u64>> {
        Ok(number(self.bytes(buffer)?))
    }

    /// As [`Source::number`] for a limit: `None` too where there is no limit.
    pub(super) fn limit(&self, buffer: &mut Vec<u8>) -> io::Result<Option<u64>> {
        Ok(self.number(buffer)?.filter(|&limit| limit < NO_LIMIT))
    }
}

/// A decimal number with nothing but white space around it.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.trim_ascii();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The lines of a file of `key number` lines, the numbers not read yet.
pub(super) fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let space = line.iter().position(|byte| *byte == b' ')?;
        Some((&line[..space], &line[space + 1..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain_decimals() {
        let cases: [(&str, Option<u64>); 8] = [
            ("0\n", Some(0)),
            (" 42 \n", Some(42)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("max\n", None),
            ("-1", None),
            ("1 2", None),
            ("", None),
        ];
        for (text, value) in cases {
            assert_eq!(number(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn pairs_are_lines_with_a_space() {
        let found: Vec<_> = pairs(b"a 1\nno-number\n\nb 2 3").collect();
        assert_eq!(found, [(&b"a"[..], &b"1"[..]), (b"b", b"2 3")]);
    }

    #[test]
    fn a_list_is_read_to_its_end_and_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let long: String = (0..5000).map(|n| format!("{n}\n")).collect();
        std::fs::write(dir.path().join("list"), &long).unwrap();
        let source = Source::open(dir.path(), "list");
        let mut buffer = Vec::new();
        for _ in 0..2 {
            assert_eq!(source.list(&mut buffer).unwrap(), long.as_bytes());
        }
        std::fs::write(dir.path().join("list"), "1\n").unwrap();
        assert_eq!(source.list(&mut buffer).unwrap(), b"1\n");
        assert!(Source::open(dir.path(), "none").list(&mut buffer).unwrap().is_empty());
    }
}
