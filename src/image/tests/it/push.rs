//! Pushes.

use std::sync::Arc;

use image::{ErrorKind, LayerState, PushRequest};
use testkit::{Access, Misdeed, Registry};

use crate::{Bench, basic, name, noise, reference};

async fn pulled(layers: &[&[u8]]) -> (Registry, Bench, Arc<image::Pulled>) {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.put_image("from", "v1", layers);
    let (pulled, _) = bench.pull(&name(&registry, "from:v1")).await.unwrap();
    (registry, bench, pulled)
}

fn request(bench: &Bench, registry: &Registry, to: &str, pulled: &image::Pulled) -> PushRequest {
    PushRequest {
        reference: reference(registry, to),
        auth: None,
        store: bench.store.clone(),
        target: pulled.target.digest.clone(),
        mount_from: Vec::new(),
    }
}

#[tokio::test]
async fn what_was_pulled_can_be_pushed_elsewhere() {
    let layer = noise(1, 700_000);
    let (_source, bench, image) = pulled(&[&layer, b"two"]).await;
    let registry = Registry::start();
    registry.add_user("user", "pass-word");
    registry.set_access(Access::Token { realm: registry.token_url() });
    let mut push = bench.client().push(PushRequest {
        auth: Some(basic("user", "pass-word")),
        ..request(&bench, &registry, "to/here:v2", &image)
    });
    let pushed = push.wait().await.unwrap();
    assert_eq!(pushed, image.target);
    assert_eq!(registry.manifest("to/here", "v2").unwrap(), image.manifest.bytes);
    assert_eq!(registry.blob(image.layers[0].descriptor.digest.as_str()).unwrap(), layer);
    let progress = push.progress().borrow().clone();
    assert!(progress.layers.iter().all(|layer| layer.state == LayerState::Done), "{progress:?}");
    assert_eq!(progress.bytes(), progress.total());
    let (_, layers) =
        Bench::new().pull_as(&name(&registry, "to/here:v2"), Some(basic("user", "pass-word"))).await.unwrap();
    assert_eq!(layers, [layer, b"two".to_vec()]);
}

#[tokio::test]
async fn layers_are_mounted_or_found_there() {
    let (registry, bench, image) = pulled(&[b"one", b"two"]).await;
    let mount = PushRequest {
        mount_from: vec![reference(&registry, "from")],
        ..request(&bench, &registry, "to:v1", &image)
    };
    let mut push = bench.client().push(mount);
    push.wait().await.unwrap();
    assert!(push.progress().borrow().layers.iter().all(|layer| layer.state == LayerState::Mounted));
    assert_eq!(registry.count("PUT", "/blobs/"), 0);
    let mut push = bench.client().push(request(&bench, &registry, "to:v2", &image));
    push.wait().await.unwrap();
    assert!(push.progress().borrow().layers.iter().all(|layer| layer.state == LayerState::Present));
}

#[tokio::test]
async fn an_upload_that_fails_is_tried_again() {
    let (_source, bench, image) = pulled(&[&noise(2, 300_000)]).await;
    let registry = Registry::start();
    registry.misbehave("PUT", "/blobs/", Some(2), Misdeed::Status(503, Vec::new(), String::new()));
    registry.misbehave("PUT", "/manifests/", Some(1), Misdeed::Status(502, Vec::new(), String::new()));
    bench.client().push(request(&bench, &registry, "to:v1", &image)).wait().await.unwrap();
    registry.misbehave("POST", "/blobs/", None, Misdeed::Status(403, Vec::new(), String::new()));
    let error = bench.client().push(request(&bench, &registry, "no:v1", &image)).wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_blob_that_is_not_here_is_named() {
    let (registry, bench, image) = pulled(&[b"one"]).await;
    let empty = Bench::new();
    let error = empty.client().push(request(&empty, &registry, "to:v1", &image)).wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(image.target.digest.as_str()), "{error}");
    let mut wrong = request(&bench, &registry, "to:v1", &image);
    wrong.reference = reference(&registry, "to").at_digest(&image.config.descriptor.digest);
    assert_eq!(bench.client().push(wrong).wait().await.unwrap_err().kind(), ErrorKind::Invalid);
}
