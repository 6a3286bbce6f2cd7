//! SPDY sessions.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::spdy::Headers;
use super::super::spdy::frame::{Decoder, Encoder, Frame};
use super::{DEADLINE, Fixture, SUCCESS, exec, forward, request};

/// A SPDY client that shows every frame.
pub(super) struct Client<IO> {
    io: IO,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
    next: u32,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self { io, encoder: Encoder::new(), decoder: Decoder::new(), buffer: BytesMut::new(), next: 1 }
    }

    pub(super) async fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        self.encoder.encode(&frame, &mut out);
        self.io.write_all(&out).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// Opens a stream and returns its id.
    pub(super) async fn open<const N: usize>(&mut self, headers: [(&str, &str); N]) -> u32 {
        let stream = self.next;
        self.next += 2;
        self.send(Frame::SynStream { stream, fin: false, headers: Headers::from(headers) }).await;
        stream
    }

    pub(super) async fn data(&mut self, stream: u32, data: &[u8], fin: bool) {
        for chunk in data.chunks(16 * 1024) {
            self.send(Frame::Data { stream, fin: false, data: Bytes::copy_from_slice(chunk) }).await;
        }
        if fin {
            self.send(Frame::Data { stream, fin, data: Bytes::new() }).await;
        }
    }

    /// The next frame, or `None` when the server has closed.
    pub(super) async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            let count = timeout(DEADLINE, self.io.read_buf(&mut self.buffer)).await.expect("a frame arrives");
            if count.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Receives until all the streams have ended. The server's ends of input streams do not matter.
    pub(super) async fn receive_all(&mut self, streams: &[u32]) -> BTreeMap<u32, Vec<u8>> {
        let mut open = streams.to_vec();
        let mut received: BTreeMap<u32, Vec<u8>> = streams.iter().map(|id| (*id, Vec::new())).collect();
        while !open.is_empty() {
            match self.receive().await {
                Some(Frame::Data { stream, fin, data }) => {
                    received.entry(stream).or_default().extend_from_slice(&data);
                    open.retain(|id| !fin || *id != stream);
                }
                Some(_) => {}
                None => panic!("closed while {open:?} are open; got {received:?}"),
            }
        }
        received
    }
}

async fn upgrade(fixture: &Fixture, path: &str, protocol: &str) -> Client<TcpStream> {
    let mut io = fixture.connect().await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
    );
    let answer = request(&mut io, &head).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains(&format!("x-stream-protocol-version: {protocol}\r\n")), "{answer}");
    // Go's clients drop the whole header if it says `close` as well.
    assert!(answer.contains("connection: upgrade\r\n"), "{answer}");
    Client::new(io)
}

struct Command {
    client: Client<TcpStream>,
    error: u32,
    stdin: u32,
    stdout: u32,
    last: u32,
}

/// Opens the streams of a session; the last is stderr, or resize with a terminal.
async fn start(fixture: &Fixture, command: &[&str], tty: bool, protocol: &str) -> Command {
    let path = fixture.path(exec(command, tty));
    let mut client = upgrade(fixture, &path, protocol).await;
    let error = client.open([("streamtype", "error")]).await;
    let stdin = client.open([("streamtype", "stdin")]).await;
    let stdout = client.open([("streamtype", "stdout")]).await;
    let last = client.open([("streamtype", if tty { "resize" } else { "stderr" })]).await;
    Command { client, error, stdin, stdout, last }
}

#[tokio::test]
async fn output_is_input_however_large() {
    let fixture = Fixture::new().await;
    let mut c = start(&fixture, &["cat"], false, "v4.channel.k8s.io").await;
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let mut received = BTreeMap::new();
    // As the Go client, this one sends without regard to windows, but it must read meanwhile.
    for chunk in sent.chunks(64 * 1024) {
        c.client.data(c.stdin, chunk, false).await;
        let mut got = 0;
        while got < chunk.len() {
            if let Some(Frame::Data { stream, data, .. }) = c.client.receive().await {
                got += data.len();
                received.entry(stream).or_insert_with(Vec::new).extend_from_slice(&data);
            }
        }
    }
    c.client.data(c.stdin, b"", true).await;
    let rest = c.client.receive_all(&[c.error, c.stdout, c.last]).await;
    assert_eq!(received[&c.stdout], sent);
    assert_eq!(String::from_utf8_lossy(&rest[&c.error]), SUCCESS);
    assert!(rest[&c.stdout].is_empty() && rest[&c.last].is_empty());
}

#[tokio::test]
async fn the_exit_code_comes_as_a_status() {
    let fixture = Fixture::new().await;
    let mut c = start(&fixture, &["exit", "7"], false, "v4.channel.k8s.io").await;
    let status = c.client.receive_all(&[c.error, c.stdout, c.last]).await.remove(&c.error).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "7"}));
}

#[tokio::test]
async fn failures_and_old_protocols() {
    let fixture = Fixture::new().await;
    let mut c = start(&fixture, &["none"], false, "v4.channel.k8s.io").await;
    let status = c.client.receive_all(&[c.error]).await.remove(&c.error).unwrap();
    assert!(String::from_utf8(status).unwrap().contains(r#""message":"no such program""#));

    let mut c = start(&fixture, &["exit", "3"], false, "v2.channel.k8s.io").await;
    let status = c.client.receive_all(&[c.error]).await.remove(&c.error).unwrap();
    assert_eq!(status, b"command terminated with exit code 3");

    let mut c = start(&fixture, &["warn"], false, "channel.k8s.io").await;
    let received = c.client.receive_all(&[c.error, c.stdout, c.last]).await;
    assert_eq!((received[&c.error].as_slice(), received[&c.last].as_slice()), (&b""[..], &b"careful"[..]));
}

#[tokio::test]
async fn a_terminal_can_be_resized() {
    let fixture = Fixture::new().await;
    let mut c = start(&fixture, &["size"], true, "v4.channel.k8s.io").await;
    c.client.data(c.last, b"{\"Width\":132,\"Height\":43}\n", false).await;
    let received = c.client.receive_all(&[c.error, c.stdout]).await;
    assert_eq!(received[&c.stdout], b"132x43");
}

#[tokio::test]
async fn the_server_waits_for_the_client_to_close() {
    let fixture = Fixture::new().await;
    let mut c = start(&fixture, &["exit", "0"], false, "v4.channel.k8s.io").await;
    c.client.receive_all(&[c.error, c.stdin, c.stdout, c.last]).await;
    assert_eq!(c.client.receive().await, None, "the server says no more");
    // Its end is still open for a while; late input does not reset the connection.
    c.client.data(c.stdin, b"late", true).await;
}

#[tokio::test]
async fn input_streams_stay_open_on_our_side() {
    let fixture = Fixture::new().await;
    let mut c = start(&fixture, &["cat"], false, "v4.channel.k8s.io").await;
    c.client.data(c.stdin, b"hello", false).await;
    let mut echoed = false;
    while !echoed {
        match c.client.receive().await.unwrap() {
            // Go's clients take the end of ours for the wish to get no more input.
            Frame::Data { stream, fin, data } => {
                assert!(!fin, "stream {stream} ended");
                echoed = data == b"hello"[..];
            }
            Frame::SynReply { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    c.client.data(c.stdin, b"", true).await;
    c.client.receive_all(&[c.error, c.stdin, c.stdout, c.last]).await;
}

#[tokio::test]
async fn windows_hold_back_the_output() {
    let fixture = Fixture::new().await;
    let mut c = start(&fixture, &["flood", "200000"], false, "v4.channel.k8s.io").await;
    c.client.send(Frame::WindowUpdate { stream: c.stdout, delta: 1 }).await;
    c.client.data(c.stdin, b"!", false).await;
    let mut received = 0;
    while received < 65536 {
        if let Some(Frame::Data { data, .. }) = c.client.receive().await {
            received += data.len();
        }
    }
    c.client.send(Frame::Ping(1)).await;
    loop {
        match c.client.receive().await.unwrap() {
            Frame::Ping(1) => break,
            Frame::Data { data, .. } => received += data.len(),
            _ => {}
        }
    }
    assert_eq!(received, 65536, "the session's window");
    for stream in [0, c.stdout] {
        c.client.send(Frame::WindowUpdate { stream, delta: 1_000_000 }).await;
    }
    let rest = c.client.receive_all(&[c.error, c.stdout, c.last]).await;
    assert_eq!(rest[&c.stdout].len(), 200_000 - 65536);
}

#[tokio::test]
async fn consumed_input_is_granted_again() {
    let fixture = Fixture::new().await;
    let mut c = start(&fixture, &["cat"], false, "v4.channel.k8s.io").await;
    c.client.data(c.stdin, &vec![0; 65536], true).await;
    let (mut granted, mut ended) = (BTreeMap::new(), false);
    while !ended {
        match c.client.receive().await.unwrap() {
            Frame::WindowUpdate { stream, delta } => *granted.entry(stream).or_insert(0) += delta,
            Frame::Data { stream, fin, .. } => ended = fin && stream == c.error,
            _ => {}
        }
    }
    assert!(granted[&0] >= 32768, "{granted:?}");
}

#[tokio::test]
async fn a_program_that_does_not_read_holds_its_client_back() {
    let fixture = Fixture::new().await;
    let mut c = start(&fixture, &["wait"], false, "v4.channel.k8s.io").await;
    let block = vec![0; 1 << 20];
    let mut sent = 0;
    while timeout(Duration::from_millis(500), c.client.data(c.stdin, &block, false)).await.is_ok() {
        sent += block.len();
        assert!(sent < 64 << 20, "the server takes everything");
    }
    // The interrupted block is cut somewhere, so the connection cannot go on; the session must not
    // survive it either.
    drop(c);
    fixture.programs.release.notify_one();
    timeout(DEADLINE, fixture.server.shut_down()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_breaks_its_input_off() {
    let fixture = Fixture::new().await;
    let c = start(&fixture, &["hang"], false, "v4.channel.k8s.io").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(c);
    let abandoned = async {
        while fixture.programs.abandoned.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, abandoned).await.unwrap();
}

pub(super) async fn check_ports<IO: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<IO>) {
    let mut streams = Vec::new();
    for (request, port) in [("0", "80"), ("1", "80"), ("2", "81")] {
        let error = client.open([("streamtype", "error"), ("port", port), ("requestid", request)]).await;
        client.data(error, b"", true).await;
        let data = client.open([("streamtype", "data"), ("port", port), ("requestid", request)]).await;
        streams.push((error, data));
    }
    let [(e0, d0), (e1, d1), (e2, d2)] = streams[..] else { panic!() };
    client.data(d1, b"one", true).await;
    client.data(d0, b"zero", true).await;
    let received = client.receive_all(&[e0, d0, e1, d1, e2, d2]).await;
    assert_eq!(received[&d0], b"zero");
    assert_eq!(received[&d1], b"one");
    assert!(received[&e0].is_empty() && received[&e1].is_empty() && received[&d2].is_empty());
    let error = String::from_utf8_lossy(&received[&e2]);
    assert_eq!(error, "error forwarding port 81 to sandbox p1: connection refused");
}

#[tokio::test]
async fn ports_are_forwarded_side_by_side() {
    let fixture = Fixture::new().await;
    let path = fixture.path(forward(&[]));
    let mut client = upgrade(&fixture, &path, "portforward.k8s.io").await;
    check_ports(&mut client).await;
    // Old clients name no request.
    let error = client.open([("streamtype", "error"), ("port", "80")]).await;
    let data = client.open([("streamtype", "data"), ("port", "80")]).await;
    client.data(data, b"old", true).await;
    assert_eq!(client.receive_all(&[error, data]).await[&data], b"old");
}

#[tokio::test]
async fn only_announced_ports_are_forwarded() {
    let fixture = Fixture::new().await;
    let path = fixture.path(forward(&[8080]));
    let mut client = upgrade(&fixture, &path, "portforward.k8s.io").await;
    for port in ["80", "0", "http"] {
        let error = client.open([("streamtype", "error"), ("port", port), ("requestid", port)]).await;
        let data = client.open([("streamtype", "data"), ("port", port), ("requestid", port)]).await;
        let received = client.receive_all(&[error, data]).await;
        assert!(!received[&error].is_empty(), "port {port}");
    }
}

#[tokio::test]
async fn many_connections_one_after_the_other() {
    let fixture = Fixture::new().await;
    let path = fixture.path(forward(&[]));
    let mut client = upgrade(&fixture, &path, "portforward.k8s.io").await;
    // More than may be open at a time, so ended ones must be forgotten.
    for request in 0..1000 {
        let request = request.to_string();
        let error = client.open([("streamtype", "error"), ("port", "80"), ("requestid", &request)]).await;
        let data = client.open([("streamtype", "data"), ("port", "80"), ("requestid", &request)]).await;
        client.data(data, request.as_bytes(), true).await;
        assert_eq!(client.receive_all(&[error, data]).await[&data], request.as_bytes());
    }
}

#[tokio::test]
async fn streams_are_bounded_and_protocol_errors_end_the_connection() {
    let fixture = Fixture::new().await;
    let path = fixture.path(forward(&[]));
    let mut client = upgrade(&fixture, &path, "portforward.k8s.io").await;
    for _ in 0..10 {
        client.open([("streamtype", "nonsense")]).await;
    }
    client.send(Frame::SynStream { stream: 4, fin: false, headers: Headers::default() }).await;
    while client.receive().await.is_some() {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_bytes_after_the_upgrade_end_well(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let mut c = start(&fixture, &["cat"], false, "v4.channel.k8s.io").await;
            for chunk in chunks {
                // The server may have closed by now.
                drop(c.client.io.write_all(&chunk).await);
            }
            drop(c);
            timeout(DEADLINE, fixture.server.shut_down()).await.unwrap();
        });
    }
}
