//! Images of containers and of root file systems, and archives of images.

use serde_json::{Value, json};

use super::*;
use crate::archive::tests::{file, gzip};
use crate::{MountOptions, NewImage, SnapshotOptions, ViewOptions};

fn new(base: Value, name: &str) -> NewImage {
    NewImage {
        names: vec![reference(name)],
        base,
        config: Value::Null,
        created_by: "test".to_owned(),
        author: "me".to_owned(),
        comment: String::new(),
        created: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn read(store: &Store, image: &Image, path: &str) -> Option<String> {
    use std::os::fd::AsFd;
    let view = store.view(&image.id, ViewOptions::default()).unwrap();
    let found = sys::path::open_regular_in_root(view.as_fd(), Path::new(path)).ok()?;
    std::io::read_to_string(std::fs::File::from(found)).ok()
}

#[test]
fn what_a_container_wrote_becomes_a_layer() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let rootfs = gzip(&Builder::of([file("d/kept", b"1"), file("d/gone", b"2"), file("o/hidden", b"3")]));
    let base =
        store.import_rootfs(Box::new(Cursor::new(rootfs)), new(Value::Null, "r.example/base:1")).unwrap();
    assert_eq!(read(store, &base, "d/gone").as_deref(), Some("2"));
    let options = SnapshotOptions { idmap: None, durable: true };
    let snapshot = store.prepare(&id("c"), &base.id, options).unwrap();
    let mount = store.mount(&snapshot, MountOptions::default()).unwrap();
    let place =
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&mount)));
    let place = Path::new(&place);
    std::fs::write(place.join("new"), "4").unwrap();
    std::fs::remove_file(place.join("d/gone")).unwrap();
    std::fs::remove_dir_all(place.join("o")).unwrap();
    std::fs::create_dir(place.join("o")).unwrap();
    std::fs::write(place.join("o/other"), "5").unwrap();
    drop(mount);
    let document: Value =
        serde_json::from_slice(&store.content().read_small(&base.id, 1 << 20).unwrap()).unwrap();
    let mut wanted = new(document, "r.example/made:1");
    wanted.config = json!({"User": "me", "Cmd": ["x"]});
    let made = store.capture(&snapshot, wanted).unwrap();
    assert_eq!((made.layers.len(), made.user.as_str()), (2, "me"));
    for (path, content) in [
        ("d/kept", Some("1")),
        ("d/gone", None),
        ("o/hidden", None),
        ("o/other", Some("5")),
        ("new", Some("4")),
    ] {
        assert_eq!(read(store, &made, path).as_deref(), content, "{path}");
    }
    let document: Value =
        serde_json::from_slice(&store.content().read_small(&made.id, 1 << 20).unwrap()).unwrap();
    assert_eq!(document["history"].as_array().map(Vec::len), Some(2));
    assert_eq!(document["rootfs"]["diff_ids"][1], made.layers[1].diff_id.as_str());
}

#[test]
fn what_is_saved_can_be_loaded_elsewhere() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let rootfs = Builder::of([file("f", b"content")]);
    let image =
        store.import_rootfs(Box::new(Cursor::new(rootfs)), new(Value::Null, "r.example/a:1")).unwrap();
    let names = vec![reference("r.example/a:1"), reference("r.example/b:2")];
    let images = [(image.clone(), names.clone())];
    store.can_save(&images).unwrap();
    let archive = store.save(&images, Vec::new()).unwrap();
    let other = Fixture::new();
    let loaded = other.store.import(Cursor::new(archive), &oci::Platform::host(), &[]).unwrap();
    assert!(loaded.iter().all(|found| found.id == image.id));
    for name in &names {
        let found = other.store.image_named(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(read(&other.store, &found, "f").as_deref(), Some("content"));
    }
    store.content().remove(&image.layers[0].blob).unwrap();
    assert!(store.can_save(&images).is_err());
}
