//! The bytes of one log entry.

use super::timestamp;
use crate::protocol::LogFormat;

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Channel {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Channel {
    /// As array index.
    pub(crate) fn index(self) -> usize {
        match self {
            Channel::Stdout => 0,
            Channel::Stderr => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
        }
    }
}

/// Writes entries that share a time and a channel.
#[derive(Debug)]
pub(crate) struct Encoder {
    format: LogFormat,
    /// What goes before the bytes of a whole line.
    full: Vec<u8>,
    /// What goes before the bytes of a part of a line (CRI).
    part: Vec<u8>,
    /// What goes after the bytes (json-file).
    tail: Vec<u8>,
}

impl Encoder {
    /// For entries of `channel` read at `now_ns`.
    pub(crate) fn new(format: LogFormat, channel: Channel, now_ns: i64) -> Encoder {
        let time = timestamp::format(now_ns);
        let name = channel.name();
        match format {
            LogFormat::Cri => {
                let prefix =
                    |tag: &str| [&time[..], b" ", name.as_bytes(), b" ", tag.as_bytes(), b" "].concat();
                Encoder { format, full: prefix("F"), part: prefix("P"), tail: Vec::new() }
            }
            LogFormat::JsonFile => {
                let start = br#"{"log":""#.to_vec();
                let tail =
                    [br#"","stream":""#, name.as_bytes(), br#"","time":""#, &time[..], b"\"}\n"].concat();
                Encoder { format, full: start, part: Vec::new(), tail }
            }
        }
    }

    /// Appends one entry: a whole line, or part of one.
    #[inline]
    pub(crate) fn entry(&self, out: &mut Vec<u8>, bytes: &[u8], whole: bool) {
        match self.format {
            LogFormat::Cri => {
                out.reserve(self.full.len() + bytes.len() + 1);
                out.extend_from_slice(if whole { &self.full } else { &self.part });
                out.extend_from_slice(bytes);
                out.push(b'\n');
            }
            LogFormat::JsonFile => {
                out.extend_from_slice(&self.full);
                escape_json(out, bytes);
                if whole {
                    out.extend_from_slice(br"\n");
                }
                out.extend_from_slice(&self.tail);
            }
        }
    }

    /// Where to cut the first `limit` bytes of a longer line: for formats that hold text, not within a
    /// character.
    pub(crate) fn cut(&self, bytes: &[u8], limit: usize) -> usize {
        match self.format {
            LogFormat::Cri => limit,
            LogFormat::JsonFile => {
                let is_start = |at: &usize| bytes.get(*at).is_none_or(|byte| byte & 0xC0 != 0x80);
                (limit.saturating_sub(3)..=limit).rev().find(is_start).unwrap_or(limit)
            }
        }
    }
}

/// Appends `bytes` as the inside of a JSON string, as Go's encoder writes it; bytes that are not UTF-8 become
/// U+FFFD.
fn escape_json(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid().as_bytes();
        let mut done = 0;
        for (at, byte) in text.iter().enumerate() {
            if let Some(escape) = escape_of(*byte) {
                out.extend_from_slice(&text[done..at]);
                escape.append(out, *byte);
                done = at + 1;
            }
        }
        out.extend_from_slice(&text[done..]);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(br"\ufffd");
        }
    }
}

enum Escape {
    Short(u8),
    Hex,
}

impl Escape {
    fn append(&self, out: &mut Vec<u8>, byte: u8) {
        match self {
            Escape::Short(letter) => out.extend_from_slice(&[b'\\', *letter]),
            Escape::Hex => {
                let hex = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte)]);
            }
        }
    }
}

fn escape_of(byte: u8) -> Option<Escape> {
    match byte {
        b'"' | b'\\' => Some(Escape::Short(byte)),
        b'\n' => Some(Escape::Short(b'n')),
        b'\r' => Some(Escape::Short(b'r')),
        b'\t' => Some(Escape::Short(b't')),
        0..=0x1f | 0x7f | b'<' | b'>' | b'&' => Some(Escape::Hex),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(format: LogFormat, bytes: &[u8], whole: bool) -> String {
        let mut out = Vec::new();
        Encoder::new(format, Channel::Stderr, 0).entry(&mut out, bytes, whole);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn cri_entries() {
        assert_eq!(entry(LogFormat::Cri, b"hi", true), "1970-01-01T00:00:00.000000000Z stderr F hi\n");
        assert_eq!(entry(LogFormat::Cri, b"", false), "1970-01-01T00:00:00.000000000Z stderr P \n");
    }

    #[test]
    fn json_entries_are_json_whatever_the_bytes() {
        let line = entry(LogFormat::JsonFile, b"a\"\\\x1b<\xff\xc3\xa9\0", true);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["log"], "a\"\\\u{1b}<\u{fffd}é\0\n");
        assert_eq!(value["stream"], "stderr");
        assert_eq!(value["time"], "1970-01-01T00:00:00.000000000Z");
        assert!(line.contains(r"\u003c") && line.ends_with("}\n") && line.matches('\n').count() == 1);
    }
}
