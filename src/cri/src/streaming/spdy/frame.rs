//! Frames of SPDY/3.1: bytes in, frames out, and back.
//!
//! The decoder is fed whatever arrived and never waits for more than one control frame: data frames,
//! which may claim 16 MiB, come out in pieces as they arrive. Control frames are bounded by
//! [`MAX_CONTROL_BYTES`] before their body is buffered, and kinds that do not matter here are skipped.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{HeaderDecoder, HeaderEncoder, HeaderError, Headers};

/// Longest body of a control frame.
pub(crate) const MAX_CONTROL_BYTES: usize = 16 * 1024;
/// Longest piece of a data frame, in both directions.
pub(crate) const MAX_PIECE_BYTES: usize = 16 * 1024;
/// Largest window that the protocol knows.
pub(crate) const MAX_WINDOW: u32 = 0x7fff_ffff;

const FRAME_HEADER_BYTES: usize = 8;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const SETTING_INITIAL_WINDOW: u32 = 7;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Reasons of RST_STREAM that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum ResetReason {
    InvalidStream = 2,
    Refused = 3,
}

/// A frame, or a piece of a data frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A new stream. `fin`: its opener will send nothing on it.
    SynStream {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    /// The stream is accepted.
    SynReply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    /// The stream ends at once, in both directions.
    RstStream {
        stream: u32,
        reason: u32,
    },
    /// Settings, of which only the initial window of streams matters.
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway,
    /// More headers on a stream. Nobody needs them, but they move the compression on.
    Headers {
        stream: u32,
        fin: bool,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// Bytes of a stream. `fin` is only set on the last piece of a frame.
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
}

/// Input that is not SPDY/3.1, or more than we take. The connection cannot go on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("control frame of version {0}")]
    Version(u16),
    #[error("control frame of kind {kind} with {bytes} bytes")]
    Length { kind: u16, bytes: usize },
    #[error("decode headers")]
    Headers(#[from] HeaderError),
}

/// What is left of a data frame.
struct Body {
    stream: u32,
    fin: bool,
    left: usize,
}

/// Turns bytes into frames.
pub(crate) struct Decoder {
    headers: HeaderDecoder,
    body: Option<Body>,
    skip: usize,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { headers: HeaderDecoder::new(), body: None, skip: 0 }
    }

    /// Takes the next frame off the input; `None` means that more input is needed.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            let skipped = self.skip.min(input.len());
            input.advance(skipped);
            self.skip -= skipped;
            if self.skip > 0 {
                return Ok(None);
            }
            if let Some(body) = self.body.take() {
                return Ok(self.piece(body, input));
            }
            let Some(&[a, b, c, d, flags, x, y, z]) = input.first_chunk::<FRAME_HEADER_BYTES>() else {
                return Ok(None);
            };
            let word = u32::from_be_bytes([a, b, c, d]);
            let length = u32::from_be_bytes([0, x, y, z]) as usize;
            if word >> 31 == 0 {
                input.advance(FRAME_HEADER_BYTES);
                self.body = Some(Body { stream: word, fin: flags & FLAG_FIN != 0, left: length });
                continue;
            }
            let (version, kind) = (u16::from_be_bytes([a & 0x7f, b]), u16::from_be_bytes([c, d]));
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            if length > MAX_CONTROL_BYTES {
                return Err(FrameError::Length { kind, bytes: length });
            }
            if !matches!(kind, SYN_STREAM..=SETTINGS | PING..=WINDOW_UPDATE) {
                input.advance(FRAME_HEADER_BYTES);
                self.skip = length;
                continue;
            }
            if input.len() < FRAME_HEADER_BYTES + length {
                return Ok(None);
            }
            input.advance(FRAME_HEADER_BYTES);
            let body = input.split_to(length).freeze();
            return self.control(kind, flags & FLAG_FIN != 0, body).map(Some);
        }
    }

    fn piece(&mut self, mut body: Body, input: &mut BytesMut) -> Option<Frame> {
        let take = body.left.min(input.len()).min(MAX_PIECE_BYTES);
        if take == 0 && body.left > 0 {
            self.body = Some(body);
            return None;
        }
        body.left -= take;
        let (stream, last) = (body.stream, body.left == 0);
        let fin = body.fin && last;
        if !last {
            self.body = Some(body);
        }
        Some(Frame::Data { stream, fin, data: input.split_to(take).freeze() })
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, FrameError> {
        let bytes = body.len();
        let short = FrameError::Length { kind, bytes };
        let fixed = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | HEADERS | SETTINGS | PING => 4,
            _ => 8,
        };
        let open_ended = matches!(kind, SYN_STREAM | SYN_REPLY | HEADERS | SETTINGS);
        if bytes < fixed || (bytes > fixed && !open_ended) {
            return Err(short);
        }
        let first = body.get_u32();
        let stream = first & MAX_WINDOW;
        Ok(match kind {
            SYN_STREAM => {
                // The associated stream, the priority and the credential slot mean nothing here.
                body.advance(6);
                Frame::SynStream { stream, fin, headers: self.headers.decode(&body)? }
            }
            SYN_REPLY => Frame::SynReply { stream, fin, headers: self.headers.decode(&body)? },
            RST_STREAM => Frame::RstStream { stream, reason: body.get_u32() },
            SETTINGS => Frame::Settings { initial_window: initial_window(first, body).ok_or(short)? },
            PING => Frame::Ping(first),
            GOAWAY => Frame::GoAway,
            HEADERS => {
                self.headers.decode(&body)?;
                Frame::Headers { stream, fin }
            }
            _ => Frame::WindowUpdate { stream, delta: body.get_u32() & MAX_WINDOW },
        })
    }
}

/// `None`: the body is not as long as `count` entries. The count itself allocates nothing.
fn initial_window(count: u32, mut body: Bytes) -> Option<Option<u32>> {
    if usize::try_from(count).ok()?.checked_mul(8)? != body.len() {
        return None;
    }
    let mut window = None;
    while body.has_remaining() {
        let id = body.get_u32() & 0x00ff_ffff;
        let value = body.get_u32();
        if id == SETTING_INITIAL_WINDOW {
            window = Some(value.min(MAX_WINDOW));
        }
    }
    Some(window)
}

/// Turns frames into bytes.
pub(crate) struct Encoder {
    headers: HeaderEncoder,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { headers: HeaderEncoder::new() }
    }

    /// Appends the frame. Data must be no longer than [`MAX_PIECE_BYTES`].
    pub(crate) fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream { stream, fin, headers } => {
                let block = self.headers.encode(headers);
                control(out, SYN_STREAM, *fin, 10 + block.len());
                out.put_u32(*stream);
                out.put_bytes(0, 6);
                out.put_slice(&block);
            }
            Frame::SynReply { stream, fin, headers } => {
                let block = self.headers.encode(headers);
                control(out, SYN_REPLY, *fin, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(&block);
            }
            Frame::RstStream { stream, reason } => pair(out, RST_STREAM, *stream, *reason),
            Frame::Settings { initial_window } => {
                let count = u32::from(initial_window.is_some());
                control(out, SETTINGS, false, 4 + 8 * count as usize);
                out.put_u32(count);
                if let Some(window) = initial_window {
                    out.put_u32(SETTING_INITIAL_WINDOW);
                    out.put_u32(*window);
                }
            }
            Frame::Ping(id) => {
                control(out, PING, false, 4);
                out.put_u32(*id);
            }
            Frame::GoAway => pair(out, GOAWAY, 0, 0),
            Frame::Headers { stream, fin } => {
                let block = self.headers.encode(&Headers::default());
                control(out, HEADERS, *fin, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(&block);
            }
            Frame::WindowUpdate { stream, delta } => pair(out, WINDOW_UPDATE, *stream, *delta),
            Frame::Data { stream, fin, data } => {
                out.put_u32(*stream);
                put_flags_and_length(out, *fin, data.len());
                out.put_slice(data);
            }
        }
    }
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(out, kind, false, 8);
    out.put_u32(first);
    out.put_u32(second);
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_flags_and_length(out, fin, length);
}

fn put_flags_and_length(out: &mut BytesMut, fin: bool, length: usize) {
    out.put_u8(if fin { FLAG_FIN } else { 0 });
    out.put_uint(length as u64, 3);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Settings { initial_window: Some(1 << 20) },
            Frame::SynStream { stream: 1, fin: false, headers: Headers::from([("streamtype", "error")]) },
            Frame::SynStream { stream: 3, fin: true, headers: Headers::from([("streamtype", "stdin")]) },
            Frame::SynReply { stream: 1, fin: false, headers: Headers::default() },
            Frame::Headers { stream: 1, fin: true },
            Frame::Data { stream: 1, fin: false, data: Bytes::from_static(b"hello") },
            Frame::Data { stream: 1, fin: true, data: Bytes::new() },
            Frame::WindowUpdate { stream: 0, delta: 5 },
            Frame::RstStream { stream: 3, reason: ResetReason::Refused as u32 },
            Frame::Ping(7),
            Frame::GoAway,
        ]
    }

    fn encode(frames: &[Frame]) -> BytesMut {
        let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
        for frame in frames {
            encoder.encode(frame, &mut out);
        }
        out
    }

    /// Feeds the input in steps of `step` bytes.
    fn decode(input: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
        let (mut decoder, mut buffer, mut frames) = (Decoder::new(), BytesMut::new(), Vec::new());
        for chunk in input.chunks(step) {
            buffer.extend_from_slice(chunk);
            while let Some(frame) = decoder.decode(&mut buffer)? {
                frames.push(frame);
            }
            assert!(buffer.len() <= MAX_CONTROL_BYTES + FRAME_HEADER_BYTES + step);
        }
        Ok(frames)
    }

    /// Joins the pieces of data frames.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut out: Vec<Frame> = Vec::new();
        for frame in frames {
            match (out.last_mut(), frame) {
                (
                    Some(Frame::Data { stream, fin: fin @ false, data }),
                    Frame::Data { stream: next, fin: last, data: more },
                ) if *stream == next => {
                    *data = [data.as_ref(), more.as_ref()].concat().into();
                    *fin = last;
                }
                (_, frame) => out.push(frame),
            }
        }
        out
    }

    #[test]
    fn every_frame_survives_any_split() {
        let wire = encode(&frames());
        for step in 1..=wire.len() {
            assert_eq!(joined(decode(&wire, step).unwrap()), joined(frames()), "in steps of {step}");
        }
    }

    #[test]
    fn large_data_frames_come_in_pieces() {
        let mut wire = BytesMut::new();
        wire.put_u32(5);
        put_flags_and_length(&mut wire, true, 50_000);
        wire.put_bytes(b'x', 50_000);
        let frames = decode(&wire, wire.len()).unwrap();
        let sizes: Vec<_> = frames
            .iter()
            .map(|frame| match frame {
                Frame::Data { stream: 5, fin, data } => (data.len(), *fin),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes, [(16384, false), (16384, false), (16384, false), (848, true)]);
    }

    #[test]
    fn unknown_frames_are_skipped() {
        let mut wire = BytesMut::new();
        control(&mut wire, 10, false, 100);
        wire.put_bytes(0xff, 100);
        pair(&mut wire, WINDOW_UPDATE, 1, 2);
        assert_eq!(decode(&wire, 3).unwrap(), [Frame::WindowUpdate { stream: 1, delta: 2 }]);
    }

    #[test]
    fn lying_lengths_are_refused() {
        let mut wire = BytesMut::new();
        control(&mut wire, SYN_STREAM, false, MAX_CONTROL_BYTES + 1);
        let length = FrameError::Length { kind: SYN_STREAM, bytes: MAX_CONTROL_BYTES + 1 };
        assert_eq!(decode(&wire, 8), Err(length));

        for count in [2, u32::MAX, 0x2000_0001] {
            let mut wire = BytesMut::new();
            control(&mut wire, SETTINGS, false, 12);
            wire.put_u32(count);
            wire.put_bytes(0, 8);
            assert_eq!(decode(&wire, 20), Err(FrameError::Length { kind: SETTINGS, bytes: 12 }));
        }

        let mut wire = BytesMut::new();
        control(&mut wire, PING, false, 5);
        wire.put_bytes(0, 5);
        assert_eq!(decode(&wire, 20), Err(FrameError::Length { kind: PING, bytes: 5 }));
        assert_eq!(decode(&[0x80, 2, 0, 1, 0, 0, 0, 0], 8), Err(FrameError::Version(2)));
    }

    proptest! {
        #[test]
        fn any_input_is_frames_or_an_error(input in prop::collection::vec(any::<u8>(), 0..400), step in 1usize..50) {
            let _: Result<_, _> = decode(&input, step);
        }

        #[test]
        fn any_damage_is_frames_or_an_error(flips in prop::collection::vec(any::<(usize, u8)>(), 1..5), step in 1usize..50) {
            let mut wire = encode(&frames());
            for (at, with) in flips {
                let at = at % wire.len();
                wire[at] ^= with;
            }
            let _: Result<_, _> = decode(&wire, step);
        }

        #[test]
        fn any_control_body_is_a_frame_or_an_error(kind in 0u16..12, body in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut wire = BytesMut::new();
            control(&mut wire, kind, false, body.len());
            wire.put_slice(&body);
            let _: Result<_, _> = decode(&wire, wire.len());
        }
    }
}
