//! Registries that are slow, broken or dishonest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use image::ErrorKind;
use testkit::{Misdeed, Registry};

use crate::{Bench, Sink, amd64, name, noise, reference};

fn status(code: u16, retry_after: Option<&str>) -> Misdeed {
    let headers = retry_after.map(|value| ("Retry-After".to_owned(), value.to_owned()));
    Misdeed::Status(code, headers.into_iter().collect(), String::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_transfers_go_on_where_they_ended() {
    for misdeed in [Misdeed::CloseAfter(150_000), Misdeed::StallAfter(150_000)] {
        let (registry, bench) = (Registry::start(), Bench::new());
        let layer = noise(1, 700_000);
        let image = registry.put_image("b", "v1", &[&layer]);
        registry.misbehave("GET", &image.layers[0].digest, Some(2), misdeed);
        let (_, layers) = bench.pull(&name(&registry, "b:v1")).await.unwrap();
        assert_eq!(layers, [layer]);
        let requests = registry.requests();
        let ranges: Vec<_> = requests.iter().filter_map(|request| request.header("range")).collect();
        assert_eq!(ranges, ["bytes=150000-", "bytes=300000-"]);
    }
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_from_the_start() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let layer = noise(2, 300_000);
    let image = registry.put_image("n", "v1", &[&layer]);
    registry.misbehave("GET", &image.layers[0].digest, None, Misdeed::IgnoreRange);
    registry.misbehave("GET", &image.layers[0].digest, Some(1), Misdeed::CloseAfter(100_000));
    let (_, layers) = bench.pull(&name(&registry, "n:v1")).await.unwrap();
    assert_eq!(layers, [layer]);
}

#[tokio::test]
async fn wrong_bytes_are_never_seen() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let image = registry.put_image("w", "v1", &[&noise(3, 100_000)]);
    registry.misbehave("GET", &image.layers[0].digest, None, Misdeed::Corrupt);
    let sink = Arc::new(Sink::default());
    let mut pull = bench.client().pull(bench.request(&name(&registry, "w:v1"), &sink));
    let error = pull.wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
    assert!(sink.bytes().is_empty());
    assert!(bench.store.stat(&image.layers[0].digest.parse().unwrap()).is_none());
    let left: Vec<_> = std::fs::read_dir(bench.path().join("content/ingest")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let by_digest = format!("w@{}", image.digest);
    for (path, asked) in [
        (image.config_digest.as_str(), "w:v1"),
        (image.digest.as_str(), by_digest.as_str()),
        ("manifests/v1", "w:v1"),
    ] {
        registry.behave();
        registry.misbehave("GET", path, None, Misdeed::Corrupt);
        let error = Bench::new().pull(&name(&registry, asked)).await.map(drop).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DigestMismatch | ErrorKind::Invalid), "{path}: {error}");
    }
}

#[tokio::test]
async fn wrong_sizes_are_noticed() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let image = registry.put_image("w", "v1", &[b"exactly this"]);
    for bytes in [b"less".to_vec(), b"exactly this and more".to_vec()] {
        registry.behave();
        registry.misbehave("GET", &image.layers[0].digest, None, Misdeed::Replace(bytes));
        let error = bench.pull(&name(&registry, "w:v1")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
    }
    registry.behave();
    registry.misbehave("GET", &image.layers[0].digest, None, Misdeed::Endless);
    let error = bench.pull(&name(&registry, "w:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
}

#[tokio::test]
async fn endless_and_mislabelled_manifests() {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.put_image("m", "v1", &[b"x"]);
    registry.misbehave("GET", "/manifests/", None, Misdeed::Endless);
    let error = bench.pull(&name(&registry, "m:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("larger than the 4194304 bytes"), "{error}");
    registry.behave();
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    registry.misbehave("GET", "/manifests/", None, Misdeed::ContentType(docker.into()));
    let error = bench.pull(&name(&registry, "m:v1")).await.unwrap_err();
    assert!(error.to_string().contains("but is served as"), "{error}");
    registry.behave();
    let v1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    registry.misbehave("", "/manifests/", None, Misdeed::ContentType(v1.into()));
    let error = bench.pull(&name(&registry, "m:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("schema 1"), "{error}");
}

#[tokio::test]
async fn a_tag_that_moves_between_two_requests_is_one_image() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let old = registry.put_image("flip", "", &[b"old"]);
    let new = registry.put_image("flip", "v1", &[b"new"]);
    let headers = vec![("Docker-Content-Digest".to_owned(), old.digest)];
    registry.misbehave("HEAD", "/manifests/v1", None, Misdeed::Status(200, headers, String::new()));
    let (pulled, layers) = bench.pull(&name(&registry, "flip:v1")).await.unwrap();
    assert_eq!((pulled.target.digest.as_str(), layers), (new.digest.as_str(), vec![b"new".to_vec()]));
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.put_image("r", "v1", &[b"x"]);
    for code in [429, 503] {
        registry.misbehave("", "/manifests/v1", Some(2), status(code, Some("1")));
        let start = Instant::now();
        bench.client().resolve(&reference(&registry, "r:v1"), &amd64(), None).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    }
    registry.misbehave("", "/manifests/v1", None, status(429, Some("3600")));
    let start = Instant::now();
    let error = bench.client().resolve(&reference(&registry, "r:v1"), &amd64(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited { retry_after: Some(Duration::from_secs(3600)) });
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn storms_end_in_the_right_kind() {
    let (registry, mut bench) = (Registry::start(), Bench::new());
    bench.config.retries = 1;
    registry.put_image("k", "v1", &[b"x"]);
    for (code, kind) in [
        (500, ErrorKind::Unavailable),
        (403, ErrorKind::Denied),
        (404, ErrorKind::NotFound),
        (429, ErrorKind::RateLimited { retry_after: None }),
        (400, ErrorKind::Invalid),
    ] {
        registry.behave();
        registry.misbehave("", "/manifests/", None, status(code, None));
        assert_eq!(bench.pull(&name(&registry, "k:v1")).await.unwrap_err().kind(), kind, "{code}");
    }
    registry.behave();
    registry.misbehave("", "/manifests/", None, Misdeed::Redirect(format!("{}{{path}}", registry.url())));
    let error = bench.pull(&name(&registry, "k:v1")).await.unwrap_err();
    assert!(error.to_string().contains("more than 10 redirects"), "{error}");
    registry.behave();
    registry.misbehave("", "/manifests/", None, Misdeed::Delay(Duration::from_secs(60)));
    bench.config.stall_timeout = Duration::from_millis(200);
    assert_eq!(bench.pull(&name(&registry, "k:v1")).await.unwrap_err().kind(), ErrorKind::Timeout);
    let address = registry.address();
    drop(registry);
    let error = bench.pull(&format!("{address}/k:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_trickle_is_no_progress() {
    let (registry, mut bench) = (Registry::start(), Bench::new());
    bench.config.stall_timeout = Duration::from_millis(300);
    bench.config.retries = 1;
    let image = registry.put_image("slow", "v1", &[&noise(9, 50_000)]);
    registry.misbehave("GET", &image.layers[0].digest, None, Misdeed::Drip(1, Duration::from_millis(20)));
    let start = Instant::now();
    let error = bench.pull(&name(&registry, "slow:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("stalled"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}
