//! One 512-byte header block of a tar archive.

/// Size of a block.
pub(crate) const BLOCK: usize = 512;

/// A block as it was read.
pub(crate) type Block = [u8; BLOCK];

/// The dialect that a header's magic announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Before POSIX: no magic.
    V7,
    /// POSIX.
    Ustar,
    /// Star, with a shorter prefix.
    Star,
    /// GNU.
    Gnu,
}

/// The fields of a header, numbers decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) dialect: Dialect,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) type_flag: u8,
    pub(crate) mode: i64,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) size: i64,
    pub(crate) mtime: i64,
    pub(crate) major: i64,
    pub(crate) minor: i64,
}

impl Header {
    /// Decodes a block that is not all zero. An error says what is wrong.
    pub(crate) fn parse(block: &Block) -> Result<Self, &'static str> {
        check_sum(block)?;
        let dialect = dialect(block);
        let mut header = Self {
            dialect,
            name: text(&block[0..100]).to_vec(),
            link: text(&block[157..257]).to_vec(),
            type_flag: block[156],
            mode: number(&block[100..108])?,
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            size: number(&block[124..136])?,
            mtime: number(&block[136..148])?,
            major: 0,
            minor: 0,
        };
        if dialect != Dialect::V7 {
            header.major = number(&block[329..337])?;
            header.minor = number(&block[337..345])?;
        }
        let prefix = match dialect {
            Dialect::Ustar => text(&block[345..500]),
            Dialect::Star => text(&block[345..476]),
            Dialect::V7 | Dialect::Gnu => &[],
        };
        if !prefix.is_empty() {
            let mut name = prefix.to_vec();
            name.push(b'/');
            name.append(&mut header.name);
            header.name = name;
        }
        Ok(header)
    }
}

fn dialect(block: &Block) -> Dialect {
    match (&block[257..263], &block[263..265], &block[508..512]) {
        (b"ustar\0", _, b"tar\0") => Dialect::Star,
        (b"ustar\0", _, _) => Dialect::Ustar,
        (b"ustar ", b" \0", _) => Dialect::Gnu,
        _ => Dialect::V7,
    }
}

/// The sum of all bytes, those of the sum itself taken for spaces; old writers summed signed bytes.
fn check_sum(block: &Block) -> Result<(), &'static str> {
    let expected = number(&block[148..156])?;
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if expected == unsigned || expected == signed { Ok(()) } else { Err("its checksum is wrong") }
}

/// The bytes before the first zero.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number: octal digits, or, if the first bit is set, big-endian two's complement.
pub(crate) fn number(field: &[u8]) -> Result<i64, &'static str> {
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        return binary(field);
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let field = &field[start..];
    let end = field.iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1);
    let digits = text(&field[..end]);
    let mut value: i64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err("a number in it is not octal");
        }
        let shifted = value.checked_mul(8).ok_or("a number in it is too large")?;
        value = shifted + i64::from(digit - b'0');
    }
    Ok(value)
}

fn binary(field: &[u8]) -> Result<i64, &'static str> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        // The first bit marks the encoding; the second is the sign.
        let byte = match (at, negative) {
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        value = (value << 8) | i128::from(byte);
        if i64::try_from(value).is_err() {
            return Err("a number in it is too large");
        }
    }
    i64::try_from(value).map_err(|_| "a number in it is too large")
}
