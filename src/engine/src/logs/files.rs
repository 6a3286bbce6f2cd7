//! The files of a log: where the last lines begin, what comes after a file that was rotated away.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::LogQuery;
use super::entry::{LogLine, Verdict, judge, parse};
use crate::model::LogFormat;

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// The longest entry that is kept together; what is longer is none that the keeper wrote.
const LONGEST: usize = 1 << 20;

/// Most rotated files that are looked for.
const MOST_FILES: u32 = 1000;

/// Reads a log from some point on.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    format: LogFormat,
    is_numbered: bool,
    query: LogQuery,
    /// Files to be read after the present one, oldest first.
    next: VecDeque<File>,
    file: Option<File>,
    position: u64,
    /// The beginning of an entry whose end has not been read.
    rest: Vec<u8>,
    at_end: bool,
    done: bool,
}

impl Reader {
    pub(super) fn open(
        path: &Path,
        format: LogFormat,
        is_numbered: bool,
        query: LogQuery,
    ) -> io::Result<Self> {
        let mut files: Vec<File> = Vec::new();
        // Newest first; each is held, so that none is missed when they are rotated meanwhile.
        for (number, name) in names(path, is_numbered).enumerate() {
            match File::open(&name) {
                Ok(file) => files.push(file),
                // It has just been rotated away, or was never made.
                Err(error) if error.kind() == io::ErrorKind::NotFound && number == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        let mut position = 0;
        if let Some(mut wanted) = query.tail {
            let mut kept = 0;
            for file in &files {
                kept += 1;
                let (offset, found) = last_entries(file, wanted)?;
                (position, wanted) = (offset, wanted - found);
                if wanted == 0 {
                    break;
                }
            }
            files.truncate(kept);
        }
        let mut next: VecDeque<File> = files.into_iter().rev().collect();
        let file = next.pop_front();
        let path = path.to_owned();
        let (rest, at_end, done) = (Vec::new(), false, false);
        Ok(Self { path, format, is_numbered, query, next, file, position, rest, at_end, done })
    }

    /// Whether there is nothing more to read now.
    pub(super) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Whether there never will be.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Reads about a chunk of entries.
    pub(super) fn read(&mut self, lines: &mut VecDeque<LogLine>) -> io::Result<()> {
        self.at_end = false;
        let mut buffer = vec![0; CHUNK];
        loop {
            if self.file.is_none() && !self.open_newest()? {
                self.at_end = true;
                return Ok(());
            }
            let Some(file) = &mut self.file else { return Ok(()) };
            if file.metadata()?.len() < self.position {
                // It was emptied to begin anew.
                self.position = 0;
                self.rest.clear();
            }
            file.seek(SeekFrom::Start(self.position))?;
            let count = file.read(&mut buffer)?;
            if count == 0 {
                if self.go_on()? {
                    continue;
                }
                self.at_end = true;
                return Ok(());
            }
            self.position += count as u64;
            self.take(buffer.get(..count).unwrap_or_default(), lines);
            if self.done || !lines.is_empty() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, bytes: &[u8], lines: &mut VecDeque<LogLine>) {
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if self.rest.len() + piece.len() <= LONGEST {
                self.rest.extend_from_slice(piece);
            }
            if pieces.peek().is_none() {
                return;
            }
            let entry = std::mem::take(&mut self.rest);
            let Some(line) = parse(self.format, &entry) else { continue };
            match judge(&self.query, &line) {
                Verdict::Wanted => lines.push_back(line),
                Verdict::Skipped => {}
                Verdict::Over => {
                    self.done = true;
                    return;
                }
            }
        }
    }

    /// Goes on with the file after the present one; `false` if that is the newest.
    fn go_on(&mut self) -> io::Result<bool> {
        if let Some(next) = self.next.pop_front() {
            self.begin(next);
            return Ok(true);
        }
        let Some(present) = self.file.as_ref().map(File::metadata).transpose()? else { return Ok(false) };
        let is_present = |m: &std::fs::Metadata| (m.dev(), m.ino()) == (present.dev(), present.ino());
        let mut newer = None;
        for name in names(&self.path, self.is_numbered) {
            let file = match File::open(&name) {
                Ok(file) => file,
                // A rotation is under way; the change that ends it is seen.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            if is_present(&file.metadata()?) {
                break;
            }
            newer = Some(file);
            if !self.is_numbered {
                break;
            }
        }
        match newer {
            Some(file) => {
                // Something may have been written to it before it was rotated away.
                if self
                    .file
                    .as_ref()
                    .map(File::metadata)
                    .transpose()?
                    .is_some_and(|m| m.len() > self.position)
                {
                    return Ok(true);
                }
                self.begin(file);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn open_newest(&mut self) -> io::Result<bool> {
        match File::open(&self.path) {
            Ok(file) => {
                self.begin(file);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn begin(&mut self, file: File) {
        self.file = Some(file);
        self.position = 0;
        self.rest.clear();
    }
}

/// Names a log's files can have, newest first.
fn names(path: &Path, is_numbered: bool) -> impl Iterator<Item = PathBuf> {
    let most = if is_numbered { MOST_FILES } else { 1 };
    (0..most).map(move |number| {
        let mut name = path.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        name.into()
    })
}

/// Where the last `wanted` entries of a file begin, and how many there are of them.
fn last_entries(file: &File, wanted: usize) -> io::Result<(u64, usize)> {
    let length = file.metadata()?.len();
    if wanted == 0 {
        return Ok((length, 0));
    }
    let mut buffer = vec![0; CHUNK];
    let mut found = 0;
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(CHUNK as u64);
        let size = usize::try_from(end - begin).unwrap_or(CHUNK);
        let Some(block) = buffer.get_mut(..size) else { break };
        file.read_exact_at(block, begin)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = begin + at as u64 + 1;
            // The last line break ends the last entry; each other one stands before an entry.
            if after == length {
                continue;
            }
            found += 1;
            if found == wanted {
                return Ok((after, found));
            }
        }
        end = begin;
    }
    Ok((0, if length == 0 { found } else { found + 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: usize) -> String {
        let stream = if n.is_multiple_of(2) { "stdout" } else { "stderr" };
        let (minute, second) = (n / 60, n % 60);
        format!("1970-01-01T00:{minute:02}:{second:02}Z {stream} F line {n}\n")
    }

    fn write(path: &Path, numbers: std::ops::Range<usize>) {
        std::fs::write(path, numbers.map(entry).collect::<String>()).unwrap();
    }

    fn both() -> LogQuery {
        LogQuery { stdout: true, stderr: true, ..LogQuery::default() }
    }

    fn numbers(lines: &VecDeque<LogLine>) -> Vec<usize> {
        let number = |line: &LogLine| {
            let text = String::from_utf8(line.bytes.clone()).unwrap();
            text.trim().strip_prefix("line ").unwrap().parse().unwrap()
        };
        lines.iter().map(number).collect()
    }

    fn rest(reader: &mut Reader) -> Vec<usize> {
        let mut all = Vec::new();
        while !reader.is_done() {
            let mut lines = VecDeque::new();
            reader.read(&mut lines).unwrap();
            all.extend(numbers(&lines));
            if reader.is_at_end() {
                break;
            }
        }
        all
    }

    fn read(path: &Path, query: LogQuery) -> Vec<usize> {
        rest(&mut Reader::open(path, LogFormat::Cri, true, query).unwrap())
    }

    #[test]
    fn the_last_lines_are_found_over_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&dir.path().join("log.2"), 0..2000);
        write(&dir.path().join("log.1"), 2000..3000);
        write(&path, 3000..3003);
        for tail in [0, 1, 2, 3, 4, 500, 1003, 1004, 2500, 3003, 9999] {
            let expected: Vec<usize> = (3003_usize.saturating_sub(tail)..3003).collect();
            assert_eq!(read(&path, LogQuery { tail: Some(tail), ..both() }), expected, "{tail}");
        }
        assert_eq!(read(&path, both()).len(), 3003);
        assert!(read(&dir.path().join("none"), both()).is_empty());
    }

    #[test]
    fn streams_and_times_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, 0..100);
        let at = |seconds: i64| Some(seconds * 1_000_000_000);
        assert_eq!(read(&path, LogQuery { stderr: false, tail: Some(4), ..both() }), [96, 98]);
        let span = LogQuery { since_ns: at(10), until_ns: at(12), ..both() };
        assert_eq!(read(&path, span), [10, 11, 12]);
    }

    #[test]
    fn files_that_are_rotated_meanwhile_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, 0..3);
        let mut reader = Reader::open(&path, LogFormat::Cri, true, both()).unwrap();
        assert_eq!(rest(&mut reader), [0, 1, 2]);
        let append = |path: &Path, text: &str| {
            use std::io::Write;
            std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
        };
        let (begin, end) = (&entry(3)[..10], &entry(3)[10..]);
        append(&path, begin);
        assert!(rest(&mut reader).is_empty(), "half an entry is none");
        append(&path, end);
        assert_eq!(rest(&mut reader), [3]);
        append(&path, &entry(4));
        let moved = |number: u32| dir.path().join(format!("log.{number}"));
        std::fs::rename(&path, moved(1)).unwrap();
        write(&path, 5..7);
        std::fs::rename(moved(1), moved(2)).unwrap();
        std::fs::rename(&path, moved(1)).unwrap();
        write(&path, 7..9);
        assert_eq!(rest(&mut reader), [4, 5, 6, 7, 8]);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        append(&path, &entry(9));
        assert_eq!(rest(&mut reader), [9], "one that is emptied begins anew");
    }
}
