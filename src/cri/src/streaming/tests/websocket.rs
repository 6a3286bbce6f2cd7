//! WebSocket sessions.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::super::tunnel::Tunnel;
use super::spdy::{Client, check_ports};
use super::{DEADLINE, Fixture, SUCCESS, exec, forward, request};

async fn upgrade(fixture: &Fixture, path: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let mut io = fixture.connect().await;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    let answer = request(&mut io, &head).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains(&format!("sec-websocket-protocol: {protocol}\r\n")), "{answer}");
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

/// Output by channel until the server closes.
async fn receive_all(ws: &mut WebSocketStream<TcpStream>) -> [Vec<u8>; 4] {
    let mut channels: [Vec<u8>; 4] = Default::default();
    loop {
        match timeout(DEADLINE, ws.next()).await.expect("a message arrives") {
            Some(Ok(Message::Binary(data))) => channels[usize::from(data[0])].extend_from_slice(&data[1..]),
            Some(Ok(Message::Text(text))) => {
                use base64::Engine as _;
                let (channel, payload) = text.split_at(1);
                let payload = base64::engine::general_purpose::STANDARD.decode(payload).unwrap();
                channels[channel.parse::<usize>().unwrap()].extend_from_slice(&payload);
            }
            Some(Ok(Message::Close(frame))) => {
                assert_eq!(frame.unwrap().code, CloseCode::Normal);
                return channels;
            }
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn version_5_ends_the_input() {
    let fixture = Fixture::new().await;
    let path = fixture.path(exec(&["cat"], false));
    let mut ws = upgrade(&fixture, &path, "v5.channel.k8s.io").await;
    let first = ws.next().await.unwrap().unwrap();
    assert_eq!(first, Message::Binary(vec![1].into()), "the session is open");
    let block = [&[0][..], &[b'a'; 100_000]].concat();
    for _ in 0..20 {
        ws.send(Message::Binary(block.clone().into())).await.unwrap();
    }
    ws.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    let [_, stdout, stderr, status] = receive_all(&mut ws).await;
    assert_eq!((stdout.len(), stderr.len()), (2_000_000, 0));
    assert_eq!(String::from_utf8_lossy(&status), SUCCESS);
}

#[tokio::test]
async fn version_4_has_exit_codes_and_sizes() {
    let fixture = Fixture::new().await;
    let mut ws = upgrade(&fixture, &fixture.path(exec(&["exit", "9"], false)), "v4.channel.k8s.io").await;
    let [.., status] = receive_all(&mut ws).await;
    assert!(String::from_utf8_lossy(&status).contains(r#""message":"9","reason":"ExitCode""#), "{status:?}");

    let mut ws = upgrade(&fixture, &fixture.path(exec(&["size"], true)), "v4.channel.k8s.io").await;
    ws.send(Message::Binary(b"\x04{\"Width\":90,\"Height\":30}".to_vec().into())).await.unwrap();
    let [_, stdout, ..] = receive_all(&mut ws).await;
    assert_eq!(stdout, b"90x30");
}

#[tokio::test]
async fn base64_and_old_versions() {
    let fixture = Fixture::new().await;
    let mut ws = upgrade(&fixture, &fixture.path(exec(&["warn"], false)), "v4.base64.channel.k8s.io").await;
    let [_, _, stderr, status] = receive_all(&mut ws).await;
    assert_eq!((stderr.as_slice(), status.as_slice()), (&b"careful"[..], SUCCESS.as_bytes()));

    let mut ws = upgrade(&fixture, &fixture.path(exec(&["exit", "2"], false)), "base64.channel.k8s.io").await;
    let [.., status] = receive_all(&mut ws).await;
    assert_eq!(status, b"command terminated with exit code 2");
}

#[tokio::test]
async fn ports_are_forwarded_through_a_tunnel() {
    let fixture = Fixture::new().await;
    let ws = upgrade(&fixture, &fixture.path(forward(&[])), "SPDY/3.1+portforward.k8s.io").await;
    check_ports(&mut Client::new(Tunnel::new(ws))).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_channels() {
    let fixture = Fixture::new().await;
    let mut ws = upgrade(&fixture, &fixture.path(forward(&[80, 81])), "v4.channel.k8s.io").await;
    ws.send(Message::Binary(b"\x00hello".to_vec().into())).await.unwrap();
    let mut channels: [Vec<u8>; 4] = Default::default();
    while channels[0].len() < 7 || channels[3].len() < 3 {
        let Message::Binary(data) = timeout(DEADLINE, ws.next()).await.unwrap().unwrap().unwrap() else {
            continue;
        };
        channels[usize::from(data[0])].extend_from_slice(&data[1..]);
    }
    assert_eq!(channels[0], b"\x50\x00hello");
    assert!(channels[3].starts_with(b"\x51\x00error forwarding port 81"), "{channels:?}");
}

#[tokio::test]
async fn nonsense_ends_well() {
    let fixture = Fixture::new().await;
    let mut ws = upgrade(&fixture, &fixture.path(exec(&["cat"], false)), "v5.channel.k8s.io").await;
    for message in [
        &b""[..],
        b"\xff",
        b"\xff\x09",
        b"\x07unknown",
        b"\x01not for us",
        b"\xff\x00",
        b"\xff\x00",
        b"\x00late",
    ] {
        ws.send(Message::Binary(message.to_vec().into())).await.unwrap();
    }
    let [_, stdout, _, status] = receive_all(&mut ws).await;
    assert_eq!((stdout.as_slice(), status.as_slice()), (&b""[..], SUCCESS.as_bytes()));
}
