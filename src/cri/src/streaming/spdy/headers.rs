//! Header blocks: name-value pairs, compressed with one zlib stream per direction.
//!
//! The streams start with a dictionary that the SPDY/3 draft fixes, and each block ends with a sync
//! flush. A block that cannot be inflated spoils all that follow, so every error here ends the
//! connection. Sizes are bounded before anything is allocated: a block of a few bytes may claim
//! billions of pairs or inflate to gigabytes.

use std::sync::OnceLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Most bytes a block may inflate to.
const MAX_BLOCK_BYTES: usize = 32 * 1024;
/// Most pairs in a block.
const MAX_PAIRS: usize = 128;

/// Names that the dictionary holds, each with its length in front.
const DICTIONARY_NAMES: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base \
    content-encoding content-language content-length content-location content-md5 content-range content-type \
    date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since \
    last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer \
    retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate \
    method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin";
/// What follows the names.
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416\
    417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request\
    401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented\
    503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// A header block that breaks the rules.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum HeaderError {
    #[error("header block does not inflate")]
    Compression,
    #[error("header block inflates to more than {MAX_BLOCK_BYTES} bytes")]
    TooLarge,
    #[error("header block with {0} pairs")]
    TooMany(u32),
    #[error("header block ends within a pair or after its last")]
    Length,
    #[error("header that is not text")]
    Text,
}

/// Name-value pairs in the order they came, names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// First value of a name given in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn parse(mut block: &[u8]) -> Result<Self, HeaderError> {
        let count = take_u32(&mut block)?;
        if usize::try_from(count).map_or(true, |c| c > MAX_PAIRS) {
            return Err(HeaderError::TooMany(count));
        }
        let mut pairs = Vec::new();
        for _ in 0..count {
            let name = take_text(&mut block)?.to_ascii_lowercase();
            // Several values of one name are joined by NUL; the first is the one that counts here.
            let value = take_text(&mut block)?.split('\0').next().unwrap_or_default().to_owned();
            pairs.push((name, value));
        }
        if block.is_empty() { Ok(Self(pairs)) } else { Err(HeaderError::Length) }
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = length(self.0.len()).to_vec();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&length(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
        block
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).into())
    }
}

/// Compresses the blocks of one direction, in the order they are sent.
pub(crate) struct HeaderEncoder(Compress);

impl HeaderEncoder {
    pub(crate) fn new() -> Self {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(dictionary()).expect("a fresh deflate stream takes a dictionary");
        Self(zlib)
    }

    pub(crate) fn encode(&mut self, headers: &Headers) -> Vec<u8> {
        let block = headers.to_block();
        let mut out = Vec::with_capacity(block.len() + 128);
        let mut rest = block.as_slice();
        loop {
            let before = self.0.total_in();
            self.0
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .expect("deflate in memory does not fail");
            rest = &rest[advance(before, self.0.total_in())..];
            if rest.is_empty() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(256);
        }
    }
}

/// Inflates the blocks of one direction, in the order they arrive.
pub(crate) struct HeaderDecoder(Decompress);

impl HeaderDecoder {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(crate) fn decode(&mut self, compressed: &[u8]) -> Result<Headers, HeaderError> {
        let mut out = Vec::with_capacity(1024);
        let mut rest = compressed;
        while !rest.is_empty() || out.len() == out.capacity() {
            out.reserve(1024);
            let (before_in, before_out) = (self.0.total_in(), out.len());
            let result = self.0.decompress_vec(rest, &mut out, FlushDecompress::Sync);
            rest = &rest[advance(before_in, self.0.total_in())..];
            if out.len() > MAX_BLOCK_BYTES {
                return Err(HeaderError::TooLarge);
            }
            match result {
                Ok(Status::StreamEnd) => return Err(HeaderError::Compression),
                // No progress although there is input and room: the block is damaged.
                Ok(_) if rest.is_empty() || out.len() > before_out => {}
                Ok(_) if self.0.total_in() > before_in => {}
                Ok(_) => return Err(HeaderError::Compression),
                Err(error) => self.offer_dictionary(&error)?,
            }
        }
        Headers::parse(&out)
    }

    fn offer_dictionary(&mut self, error: &flate2::DecompressError) -> Result<(), HeaderError> {
        error.needs_dictionary().ok_or(HeaderError::Compression)?;
        self.0.set_dictionary(dictionary()).map(drop).map_err(|_| HeaderError::Compression)
    }
}

fn dictionary() -> &'static [u8] {
    static DICTIONARY: OnceLock<Vec<u8>> = OnceLock::new();
    DICTIONARY.get_or_init(|| {
        let mut bytes = Vec::new();
        for name in DICTIONARY_NAMES.split_whitespace() {
            let name = name.replace('_', " ");
            bytes.extend_from_slice(&length(name.len()));
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes.extend_from_slice(DICTIONARY_TAIL.as_bytes());
        bytes
    })
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

/// How far a counter of zlib moved during one call.
fn advance(before: u64, after: u64) -> usize {
    usize::try_from(after - before).expect("a call consumes no more than it was given")
}

fn take_u32(block: &mut &[u8]) -> Result<u32, HeaderError> {
    let (head, tail) = block.split_first_chunk::<4>().ok_or(HeaderError::Length)?;
    *block = tail;
    Ok(u32::from_be_bytes(*head))
}

fn take_text<'a>(block: &mut &'a [u8]) -> Result<&'a str, HeaderError> {
    let len = usize::try_from(take_u32(block)?).map_err(|_| HeaderError::Length)?;
    let (head, tail) = block.split_at_checked(len).ok_or(HeaderError::Length)?;
    *block = tail;
    std::str::from_utf8(head).map_err(|_| HeaderError::Text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Checksum of the dictionary as the SPDY/3 draft gives it, which zlib puts into the first block.
    const DICTIONARY_ADLER: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];

    #[test]
    fn the_dictionary_is_the_one_of_the_draft() {
        assert_eq!(dictionary().len(), 1423);
        let block = HeaderEncoder::new().encode(&Headers::default());
        assert_eq!(block[2..6], DICTIONARY_ADLER, "{block:x?}");
    }

    #[test]
    fn blocks_share_one_stream() {
        let (mut encoder, mut decoder) = (HeaderEncoder::new(), HeaderDecoder::new());
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let headers = Headers::from([("streamtype", "data"), ("port", "8080"), ("requestid", "17")]);
            let block = encoder.encode(&headers);
            sizes.push(block.len());
            assert_eq!(decoder.decode(&block), Ok(headers));
        }
        assert!(sizes[1] < sizes[0], "{sizes:?}");
    }

    #[test]
    fn large_blocks_and_counts_are_refused() {
        let big = "x".repeat(MAX_BLOCK_BYTES);
        let block = HeaderEncoder::new().encode(&Headers::from([("name", big.as_str())]));
        assert!(block.len() < 1024);
        assert_eq!(HeaderDecoder::new().decode(&block), Err(HeaderError::TooLarge));
        assert_eq!(Headers::parse(&u32::MAX.to_be_bytes()), Err(HeaderError::TooMany(u32::MAX)));
        assert_eq!(Headers::parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), Err(HeaderError::Length));
    }

    #[test]
    fn names_are_lowered_and_the_first_value_counts() {
        let block = HeaderEncoder::new().encode(&Headers::from([("StreamType", "data\0error")]));
        let headers = HeaderDecoder::new().decode(&block).unwrap();
        assert_eq!(headers.get("streamtype"), Some("data"));
    }

    proptest! {
        #[test]
        fn round_trip(blocks in prop::collection::vec(
            prop::collection::vec(("[a-z-]{1,20}", "[ -~]{0,300}"), 0..20), 1..5,
        )) {
            let (mut encoder, mut decoder) = (HeaderEncoder::new(), HeaderDecoder::new());
            for pairs in blocks {
                let headers = Headers(pairs);
                prop_assert_eq!(decoder.decode(&encoder.encode(&headers)), Ok(headers));
            }
        }

        #[test]
        fn damaged_blocks_are_errors_or_headers(mut cut in 0usize..80, flip in any::<(usize, u8)>()) {
            let mut block = HeaderEncoder::new().encode(&Headers::from([("streamtype", "stdin"), ("port", "80")]));
            let at = flip.0 % block.len();
            block[at] ^= flip.1;
            cut = cut.min(block.len());
            let _: Result<_, _> = HeaderDecoder::new().decode(&block[..block.len() - cut]);
        }

        #[test]
        fn any_block_is_an_error_or_headers(block in prop::collection::vec(any::<u8>(), 0..200)) {
            let _: Result<_, _> = Headers::parse(&block);
            let _: Result<_, _> = HeaderDecoder::new().decode(&block);
        }
    }
}
