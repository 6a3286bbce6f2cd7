//! Extended headers of POSIX archives: records of `length key=value\n`.

use sys::tree::Mtime;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records of one extended header that matter to extraction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<i64>,
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    pub(crate) mtime: Option<Mtime>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: SparseKeys,
}

/// What GNU tar says about sparse files in POSIX archives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SparseKeys {
    pub(crate) major: Option<Vec<u8>>,
    pub(crate) minor: Option<Vec<u8>>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<i64>,
    pub(crate) real_size: Option<i64>,
    pub(crate) map: Option<Vec<u8>>,
    /// Offsets and lengths in turn, each in a record of its own.
    pub(crate) pairs: Vec<i64>,
}

impl Pax {
    /// Reads the records. Of several with the same key the last one counts; an empty value takes back.
    pub(crate) fn parse(mut data: &[u8]) -> Result<Self, &'static str> {
        let mut pax = Self::default();
        while !data.is_empty() {
            let (key, value, rest) = record(data)?;
            pax.set(key, value)?;
            data = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = without_zero(value)?,
            b"linkpath" => self.link = without_zero(value)?,
            b"size" => self.size = decimal(value)?,
            b"uid" => self.uid = decimal(value)?,
            b"gid" => self.gid = decimal(value)?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"GNU.sparse.major" => self.sparse.major = text(),
            b"GNU.sparse.minor" => self.sparse.minor = text(),
            b"GNU.sparse.name" => self.sparse.name = without_zero(value)?,
            b"GNU.sparse.size" => self.sparse.size = decimal(value)?,
            b"GNU.sparse.realsize" => self.sparse.real_size = decimal(value)?,
            b"GNU.sparse.map" => self.sparse.map = text(),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let is_length = key == b"GNU.sparse.numbytes";
                if (self.sparse.pairs.len() % 2 == 1) != is_length {
                    return Err("its sparse map is malformed");
                }
                self.sparse.pairs.push(decimal(value)?.ok_or("its sparse map is malformed")?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Key, value, and what follows.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits off the first record.
fn record(data: &[u8]) -> Result<Record<'_>, &'static str> {
    const BAD: &str = "an extended record in it is malformed";
    let space = data.iter().take(20).position(|byte| *byte == b' ').ok_or(BAD)?;
    let digits = &data[..space];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    let length: usize = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(BAD)?;
    if length < space + 3 || length > data.len() || data[length - 1] != b'\n' {
        return Err(BAD);
    }
    let body = &data[space + 1..length - 1];
    let equals = body.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(BAD);
    }
    Ok((key, value, &data[length..]))
}

fn without_zero(value: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    if value.contains(&0) {
        return Err("a name in it contains a zero byte");
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

pub(crate) fn decimal(value: &[u8]) -> Result<Option<i64>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).map_err(|_| "a number in it is malformed")?;
    text.parse().map(Some).map_err(|_| "a number in it is malformed")
}

/// Seconds since 1970 with an optional fraction, possibly negative.
fn time(value: &[u8]) -> Result<Mtime, &'static str> {
    const BAD: &str = "a time in it is malformed";
    let text = std::str::from_utf8(value).map_err(|_| BAD)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| BAD)?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BAD);
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    if whole.starts_with('-') && nanoseconds > 0 {
        // -1.25 is 0.75 s after -2.
        return Ok(Mtime { seconds: seconds.saturating_sub(1), nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Ok(Mtime { seconds, nanoseconds })
}
