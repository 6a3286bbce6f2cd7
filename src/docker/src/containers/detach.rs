//! The keys that end a session and leave the process running.

use crate::http::{ApiError, Result};

/// Watches input for a sequence of keys.
#[derive(Debug, Clone)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them have been typed.
    seen: usize,
}

impl DetachKeys {
    /// A sequence as people write it: `ctrl-p,ctrl-q`, which is also the usual one.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
        let keys = text.split(',').map(key).collect::<Option<Vec<u8>>>();
        let keys = keys.ok_or_else(|| ApiError::bad(format!("invalid escape keys ({text}) provided")))?;
        Ok(Self { keys, seen: 0 })
    }

    /// What of the input goes on to the process, and whether the sequence is complete. Keys that may begin it are
    /// held back until it is clear that they do not.
    pub(super) fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(input.len());
        for byte in input {
            if self.keys.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.seen]);
            self.seen = usize::from(self.keys.first() == Some(byte));
            if self.seen == 0 {
                passed.push(*byte);
            } else if self.keys.len() == 1 {
                return (passed, true);
            }
        }
        (passed, false)
    }
}

/// A key: a letter or sign, or one held together with ctrl.
fn key(text: &str) -> Option<u8> {
    match text.strip_prefix("ctrl-").map(str::as_bytes) {
        Some([c @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => {
            Some(c.to_ascii_uppercase() & 0x1f)
        }
        Some(_) => None,
        None => match text.as_bytes() {
            [c] if c.is_ascii() => Some(*c),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_found_across_pieces() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"ls\n"), (b"ls\n".to_vec(), false));
        assert_eq!(keys.filter(b"\x10"), (vec![], false));
        assert_eq!(keys.filter(b"x\x10"), (b"\x10x".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest"), (vec![], true));
        let mut again = DetachKeys::parse("").unwrap();
        assert_eq!(again.filter(b"\x10\x10\x11"), (b"\x10".to_vec(), true));
    }

    #[test]
    fn keys_have_names() {
        assert_eq!(DetachKeys::parse("a,ctrl-[").unwrap().keys, [b'a', 0x1b]);
        for bad in ["ctrl-", "ctrl-A", "ab", "a,,b"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
        let mut one = DetachKeys::parse("q").unwrap();
        assert_eq!(one.filter(b"abq"), (b"ab".to_vec(), true));
    }
}
