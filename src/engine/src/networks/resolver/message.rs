//! DNS messages (RFC 1035), as little as a resolver needs that answers for names it knows and hands on the rest: one
//! question in, addresses and names out. What comes in is bytes of a container. Pure.
//!
//! A wire library would bring more code than this file has, for records that are never looked into.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Record type of an IPv4 address.
pub(crate) const A: u16 = 1;
/// Record type of a name for an address.
pub(crate) const PTR: u16 = 12;
/// Record type of an IPv6 address.
pub(crate) const AAAA: u16 = 28;
/// Record type of any.
pub(crate) const ANY: u16 = 255;
const OPT: u16 = 41;
const INTERNET: u16 = 1;
const HEADER: usize = 12;
const MAX_NAME: usize = 255;
/// What a client of UDP takes that says nothing else, and the most it is believed.
const UDP_BYTES: usize = 512;
const MAX_UDP_BYTES: usize = 4096;
const TTL_S: u32 = 600;
const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;

/// How a question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Answered, if with nothing.
    NoError = 0,
    /// The question cannot be read.
    Malformed = 1,
    /// Nobody could be asked.
    ServerFailure = 2,
    /// There is no such name.
    NoSuchName = 3,
    /// Not something that is answered here.
    NotImplemented = 4,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    id: u16,
    flags: u16,
    /// In lower case, labels joined by dots, without one at the end; `None` if a label has bytes that no name of ours has.
    pub(crate) name: Option<String>,
    pub(crate) kind: u16,
    /// The question section as it came.
    question: Vec<u8>,
    /// Most bytes that the client takes by UDP.
    pub(crate) udp_bytes: usize,
}

/// A message that is no question that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Nothing is said to whoever sent it.
    Ignore,
    /// The answer to send.
    Answer(Vec<u8>),
}

/// Data of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// An address.
    Address(IpAddr),
    /// A name for an address.
    Name(String),
}

/// Reads a question.
pub(crate) fn parse(bytes: &[u8]) -> Result<Query, Unreadable> {
    let word = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (Some(id), Some(flags)) = (word(0), word(2)) else { return Err(Unreadable::Ignore) };
    if flags & RESPONSE != 0 || bytes.len() < HEADER {
        // Two servers that answer each other's answers would never end.
        return Err(Unreadable::Ignore);
    }
    let refuse = |code: Code| Unreadable::Answer(header(id, flags, code, [0; 4]).to_vec());
    if flags & OPCODE != 0 {
        return Err(refuse(Code::NotImplemented));
    }
    if word(4) != Some(1) {
        return Err(refuse(Code::Malformed));
    }
    let (name, end) = read_name(bytes, HEADER).ok_or_else(|| refuse(Code::Malformed))?;
    let (Some(kind), Some(class)) = (word(end), word(end + 2)) else { return Err(refuse(Code::Malformed)) };
    if class != INTERNET {
        return Err(refuse(Code::NotImplemented));
    }
    let question = bytes.get(HEADER..end + 4).unwrap_or_default().to_vec();
    let only_additional = word(6) == Some(0) && word(8) == Some(0) && word(10) == Some(1);
    let udp_bytes = if only_additional { udp_bytes(bytes, end + 4) } else { UDP_BYTES };
    Ok(Query { id, flags, name, kind, question, udp_bytes })
}

/// A name at an offset, and where it ends. Questions have no pointers.
fn read_name(bytes: &[u8], mut at: usize) -> Option<(Option<String>, usize)> {
    let mut name = Some(String::new());
    let start = at;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if length > 63 || at + length - start > MAX_NAME {
            return None;
        }
        let label = bytes.get(at..at + length)?;
        at += length;
        let plain = label.iter().all(|b| b.is_ascii_graphic() && *b != b'.');
        name = name.filter(|_| plain).map(|mut name| {
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
            name
        });
    }
}

/// What the pseudo record of EDNS (RFC 6891) says that the client takes.
fn udp_bytes(bytes: &[u8], at: usize) -> usize {
    let Some([0, kind_high, kind_low, high, low]) = bytes.get(at..at + 5) else { return UDP_BYTES };
    if u16::from_be_bytes([*kind_high, *kind_low]) != OPT {
        return UDP_BYTES;
    }
    usize::from(u16::from_be_bytes([*high, *low])).clamp(UDP_BYTES, MAX_UDP_BYTES)
}

fn header(id: u16, flags: u16, code: Code, counts: [u16; 4]) -> [u8; HEADER] {
    let flags = RESPONSE | RECURSION_AVAILABLE | (flags & (OPCODE | RECURSION_DESIRED)) | code as u16;
    let mut bytes = [0; HEADER];
    let words = [id, flags, counts[0], counts[1], counts[2], counts[3]];
    for (place, word) in bytes.chunks_exact_mut(2).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

impl Query {
    /// An answer of at most `limit` bytes; what does not fit is left out, and the client told so.
    pub(crate) fn answer(&self, code: Code, answers: &[Data], limit: usize) -> Vec<u8> {
        let mut body = self.question.clone();
        let mut count = 0u16;
        let mut is_cut = false;
        for data in answers {
            let record = record(self.kind, data);
            if HEADER + body.len() + record.len() > limit.max(UDP_BYTES) {
                is_cut = true;
                break;
            }
            body.extend_from_slice(&record);
            count += 1;
        }
        let flags = self.flags;
        let mut message = header(self.id, flags, code, [1, count, 0, 0]).to_vec();
        if is_cut {
            let flags = u16::from_be_bytes([message[2], message[3]]) | TRUNCATED;
            message[2..4].copy_from_slice(&flags.to_be_bytes());
        }
        message.extend_from_slice(&body);
        message
    }

    /// Whether a message of an upstream answers this question, asked under another id.
    pub(crate) fn is_answered_by(&self, message: &[u8], id: u16) -> bool {
        let word = |at: usize| message.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let is_response = word(2).is_some_and(|flags| flags & RESPONSE != 0);
        let question = message.get(HEADER..HEADER + self.question.len());
        word(0) == Some(id)
            && is_response
            && word(4) == Some(1)
            && question.is_some_and(|q| q.eq_ignore_ascii_case(&self.question))
    }

    /// Puts the client's id into a message.
    pub(crate) fn restore_id(&self, message: &mut [u8]) {
        set_id(message, self.id);
    }
}

/// Replaces the id of a message.
pub(crate) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// Whether another server may know better: it failed, or would not say.
pub(crate) fn is_no_answer(message: &[u8]) -> bool {
    const REFUSED: u8 = 5;
    message.get(3).is_none_or(|b| matches!(b & 0xf, 2 | REFUSED))
}

/// Whether a message was cut to fit a datagram.
#[cfg(test)]
pub(crate) fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|b| b & 2 != 0)
}

fn record(kind: u16, data: &Data) -> Vec<u8> {
    let (own, bytes) = match data {
        Data::Address(IpAddr::V4(ip)) => (A, ip.octets().to_vec()),
        Data::Address(IpAddr::V6(ip)) => (AAAA, ip.octets().to_vec()),
        Data::Name(name) => (PTR, encode_name(name)),
    };
    debug_assert!(kind == own || kind == ANY, "an answer is of the type that was asked for");
    // The name is the question's, which begins right after the header.
    let mut record = vec![0xc0, 12];
    record.extend_from_slice(&own.to_be_bytes());
    record.extend_from_slice(&INTERNET.to_be_bytes());
    record.extend_from_slice(&TTL_S.to_be_bytes());
    record.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
    record.extend_from_slice(&bytes);
    record
}

/// A name in labels; what is too long for one is cut.
fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|l| !l.is_empty()) {
        let label = label.as_bytes();
        let label = label.get(..63).unwrap_or(label);
        if bytes.len() + label.len() + 2 > MAX_NAME {
            break;
        }
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes
}

/// The address that a name of the reverse tree stands for.
pub(crate) fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<u8> = rest.split('.').map(|p| p.parse().ok()).collect::<Option<_>>()?;
        let [d, c, b, a] = <[u8; 4]>::try_from(parts).ok()?;
        return Some(Ipv4Addr::new(a, b, c, d).into());
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let digit = |p: &str| (p.len() == 1).then(|| u128::from_str_radix(p, 16).ok()).flatten();
    let digits: Vec<u128> = rest.split('.').map(digit).collect::<Option<_>>()?;
    let number = digits.iter().rev().fold(0, |all, digit| all << 4 | digit);
    (digits.len() == 32).then(|| Ipv6Addr::from(number).into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A question as a client would send it.
    pub(crate) fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend(encode_name(name));
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&INTERNET.to_be_bytes());
        bytes
    }

    /// Code and addresses of an answer to [`question`].
    pub(crate) fn read_answer(message: &[u8]) -> (u8, Vec<IpAddr>) {
        let count = u16::from_be_bytes([message[6], message[7]]);
        let (_, end) = read_name(message, HEADER).unwrap();
        let mut at = end + 4;
        let mut found = Vec::new();
        for _ in 0..count {
            let length = usize::from(u16::from_be_bytes([message[at + 10], message[at + 11]]));
            let data = &message[at + 12..at + 12 + length];
            match length {
                4 => found.push(IpAddr::from(<[u8; 4]>::try_from(data).unwrap())),
                16 => found.push(IpAddr::from(<[u8; 16]>::try_from(data).unwrap())),
                _ => {}
            }
            at += 12 + length;
        }
        (message[3] & 0xf, found)
    }

    #[test]
    fn questions_are_read_and_answered() {
        let query = parse(&question(7, "Web.Example", A)).unwrap();
        assert_eq!((query.name.as_deref(), query.kind, query.udp_bytes), (Some("web.example"), A, 512));
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let message = query.answer(Code::NoError, &[Data::Address(ip)], 512);
        assert_eq!(message[..4], [0, 7, 0x81, 0x80]);
        assert_eq!(read_answer(&message), (0, vec![ip]));
        assert!(query.is_answered_by(&message, 7));
        assert!(!query.is_answered_by(&message, 8), "another id");
        assert!(!parse(&question(7, "other", A)).unwrap().is_answered_by(&message, 7), "another question");
        let many: Vec<_> = (0..100).map(|_| Data::Address(ip)).collect();
        let cut = query.answer(Code::NoError, &many, query.udp_bytes);
        assert!(cut.len() <= 512 && is_truncated(&cut));
        assert!(!is_truncated(&query.answer(Code::NoError, &many, 65535)));
        let mut with_edns = question(7, "web", A);
        with_edns[11] = 1;
        with_edns.extend_from_slice(&[0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&with_edns).unwrap().udp_bytes, 4096);
    }

    #[test]
    fn what_is_no_question_is_refused_or_ignored() {
        let mut response = question(1, "a", A);
        response[2] |= 0x80;
        assert_eq!(parse(&response), Err(Unreadable::Ignore));
        assert_eq!(parse(&[1, 2, 3]), Err(Unreadable::Ignore));
        let code = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = question(1, "a", A);
            change(&mut bytes);
            match parse(&bytes) {
                Err(Unreadable::Answer(answer)) => answer[3] & 0xf,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(code(&|b| b[5] = 2), 1, "two questions");
        assert_eq!(code(&|b| b[2] = 0x28), 4, "an update");
        assert_eq!(code(&|b| b[12] = 0xc0), 1, "a pointer");
        assert_eq!(code(&|b| b.truncate(15)), 1, "cut");
        let strange = parse(&question(1, "a b", A)).unwrap();
        assert_eq!(strange.name, None);
    }

    #[test]
    fn reverse_names_are_addresses() {
        assert_eq!(reverse_address("2.0.18.172.in-addr.arpa"), Some("172.18.0.2".parse().unwrap()));
        let v6 = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa";
        assert_eq!(reverse_address(v6), Some("4321:0:1:2:3:4:567:89ab".parse().unwrap()));
        for bad in ["18.172.in-addr.arpa", "a.b.c.d.in-addr.arpa", "1.ip6.arpa", "x"] {
            assert_eq!(reverse_address(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_answers_are_bounded(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            match parse(&bytes) {
                Ok(query) => {
                    let ip: IpAddr = "10.0.0.1".parse().unwrap();
                    let data = vec![Data::Address(ip); 300];
                    let mut query = query;
                    query.kind = A;
                    prop_assert!(query.answer(Code::NoError, &data, query.udp_bytes).len() <= MAX_UDP_BYTES);
                    prop_assert!(query.answer(Code::NoSuchName, &[], 512).len() <= bytes.len());
                    let _ = query.is_answered_by(&bytes, 1);
                }
                Err(Unreadable::Answer(answer)) => prop_assert!(answer.len() <= bytes.len()),
                Err(Unreadable::Ignore) => {}
            }
        }

        #[test]
        fn almost_questions_do_not_panic(name in "[a-z.]{0,40}", at in 0usize..60, value: u8) {
            let mut bytes = question(1, &name, A);
            if let Some(place) = bytes.get_mut(at) {
                *place = value;
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn names_of_any_shape_can_be_answered(name in "[a-z.]{0,400}") {
            let encoded = encode_name(&name);
            prop_assert!(encoded.len() <= MAX_NAME);
            prop_assert!(read_name(&encoded, 0).is_some());
        }
    }
}
