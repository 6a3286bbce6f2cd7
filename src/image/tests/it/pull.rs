//! Pulls that go well, and what is shared between them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use image::{ErrorKind, LayerState, PullRequest, Stage};
use serde_json::json;
use testkit::{Misdeed, Registry, wait_until};

use crate::{Bench, Sink, amd64, name, noise, reference};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_arrives_whole() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let layers = [noise(1, 300_000), noise(2, 10), noise(3, 1_000_000), Vec::new()];
    let image = registry.put_image("a/b", "v1", &layers.each_ref().map(Vec::as_slice));
    let sink = Arc::new(Sink::default());
    let mut pull = bench.client().pull(bench.request(&name(&registry, "a/b:v1"), &sink));
    let pulled = pull.wait().await.unwrap();
    assert_eq!(sink.bytes(), layers);
    assert_eq!(pulled.manifest.descriptor.digest.as_str(), image.digest);
    assert_eq!(pulled.target, pulled.manifest.descriptor);
    assert_eq!(pulled.config.descriptor.digest.as_str(), image.config_digest);
    assert_eq!(pulled.host, registry.address());
    for digest in [&image.digest, &image.config_digest, &image.layers[0].digest] {
        let digest = digest.parse().unwrap();
        assert!(bench.store.verify(&digest).unwrap());
        assert!(bench.store.leases().is_held(&digest));
    }
    let progress = pull.progress().borrow().clone();
    assert_eq!((progress.stage, progress.bytes(), progress.total()), (Stage::Done, 1_300_010, 1_300_010));
    assert!(progress.layers.iter().all(|layer| layer.state == LayerState::Done));
}

#[tokio::test]
async fn an_index_is_followed_and_kept() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let wanted = registry.put_image("m", "", &[b"amd64 layer"]);
    let other = registry.put_image("m", "", &[b"other layer"]);
    let entry = |digest: &str, size: usize, architecture: &str| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
               "platform": {"os": if architecture == "unknown" { "unknown" } else { "linux" }, "architecture": architecture}})
    };
    let inner = json!({"schemaVersion": 2, "manifests": [
        entry(&other.digest, other.manifest.len(), "unknown"),
        entry(&other.digest, other.manifest.len(), "arm64"),
        entry(&wanted.digest, wanted.manifest.len(), "amd64"),
    ]})
    .to_string();
    let kind = "application/vnd.oci.image.index.v1+json";
    let inner_digest = registry.put_manifest("m", "", kind, inner.as_bytes());
    let outer = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": kind, "digest": inner_digest, "size": inner.len()},
    ]})
    .to_string();
    let outer_digest = registry.put_manifest("m", "v1", kind, outer.as_bytes());
    let (pulled, layers) = bench.pull(&name(&registry, "m:v1")).await.unwrap();
    assert_eq!(layers, [b"amd64 layer"]);
    assert_eq!(pulled.target.digest.as_str(), outer_digest);
    assert_eq!(pulled.manifest.descriptor.digest.as_str(), wanted.digest);
    for digest in [&outer_digest, &inner_digest, &wanted.digest] {
        assert!(bench.store.stat(&digest.parse().unwrap()).is_some());
    }
    let mut arm = amd64();
    arm.architecture = "riscv64".into();
    let error = bench.client().resolve(&reference(&registry, "m:v1"), &arm, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoPlatform);
    assert!(error.to_string().contains("linux/arm64, linux/amd64"), "{error}");
}

#[tokio::test]
async fn nested_indexes_end_somewhere() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let kind = "application/vnd.oci.image.index.v1+json";
    let mut child = json!({"schemaVersion": 2, "manifests": []}).to_string();
    for _ in 0..8 {
        let digest = registry.put_manifest("deep", "v1", kind, child.as_bytes());
        child = json!({"schemaVersion": 2, "manifests": [
            {"mediaType": kind, "digest": digest, "size": child.len()}]})
        .to_string();
    }
    registry.put_manifest("deep", "v1", kind, child.as_bytes());
    let error = bench.pull(&name(&registry, "deep:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("nested too deeply"), "{error}");
}

#[tokio::test]
async fn what_is_there_is_not_fetched_again() {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.put_image("again", "v1", &[b"one", b"two"]);
    bench.pull(&name(&registry, "again:v1")).await.unwrap();
    registry.forget_requests();
    let (_, layers) = bench.pull(&name(&registry, "again:v1")).await.unwrap();
    assert_eq!(layers, [b"one", b"two"]);
    assert_eq!((registry.count("GET", ""), registry.count("HEAD", "/manifests/v1")), (0, 1));
}

#[tokio::test]
async fn unpacked_layers_are_fetched_only_if_blobs_are_wanted() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let image = registry.put_image("have", "v1", &[b"one", b"two"]);
    let sink = Arc::new(Sink { has: vec![0], ..Sink::default() });
    let request = bench.request(&name(&registry, "have:v1"), &sink);
    bench.client().pull(request.clone()).wait().await.unwrap();
    assert_eq!(sink.bytes(), [b"two"]);
    assert_eq!(registry.count("GET", &image.layers[0].digest), 0);
    bench.client().pull(PullRequest { want_blobs: true, ..request }).wait().await.unwrap();
    assert_eq!(registry.count("GET", &image.layers[0].digest), 1);
    assert_eq!(sink.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_ask_one_download_is_made() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let shared = noise(5, 400_000);
    let image = registry.put_image("one", "v1", &[&shared, b"a"]);
    registry.put_image("two", "v1", &[b"b", &shared]);
    registry.misbehave("GET", "/blobs/", None, Misdeed::Delay(Duration::from_millis(50)));
    let client = bench.client();
    let sinks = [Arc::new(Sink::default()), Arc::new(Sink::default())];
    let mut pulls = Vec::new();
    for _ in 0..16 {
        pulls.push(client.pull(bench.request(&name(&registry, "one:v1"), &sinks[0])));
        pulls.push(client.pull(bench.request(&name(&registry, "two:v1"), &sinks[1])));
    }
    for pull in &mut pulls {
        pull.wait().await.unwrap();
    }
    assert_eq!(registry.count("GET", &image.layers[0].digest), 1);
    assert_eq!(registry.count("GET", "/manifests/"), 2);
    assert_eq!(sinks[0].bytes(), [shared.clone(), b"a".to_vec()]);
    assert_eq!(sinks[1].bytes(), [b"b".to_vec(), shared]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_waiter_stops_nothing_and_cancel_stops_all() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let layer = noise(6, 200_000);
    let image = registry.put_image("drop", "v1", &[&layer]);
    let client = bench.client();
    let sink = Arc::new(Sink::default());
    let first = client.pull(bench.request(&name(&registry, "drop:v1"), &sink));
    let mut second = client.pull(bench.request(&name(&registry, "drop:v1"), &sink));
    drop(first);
    second.wait().await.unwrap();

    let slow = Bench::new();
    registry.misbehave("GET", "/blobs/", None, Misdeed::Drip(1_000, Duration::from_millis(20)));
    let client = slow.client();
    let sink = Arc::new(Sink::default());
    let mut pull = client.pull(slow.request(&name(&registry, "drop:v1"), &sink));
    let progress = pull.progress();
    let blocked = tokio::task::spawn_blocking(move || {
        wait_until("the first bytes", Duration::from_secs(10), || progress.borrow().bytes() > 0);
    });
    blocked.await.unwrap();
    pull.cancel();
    assert_eq!(pull.wait().await.unwrap_err().kind(), ErrorKind::Cancelled);
    let ended = tokio::time::timeout(Duration::from_secs(2), client.shutdown()).await;
    assert!(ended.is_ok(), "threads went on after a cancel");
    assert!(sink.bytes().is_empty());
    assert!(slow.store.stat(&image.layers[0].digest.parse().unwrap()).is_none());
}

#[tokio::test]
async fn a_failing_sink_stops_the_pull_with_its_reason() {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.put_image("sink", "v1", &[&noise(7, 3_000_000), b"two"]);
    let sink = Arc::new(Sink { fails_on: Some(0), ..Sink::default() });
    let error =
        bench.client().pull(bench.request(&name(&registry, "sink:v1"), &sink)).wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unpack);
    assert!(error.chain().contains("no room for this layer"), "{}", error.chain());
}

#[tokio::test]
async fn a_partial_download_is_resumed_by_the_next_pull() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let layer = noise(8, 500_000);
    let image = registry.put_image("resume", "v1", &[&layer]);
    registry.misbehave("GET", &image.layers[0].digest, None, Misdeed::CloseAfter(200_000));
    let mut once = Bench::new();
    once.config.retries = 0;
    registry.misbehave("GET", &image.layers[0].digest, None, Misdeed::IgnoreRange);
    let digest = image.layers[0].digest.parse().unwrap();
    let mut ingest = bench.store.ingest(&image.layers[0].digest, Some(&digest), Some(500_000)).unwrap();
    ingest.write_all(&layer[..123_456]).unwrap();
    drop(ingest);
    registry.behave();
    let (_, layers) = bench.pull(&name(&registry, "resume:v1")).await.unwrap();
    assert_eq!(layers, [layer]);
    let requests = registry.requests();
    let ranges: Vec<_> = requests.iter().filter_map(|request| request.header("range")).collect();
    assert_eq!(ranges, ["bytes=123456-"]);
}

#[tokio::test]
async fn tags_come_page_by_page() {
    let (registry, bench) = (Registry::start(), Bench::new());
    for tag in ["a", "b", "c", "d", "e"] {
        registry.put_image("tags", tag, &[]);
    }
    registry.set_page_size(2);
    let tags = bench.client().tags(&reference(&registry, "tags"), None).await.unwrap();
    assert_eq!(tags, ["a", "b", "c", "d", "e"]);
    let error = bench.client().resolve(&reference(&registry, "tags:no"), &amd64(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let host = registry.address();
    assert_eq!(
        error.to_string(),
        format!("fetch manifest of {host}/tags:no at {host}: manifest unknown (status 404)")
    );
}
