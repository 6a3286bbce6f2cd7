//! What containers are given of files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::volumes::VolumeProblem;

fn volume(name: &str, destination: &str) -> VolumeMount {
    let source = VolumeSource::Volume {
        name: name.into(),
        driver: String::new(),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        sub_path: String::new(),
        nocopy: false,
    };
    mount(source, destination)
}

fn mount(source: VolumeSource, destination: &str) -> VolumeMount {
    VolumeMount { destination: destination.into(), source, ..VolumeMount::default() }
}

fn sub_path(name: &str, path: &str, destination: &str) -> VolumeMount {
    let mut mount = volume(name, destination);
    if let VolumeSource::Volume { sub_path, .. } = &mut mount.source {
        *sub_path = path.into();
    }
    mount
}

fn with(name: &str, line: &str, volumes: Vec<VolumeMount>) -> DurableConfig {
    DurableConfig { volumes, ..shell(name, line) }
}

#[test]
fn containers_get_their_files() {
    crate::testing::in_world("durable::tests::volumes::containers_get_their_files", |dir| async move {
        let engine = open(&dir).await;
        import_box(&engine, &dir).await;
        every_kind(&engine, &dir).await;
        uses_are_counted(&engine, &dir).await;
        sub_paths_stay_inside(&engine, &dir).await;
        file_systems_are_mounted_while_used(&engine, &dir).await;
        engine.shutdown().await;
    });
}

async fn every_kind(engine: &Engine, dir: &Path) {
    let bind = BindSource { path: dir.join("made"), create: true, ..BindSource::default() };
    let tmpfs =
        VolumeSource::Tmpfs { size_bytes: Some(4 << 20), mode: Some(0o700), options: vec!["exec".into()] };
    let image = VolumeSource::Image { reference: "box".into(), sub_path: "bin".into() };
    let line = "set -e; echo a >/data/f; echo b >/host/f; echo c >/mem/f; cp /img/sh /mem/sh; \
        /mem/sh -c true; head -c 8000000 /dev/zero >/mem/big && exit 3; ls -ld /mem; cat /proc/mounts";
    let line = line.replace("cp ", "/bin/busybox cp ").replace("ls ", "/bin/busybox ls ");
    let mounts = vec![
        volume("data", "/data"),
        // What the image has there is copied, or nothing would run.
        volume("programs", "/bin"),
        mount(VolumeSource::Bind(bind), "/host"),
        mount(tmpfs, "/mem"),
        mount(image, "/img"),
        volume("", "/anonymous"),
    ];
    create(engine, with("kinds", &line, mounts)).await;
    assert_eq!(run(engine, "kinds").await, 0, "{}", log(engine, "kinds"));
    let seen = log(engine, "kinds");
    assert!(seen.contains("drwx------"), "{seen}");
    assert!(seen.contains("/mem tmpfs rw,nosuid,nodev,relatime,size=4096k,mode=700"), "{seen}");
    assert!(seen.contains("/img overlay ro"), "{seen}");
    let volumes = dir.join("root/volumes");
    assert_eq!(std::fs::read_to_string(volumes.join("data/_data/f")).unwrap(), "a\n");
    assert_eq!(std::fs::read_to_string(dir.join("made/f")).unwrap(), "b\n");
    let copied = std::fs::read_link(volumes.join("programs/_data/sh")).unwrap();
    assert_eq!(copied, PathBuf::from("busybox"));
    let missing = BindSource { path: dir.join("missing"), ..BindSource::default() };
    let refused = with("refused", "true", vec![volume("", "/x"), mount(VolumeSource::Bind(missing), "/y")]);
    let before = engine.volumes().len();
    let error = engine.create_durable(refused).await.unwrap_err();
    assert_eq!(error.cause(), Some(&VolumeProblem::NoSource(dir.join("missing"))), "{}", error.chain());
    assert_eq!(engine.volumes().len(), before, "a container that could not be made leaves no volume");
}

async fn uses_are_counted(engine: &Engine, dir: &Path) {
    let id = status(engine, "kinds").id.to_string();
    let other = VolumeSource::Container { id: id.clone(), readonly: true };
    let line = "cat /data/f && ! echo x >/data/f && echo same >/mem/x; exit $?";
    let shared = create(engine, with("shares", line, vec![mount(other, "")])).await;
    assert_ne!(run(engine, "shares").await, 0, "memory is read-only as well");
    assert!(log(engine, "shares").contains("a\\n"), "{}", log(engine, "shares"));
    let error = engine.remove_volume("data", true).await.unwrap_err();
    let Some(VolumeProblem::InUse { containers, .. }) = error.cause() else { panic!("{}", error.chain()) };
    let mut expected = vec![id, shared.to_string()];
    expected.sort();
    assert_eq!(*containers, expected);
    let pruned = engine.prune_volumes(VolumePruneFilter { all: true, ..Default::default() }).await.unwrap();
    assert_eq!(pruned.names, Vec::<String>::new());
    // Uses are known to the next daemon.
    let again = crate::volumes::Volumes::open(&dir.join("root")).unwrap();
    assert_eq!(again.list(), engine.volumes());
    let how = RemoveDurable { force: true, volumes: true };
    engine.remove_durable("kinds", how).await.unwrap();
    let anonymous = |engine: &Engine| engine.volumes().iter().filter(|v| v.anonymous).count();
    assert_eq!(anonymous(engine), 1, "the other container has it");
    engine.remove_durable("shares", how).await.unwrap();
    let pruned = engine.prune_volumes(VolumePruneFilter::default()).await.unwrap();
    assert_eq!((pruned.names.len(), anonymous(engine)), (1, 0));
    let usage = engine.volume_usage("data").await.unwrap();
    assert_eq!((usage.bytes, usage.references), (Some(4096), 0));
    engine.remove_volume("data", false).await.unwrap();
    engine.remove_volume("data", true).await.unwrap();
    assert_eq!(engine.remove_volume("data", false).await.unwrap_err().kind(), crate::ErrorKind::NotFound);
}

async fn sub_paths_stay_inside(engine: &Engine, dir: &Path) {
    let made =
        engine.create_volume(VolumeConfig { name: "tree".into(), ..Default::default() }).await.unwrap();
    std::fs::create_dir(made.mountpoint.join("inner")).unwrap();
    std::fs::write(made.mountpoint.join("inner/f"), "inside").unwrap();
    std::os::unix::fs::symlink("inner", made.mountpoint.join("link")).unwrap();
    std::os::unix::fs::symlink(dir, made.mountpoint.join("out")).unwrap();
    create(engine, with("sub", "cat /s/f", vec![sub_path("tree", "link", "/s")])).await;
    assert_eq!(run(engine, "sub").await, 0);
    assert!(log(engine, "sub").contains("inside"));
    create(engine, with("escape", "true", vec![sub_path("tree", "out", "/s")])).await;
    let error = engine.start_durable("escape").await.unwrap_err();
    assert!(error.chain().contains("No such file"), "{}", error.chain());
    let climbing = with("climb", "true", vec![sub_path("tree", "../x", "/s")]);
    assert_eq!(engine.create_durable(climbing).await.unwrap_err().kind(), crate::ErrorKind::InvalidArgument);
    for name in ["sub", "escape"] {
        engine.remove_durable(name, RemoveDurable::default()).await.unwrap();
    }
    engine.remove_volume("tree", false).await.unwrap();
}

async fn file_systems_are_mounted_while_used(engine: &Engine, _dir: &Path) {
    let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=2m,nodev")];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let config = VolumeConfig { name: "memory".into(), options, ..Default::default() };
    let made = engine.create_volume(config).await.unwrap();
    let line = "cat /proc/mounts; echo x >/m/f; exec sleep 1000";
    for name in ["first", "second"] {
        create(engine, with(name, line, vec![volume("memory", "/m")])).await;
        start(engine, name).await;
    }
    until("a file", || made.mountpoint.join("f").try_exists().unwrap()).await;
    until("a log", || log(engine, "second").contains("/m tmpfs rw,nodev,relatime,size=2048k")).await;
    engine.stop_durable("first", Some(9), None).await.unwrap();
    assert!(made.mountpoint.join("f").try_exists().unwrap(), "another container uses it");
    engine.stop_durable("second", Some(9), None).await.unwrap();
    assert!(!made.mountpoint.join("f").try_exists().unwrap(), "it is unmounted after the last");
    for name in ["first", "second"] {
        engine.remove_durable(name, RemoveDurable::default()).await.unwrap();
    }
    engine.remove_volume("memory", false).await.unwrap();
}
