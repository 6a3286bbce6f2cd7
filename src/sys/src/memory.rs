//! Memory of this process that it can do without for now.

use std::io;
use std::path::Path;
use std::time::Duration;

/// Gives back what the process does not need at the moment: free heap, and pages of its program's code and
/// constants, most of which only its start or rare requests use. Code that is used again is mapped again from
/// the page cache, at a few microseconds for 64 KiB. Returns the bytes of code that were let go.
///
/// # Errors
/// The list of mappings cannot be read (proc_pid_smaps(5)).
pub fn give_back() -> io::Result<u64> {
    trim_heap();
    let program = std::fs::read_link("/proc/self/exe")?;
    let text = std::fs::read_to_string("/proc/self/smaps")?;
    let mut bytes = 0;
    for mapping in disposable(&text, &program) {
        if let (Ok(start), Ok(length)) = (usize::try_from(mapping.start), usize::try_from(mapping.length)) {
            bytes += let_go(start, length);
        }
    }
    Ok(bytes)
}

/// Processor time that all threads of this process have used so far.
pub fn processor_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(spent.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(spent.tv_nsec).unwrap_or(0))
}

#[cfg(target_env = "gnu")]
fn trim_heap() {
    // SAFETY: malloc_trim(3) takes the allocator's own locks and frees only what nobody has allocated.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim_heap() {}

/// A part of the address space.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    length: u64,
}

/// Mappings of `program` in the text of `/proc/pid/smaps` whose pages are all the file's own: not writable, and
/// none was changed before it was made read-only, as relocated constants are.
fn disposable(smaps: &str, program: &Path) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut candidate: Option<Mapping> = None;
    for line in smaps.lines() {
        if let Some(mapping) = header(line) {
            candidate = mapping.filter(|_| line.ends_with(&*program.to_string_lossy()));
        } else if let Some(rest) = line.strip_prefix("Anonymous:")
            && let Some(mapping) = candidate.take()
            && rest.trim() == "0 kB"
        {
            found.push(mapping);
        }
    }
    found
}

/// `Some` for a line that opens a mapping, with its range if it is private and cannot be written.
fn header(line: &str) -> Option<Option<Mapping>> {
    let mut fields = line.split(' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let length = u64::from_str_radix(end, 16).ok()?.checked_sub(start)?;
    let mode = fields.next()?;
    Some(matches!(mode, "r-xp" | "r--p").then_some(Mapping { start, length }))
}

/// Drops the pages of a mapping that [`disposable`] found.
fn let_go(start: usize, length: usize) -> u64 {
    // SAFETY: the range is a private, unwritable mapping of the program's file without changed pages, and no code
    // changes its protection after the start: what is read there later comes from the file, as before
    // (madvise(2), MADV_DONTNEED).
    let outcome =
        unsafe { libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_DONTNEED) };
    if outcome == 0 { length as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0-55e0 r--p 00000000 08:01 77 /usr/bin/p
Rss:                   4 kB
Anonymous:             0 kB
55e0-5600 r-xp 00010000 08:01 77 /usr/bin/p
Anonymous:             0 kB
5600-5610 r--p 00030000 08:01 77 /usr/bin/p
Anonymous:            12 kB
5610-5620 rw-p 00040000 08:01 77 /usr/bin/p
Anonymous:             0 kB
7f00-7f10 r-xp 00000000 08:01 78 /usr/lib/libc.so
Anonymous:             0 kB
";

    #[test]
    fn only_unchanged_pages_of_the_program_are_disposable() {
        let expected = vec![Mapping { start: 0x55d0, length: 0x10 }, Mapping { start: 0x55e0, length: 0x20 }];
        assert_eq!(disposable(SMAPS, Path::new("/usr/bin/p")), expected);
        assert_eq!(disposable(SMAPS, Path::new("/usr/bin/q")), vec![]);
    }

    fn resident_file_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn the_program_goes_on_with_less() {
        let before = resident_file_kib();
        assert!(give_back().unwrap() > 0);
        let after = resident_file_kib();
        assert!(after < before, "{after} KiB of {before} KiB are left");
        let again: Vec<u64> = (0..1000).map(|n| n * n).collect();
        assert_eq!(again.iter().sum::<u64>(), 332_833_500);
    }

    #[test]
    fn processor_time_grows_with_work() {
        let before = processor_time();
        let mut text = String::new();
        while processor_time() < before + Duration::from_millis(5) {
            text = format!("{}{}", &text[..text.len().min(100)], text.len());
        }
        assert!(processor_time() - before >= Duration::from_millis(5));
    }
}
