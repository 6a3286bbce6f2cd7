//! A client of streaming endpoints: channels over WebSocket over TLS, as far as the suites need them.
//!
//! `openssl s_client` carries the bytes: what is tested are the streams, not the certificate.

use std::io::{BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long to wait for the next message.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest message that is read.
const MAX_MESSAGE_BYTES: u64 = 16 << 20;
/// Messages that may wait to be taken.
const QUEUE: usize = 64;
/// Channel whose messages end another channel, since version 5.
const CLOSE_CHANNEL: u8 = 255;

/// A message of a channel; `None` when the server has closed.
type Message = Option<(u8, Vec<u8>)>;

/// A connection; dropping it breaks it off.
#[derive(Debug)]
pub struct WebSocket {
    tunnel: Child,
    input: ChildStdin,
    messages: Receiver<Result<Message>>,
}

/// What came on each channel until the server closed.
#[derive(Debug, Default)]
pub struct Output {
    /// Channel 1.
    pub stdout: String,
    /// Channel 2.
    pub stderr: String,
    /// Channel 3: how it ended.
    pub status: String,
}

impl WebSocket {
    /// Connects to `https://ADDRESS/PATH` and asks for a protocol of channels.
    pub fn connect(address: &str, path: &str, protocol: &str) -> Result<WebSocket> {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-alpn", "http/1.1", "-connect", address]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut tunnel = command.spawn().context("run openssl")?;
        let mut input = tunnel.stdin.take().context("openssl without its input")?;
        let output = tunnel.stdout.take().context("openssl without its output")?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        input.write_all(head.as_bytes()).with_context(|| format!("send a request to {address}"))?;
        let (sender, messages) = sync_channel(QUEUE);
        let wanted = protocol.to_owned();
        std::thread::spawn(move || pump(BufReader::new(output), &wanted, &sender));
        let socket = WebSocket { tunnel, input, messages };
        // The first message of the pump is the upgrade itself.
        socket.receive().with_context(|| format!("upgrade {path} to {protocol}"))?;
        Ok(socket)
    }

    /// Sends a message on a channel.
    pub fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let payload = [&[channel][..], data].concat();
        let mut frame = vec![0x82];
        match u16::try_from(payload.len()) {
            Ok(short @ 0..126) => frame.push(0x80 | short.to_le_bytes()[0]),
            Ok(middle) => {
                frame.push(0x80 | 126);
                frame.extend(middle.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend(u64::try_from(payload.len())?.to_be_bytes());
            }
        }
        // A mask of zeros is a mask.
        frame.extend([0; 4]);
        frame.extend(payload);
        self.input.write_all(&frame).context("send a message")
    }

    /// Says that nothing more comes on a channel.
    pub fn end(&mut self, channel: u8) -> Result<()> {
        self.send(CLOSE_CHANNEL, &[channel])
    }

    /// The next message that is not empty; `None` when the server has closed.
    pub fn receive(&self) -> Result<Message> {
        match self.messages.recv_timeout(PATIENCE) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => bail!("no message within {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
        }
    }

    /// Reads channels of a command until the server closes.
    pub fn output(&self) -> Result<Output> {
        let mut output = Output::default();
        while let Some((channel, data)) = self.receive()? {
            let text = String::from_utf8_lossy(&data);
            match channel {
                1 => output.stdout.push_str(&text),
                2 => output.stderr.push_str(&text),
                3 => output.status.push_str(&text),
                other => bail!("a message on channel {other}: {text:?}"),
            }
        }
        Ok(output)
    }

    /// Reads a channel until it has sent `wanted`.
    pub fn read_until(&self, channel: u8, wanted: &str) -> Result<String> {
        let mut text = String::new();
        while !text.contains(wanted) {
            match self.receive()? {
                Some((from, data)) if from == channel => text.push_str(&String::from_utf8_lossy(&data)),
                Some((from, data)) => bail!("channel {from}: {:?}", String::from_utf8_lossy(&data)),
                None => bail!("the server closed after {text:?}"),
            }
        }
        Ok(text)
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        // Fails only if it has ended; the pump ends with it.
        let _ = self.tunnel.kill();
        let _ = self.tunnel.wait();
    }
}

/// Reads the answer and then messages, until one of both sides is gone.
fn pump(mut from: impl Read, protocol: &str, to: &SyncSender<Result<Message>>) {
    let mut next = upgraded(&mut from, protocol).map(|()| Some((0, Vec::new())));
    loop {
        let last = !matches!(next, Ok(Some(_)));
        if to.send(next).is_err() || last {
            return;
        }
        next = read_message(&mut from);
    }
}

fn upgraded(from: &mut impl Read, protocol: &str) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 64 << 10, "an answer of endless headers");
        let mut byte = [0];
        from.read_exact(&mut byte)
            .with_context(|| format!("the server hung up after {:?}", String::from_utf8_lossy(&head)))?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if !head.starts_with("http/1.1 101 ") {
        let mut body = [0; 512];
        let read = from.read(&mut body).unwrap_or(0);
        bail!("{head}{}", String::from_utf8_lossy(body.get(..read).unwrap_or_default()));
    }
    let chosen = format!("sec-websocket-protocol: {}\r\n", protocol.to_ascii_lowercase());
    ensure!(head.contains(&chosen), "another protocol: {head}");
    Ok(())
}

/// The next message with something in it. Servers send empty ones when a session opens.
fn read_message(from: &mut impl Read) -> Result<Message> {
    let mut whole = Vec::new();
    loop {
        let mut head = [0; 2];
        if from.read_exact(&mut head).is_err() {
            // Not every server says goodbye before it hangs up.
            return Ok(None);
        }
        let [flags, length] = head;
        ensure!(length & 0x80 == 0, "a server must not mask");
        let payload = read_payload(from, length)?;
        match flags & 0x0f {
            // A continuation, text, binary.
            0..=2 => whole.extend(payload),
            8 => return Ok(None),
            9 | 10 => continue,
            other => bail!("a frame of kind {other}"),
        }
        if flags & 0x80 != 0 {
            if let Some((&channel, data)) = whole.split_first()
                && !data.is_empty()
            {
                return Ok(Some((channel, data.to_vec())));
            }
            whole.clear();
        }
    }
}

fn read_payload(from: &mut impl Read, length: u8) -> Result<Vec<u8>> {
    let length = match length {
        126 => {
            let mut bytes = [0; 2];
            from.read_exact(&mut bytes)?;
            u64::from(u16::from_be_bytes(bytes))
        }
        127 => {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes)?;
            u64::from_be_bytes(bytes)
        }
        short => u64::from(short),
    };
    ensure!(length <= MAX_MESSAGE_BYTES, "a message of {length} bytes");
    let mut payload = Vec::new();
    from.take(length).read_to_end(&mut payload)?;
    ensure!(u64::try_from(payload.len())? == length, "a message that ends early");
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of some bytes, up to the end.
    fn messages(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        std::iter::from_fn(|| read_message(&mut bytes).unwrap()).collect()
    }

    #[test]
    fn reads_whole_messages_only() {
        let empty = [0x82, 1, 1];
        let split = [&[0x02, 3, 1, b'a', b'b'][..], &[0x89, 0], &[0x80, 1, b'c']].concat();
        let long = [&[0x82, 126, 0, 200, 2][..], &[b'x'; 199]].concat();
        let close = [0x88, 0, 0x82, 2, 1, b'z'];
        let read = messages(&[&empty[..], &split, &long, &close].concat());
        assert_eq!(read, [(1, b"abc".to_vec()), (2, vec![b'x'; 199])]);
    }

    #[test]
    fn refuses_other_protocols() {
        let answer = b"HTTP/1.1 101 Switching\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n";
        assert!(upgraded(&mut &answer[..], "v4.channel.k8s.io").is_ok());
        assert!(upgraded(&mut &answer[..], "v5.channel.k8s.io").is_err());
        assert!(upgraded(&mut &b"HTTP/1.1 404 Not Found\r\n\r\n"[..], "v5.channel.k8s.io").is_err());
    }
}
