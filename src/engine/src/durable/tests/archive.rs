//! Files of containers from outside.

use std::collections::BTreeMap;

use super::*;
use crate::archive::{ArchiveProblem, ArchivePut, ArchiveStream, ChangeKind, CommitConfig, PathKind};

#[test]
fn files_go_in_and_out() {
    crate::testing::in_world("durable::tests::archive::files_go_in_and_out", |dir| async move {
        let engine = open(&dir).await;
        import_box(&engine, &dir).await;
        let line = "echo old >/etc/f; ln -s /etc /tmp/link; exec sleep 1000";
        let line = line.replace("ln ", "/bin/busybox ln ");
        let source = VolumeSource::Volume {
            name: "data".into(),
            driver: String::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            sub_path: String::new(),
            nocopy: false,
        };
        let volumes = vec![VolumeMount { destination: "/data".into(), source, ..VolumeMount::default() }];
        create(&engine, DurableConfig { volumes, ..shell("box1", &line) }).await;
        copying(&engine, &dir, "created").await;
        start(&engine, "box1").await;
        until("its files", || engine.volumes().len() == 1).await;
        wait_for_link(&engine).await;
        copying(&engine, &dir, "running").await;
        links_stay_inside(&engine, &dir).await;
        whole(&engine, &dir).await;
        engine.stop_durable("box1", Some(9), None).await.unwrap();
        copying(&engine, &dir, "stopped").await;
        whole(&engine, &dir).await;
        images(&engine, &dir).await;
        engine.shutdown().await;
    });
}

async fn wait_for_link(engine: &Engine) {
    for _ in 0..1000 {
        if engine.archive_stat("box1", "/tmp/link").await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the container makes no link");
}

/// What tar makes of a stream.
async fn unpacked(mut stream: ArchiveStream, dir: &Path, name: &str) -> std::path::PathBuf {
    let target = dir.join("unpacked").join(name);
    std::fs::create_dir_all(&target).unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = stream.next().await {
        bytes.extend_from_slice(&part.unwrap_or_else(|e| panic!("{}", e.chain())));
    }
    std::fs::write(target.with_extension("tar"), &bytes).unwrap();
    let tar =
        Command::new("tar").arg("-xf").arg(target.with_extension("tar")).arg("-C").arg(&target).status();
    assert!(tar.unwrap().success());
    target
}

fn packed(dir: &Path, name: &str, content: &str) -> std::io::Cursor<Vec<u8>> {
    let place = dir.join("packed");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join(name), content).unwrap();
    let out =
        Command::new("tar").args(["--owner=7", "-czf", "-", "-C"]).arg(&place).arg(name).output().unwrap();
    assert!(out.status.success());
    std::io::Cursor::new(out.stdout)
}

async fn copying(engine: &Engine, dir: &Path, phase: &str) {
    let put = ArchivePut::default();
    engine.archive_put("box1", "/tmp", put, packed(dir, phase, "x")).await.unwrap();
    engine.archive_put("box1", "/data/", put, packed(dir, phase, "in the volume")).await.unwrap();
    let data = dir.join("root/volumes/data/_data").join(phase);
    assert_eq!(std::fs::read_to_string(data).unwrap(), "in the volume");
    let (stat, stream) = engine.archive_get("box1", &format!("/tmp/{phase}")).await.unwrap();
    assert_eq!((stat.name.as_str(), stat.size, stat.kind), (phase, 1, PathKind::File));
    let out = unpacked(stream, dir, &format!("file-{phase}")).await;
    assert_eq!(std::fs::read_to_string(out.join(phase)).unwrap(), "x");
    let (_, stream) = engine.archive_get("box1", "/data").await.unwrap();
    let out = unpacked(stream, dir, &format!("dir-{phase}")).await;
    assert_eq!(std::fs::read_to_string(out.join("data").join(phase)).unwrap(), "in the volume");
    let (_, stream) = engine.archive_get("box1", "/data/.").await.unwrap();
    let out = unpacked(stream, dir, &format!("dot-{phase}")).await;
    assert!(out.join(phase).is_file());
    let error = engine.archive_stat("box1", "/none/x").await.unwrap_err();
    assert!(matches!(error.cause(), Some(ArchiveProblem::NoPath { .. })), "{}", error.chain());
    let error = engine.archive_put("box1", "/bin/busybox", put, packed(dir, phase, "")).await.unwrap_err();
    assert!(matches!(error.cause(), Some(ArchiveProblem::NotADirectory(_))), "{}", error.chain());
    let keep = ArchivePut { keep_kinds: true, ..put };
    let error = engine.archive_put("box1", "/", keep, packed(dir, "tmp", "")).await.unwrap_err();
    assert!(error.chain().contains("cannot overwrite"), "{}", error.chain());
}

async fn links_stay_inside(engine: &Engine, dir: &Path) {
    let stat = engine.archive_stat("box1", "/tmp/link").await.unwrap();
    assert_eq!((stat.kind, stat.link_target.as_str()), (PathKind::Symlink, "/etc"));
    assert_eq!(engine.archive_stat("box1", "/tmp/link/").await.unwrap().kind, PathKind::Directory);
    let (_, stream) = engine.archive_get("box1", "/tmp/link/f").await.unwrap();
    let out = unpacked(stream, dir, "linked").await;
    assert_eq!(
        std::fs::read_to_string(out.join("f")).unwrap(),
        "old\n",
        "it is the container's, not the host's"
    );
    engine.archive_put("box1", "/tmp/link", ArchivePut::default(), packed(dir, "put", "1")).await.unwrap();
    assert_eq!(engine.archive_stat("box1", "/etc/put").await.unwrap().size, 1);
    // What is mounted in it cannot be pulled away from under it.
    let error = engine.archive_put("box1", "/etc", ArchivePut::default(), packed(dir, "hosts", "")).await;
    assert!(error.unwrap_err().chain().contains("mounted"));
}

async fn whole(engine: &Engine, dir: &Path) {
    let changes = engine.container_changes("box1").await.unwrap();
    let kind = |path: &str| changes.iter().find(|change| change.path == path).map(|change| change.kind);
    assert_eq!(kind("/etc/f"), Some(ChangeKind::Added));
    assert_eq!(kind("/etc"), Some(ChangeKind::Modified));
    assert_eq!(kind("/bin"), None);
    let out = unpacked(engine.export_container("box1").await.unwrap(), dir, "whole").await;
    assert_eq!(std::fs::read_to_string(out.join("etc/f")).unwrap(), "old\n");
    assert!(out.join("bin/busybox").is_file());
    assert_eq!(std::fs::read_dir(out.join("data")).unwrap().count(), 0, "a volume is not its file system");
    assert_eq!(std::fs::read_dir(out.join("proc")).unwrap().count(), 0);
}

async fn images(engine: &Engine, dir: &Path) {
    let config = CommitConfig {
        names: vec!["made:1".parse().unwrap()],
        created: "2026-01-01T00:00:00Z".into(),
        ..CommitConfig::default()
    };
    let id = engine.commit_container("box1", config).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let again = DurableConfig {
        container: ContainerConfig { image: "made:1".into(), ..shell("again", "cat /etc/f").container },
        ..shell("again", "")
    };
    create(engine, again).await;
    assert_eq!(run(engine, "again").await, 0);
    assert!(log(engine, "again").contains("old"));
    let saved = unpacked(engine.save_images(&["made:1".to_owned()]).await.unwrap(), dir, "saved").await;
    let manifest = std::fs::read_to_string(saved.join("manifest.json")).unwrap();
    assert!(manifest.contains("\"made:1\"") && manifest.contains(id.hex()), "{manifest}");
    let tar = std::fs::File::open(saved.with_extension("tar")).unwrap();
    assert_eq!(engine.import_images(tar, Vec::new()).await.unwrap(), std::slice::from_ref(&id));
    let pruned = engine.prune_images(true, |_| true).await.unwrap();
    assert_eq!(pruned.images, Vec::new(), "both images are used");
    engine.remove_durable("again", RemoveDurable::default()).await.unwrap();
    let pruned = engine.prune_images(true, |_| true).await.unwrap();
    assert_eq!(pruned.images, [id]);
    assert!(pruned.bytes > 0);
}
