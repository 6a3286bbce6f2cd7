//! Cuts a stream of bytes into log entries.
//!
//! A line longer than [`LIMIT`] becomes several entries: all but the last are parts. What follows the last
//! newline is kept until its line is complete, the limit is reached or the stream ends; at the end it is
//! written as a part, for no newline came.

use super::format::Encoder;

/// Most bytes of a line in one entry, as the CRI has it.
pub(crate) const LIMIT: usize = 16 * 1024;

/// The state between two reads of one stream.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Splitter {
    /// The beginning of a line, at most [`LIMIT`] bytes, without newline.
    rest: Vec<u8>,
}

impl Splitter {
    /// Appends entries for `input` to `out` until `out` has `enough` bytes; returns how much was used.
    pub(crate) fn feed(
        &mut self,
        input: &[u8],
        encoder: &Encoder,
        out: &mut Vec<u8>,
        enough: usize,
    ) -> usize {
        let mut start = if self.rest.is_empty() { 0 } else { self.continue_line(input, encoder, out) };
        if start == input.len() || out.len() >= enough {
            return start;
        }
        let from = start;
        for newline in memchr::memchr_iter(b'\n', &input[from..]) {
            let end = from + newline;
            start = cut_parts(input, start, end, encoder, out);
            encoder.entry(out, &input[start..end], true);
            start = end + 1;
            if out.len() >= enough {
                return start;
            }
        }
        start = cut_parts(input, start, input.len(), encoder, out);
        self.rest.extend_from_slice(&input[start..]);
        input.len()
    }

    /// The stream ended: appends what was kept.
    pub(crate) fn finish(&mut self, encoder: &Encoder, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            encoder.entry(out, &self.rest, false);
            self.rest = Vec::new();
        }
    }

    /// Bytes that are kept.
    #[cfg(test)]
    fn kept(&self) -> usize {
        self.rest.len()
    }

    /// Completes the line that was begun, as far as `input` goes; returns how much of it was used.
    fn continue_line(&mut self, input: &[u8], encoder: &Encoder, out: &mut Vec<u8>) -> usize {
        let room = LIMIT.saturating_sub(self.rest.len());
        let window = &input[..input.len().min(room + 1)];
        let newline = memchr::memchr(b'\n', window);
        if newline.is_none() && window.len() <= room {
            self.rest.extend_from_slice(window);
            return window.len();
        }
        let end = newline.unwrap_or(window.len());
        self.rest.extend_from_slice(&window[..end]);
        let cut = if newline.is_some() { self.rest.len() } else { encoder.cut(&self.rest, LIMIT) };
        encoder.entry(out, &self.rest[..cut], newline.is_some());
        // What the cut left over is within `input`, unless a character straddles: then it is kept.
        let left = self.rest.split_off(cut);
        self.rest = Vec::new();
        let from_input = left.len().min(end);
        self.rest.extend_from_slice(&left[..left.len() - from_input]);
        let used = end - from_input + usize::from(newline.is_some());
        if self.rest.is_empty() { used } else { used + self.continue_line(&input[used..], encoder, out) }
    }
}

/// Writes the parts of the line `input[start..end]` that leave at most [`LIMIT`] bytes of it; returns where
/// the remainder starts.
fn cut_parts(input: &[u8], mut start: usize, end: usize, encoder: &Encoder, out: &mut Vec<u8>) -> usize {
    while end - start > LIMIT {
        let cut = encoder.cut(&input[start..end], LIMIT);
        encoder.entry(out, &input[start..start + cut], false);
        start += cut;
    }
    start
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::format::Channel;
    use super::*;
    use crate::protocol::LogFormat;

    const PREFIX: usize = "1970-01-01T00:00:00.000000000Z stdout ".len();

    /// What the format says, without regard to buffers.
    fn model(bytes: &[u8]) -> Vec<(char, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        let last = lines.pop().unwrap_or(b"");
        let parts = |line: &[u8], entries: &mut Vec<_>| -> Vec<u8> {
            let mut line = line;
            while line.len() > LIMIT {
                entries.push(('P', line[..LIMIT].to_vec()));
                line = &line[LIMIT..];
            }
            line.to_vec()
        };
        for line in lines {
            let tail = parts(line, &mut entries);
            entries.push(('F', tail));
        }
        let tail = parts(last, &mut entries);
        if !tail.is_empty() {
            entries.push(('P', tail));
        }
        entries
    }

    fn run(format: LogFormat, chunks: &[Vec<u8>], enough: usize) -> Vec<u8> {
        let (mut splitter, mut out, mut all) = (Splitter::default(), Vec::new(), Vec::new());
        let encoder = Encoder::new(format, Channel::Stdout, 0);
        for chunk in chunks {
            let mut left = chunk.as_slice();
            while !left.is_empty() {
                let used = splitter.feed(left, &encoder, &mut out, enough);
                left = &left[used..];
                assert!(splitter.kept() <= LIMIT);
                all.append(&mut out);
            }
        }
        splitter.finish(&encoder, &mut out);
        all.append(&mut out);
        all
    }

    fn parse(log: &[u8]) -> Vec<(char, Vec<u8>)> {
        let lines = log.strip_suffix(b"\n").map(|log| log.split(|byte| *byte == b'\n'));
        lines
            .into_iter()
            .flatten()
            .map(|line| (char::from(line[PREFIX]), line[PREFIX + 2..].to_vec()))
            .collect()
    }

    /// Bytes with many newlines, long runs, and lengths around the limit.
    fn chunk() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x')], 0..300),
            (LIMIT - 3..LIMIT + 3).prop_map(|n| vec![b'y'; n]),
            (LIMIT - 3..LIMIT + 3).prop_map(|n| [vec![b'z'; n], vec![b'\n']].concat()),
            (0..4 * LIMIT).prop_map(|n| vec![b'w'; n]),
        ]
    }

    proptest! {
        #[test]
        fn entries_do_not_depend_on_how_the_stream_was_read(
            chunks in proptest::collection::vec(chunk(), 0..12),
            enough in prop_oneof![Just(1), Just(1000), Just(usize::MAX)],
        ) {
            let log = run(LogFormat::Cri, &chunks, enough);
            prop_assert_eq!(parse(&log), model(&chunks.concat()));
        }

        #[test]
        fn json_entries_hold_the_text(text in proptest::collection::vec("[a-zé€😀\n]{0,40}", 0..10), at in 1..50usize, pad in 0..4usize) {
            let whole = format!("{}{}", "é€😀".repeat(LIMIT / 9 + pad), text.concat());
            let chunks: Vec<Vec<u8>> = whole.as_bytes().chunks(at * 997).map(<[u8]>::to_vec).collect();
            let log = run(LogFormat::JsonFile, &chunks, usize::MAX);
            let read: String = serde_json::Deserializer::from_slice(&log)
                .into_iter::<serde_json::Value>()
                .map(|entry| entry.unwrap()["log"].as_str().unwrap().to_owned())
                .collect();
            prop_assert_eq!(read, whole);
        }
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        let line = [vec![b'a'; LIMIT], vec![b'\n']].concat();
        let log = run(LogFormat::Cri, &[line], usize::MAX);
        assert_eq!(parse(&log), [('F', vec![b'a'; LIMIT])]);
    }
}
