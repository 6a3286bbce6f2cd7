//! Running the daemon: one process per root, sockets, signals, an orderly end.

mod admin_server;
mod metrics_server;
mod process_metrics;
mod sockets;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use engine::Engine;
use engine::metrics::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{self, Settings};
use crate::logging;
use crate::traces::{self, Traces};

/// How long requests may finish after the signal to end.
const DRAIN: Duration = Duration::from_secs(3);

/// Runs the daemon until a signal ends it. Containers live on.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(1, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("berth")
        // Threads stay for the next burst of pods: starting them is what a pod start can do without.
        .thread_keep_alive(Duration::from_secs(120))
        .max_blocking_threads(128)
        .enable_all()
        .build()
        .context("start the scheduler")?;
    let registry = Registry::new();
    let spans = traces::register(&registry);
    let traces = {
        let _entered = runtime.enter();
        settings.tracing.as_ref().map(|tracing| Traces::new(tracing, spans)).transpose()?
    };
    logging::start(&settings.log_filter, settings.log_format, traces.as_ref())?;
    sockets::require_root()?;
    let _lock = lock(&settings.engine.root)?;
    let outcome = runtime.block_on(serve(settings, registry, traces));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// One daemon per root. The lock is the kernel's: it goes with the process, however that ends.
fn lock(root: &Path) -> anyhow::Result<File> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .with_context(|| format!("make {}", root.display()))?;
    let path = root.join("daemon.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!(
            "another daemon uses {}; stop it first, or give this one a root of its own with --root",
            root.display()
        ),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}

async fn serve(settings: Settings, registry: Registry, traces: Option<Traces>) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    // Sockets first: a busy one is an error before anything is touched.
    let cri_listener = sockets::bind(&settings.cri_socket, 0o660, settings.socket_group)?;
    let docker_listener = match &settings.docker {
        Some(docker) => Some(sockets::bind(&docker.socket, docker.mode, docker.group)?),
        None => None,
    };
    let admin_listener = sockets::bind(&settings.admin_socket, 0o600, None)?;
    let metrics_listener = match &settings.metrics {
        Some(metrics) => Some(metrics_server::bind(metrics).await?),
        None => None,
    };
    let engine = Engine::open(settings.engine.clone(), &registry)
        .await
        .map_err(|error| anyhow::anyhow!("{}", error.chain()))?;
    for sentence in engine.status().await.degraded {
        tracing::warn!("{sentence}");
    }
    let stop = CancellationToken::new();
    let tracker = TaskTracker::new();
    let streaming =
        cri::StreamingOptions { address: settings.streaming.address, tls: settings.streaming.tls.clone() };
    let cri =
        cri::Server::start(engine.clone(), streaming, cri::RpcMetrics::register(&registry), stop.clone())
            .await
            .context("start the streaming server")?;
    let cri = if traces.is_some() { cri.with_traces(Arc::new(traces::Continue::default())) } else { cri };
    let sending = traces.map(Traces::send);
    let serving = stop.clone();
    tracker.spawn(async move {
        if let Err(error) = cri.serve(cri_listener, serving.clone()).await {
            tracing::error!(error = %format!("{error:#}"), "serving the CRI ended");
            serving.cancel();
        }
    });
    if let Some(listener) = docker_listener {
        let options =
            docker::Options { version: env!("CARGO_PKG_VERSION").to_owned(), commit: String::new() };
        let server = docker::Server::new(engine.clone(), options, tracker.clone(), stop.clone());
        tracker.spawn(async move { server.serve(listener).await });
    }
    let admin = Arc::new(admin_server::Admin { engine: engine.clone() });
    tracker.spawn(admin_server::serve(admin, admin_listener, stop.clone(), tracker.clone()));
    if let (Some(listener), Some(metrics)) = (metrics_listener, &settings.metrics) {
        let server = metrics_server::Server::new(engine.clone(), registry, metrics);
        tracker.spawn(server.serve(listener, stop.clone(), tracker.clone()));
    }
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    tracing::info!(
        cri = %settings.cri_socket.display(),
        took_ms = started.elapsed().as_millis(),
        "serving"
    );
    wait_for_end(&settings, &stop).await?;
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    stop.cancel();
    tracker.close();
    drop(tokio::time::timeout(DRAIN, tracker.wait()).await);
    engine.shutdown().await;
    if let Some(sending) = sending {
        sending.end().await;
    }
    sockets::remove(&settings.cri_socket);
    if let Some(docker) = &settings.docker {
        sockets::remove(&docker.socket);
    }
    sockets::remove(&settings.admin_socket);
    tracing::info!("stopped; containers live on");
    Ok(())
}

/// SIGTERM and SIGINT end the daemon, SIGHUP reads the configuration again.
async fn wait_for_end(settings: &Settings, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen to SIGHUP")?;
    loop {
        // Signals are kept by their streams when another branch wins.
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => reload(settings),
            () = stop.cancelled() => bail!("a server ended; see the log"),
        }
    }
}

/// Registries, credentials of requests and networks are read when they are used; what a reload can do
/// beyond that is to say what is wrong with the file now.
fn reload(settings: &Settings) {
    match config::read(settings.config_path.as_deref()).and_then(|(file, source)| config::check(file, source))
    {
        Ok(_) => tracing::info!(
            "the configuration is fine; settings other than registries and networks take a restart"
        ),
        Err(problems) => tracing::error!("{problems}; the settings in force stay"),
    }
}
