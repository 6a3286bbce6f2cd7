//! Files of containers: copying in and out, what was changed, all of them.

use base64::Engine as _;
use engine::{ArchiveProblem, ArchivePut, ArchiveStream, ChangeKind, PathKind, PathStat};
use http::StatusCode;
use serde_json::{Value, json};

use super::target;
use crate::app::App;
use crate::http::{ApiError, Call, Reply, Result, upload};
use crate::text;

const STAT: &str = "x-docker-container-path-stat";
const TAR: &str = "application/x-tar";

fn path(call: &Call) -> Result<&str> {
    match call.params.get("path") {
        "" => Err(ApiError::bad("bad parameter: path cannot be empty")),
        path => Ok(path),
    }
}

/// Docker names the container as the client did.
fn worded(error: &engine::Error, reference: &str) -> ApiError {
    match error.cause::<ArchiveProblem>() {
        Some(ArchiveProblem::NoPath { path, .. }) => ApiError::not_found(format!(
            "Could not find the file {} in container {reference}",
            path.display()
        )),
        _ => ApiError::from_engine(error),
    }
}

/// What is at a path.
pub(super) async fn stat(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    let target = target::find(app, reference)?;
    let stat = app.engine.archive_stat(target.id().as_str(), path(call)?).await;
    let stat = stat.map_err(|error| worded(&error, reference))?;
    Ok(Reply::empty(StatusCode::OK).header(STAT, &header(&stat)))
}

/// A path as an archive.
pub(super) async fn get(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    let target = target::find(app, reference)?;
    let got = app.engine.archive_get(target.id().as_str(), path(call)?).await;
    let (stat, archive) = got.map_err(|error| worded(&error, reference))?;
    Ok(send(archive).header(STAT, &header(&stat)))
}

/// Extracts an archive.
pub(super) async fn put(app: &App, mut call: Call, reference: &str) -> Result<Reply> {
    let target = target::find(app, reference)?;
    let path = path(&call)?.to_owned();
    let how = ArchivePut {
        keep_kinds: call.params.flag("noOverwriteDirNonDir"),
        own: call.params.flag("copyUIDGID"),
    };
    let (archive, pump) = upload(call.take_body());
    let put = app.engine.archive_put(target.id().as_str(), &path, how, archive);
    let (outcome, ()) = tokio::join!(put, pump);
    outcome.map_err(|error| worded(&error, reference))?;
    Ok(Reply::empty(StatusCode::OK))
}

/// What differs from the image.
pub(super) async fn changes(app: &App, reference: &str) -> Result<Reply> {
    let target = target::find(app, reference)?;
    let changes = app.engine.container_changes(target.id().as_str()).await?;
    if changes.is_empty() {
        return Ok(Reply::json(&Value::Null));
    }
    let kind = |kind| match kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    let all: Vec<Value> =
        changes.iter().map(|change| json!({"Path": change.path, "Kind": kind(change.kind)})).collect();
    Ok(Reply::json(&all))
}

/// The whole file system as an archive.
pub(super) async fn export(app: &App, reference: &str) -> Result<Reply> {
    let target = target::find(app, reference)?;
    Ok(send(app.engine.export_container(target.id().as_str()).await?))
}

/// An archive as it comes into being. One that breaks off has no end, which is how clients tell.
pub(crate) fn send(mut archive: ArchiveStream) -> Reply {
    Reply::stream(TAR, |out| async move {
        while let Some(Ok(part)) = archive.next().await {
            if out.send(part).await.is_err() {
                return;
            }
        }
    })
}

fn header(stat: &PathStat) -> String {
    let document = json!({
        "name": stat.name, "size": stat.size, "mode": mode(stat), "mtime": text::rfc3339(stat.mtime_ns),
        "linkTarget": stat.link_target,
    });
    base64::engine::general_purpose::STANDARD.encode(document.to_string())
}

/// Kind and permissions as the bits that Go's `os.FileMode` has for them.
fn mode(stat: &PathStat) -> u32 {
    let kind = match stat.kind {
        PathKind::File => 0,
        PathKind::Directory => 1 << 31,
        PathKind::Symlink => 1 << 27,
        PathKind::BlockDevice => 1 << 26,
        PathKind::CharDevice => 1 << 26 | 1 << 21,
        PathKind::Fifo => 1 << 25,
        PathKind::Socket => 1 << 24,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = special.iter().filter(|(bit, _)| stat.mode & bit != 0).map(|(_, go)| go).sum();
    kind | special | (stat.mode & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(kind: PathKind, mode: u32) -> PathStat {
        PathStat {
            name: "x".to_owned(),
            size: 3,
            kind,
            mode,
            mtime_ns: 1_700_000_000_000_000_000,
            link_target: String::new(),
        }
    }

    #[test]
    fn modes_are_those_of_go() {
        assert_eq!(mode(&stat(PathKind::File, 0o644)), 0o644);
        assert_eq!(mode(&stat(PathKind::Directory, 0o1777)), 1 << 31 | 1 << 20 | 0o777);
        assert_eq!(mode(&stat(PathKind::File, 0o6755)), 1 << 23 | 1 << 22 | 0o755);
        assert_eq!(mode(&stat(PathKind::CharDevice, 0o666)), 1 << 26 | 1 << 21 | 0o666);
    }

    #[test]
    fn the_header_is_a_document_in_base64() {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(header(&stat(PathKind::Symlink, 0o777)))
            .unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let expected = json!({"name": "x", "size": 3, "mode": (1u32 << 27) | 0o777, "mtime": "2023-11-14T22:13:20Z", "linkTarget": ""});
        assert_eq!(document, expected);
    }
}
