//! How two streams share one connection: each piece behind a header of its stream and length.

use bytes::{BufMut, Bytes, BytesMut};

/// Which stream a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// The server's own words, which clients report as an error.
    System = 3,
}

/// One piece behind its header.
pub(crate) fn frame(stream: Stream, payload: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(8 + payload.len());
    framed.put_slice(&[stream as u8, 0, 0, 0]);
    // A piece is a line or a buffer, far below 4 GiB.
    framed.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    framed.put_slice(payload);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_stream_and_length() {
        assert_eq!(frame(Stream::Stderr, b"hi").as_ref(), b"\x02\0\0\0\0\0\0\x02hi");
        assert_eq!(frame(Stream::System, b"").as_ref(), b"\x03\0\0\0\0\0\0\0");
        assert_eq!(frame(Stream::Stdout, &[7; 300])[4..8], [0, 0, 1, 44]);
    }
}
