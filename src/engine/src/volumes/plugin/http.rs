//! One request to a plugin: HTTP/1.1 over a unix or TCP socket, a JSON document each way, with bounds on time and size.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Largest answer that is read.
const MAX_BODY: u64 = 1 << 20;
/// Largest line of a head, and how many there may be.
const MAX_LINE: u64 = 8 << 10;
const MAX_LINES: usize = 100;
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Where a plugin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp(String),
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

trait Connection: Read + Write {
    /// Bounds each read and write from now on.
    fn bound(&self, timeout: Duration) -> io::Result<()>;
}

impl Connection for UnixStream {
    fn bound(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

impl Connection for TcpStream {
    fn bound(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

/// A connection that no read or write of goes beyond a deadline.
struct Bounded {
    connection: Box<dyn Connection>,
    deadline: Instant,
}

impl Bounded {
    fn check(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the plugin did not answer in time"));
        }
        self.connection.bound(left)
    }
}

fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "the plugin did not answer in time")
        }
        _ => error,
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.connection.read(buffer).map_err(timed_out)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.connection.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.connection.flush()
    }
}

/// Connects; an error here means that nothing was sent.
fn connect(address: &Address, timeout: Duration) -> io::Result<Box<dyn Connection>> {
    match address {
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path)?)),
        Address::Tcp(host) => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
            for address in host.to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, timeout) {
                    Ok(stream) => return Ok(Box::new(stream)),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

/// Sends a document to a method, and reads the answer.
pub(super) fn post(address: &Address, method: &str, body: &Value, timeout: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + timeout;
    let mut connection = Bounded { connection: connect(address, timeout)?, deadline };
    let host = match address {
        Address::Unix(_) => "plugin.moby.localhost",
        Address::Tcp(host) => host,
    };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let head = format!(
        "POST /{method} HTTP/1.1\r\nHost: {host}\r\nAccept: {MEDIA_TYPE}\r\nContent-Type: {MEDIA_TYPE}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(&body)?;
    read_answer(&mut BufReader::new(connection))
}

fn read_answer(reader: &mut impl BufRead) -> io::Result<Answer> {
    loop {
        let status = line(reader)?;
        let mut words = status.split_ascii_whitespace();
        let version = words.next().unwrap_or_default();
        let code = words.next().and_then(|code| code.parse::<u16>().ok());
        let Some(status) = code.filter(|_| version.starts_with("HTTP/1.")) else {
            return Err(malformed("its answer is not HTTP/1"));
        };
        let (length, chunked) = fields(reader)?;
        if (100..200).contains(&status) {
            continue;
        }
        let body = match (chunked, length) {
            (true, _) => chunks(reader)?,
            (false, Some(length)) => exactly(reader, length)?,
            (false, None) => to_end(reader)?,
        };
        return Ok(Answer { status, body });
    }
}

/// The fields of a head that say how long the body is.
fn fields(reader: &mut impl BufRead) -> io::Result<(Option<u64>, bool)> {
    let (mut length, mut chunked) = (None, false);
    for _ in 0..MAX_LINES {
        let field = line(reader)?;
        if field.is_empty() {
            return Ok((length, chunked));
        }
        let Some((name, value)) = field.split_once(':') else {
            return Err(malformed("a field of its answer is malformed"));
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse().map_err(|_| malformed("the length of its answer is no number"))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        }
    }
    Err(malformed("its answer has too many fields"))
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(MAX_LINE).read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(malformed("its answer ends in the middle of a line, or has too long a one"));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| malformed("the head of its answer is not text"))
}

fn exactly(reader: &mut impl BufRead, length: u64) -> io::Result<Vec<u8>> {
    if length > MAX_BODY {
        return Err(malformed("its answer is too long"));
    }
    let mut body = Vec::new();
    if reader.take(length).read_to_end(&mut body)? as u64 != length {
        return Err(malformed("its answer is cut off"));
    }
    Ok(body)
}

fn to_end(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if reader.take(MAX_BODY + 1).read_to_end(&mut body)? as u64 > MAX_BODY {
        return Err(malformed("its answer is too long"));
    }
    Ok(body)
}

fn chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let head = line(reader)?;
        let digits = head.split(';').next().unwrap_or_default().trim();
        let size =
            u64::from_str_radix(digits, 16).map_err(|_| malformed("a chunk of its answer has no length"))?;
        if size == 0 {
            return Ok(body);
        }
        if body.len() as u64 + size > MAX_BODY {
            return Err(malformed("its answer is too long"));
        }
        body.extend(exactly(reader, size)?);
        line(reader)?;
    }
}

fn malformed(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Answer> {
        read_answer(&mut BufReader::new(text.as_bytes()))
    }

    #[test]
    fn answers_of_all_shapes_are_read_and_bounded() {
        let answer = read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}rest").unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));
        let chunked = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\n{}\r\n0\r\n\r\n";
        assert_eq!((read(chunked).unwrap().status, read(chunked).unwrap().body), (500, b"{}".to_vec()));
        assert_eq!(read("HTTP/1.0 200 OK\r\n\r\nall").unwrap().body, b"all");
        for bad in [
            "",
            "SSH-2.0\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
