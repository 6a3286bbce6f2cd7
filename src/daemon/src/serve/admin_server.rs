//! The daemon's end of the commands' protocol.

use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, LayerState, PullProgress};
use oci::Reference;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{Answer, Envelope, Layer, MAX_REQUEST_BYTES, Request, VERSION};
use crate::embedded;

/// Connections served at once.
const MAX_CONNECTIONS: usize = 32;

/// How long a client may take to say what it wants.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Admin {
    pub(super) engine: Engine,
}

/// Serves commands until `stop`.
pub(super) async fn serve(
    admin: Arc<Admin>,
    listener: UnixListener,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        // A connection that is not accepted stays in the backlog.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let admin = Arc::clone(&admin);
                tracker.spawn(async move {
                    answer(&admin, stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a command failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(admin: &Admin, stream: UnixStream) {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    let mut line = String::new();
    let limited = async { (&mut reader).take(MAX_REQUEST_BYTES).read_line(&mut line).await };
    let Ok(Ok(_)) = tokio::time::timeout(REQUEST_PATIENCE, limited).await else { return };
    let outcome = match serde_json::from_str::<Envelope>(&line) {
        Err(error) => Err(format!("the request makes no sense: {error}")),
        Ok(envelope) if envelope.version != VERSION => Err(format!(
            "this daemon speaks version {VERSION} of the commands' protocol, not {}; use the `berth` of its release",
            envelope.version
        )),
        Ok(envelope) => match envelope.request {
            Request::ImagePull { reference, username, password } => {
                pull(admin, &reference, username, password, &mut write).await
            }
            Request::ImageLoad { embedded } => load(admin, embedded, reader).await,
            request => plain(admin, request).await,
        },
    };
    let answer = match outcome {
        Ok(value) => Answer::Result { value },
        Err(message) => Answer::Failure { message },
    };
    drop(send(&mut write, &answer).await);
}

async fn send(write: &mut OwnedWriteHalf, answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    write.write_all(&line).await
}

async fn plain(admin: &Admin, request: Request) -> Result<Value, String> {
    let engine = &admin.engine;
    match request {
        Request::Version => Ok(json!({ "version": env!("CARGO_PKG_VERSION") })),
        Request::Status => status(engine).await,
        Request::Check { repair } => {
            let problems = engine.check_stores(repair).await.map_err(|e| e.chain())?;
            Ok(json!({ "degraded": engine.status().await.degraded, "problems": problems }))
        }
        Request::ImageList => {
            let images = engine.images().await.map_err(|e| e.chain())?;
            Ok(images.iter().map(image_json).collect())
        }
        Request::ImageInspect { image } => {
            let info = engine.image(&image).await.map_err(|e| e.chain())?;
            let info = info.ok_or_else(|| format!("image {image:?} is not on this node; pull it first"))?;
            let mut value = image_json(&info);
            value["config"] = serde_json::to_value(&info.config).map_err(|e| e.to_string())?;
            Ok(value)
        }
        Request::ImageRemove { image } => {
            if engine.image(&image).await.map_err(|e| e.chain())?.is_none() {
                return Err(format!("image {image:?} is not on this node"));
            }
            let names = engine.remove_image(&image).await.map_err(|e| e.chain())?;
            Ok(names.iter().map(|name| Value::String(name.to_string())).collect())
        }
        Request::NetworkList => Ok(engine.networks().iter().map(network_json).collect()),
        Request::NetworkInspect { name } => {
            let networks = engine.networks();
            let network = networks.iter().find(|n| n.name == name);
            let network = network.ok_or_else(|| format!("no network {name:?}; see `berth network list`"))?;
            let mut value = network_json(network);
            value["config"] = serde_json::from_str(&network.text).unwrap_or(Value::Null);
            Ok(value)
        }
        Request::ImagePull { .. } | Request::ImageLoad { .. } => Err("not a plain request".to_owned()),
    }
}

async fn status(engine: &Engine) -> Result<Value, String> {
    let state = engine.status().await;
    let say = |condition: &engine::Condition| {
        if condition.met { "ready".to_owned() } else { format!("not ready: {}", condition.message) }
    };
    let sandboxes = engine.sandboxes();
    let containers = sandboxes.iter().flat_map(|s| &s.containers);
    let running =
        containers.clone().filter(|c| matches!(c.state, engine::ContainerState::Running { .. })).count();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "runtime": say(&state.runtime),
        "network": say(&state.network),
        "sandboxes": sandboxes.len(),
        "containers": containers.count(),
        "running": running,
        "images": engine.images().await.map_err(|e| e.chain())?.len(),
        "degraded": state.degraded,
        "settings": state.config,
    }))
}

fn image_json(info: &engine::ImageInfo) -> Value {
    let names = |list: &[Reference]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "id": info.id.as_str(),
        "tags": names(&info.tags),
        "digests": names(&info.digests),
        "size_bytes": info.size_bytes,
        "user": info.user,
        "pinned": info.pinned,
    })
}

fn network_json(network: &engine::NetworkInfo) -> Value {
    json!({
        "name": network.name,
        "cni_version": network.cni_version,
        "plugins": network.plugins,
        "source": network.source.as_deref().unwrap_or("built-in"),
        "default": network.default,
    })
}

async fn pull(
    admin: &Admin,
    reference: &str,
    username: Option<String>,
    password: Option<String>,
    write: &mut OwnedWriteHalf,
) -> Result<Value, String> {
    let reference: Reference = reference.parse().map_err(|error| format!("{error}"))?;
    let fields = engine::AuthFields {
        username: username.unwrap_or_default(),
        password: engine::Secret::new(password.unwrap_or_default()),
        ..engine::AuthFields::default()
    };
    let auth = fields.parse().map_err(|error| error.to_string())?;
    let (report, mut progress) = watch::channel(PullProgress::default());
    let request = engine::PullRequest { reference, auth };
    let pulling = admin.engine.pull_image(request, Some(report));
    tokio::pin!(pulling);
    loop {
        // A change that is not seen is followed by another one, or by the end.
        tokio::select! {
            outcome = &mut pulling => {
                let outcome = outcome.map_err(|e| e.chain())?;
                return Ok(json!({ "id": outcome.id.as_str(), "digest": outcome.digest.as_str() }));
            }
            Ok(()) = progress.changed() => {
                let layers = layers(&progress.borrow_and_update());
                // A client that went away does not stop the pull.
                drop(send(write, &Answer::Progress { layers }).await);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn layers(progress: &PullProgress) -> Vec<Layer> {
    let state = |state: LayerState| match state {
        LayerState::Waiting => "waiting",
        LayerState::Transferring => "pulling",
        LayerState::Retrying => "retrying",
        LayerState::Unpacking => "unpacking",
        LayerState::Present | LayerState::Mounted => "present",
        LayerState::Done => "done",
    };
    progress
        .layers
        .iter()
        .map(|layer| Layer {
            digest: layer.digest.to_string(),
            size: layer.size,
            bytes: layer.bytes,
            state: state(layer.state).to_owned(),
        })
        .collect()
}

async fn load(
    admin: &Admin,
    of_program: bool,
    reader: BufReader<tokio::net::unix::OwnedReadHalf>,
) -> Result<Value, String> {
    let ids = if of_program {
        let name: Reference = embedded::EMBEDDED_REFERENCE.parse().map_err(|error| format!("{error}"))?;
        admin.engine.import_images(std::io::Cursor::new(embedded::EMBEDDED_IMAGE), vec![name]).await
    } else {
        // The engine reads archives on a thread for blocking work.
        let (archive, mut feed) = tokio::io::duplex(256 << 10);
        let bridge = tokio_util::io::SyncIoBridge::new(archive);
        let mut reader = reader;
        let copy = async {
            drop(tokio::io::copy(&mut reader, &mut feed).await);
            drop(feed);
        };
        let (ids, ()) = tokio::join!(admin.engine.import_images(bridge, Vec::new()), copy);
        ids
    };
    let ids = ids.map_err(|e| e.chain())?;
    Ok(ids.iter().map(|id| Value::String(id.to_string())).collect())
}
