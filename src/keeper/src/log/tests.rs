//! Pumps with real pipes and files.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::file::LogFile;
use super::format::Channel;
use super::pump::{Output, Source};
use super::pumps::{Command, Note, PumpId, Pumps};
use super::split::Splitter;
use crate::protocol::{Log, LogFormat};

struct Fixture {
    directory: tempfile::TempDir,
    pumps: Pumps,
    pump: PumpId,
    writer: std::fs::File,
}

impl Fixture {
    fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let (reader, writer) = sys::pipe::pair().unwrap();
        let mut pumps = Pumps::new().unwrap();
        let file = LogFile::open(log(directory.path().join("log"))).unwrap();
        let pump = pumps.add(output(reader, Some(file))).unwrap();
        Fixture { directory, pumps, pump, writer: writer.into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Ends the output and waits until the log is complete; the directory lives as long as what is returned.
    fn drained(self) -> tempfile::TempDir {
        drop(self.writer);
        self.pumps.tell(self.pump, Command::Exited { key: 1 }).unwrap();
        wait_note(&self.pumps, |note| matches!(note, Note::Drained { key: 1 }));
        self.directory
    }
}

fn log(path: PathBuf) -> Log {
    Log { path, format: LogFormat::Cri, max_bytes: None, max_files: None }
}

fn output(reader: OwnedFd, file: Option<LogFile>) -> Output {
    sys::pipe::set_nonblocking(reader.as_fd(), true).unwrap();
    let source = Source { fd: reader, channel: Channel::Stdout, splitter: Splitter::default(), grown: false };
    Output { key: 1, sources: vec![source], file, taps: Vec::new(), exited: false }
}

fn wait_note(pumps: &Pumps, wanted: impl Fn(&Note) -> bool) -> Note {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(note) = pumps.notes().into_iter().find(&wanted) {
            return note;
        }
        assert!(Instant::now() < end, "no such note");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn entries(path: &Path) -> Vec<Vec<u8>> {
    let log = std::fs::read(path).unwrap();
    let lines = log.strip_suffix(b"\n").map(|log| log.split(|byte| *byte == b'\n'));
    lines.into_iter().flatten().map(|line| line[31..].to_vec()).collect()
}

/// Writes `total` bytes of lines of `length` bytes; returns bytes and lines per second.
fn rate(length: usize, total: usize) -> (f64, f64) {
    let mut fixture = Fixture::new();
    let line = [vec![b'x'; length - 1], vec![b'\n']].concat();
    let block = line.repeat((64 * 1024 / length).max(1));
    let (path, begin) = (fixture.path("log"), Instant::now());
    let mut written = 0;
    while written < total {
        fixture.writer.write_all(&block).unwrap();
        written += block.len();
    }
    let _directory = fixture.drained();
    let seconds = begin.elapsed().as_secs_f64();
    let expected = written / length * ("1970-01-01T00:00:00.000000000Z stdout F ".len() + length);
    assert_eq!(std::fs::metadata(path).unwrap().len(), expected as u64);
    (written as f64 / seconds, (written / length) as f64 / seconds)
}

#[test]
fn nothing_is_lost_at_full_speed() {
    let release = !cfg!(debug_assertions);
    let total = if release { 512 << 20 } else { 8 << 20 };
    for (length, total) in [(100, total), (2, total / 16), (1000, total)] {
        let (bytes, lines) = rate(length, total);
        println!("{length} B lines: {:.0} MB/s, {:.2} M lines/s", bytes / 1e6, lines / 1e6);
    }
}

#[test]
fn an_exit_waits_for_the_last_bytes_but_not_for_a_pipe_held_open() {
    let fixture = Fixture::new();
    let path = fixture.path("log");
    let mut writer = &fixture.writer;
    writer.write_all(b"last words\nhalf").unwrap();
    let held = fixture.writer.try_clone().unwrap();
    fixture.pumps.tell(fixture.pump, Command::Exited { key: 1 }).unwrap();
    let begin = Instant::now();
    wait_note(&fixture.pumps, |note| matches!(note, Note::Drained { key: 1 }));
    assert!(begin.elapsed() >= Duration::from_millis(200) && begin.elapsed() < Duration::from_secs(2));
    (&held).write_all(b" a line\n").unwrap();
    drop(held);
    drop(fixture.writer);
    let end = Instant::now() + Duration::from_secs(10);
    while entries(&path).len() < 2 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(entries(&path), [&b"stdout F last words"[..], b"stdout F half a line"]);
}

#[test]
fn reopening_under_load_loses_no_line() {
    let fixture = Fixture::new();
    let path = fixture.path("log");
    let lines = 200_000;
    let mut writer = fixture.writer.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        let mut block = Vec::new();
        for n in 0..lines {
            writeln!(block, "{n}").unwrap();
            if block.len() > 3000 {
                writer.write_all(&block).unwrap();
                block.clear();
            }
        }
        writer.write_all(&block).unwrap();
    });
    let mut rotated = Vec::new();
    while !thread.is_finished() {
        let to = fixture.path(&format!("log.{}", rotated.len()));
        std::fs::rename(&path, &to).unwrap();
        rotated.push(to);
        let ticket = rotated.len() as u64;
        fixture.pumps.tell(fixture.pump, Command::Reopen { key: 1, ticket }).unwrap();
        wait_note(&fixture.pumps, |note| matches!(note, Note::Done { result: Ok(()), .. }));
    }
    thread.join().unwrap();
    let _directory = fixture.drained();
    rotated.push(path);
    let numbers: Vec<Vec<u8>> = rotated.iter().flat_map(|path| entries(path)).collect();
    assert!(rotated.len() > 3, "only {} files", rotated.len());
    let expected: Vec<Vec<u8>> = (0..lines).map(|n| format!("stdout F {n}").into_bytes()).collect();
    assert!(numbers == expected, "{} lines", numbers.len());
}

#[test]
fn a_tap_gets_the_output_and_a_slow_one_is_cut() {
    let fixture = Fixture::new();
    let (tap, to_tap) = sys::pipe::pair().unwrap();
    let (slow, to_slow) = sys::pipe::pair().unwrap();
    let fds = |fd| vec![fd];
    fixture.pumps.tell(fixture.pump, Command::Attach { key: 1, fds: fds(to_tap), ticket: 1 }).unwrap();
    fixture.pumps.tell(fixture.pump, Command::Attach { key: 1, fds: fds(to_slow), ticket: 2 }).unwrap();
    wait_note(&fixture.pumps, |note| matches!(note, Note::Done { ticket: 2, result: Ok(()) }));
    let total = 1 << 20;
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(tap), &mut all).unwrap();
        all.len()
    });
    let begin = Instant::now();
    (&fixture.writer).write_all(&b"0123456\n".repeat(total / 8)).unwrap();
    // The slow one held the output up for as long as it may, and no longer.
    assert!(begin.elapsed() >= Duration::from_millis(1900), "{:?}", begin.elapsed());
    let path = fixture.path("log");
    let _directory = fixture.drained();
    assert_eq!(reader.join().unwrap(), total);
    assert_eq!(entries(&path).len(), total / 8);
    drop(slow);
}

#[test]
fn a_stopped_pump_returns_all_and_another_goes_on() {
    let mut fixture = Fixture::new();
    (&fixture.writer).write_all(b"one\ntw").unwrap();
    let path = fixture.path("log");
    let end = Instant::now() + Duration::from_secs(10);
    while entries(&path).is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    fixture.pumps.stop();
    while !fixture.pumps.stopped() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let outputs = fixture.pumps.collect();
    assert_eq!(outputs.len(), 1);
    (&fixture.writer).write_all(b"o\n").unwrap();
    for output in outputs {
        fixture.pump = fixture.pumps.add(output).unwrap();
    }
    let _directory = fixture.drained();
    assert_eq!(entries(&path), [&b"stdout F one"[..], b"stdout F two"]);
}
