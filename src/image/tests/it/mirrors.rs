//! Mirrors: order, fall-back, capabilities.

use image::ErrorKind;
use testkit::{Access, Misdeed, Registry};

use crate::{Bench, basic, noise};

fn table(url: &str, capabilities: &str) -> String {
    format!("[host.\"{url}\"]\ncapabilities = [{capabilities}]\n")
}

#[tokio::test]
async fn mirrors_serve_any_registry_in_order() {
    let (first, second, bench) = (Registry::start(), Registry::start(), Bench::new());
    second.put_image("library/busybox", "1.0", &[b"layer"]);
    let both = "\"pull\", \"resolve\"";
    bench.hosts("_default", &(table(&first.url(), both) + &table(&second.url(), both)));
    let (pulled, layers) = bench.pull("registry.k8s.test/library/busybox:1.0").await.unwrap();
    assert_eq!((pulled.host.clone(), layers), (second.address(), vec![b"layer".to_vec()]));
    assert_eq!(pulled.reference.to_string(), "registry.k8s.test/library/busybox:1.0");
    assert!(first.count("HEAD", "/manifests/") > 0);
    let requests = second.requests();
    assert!(requests.iter().all(|request| request.query("ns").as_deref() == Some("registry.k8s.test")));
    // The order changes with the file, at once.
    first.put_image("library/busybox", "1.0", &[b"other"]);
    let (pulled, _) = bench.pull("registry.k8s.test/library/busybox:1.0").await.unwrap();
    assert_eq!(pulled.host, first.address());
    bench.hosts("_default", &table(&second.url(), both));
    let (pulled, _) = bench.pull("registry.k8s.test/library/busybox:1.0").await.unwrap();
    assert_eq!(pulled.host, second.address());
}

#[tokio::test]
async fn a_mirror_that_only_pulls_is_not_asked_for_tags() {
    let (mirror, origin, bench) = (Registry::start(), Registry::start(), Bench::new());
    let image = origin.put_image("x", "v1", &[b"layer"]);
    mirror.put_blob("x", b"layer");
    mirror.put_image("x", "v1", &[b"an older one"]);
    let domain = "r.test";
    bench.hosts(domain, &format!("server = \"{}\"\n{}", origin.url(), table(&mirror.url(), "\"pull\"")));
    let (pulled, layers) = bench.pull("r.test/x:v1").await.unwrap();
    assert_eq!((pulled.target.digest.as_str(), layers), (image.digest.as_str(), vec![b"layer".to_vec()]));
    assert_eq!(mirror.count("", "/manifests/v1") + mirror.count("HEAD", "/manifests/v1"), 0);
    assert_eq!(
        (mirror.count("GET", &image.layers[0].digest), origin.count("GET", &image.layers[0].digest)),
        (1, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_mirror_costs_no_more_than_time() {
    let layer = noise(1, 400_000);
    for misdeed in [
        Misdeed::Corrupt,
        Misdeed::CloseAfter(100_000),
        Misdeed::Status(500, Vec::new(), String::new()),
        Misdeed::Status(404, Vec::new(), String::new()),
        Misdeed::Status(403, Vec::new(), String::new()),
        Misdeed::Replace(b"short".to_vec()),
    ] {
        let (mirror, origin, bench) = (Registry::start(), Registry::start(), Bench::new());
        let image = origin.put_image("x", "v1", &[&layer]);
        mirror.put_image("x", "v1", &[&layer]);
        mirror.misbehave("GET", &image.layers[0].digest, Some(1), misdeed.clone());
        bench.hosts("r.test", &format!("server = \"{}\"\n[host.\"{}\"]\n", origin.url(), mirror.url()));
        let (_, layers) = bench.pull("r.test/x:v1").await.unwrap();
        assert_eq!(layers, [layer.as_slice()], "{misdeed:?}");
    }
}

#[tokio::test]
async fn credentials_of_a_request_never_reach_a_mirror() {
    let (mirror, origin, bench) = (Registry::start(), Registry::start(), Bench::new());
    origin.put_image("x", "v1", &[b"layer"]);
    origin.set_access(Access::Basic("user".into(), "pass-word".into()));
    mirror.set_access(Access::Basic("user".into(), "pass-word".into()));
    bench.hosts("r.test", &format!("server = \"{}\"\n[host.\"{}\"]\n", origin.url(), mirror.url()));
    bench.pull_as("r.test/x:v1", Some(basic("user", "pass-word"))).await.unwrap();
    assert!(!mirror.requests().is_empty());
    assert!(mirror.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn an_error_names_the_registry_and_the_mirrors() {
    let (mirror, origin, bench) = (Registry::start(), Registry::start(), Bench::new());
    mirror.misbehave("", "", None, Misdeed::Status(403, Vec::new(), String::new()));
    bench.hosts("r.test", &format!("server = \"{}\"\n[host.\"{}\"]\n", origin.url(), mirror.url()));
    let error = bench.pull("r.test/x:v1").await.unwrap_err();
    assert_eq!((error.kind(), error.host()), (ErrorKind::NotFound, origin.address().as_str()));
    let also = format!("(also tried {}: forbidden (status 403))", mirror.address());
    assert!(error.to_string().ends_with(&also), "{error}");
}

#[tokio::test]
async fn a_malformed_file_is_named() {
    let bench = Bench::new();
    bench.hosts("r.test", "server = 7");
    let error = bench.pull("r.test/x:v1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("r.test/hosts.toml: `server` is not a string"), "{error}");
}
