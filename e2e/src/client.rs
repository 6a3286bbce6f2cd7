//! A blocking CRI client over a unix socket, and the requests that most tests make.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use cri_api::MAX_MESSAGE_BYTES;
use cri_api::v1::image_service_client::ImageServiceClient;
use cri_api::v1::runtime_service_client::RuntimeServiceClient;
use cri_api::v1::{self as cri};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// A connection to a node. Calls block, and give up after two minutes as the kubelet does.
#[derive(Debug)]
pub struct Client {
    tokio: tokio::runtime::Runtime,
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
}

/// Methods that send one request and return what is in the answer.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($service:ident, $request:ty) -> $response:ty;)*) => {$(
        $(#[$doc])*
        #[allow(clippy::result_large_err, reason = "the type is the RPC library's")]
        pub fn $name(&self, request: $request) -> Result<$response, Status> {
            let mut service = self.$service.clone();
            self.wait(async move { service.$name(request).await })
        }
    )*};
}

impl Client {
    /// Connects to a socket. The daemon may still be starting: the first call connects.
    pub fn connect(socket: &Path) -> Result<Client> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Client::connect_on(builder.worker_threads(1), socket)
    }

    /// Connects without a thread of its own: a call costs no switch between threads, and nothing but calls
    /// makes progress. For measuring.
    pub fn connect_single_threaded(socket: &Path) -> Result<Client> {
        Client::connect_on(&mut tokio::runtime::Builder::new_current_thread(), socket)
    }

    fn connect_on(builder: &mut tokio::runtime::Builder, socket: &Path) -> Result<Client> {
        let tokio = builder.enable_all().build().context("start the client's runtime")?;
        let endpoint =
            Endpoint::from_shared(format!("unix://{}", socket.display()))?.timeout(Duration::from_secs(120));
        let channel = {
            let _guard = tokio.enter();
            endpoint.connect_lazy()
        };
        let runtime = RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let image = ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Client { tokio, runtime, image })
    }

    calls! {
        /// Who answers.
        version(runtime, cri::VersionRequest) -> cri::VersionResponse;
        /// Conditions and features.
        status(runtime, cri::StatusRequest) -> cri::StatusResponse;
        /// Starts a sandbox.
        run_pod_sandbox(runtime, cri::RunPodSandboxRequest) -> cri::RunPodSandboxResponse;
        /// Stops a sandbox.
        stop_pod_sandbox(runtime, cri::StopPodSandboxRequest) -> cri::StopPodSandboxResponse;
        /// Removes a sandbox.
        remove_pod_sandbox(runtime, cri::RemovePodSandboxRequest) -> cri::RemovePodSandboxResponse;
        /// Tells of a sandbox.
        pod_sandbox_status(runtime, cri::PodSandboxStatusRequest) -> cri::PodSandboxStatusResponse;
        /// Lists sandboxes.
        list_pod_sandbox(runtime, cri::ListPodSandboxRequest) -> cri::ListPodSandboxResponse;
        /// Creates a container.
        create_container(runtime, cri::CreateContainerRequest) -> cri::CreateContainerResponse;
        /// Starts a container.
        start_container(runtime, cri::StartContainerRequest) -> cri::StartContainerResponse;
        /// Stops a container.
        stop_container(runtime, cri::StopContainerRequest) -> cri::StopContainerResponse;
        /// Removes a container.
        remove_container(runtime, cri::RemoveContainerRequest) -> cri::RemoveContainerResponse;
        /// Lists containers.
        list_containers(runtime, cri::ListContainersRequest) -> cri::ListContainersResponse;
        /// Tells of a container.
        container_status(runtime, cri::ContainerStatusRequest) -> cri::ContainerStatusResponse;
        /// Runs a program in a container and waits for it.
        exec_sync(runtime, cri::ExecSyncRequest) -> cri::ExecSyncResponse;
        /// Opens a container's log anew.
        reopen_container_log(runtime, cri::ReopenContainerLogRequest) -> cri::ReopenContainerLogResponse;
        /// Statistics of containers.
        list_container_stats(runtime, cri::ListContainerStatsRequest) -> cri::ListContainerStatsResponse;
        /// Statistics of sandboxes.
        list_pod_sandbox_stats(runtime, cri::ListPodSandboxStatsRequest) -> cri::ListPodSandboxStatsResponse;
        /// Names of metrics.
        list_metric_descriptors(runtime, cri::ListMetricDescriptorsRequest) -> cri::ListMetricDescriptorsResponse;
        /// Prepares attaching.
        attach(runtime, cri::AttachRequest) -> cri::AttachResponse;
        /// Prepares running a program with streams.
        exec(runtime, cri::ExecRequest) -> cri::ExecResponse;
        /// Fetches an image.
        pull_image(image, cri::PullImageRequest) -> cri::PullImageResponse;
        /// Tells of an image.
        image_status(image, cri::ImageStatusRequest) -> cri::ImageStatusResponse;
        /// Lists images.
        list_images(image, cri::ListImagesRequest) -> cri::ListImagesResponse;
        /// Removes an image.
        remove_image(image, cri::RemoveImageRequest) -> cri::RemoveImageResponse;
        /// How much the images take.
        image_fs_info(image, cri::ImageFsInfoRequest) -> cri::ImageFsInfoResponse;
    }

    #[allow(clippy::result_large_err, reason = "the type is the RPC library's")]
    fn wait<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.tokio.block_on(call).map(Response::into_inner)
    }

    /// Runs something asynchronous against the raw client: streams, and calls that are given up.
    pub fn with_runtime<T, F>(&self, work: impl FnOnce(RuntimeServiceClient<Channel>) -> F) -> T
    where
        F: Future<Output = T>,
    {
        let client = self.runtime.clone();
        self.tokio.block_on(work(client))
    }

    /// Pulls an image by name and returns its id.
    pub fn pull(&self, reference: &str) -> Result<String> {
        let request = cri::PullImageRequest { image: Some(image(reference)), ..Default::default() };
        Ok(self.pull_image(request).with_context(|| format!("pull {reference}"))?.image_ref)
    }

    /// Runs a sandbox and returns its id.
    pub fn run_pod(&self, config: &cri::PodSandboxConfig) -> Result<String> {
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        Ok(self.run_pod_sandbox(request).context("run sandbox")?.pod_sandbox_id)
    }

    /// Creates and starts a container and returns its id.
    pub fn run(
        &self,
        pod: &str,
        pod_config: &cri::PodSandboxConfig,
        config: &cri::ContainerConfig,
    ) -> Result<String> {
        let id = self.create(pod, pod_config, config)?;
        let request = cri::StartContainerRequest { container_id: id.clone() };
        self.start_container(request).context("start container")?;
        Ok(id)
    }

    /// Creates a container and returns its id.
    pub fn create(
        &self,
        pod: &str,
        pod_config: &cri::PodSandboxConfig,
        config: &cri::ContainerConfig,
    ) -> Result<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        Ok(self.create_container(request).context("create container")?.container_id)
    }

    /// Runs a program in a container; fails when it fails, and returns what it printed.
    pub fn exec_ok(&self, container: &str, command: &[&str]) -> Result<String> {
        let answer = self.exec_any(container, command)?;
        let out = String::from_utf8_lossy(&answer.stdout).into_owned();
        let error = String::from_utf8_lossy(&answer.stderr).into_owned();
        anyhow::ensure!(answer.exit_code == 0, "{command:?} ended with {}: {out}{error}", answer.exit_code);
        Ok(out)
    }

    /// Runs a program in a container.
    pub fn exec_any(&self, container: &str, command: &[&str]) -> Result<cri::ExecSyncResponse> {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 30,
        };
        self.exec_sync(request).with_context(|| format!("exec {command:?}"))
    }

    /// State of a container.
    pub fn state(&self, container: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        self.container_status(request)?.status.context("a container status without status")
    }

    /// Whether a container has ended.
    pub fn has_exited(&self, container: &str) -> bool {
        self.state(container).is_ok_and(|status| status.state() == cri::ContainerState::ContainerExited)
    }

    /// Stops and removes a sandbox with all in it.
    pub fn remove_pod(&self, pod: &str) -> Result<()> {
        self.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() })
            .context("stop sandbox")?;
        self.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() })
            .context("remove sandbox")?;
        Ok(())
    }
}

/// The messages of a log in CRI format, a line that is still being written aside.
pub fn log_messages(log: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let message = |line: &str| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
    Ok(whole.lines().map(message).collect())
}

/// An image reference as requests carry it.
fn image(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: reference.to_owned(), ..Default::default() }
}

/// A sandbox of a unique name with logs in `logs`, on the pod network, with the default seccomp profile.
pub fn pod(name: &str, logs: PathBuf) -> cri::PodSandboxConfig {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: format!("{name}-{number}"),
            uid: format!("{name}-{}-{number}", std::process::id()),
            namespace: "e2e".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.display().to_string(),
        labels: [("suite".to_owned(), name.to_owned())].into(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(runtime_default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Paths that the kubelet masks in every container that does not ask otherwise.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Paths that the kubelet makes read-only.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A container of an image that runs a command, confined as the kubelet confines it by default.
pub fn container(name: &str, reference: &str, command: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(image(reference)),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(runtime_default()),
                masked_paths: MASKED_PATHS.map(str::to_owned).to_vec(),
                readonly_paths: READONLY_PATHS.map(str::to_owned).to_vec(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Everything the pod's but process ids, which are each container's own: what the kubelet asks for.
fn namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }
}

fn runtime_default() -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    }
}
