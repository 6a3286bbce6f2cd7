//! Tokens, limits and TLS.

use std::sync::Arc;
use std::time::Duration;

use engine::metrics::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::{Config, SessionKind, tls_config};
use super::{DEADLINE, Fixture, exec, forward, request};

fn spdy_request(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
}

async fn status(fixture: &Fixture, head: &str) -> u16 {
    let answer = request(&mut fixture.connect().await, head).await;
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
}

#[tokio::test]
async fn a_url_works_once_and_only_for_its_operation() {
    let fixture = Fixture::new().await;
    let path = fixture.path(exec(&["exit", "0"], false));
    assert_eq!(status(&fixture, &spdy_request(&path.replace("/exec/", "/attach/"))).await, 404);
    assert_eq!(status(&fixture, &spdy_request(&path.replace("/exec/", "/portforward/"))).await, 404);
    assert_eq!(status(&fixture, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await, 400);
    assert_eq!(status(&fixture, &spdy_request(&path)).await, 101);
    assert_eq!(status(&fixture, &spdy_request(&path)).await, 404);
    for path in ["/", "/exec/", "/exec", "/exec/x/y", "/healthz", "/exec/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        assert_eq!(status(&fixture, &spdy_request(path)).await, 404, "{path}");
    }
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let fixture = Fixture::new().await;
    let many = "X-Header: y\r\n".repeat(100);
    let head = spdy_request("/exec/x").replace("\r\n\r\n", &format!("\r\n{many}\r\n"));
    assert_eq!(status(&fixture, &head).await, 431);
    let head = spdy_request(&format!("/exec/{}", "x".repeat(64 * 1024)));
    let mut io = fixture.connect().await;
    drop(io.write_all(head.as_bytes()).await);
    let mut answer = Vec::new();
    // Refused with an answer or without.
    drop(timeout(DEADLINE, io.read_to_end(&mut answer)).await.unwrap());
    assert!(!answer.starts_with(b"HTTP/1.1 101"));
}

#[tokio::test]
async fn open_sessions_are_counted_by_kind() {
    let registry = Registry::new();
    let open = Arc::new(registry.gauges("open", "Open sessions").filled());
    let fixture = Fixture::with(Config { open: Some(Arc::clone(&open)), ..Config::loopback() }).await;
    let count = |kind| open.get(kind).get();
    let reached = async |kind, wanted| {
        let wait = async {
            while count(kind) != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, wait).await.unwrap();
    };
    let mut io = fixture.connect().await;
    let path = fixture.path(exec(&["hang"], false));
    assert!(request(&mut io, &spdy_request(&path)).await.starts_with("HTTP/1.1 101"));
    reached(SessionKind::Exec, 1).await;
    let mut other = fixture.connect().await;
    let path = fixture.path(forward(&[80]));
    assert!(request(&mut other, &spdy_request(&path)).await.starts_with("HTTP/1.1 101"));
    reached(SessionKind::PortForward, 1).await;
    assert_eq!((count(SessionKind::Exec), count(SessionKind::Attach)), (1, 0));
    drop((io, other));
    reached(SessionKind::Exec, 0).await;
    reached(SessionKind::PortForward, 0).await;
}

#[tokio::test]
async fn sessions_are_bounded() {
    let fixture = Fixture::with(Config { max_sessions: 1, ..Config::loopback() }).await;
    let (first, second) = (fixture.path(exec(&["hang"], false)), fixture.path(exec(&["hang"], false)));
    let mut io = fixture.connect().await;
    assert!(request(&mut io, &spdy_request(&first)).await.starts_with("HTTP/1.1 101"));
    assert_eq!(status(&fixture, &spdy_request(&second)).await, 503);
    drop(io);
    let freed = async {
        while status(&fixture, &spdy_request(&second)).await != 101 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, freed).await.expect("the refused URL is still good");
}

#[tokio::test]
async fn idle_sessions_are_closed() {
    let fixture =
        Fixture::with(Config { idle_timeout: Duration::from_millis(200), ..Config::loopback() }).await;
    let mut io = fixture.connect().await;
    let path = fixture.path(forward(&[80]));
    assert!(request(&mut io, &spdy_request(&path)).await.starts_with("HTTP/1.1 101"));
    let mut rest = Vec::new();
    timeout(DEADLINE, io.read_to_end(&mut rest)).await.expect("the session is closed").unwrap();
}

#[tokio::test]
async fn idle_connections_make_room() {
    let fixture = Fixture::new().await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        let mut io = fixture.connect().await;
        io.write_all(b"POST /exec/").await.unwrap();
        idle.push(io);
    }
    let path = fixture.path(exec(&["exit", "0"], false));
    assert_eq!(status(&fixture, &spdy_request(&path)).await, 101);
    let mut oldest = idle.swap_remove(0);
    let closed = timeout(DEADLINE, oldest.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "the oldest was closed");
}

#[tokio::test]
async fn urls_are_bounded() {
    let fixture = Fixture::new().await;
    let issued = (0..2000).take_while(|_| fixture.server.issue(forward(&[])).is_ok()).count();
    assert_eq!(issued, 1000);
}

#[tokio::test]
async fn sessions_run_over_tls() {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = tls_config(signed.cert.pem().as_bytes(), signed.signing_key.serialize_pem().as_bytes(), None)
        .unwrap();
    let fixture = Fixture::with(Config { tls: Some(tls), ..Config::loopback() }).await;
    let url = fixture.server.issue(exec(&["exit", "0"], false)).unwrap();
    let path = url.strip_prefix(&format!("https://{}", fixture.server.address())).unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(signed.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = "localhost".try_into().unwrap();
    let mut io = connector.connect(name, fixture.connect().await).await.unwrap();
    assert!(request(&mut io, &spdy_request(path)).await.starts_with("HTTP/1.1 101"));
}

#[test]
fn bad_key_material_is_named() {
    let error = tls_config(b"", b"nonsense", None).unwrap_err();
    assert_eq!(error.to_string(), "read the private key from PEM");
}
