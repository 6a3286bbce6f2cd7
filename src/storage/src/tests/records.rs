//! Images, names, collection, checks.

use std::time::{Duration, Instant};

use super::*;
use crate::{Error, ErrorKind, GcOptions, Problem, SnapshotOptions};

const NOW: GcOptions = GcOptions { grace: Duration::ZERO, ingest_age: Duration::ZERO };

#[test]
fn an_image_is_found_by_everything_it_is_called() {
    let fixture = Fixture::new();
    let image = make_image(&fixture.store, &["busybox", "r.example/b:v1"], &[one("a", "1")]).unwrap();
    let by_digest = reference("r.example/b").at_digest(&image.manifests[0]);
    let target = ImageTarget {
        manifest: image.manifests[0].clone(),
        config: image.id.clone(),
        layers: image.layers.clone(),
        extra_blobs: Vec::new(),
        user: image.user.clone(),
        pinned: true,
    };
    let image = fixture.store.put_image(std::slice::from_ref(&by_digest), target).unwrap();
    let fixture = fixture.reopen();
    let hex = image.id.hex();
    for text in [
        "busybox",
        "docker.io/library/busybox:latest",
        "r.example/b:v1",
        &by_digest.to_string(),
        &by_digest.to_string().replace('@', ":any@"),
        hex,
        image.id.as_str(),
        &hex[..6],
        &format!("sha256:{}", &hex[..12]),
    ] {
        assert_eq!(fixture.store.find_image(text).unwrap(), image, "{text}");
    }
    assert_eq!((image.names.len(), image.pinned, image.user.as_str()), (3, true, "1000"));
    for text in ["busybox:other", "r.example/b", "zz", "", "sha256:"] {
        assert_eq!(fixture.store.find_image(text).unwrap_err().kind(), ErrorKind::NotFound, "{text}");
    }
}

#[test]
fn a_short_prefix_is_ambiguous() {
    let fixture = Fixture::new();
    for n in 0..17 {
        make_image(&fixture.store, &[], &[one("a", &n.to_string())]).unwrap();
    }
    let kinds = "0123456789abcdef".chars().map(|c| fixture.store.find_image(&c.to_string()));
    assert!(kinds.filter_map(Result::err).any(|error| error.kind() == ErrorKind::Ambiguous));
}

#[test]
fn a_tag_moves_and_removal_of_an_image_takes_all_its_names() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let first = make_image(store, &["r.example/a:1", "r.example/a:2"], &[one("a", "1")]).unwrap();
    let second = make_image(store, &["r.example/a:2"], &[one("a", "2")]).unwrap();
    assert_eq!(store.find_image("r.example/a:2").unwrap().id, second.id);
    assert_eq!(store.image(&first.id).unwrap().names.len(), 1);

    let removal = store.remove_name(&reference("r.example/a:2")).unwrap();
    assert_eq!(removal.image, Some(second.id.clone()));
    assert_eq!(removal.layers.len(), 1);
    removal.trash.empty().unwrap();
    let third = make_image(store, &["r.example/a:2", "r.example/a:3"], &[one("a", "3")]).unwrap();
    assert_eq!(store.remove_name(&reference("r.example/a:3")).unwrap().image, None);
    assert!(store.remove_name(&reference("r.example/a:3")).unwrap().names.is_empty());
    assert_eq!(store.remove_image(&third.id).unwrap().names.len(), 1);
    assert!(store.remove_image(&third.id).unwrap().image.is_none());
    let ids: Vec<_> = fixture.reopen().store.images().into_iter().map(|image| image.id).collect();
    assert_eq!(ids, [first.id]);
}

#[test]
fn an_image_must_be_whole() {
    let fixture = Fixture::new();
    let image = make_image(&fixture.store, &[], &[one("a", "1")]).unwrap();
    let target = |layer: &Digest, manifest: &Digest| ImageTarget {
        manifest: manifest.clone(),
        config: image.id.clone(),
        layers: vec![ImageLayer { blob: layer.clone(), size: 1, diff_id: layer.clone() }],
        extra_blobs: Vec::new(),
        user: String::new(),
        pinned: false,
    };
    let missing = sha256(b"missing");
    let known = &image.layers[0].diff_id;
    let error = fixture.store.put_image(&[], target(&missing, &image.manifests[0])).unwrap_err();
    assert!(matches!(error, Error::LayerNotFound { .. }));
    let error = fixture.store.put_image(&[], target(known, &missing)).unwrap_err();
    assert!(matches!(error, Error::BlobNotFound { .. }));
}

#[test]
fn wrong_layers_leave_nothing() {
    let fixture = Fixture::new();
    let archive = one("a", "1");
    let error = fixture.store.unpack(&sha256(b"other"), Compression::None, Cursor::new(archive)).unwrap_err();
    assert!(matches!(error, Error::WrongDiffId { .. }));
    assert!(!fixture.store.has_layer(&sha256(b"other")));
    let left = std::fs::read_dir(fixture.store.root().join("tmp")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_second_store_is_refused_at_once() {
    let fixture = Fixture::new();
    let started = Instant::now();
    let content = Arc::clone(fixture.store.content());
    let error = Store::open(fixture.store.root(), content, Options::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(started.elapsed() < Duration::from_millis(100));
}

#[test]
fn collection_spares_images_containers_and_leases() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let image = make_image(store, &["r.example/a:1"], &[one("a", "1"), one("b", "2")]).unwrap();
    let leased = unpack(store, &one("c", "3")).unwrap();
    let loose = unpack(store, &one("d", "4")).unwrap();
    let blob = store.content().put(b"loose").unwrap();
    let lease = store.content().lease();
    lease.add(&leased.diff_id);
    let report = store.gc(GcOptions { grace: Duration::from_secs(3600), ..NOW }).unwrap();
    assert_eq!((report.layers, report.blobs), (vec![loose.diff_id.clone()], vec![]));
    assert_eq!(store.gc(NOW).unwrap().blobs, [blob]);
    assert!(!store.has_layer(&loose.diff_id) && store.has_layer(&leased.diff_id));

    store.prepare(&id("c1"), &image.id, SnapshotOptions::default()).unwrap();
    let removal = store.remove_image(&image.id).unwrap();
    assert!(removal.layers.is_empty(), "the container still needs them");
    assert!(store.content().list().unwrap().is_empty());
    assert!(store.gc(NOW).unwrap().layers.is_empty());
    store.remove(&id("c1")).unwrap().empty().unwrap();
    drop(lease);
    let report = store.gc(NOW).unwrap();
    assert_eq!(report.layers.len(), 3);
    report.trash.empty().unwrap();
    for empty in ["layers/sha256", "snapshots", "tmp", "trash"] {
        assert_eq!(std::fs::read_dir(store.root().join(empty)).unwrap().count(), 0, "{empty}");
    }
    assert_eq!(store.fs_info().unwrap().images.bytes, 0);
}

#[test]
fn shared_layers_outlive_one_of_their_images() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let base = one("a", "1");
    let first = make_image(store, &["r.example/a:1"], &[base.clone(), one("b", "2")]).unwrap();
    let second = make_image(store, &["r.example/a:2"], &[base.clone(), one("c", "3")]).unwrap();
    let removal = store.remove_image(&first.id).unwrap();
    assert_eq!(removal.layers, [sha256(&one("b", "2"))]);
    assert!(store.has_layer(&sha256(&base)));
    assert!(store.check(false).unwrap().is_empty());
    assert_eq!(store.images(), [second]);
}

#[test]
fn damage_is_found_and_repaired() {
    let fixture = Fixture::new();
    let archives = [one("a", "1"), one("b", "2")];
    let image = make_image(&fixture.store, &["r.example/a:1"], &archives).unwrap();
    let [first, second] = [&image.layers[0].diff_id, &image.layers[1].diff_id];
    std::fs::remove_file(fixture.store.layer_path(first).join("a")).unwrap();
    std::fs::remove_dir_all(fixture.store.layer_path(second)).unwrap();
    std::fs::write(fixture.store.content().blob_path(&image.manifests[0]), b"damaged").unwrap();
    let fixture = fixture.reopen();
    let problems = fixture.store.check(true).unwrap();
    let expected = [
        Problem::LayerMissing { diff_id: second.clone() },
        Problem::LayerChanged { diff_id: first.clone(), expected: 1, found: 0 },
        Problem::BlobDamaged { digest: image.manifests[0].clone() },
        Problem::ImageIncomplete { id: image.id.clone(), digest: first.clone() },
        Problem::ImageIncomplete { id: image.id.clone(), digest: image.manifests[0].clone() },
    ];
    for problem in expected {
        assert!(problems.contains(&problem), "{problem} is not in {problems:?}");
    }
    // A pull brings everything back.
    make_image(&fixture.store, &["r.example/a:1"], &archives).unwrap();
    assert_eq!(fixture.reopen().store.check(false).unwrap(), []);
}

#[test]
fn a_damaged_database_is_put_aside() {
    let fixture = Fixture::new();
    make_image(&fixture.store, &["r.example/a:1"], &[one("a", "1")]).unwrap();
    let Fixture { directory, store } = fixture;
    let path = store.root().join("images.redb");
    drop(store);
    let length = std::fs::metadata(&path).unwrap().len();
    for (name, bytes) in [("rubbish", vec![0x5a; 8192]), ("zeros", vec![0; usize::try_from(length).unwrap()])]
    {
        std::fs::write(&path, bytes).unwrap();
        let store = open(directory.path());
        assert!(store.images().is_empty());
        let problems = store.check(false).unwrap();
        assert!(matches!(&problems[..], [Problem::DatabaseDamaged { .. }, ..]), "{name}: {problems:?}");
        make_image(&store, &["r.example/a:1"], &[one("a", "1")]).unwrap();
    }
}

#[test]
fn records_of_version_1_are_read() {
    let layer = r#"{"bytes":4096,"inodes":1,"opaque":false}"#;
    let digest = format!("sha256:{}", "a".repeat(64));
    let image = format!(
        r#"{{"manifests":["{digest}"],"names":["docker.io/library/a:1"],"layers":[{{"blob":"{digest}","size":5,"diff_id":"{digest}"}}],"extra_blobs":[],"size":7,"user":"u","pinned":true,"created_ns":9}}"#
    );
    let snapshot = format!(
        r#"{{"version":1,"image":"{digest}","layers":["{digest}"],"idmap":{{"uids":[{{"container":0,"host":100000,"length":65536}}],"gids":[]}},"durable":false,"boot_id":"b"}}"#
    );
    let adapter = format!(
        r#"{{"version":1,"layers":["{digest}"],"replaced":[1],"top":true,"directories":4,"inodes":9}}"#
    );
    use crate::persist::v1::{AdapterRecord, ImageRecord, LayerRecord, SnapshotRecord};
    let digest: Digest = digest.parse().unwrap();
    let record: LayerRecord = serde_json::from_str(layer).unwrap();
    assert_eq!(serde_json::to_string(&record).unwrap(), layer);
    let implied = layer.replace("false", "false,\"implied\":true");
    let record: LayerRecord = serde_json::from_str(&implied).unwrap();
    assert_eq!(serde_json::to_string(&record).unwrap(), implied);
    let record: AdapterRecord = serde_json::from_str(&adapter).unwrap();
    let read = record.into_adapter().unwrap();
    assert_eq!(serde_json::to_string(&AdapterRecord::new(&read)).unwrap(), adapter);
    let newer = adapter.replace("\"version\":1", "\"version\":2");
    assert!(serde_json::from_str::<AdapterRecord>(&newer).unwrap().into_adapter().is_none());
    let record: ImageRecord = serde_json::from_str(&image).unwrap();
    assert_eq!(serde_json::to_string(&ImageRecord::new(&record.into_image(digest))).unwrap(), image);
    let record: SnapshotRecord = serde_json::from_str(&snapshot).unwrap();
    let read = record.into_snapshot(id("c"), "other boot");
    assert!(read.stale);
    assert_eq!(read.idmap.as_ref().unwrap().root(), (100_000, 65534));
    assert_eq!(serde_json::to_string(&SnapshotRecord::new(&read, "b")).unwrap(), snapshot);
}
