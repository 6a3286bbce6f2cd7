//! Durable containers as front ends see them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oci::ContainerId;

use super::record::{DurableRecord, VERSION, directory};
use super::supervisor;
use super::{Command, DurableProblem, StopHow, WaitExit, config};
use crate::blocking::Purpose;
use crate::engine::{Engine, Shared, check_sandbox};
use crate::error::{Error, ErrorKind, Result};
use crate::happenings::Action;
use crate::model::{
    CreatedDurable, DurableConfig, DurableStatus, DurableUpdate, ImageInfo, NetworkEndpointConfig,
    RemoveDurable, Started, Stopped, WaitFor,
};
use crate::sandbox::{check_container, prepare_snapshot, storage_error, to_storage_maps};

impl Engine {
    /// Makes a durable container. It survives power loss when this returns; it does not run yet.
    pub async fn create_durable(&self, config: DurableConfig) -> Result<CreatedDurable> {
        let shared = Arc::clone(self.shared());
        // Work that has begun runs to its end, whether or not anybody waits for it.
        let work = self.shared().tracker.spawn(async move { Box::pin(create(&shared, config)).await });
        work.await
            .map_err(|error| Error::caused_by(ErrorKind::Internal, "making a container broke off", error))?
    }

    /// A durable container by id, unambiguous beginning of an id, or name.
    pub fn durable(&self, reference: &str) -> Result<Arc<DurableStatus>> {
        Ok(self.shared().durables.find(reference)?.status())
    }

    /// All durable containers, oldest first.
    pub fn durables(&self) -> Vec<Arc<DurableStatus>> {
        let mut all: Vec<_> = self.shared().durables.all().iter().map(super::Durable::status).collect();
        all.sort_by(|a, b| (a.created_at_ns, &a.id).cmp(&(b.created_at_ns, &b.id)));
        all
    }

    /// Starts a durable container.
    pub async fn start_durable(&self, reference: &str) -> Result<Started> {
        self.shared().durables.find(reference)?.ask(|reply| Command::Start { reply }).await
    }

    /// Stops a durable container by hand: `signal` or its stop signal, then SIGKILL when `grace`, or else its own
    /// stop timeout, is over. [`Duration::MAX`] waits for ever.
    pub async fn stop_durable(
        &self,
        reference: &str,
        signal: Option<i32>,
        grace: Option<Duration>,
    ) -> Result<Stopped> {
        let how = StopHow { signal, grace };
        self.shared().durables.find(reference)?.ask(|reply| Command::Stop { how, reply }).await
    }

    /// Stops a durable container as [`Engine::stop_durable`] does, if it runs, and starts it.
    pub async fn restart_durable(
        &self,
        reference: &str,
        signal: Option<i32>,
        grace: Option<Duration>,
    ) -> Result<()> {
        let how = StopHow { signal, grace };
        self.shared().durables.find(reference)?.ask(|reply| Command::Restart { how, reply }).await
    }

    /// Sends a signal to the first process of a durable container.
    pub async fn kill_durable(&self, reference: &str, signal: i32) -> Result<()> {
        self.shared().durables.find(reference)?.ask(|reply| Command::Kill { signal, reply }).await
    }

    /// Removes a durable container and what it wrote.
    pub async fn remove_durable(&self, reference: &str, how: RemoveDurable) -> Result<()> {
        self.shared().durables.find(reference)?.ask(|reply| Command::Remove { how, reply }).await
    }

    /// Takes the CPU from all processes of a durable container.
    pub async fn pause_durable(&self, reference: &str) -> Result<()> {
        self.shared().durables.find(reference)?.ask(|reply| Command::Pause { reply }).await
    }

    /// Lets a paused container go on.
    pub async fn unpause_durable(&self, reference: &str) -> Result<()> {
        self.shared().durables.find(reference)?.ask(|reply| Command::Unpause { reply }).await
    }

    /// Gives a durable container another name, also on its networks.
    pub async fn rename_durable(&self, reference: &str, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.shared().durables.find(reference)?.ask(|reply| Command::Rename { name, reply }).await
    }

    /// Changes limits and policy of a durable container: all of it, or nothing.
    pub async fn update_durable(&self, reference: &str, update: DurableUpdate) -> Result<()> {
        let update = Box::new(update);
        self.shared().durables.find(reference)?.ask(|reply| Command::Update { update, reply }).await
    }

    /// Attaches a durable container to one more network: now if it runs, and at each start from now on.
    pub async fn connect_durable(&self, reference: &str, endpoint: NetworkEndpointConfig) -> Result<()> {
        let endpoint = Box::new(endpoint);
        self.shared().durables.find(reference)?.ask(|reply| Command::Connect { endpoint, reply }).await
    }

    /// Detaches a durable container from a network: now if it runs, and at each start from now on.
    pub async fn disconnect_durable(&self, reference: &str, network: &str) -> Result<()> {
        let network = network.to_owned();
        self.shared().durables.find(reference)?.ask(|reply| Command::Disconnect { network, reply }).await
    }

    /// Waits for a durable container. The wait is registered when this returns: what happens from then on is not
    /// missed.
    pub fn wait_durable(&self, reference: &str, until: WaitFor) -> Result<WaitExit> {
        Ok(self.shared().durables.find(reference)?.waits.wait(until))
    }
}

async fn create(shared: &Arc<Shared>, config: DurableConfig) -> Result<CreatedDurable> {
    let random = sys::fs::random_bytes().map_err(|error| Error::io("make a container id", error))?;
    let id = ContainerId::from_random(random);
    shared.durables.reserve(&config.name, &id)?;
    let name = config.name.clone();
    let made = Box::pin(make(shared, &id, config)).await;
    if made.is_err() {
        shared.durables.release(&name, &id);
    }
    made
}

async fn make(shared: &Arc<Shared>, id: &ContainerId, config: DurableConfig) -> Result<CreatedDurable> {
    let image = find_image(shared, &config.container.image).await?;
    let record = DurableRecord {
        version: VERSION,
        id: id.clone(),
        config,
        created_at_ns: sys::fs::now_ns(),
        image_id: image.id,
        image_config: image.config,
        run: None,
        last_exit: None,
        error: String::new(),
        restart_count: 0,
        manually_stopped: false,
        removing: None,
    };
    check(shared, &record)?;
    shared.images.remember(&record.image_id, record.image_config.clone());
    let (writing, snapshotting) = (write_record(shared, &record), make_snapshot(shared, &record));
    let (written, snapshotted) = tokio::join!(writing, snapshotting);
    let made = match written.and(snapshotted) {
        Ok(()) => give_files(shared, &record).await,
        Err(error) => Err(error),
    };
    if let Err(error) = made {
        forget(shared, id).await;
        return Err(error);
    }
    let subject = supervisor::subject(&record);
    tracing::info!(container = %id, name = record.config.name, "container made");
    supervisor::spawn(shared, record, None);
    shared.happenings.publish(subject, Action::Create);
    Ok(CreatedDurable { id: id.clone(), warnings: Vec::new() })
}

async fn find_image(shared: &Shared, text: &str) -> Result<ImageInfo> {
    match shared.images.find(text).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(DurableProblem::ImageMissing(text.to_owned()).error("find the container's image"))
        }
        other => other,
    }
}

/// What can be found wrong before a start is found now.
fn check(shared: &Shared, record: &DurableRecord) -> Result<()> {
    config::check(&record.config, &record.id)?;
    let dir = directory(&shared.config.root).join(&record.id);
    let sandbox = config::sandbox(record, &dir);
    check_sandbox(&sandbox)?;
    shared.handler(&sandbox.runtime_handler)?;
    let container = config::container(record);
    check_container(&container)?;
    crate::spec::limits(&container.resources)?;
    for endpoint in sandbox.user_networking.iter().flat_map(|n| &n.endpoints) {
        shared.networks.check_endpoint(endpoint)?;
    }
    Ok(())
}

async fn write_record(shared: &Arc<Shared>, record: &DurableRecord) -> Result<()> {
    let (record, dir) = (record.clone(), directory(&shared.config.root).join(&record.id));
    let what = format!("write the record of container {}", record.id.short());
    let work = move || record.create(&dir);
    shared.blocking.run(Purpose::Lifecycle, work).await?.map_err(|error| Error::io(what, error))
}

async fn make_snapshot(shared: &Arc<Shared>, record: &DurableRecord) -> Result<()> {
    let maps = record.config.sandbox.namespaces.user.as_ref().map(|user| to_storage_maps(&user.maps));
    let (id, image, making) = (record.id.clone(), record.image_id.clone(), Arc::clone(shared));
    let work = move || prepare_snapshot(&making, &id, &image, maps, true);
    shared.blocking.run(Purpose::Lifecycle, work).await?
}

/// Gives it its volumes and other files: what it asks for, and what its image wants besides.
async fn give_files(shared: &Arc<Shared>, record: &DurableRecord) -> Result<()> {
    let maps = record.config.sandbox.namespaces.user.as_ref().map(|user| to_storage_maps(&user.maps));
    let wanted = record.image_config.config().as_ref().and_then(|config| config.volumes().clone());
    // What is mounted otherwise is nobody's to hide.
    let elsewhere: Vec<_> =
        record.config.container.mounts.iter().map(|mount| mount.destination.clone()).collect();
    let wanted: Vec<String> = wanted
        .unwrap_or_default()
        .into_iter()
        .filter(|path| !elsewhere.iter().any(|place| place == Path::new(path)))
        .collect();
    let (giving, id, image) = (Arc::clone(shared), record.id.clone(), record.image_id.clone());
    let mounts = record.config.volumes.clone();
    let work = move || crate::volumes::give_volumes(&giving, &id, &image, maps.as_ref(), &mounts, &wanted);
    shared.blocking.run(Purpose::Lifecycle, work).await?.map(|_| ())
}

/// Removes what is there of a container that could not be made. What stays is swept by the next start.
async fn forget(shared: &Arc<Shared>, id: &ContainerId) {
    let (forgetting, id) = (Arc::clone(shared), id.clone());
    let dir = directory(&shared.config.root).join(&id);
    let work = move || {
        crate::volumes::release_volumes(&forgetting, &id, true)?;
        let what = format!("remove the snapshot of container {}", id.short());
        let trash = forgetting.storage.remove(&id).map_err(|error| storage_error(what, error))?;
        forgetting.images.empty(trash);
        DurableRecord::remove(&dir).map_err(|error| Error::io(format!("remove {}", dir.display()), error))
    };
    if let Ok(Err(error)) = shared.blocking.run(Purpose::Lifecycle, work).await {
        tracing::warn!(error = error.chain(), "what is there of a container that could not be made stays");
    }
}
