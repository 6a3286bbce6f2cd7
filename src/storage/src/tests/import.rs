//! Archives of images.

use serde_json::json;

use super::*;
use crate::ErrorKind;
use crate::archive::tests::{file, gzip, symlink};

fn config(diff_ids: &[&Digest]) -> Vec<u8> {
    json!({
        "architecture": "amd64", "os": "linux", "config": {"User": "nobody"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids.iter().map(|id| id.as_str()).collect::<Vec<_>>()},
    })
    .to_string()
    .into_bytes()
}

fn platform() -> oci::Platform {
    oci::Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: String::new() }
}

fn import(store: &Store, archive: &[u8]) -> Result<Vec<Image>, crate::Error> {
    store.import(Cursor::new(archive.to_vec()), &platform(), &[reference("r.example/extra:1")])
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", sha256(bytes).hex()), bytes.to_vec())
}

/// A layout with an index of two platforms and an attestation.
fn layout() -> (Vec<u8>, Digest) {
    let layer = one("hello", "world");
    let packed = gzip(&layer);
    let config = config(&[&sha256(&layer)]);
    let descriptor = |media: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{media}"), "digest": sha256(bytes).as_str(), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar+gzip", &packed)],
    })
    .to_string()
    .into_bytes();
    let with_platform = |architecture: &str, os: &str, digest: &Digest| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.as_str(), "size": 1,
            "platform": {"os": os, "architecture": architecture}})
    };
    let missing = sha256(b"missing");
    let inner = json!({"schemaVersion": 2, "manifests": [
        with_platform("unknown", "unknown", &missing),
        with_platform("arm64", "linux", &missing),
        with_platform("amd64", "linux", &sha256(&manifest)),
    ]})
    .to_string()
    .into_bytes();
    let mut named = descriptor("index.v1+json", &inner);
    named["annotations"] = json!({"io.containerd.image.name": "r.example/hello:1"});
    let index = json!({"schemaVersion": 2, "manifests": [named]}).to_string().into_bytes();
    let id = sha256(&config);
    let blobs = [blob(&packed), blob(&config), blob(&manifest), blob(&inner)];
    let files = blobs.into_iter().chain([("./index.json".to_owned(), index)]);
    (Builder::of(files.map(|(name, bytes)| file(&name, &bytes))), id)
}

#[test]
fn a_layout_is_imported() {
    let fixture = Fixture::new();
    let (archive, id) = layout();
    for _ in 0..2 {
        let images = import(&fixture.store, &archive).unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!((&images[0].id, images[0].user.as_str()), (&id, "nobody"));
    }
    for name in ["r.example/hello:1", "r.example/extra:1"] {
        assert_eq!(fixture.store.find_image(name).unwrap().id, id);
    }
    assert_eq!(fixture.reopen().store.check(false).unwrap(), []);
}

#[test]
fn an_archive_of_docker_save_is_imported() {
    let fixture = Fixture::new();
    let (first, second) = (one("a", "1"), one("b", "2"));
    let config = config(&[&sha256(&first), &sha256(&second), &sha256(&first)]);
    let manifest = json!([{
        "Config": "config.json",
        "RepoTags": ["hello:latest", "r.example/hello:2"],
        "Layers": ["one/layer.tar", "two/layer.tar", "three/layer.tar"],
    }]);
    let archive = Builder::of([
        file("one/layer.tar", &first),
        file("one/VERSION", b"1.0"),
        file("two/layer.tar", &gzip(&second)),
        symlink("three/layer.tar", "../one/layer.tar"),
        file("config.json", &config),
        file("manifest.json", manifest.to_string().as_bytes()),
    ]);
    let images = import(&fixture.store, &archive).unwrap();
    assert_eq!((images.len(), images[0].layers.len(), images[0].names.len()), (1, 3, 3));
    assert_eq!(fixture.store.find_image("hello").unwrap().id, sha256(&config));
    let manifest = fixture.store.content().read_small(&images[0].manifests[0], 1 << 20).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["layers"][1]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    fixture.store.gc(crate::GcOptions { grace: Default::default(), ingest_age: Default::default() }).unwrap();
    assert_eq!(fixture.store.check(false).unwrap(), []);
}

#[test]
fn hostile_archives_are_refused() {
    let huge = file("index.json", &vec![b' '; 5 << 20]);
    let lying = file(&format!("blobs/sha256/{}", sha256(b"x").hex()), b"y");
    let dangling = json!([{"Config": "../../../etc/passwd", "Layers": []}]).to_string();
    let looping = json!([{"Config": "a", "Layers": []}]).to_string();
    for (items, kind) in [
        (vec![], ErrorKind::Invalid),
        (vec![huge], ErrorKind::Limit),
        (vec![lying], ErrorKind::Invalid),
        (vec![file("index.json", b"[")], ErrorKind::Invalid),
        (vec![file("index.json", b"{}")], ErrorKind::Invalid),
        (vec![file("manifest.json", dangling.as_bytes())], ErrorKind::Invalid),
        (
            vec![symlink("a", "b"), symlink("b", "a"), file("manifest.json", looping.as_bytes())],
            ErrorKind::Invalid,
        ),
    ] {
        let fixture = Fixture::new();
        let error = import(&fixture.store, &Builder::of(items)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        let left = std::fs::read_dir(fixture.store.content().root().join("ingest")).unwrap().count();
        assert!(left <= 1, "a partial blob is left for the collection");
    }
}
